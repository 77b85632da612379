"""What can be known before anything is loaded: whether something can write such a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftcore.api import Problem, Run
from ftcore_plugins.gguf.architectures import supports


def converter_problems(run: Run, converter: Path | None) -> Sequence[Problem]:
    """A converter that is wanted must be there: the one that is named, and one for what ftcore does not know itself."""
    config = _config(Path(run.profile.model.id)) if run.profile.model.id else None
    if converter is None and (config is None or supports(config)):
        return []
    from ftcore_plugins.gguf.external import converter_problem

    fault = converter_problem(str(converter or ""))
    return [Problem(key="plugin.gguf.converter", message=fault)] if fault else []


def _config(folder: Path) -> Mapping[str, Any] | None:
    """The configuration of a model in a folder; None for one of a hub, and for a folder that the loader refuses."""
    try:
        found = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
