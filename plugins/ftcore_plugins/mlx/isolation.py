"""Keeps torch out of the processes in which MLX works."""

from __future__ import annotations

import sys


def without_torch() -> None:
    """Nothing that this process imports from now on finds torch.

    MLX and torch may bring an OpenMP each, and clash; transformers, of which MLX needs the tokenizers alone, starts
    four times faster without it; and a proof in which torch took part would not be MLX's own.
    """
    sys.modules["torch"] = None  # type: ignore[assignment]
