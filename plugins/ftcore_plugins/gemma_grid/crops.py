"""Pan & Scan: how many crops of an image Gemma 3's processor adds, known from the image's size alone.

Gemma 3 Technical Report, section 2.1 (https://arxiv.org/abs/2503.19786); the arithmetic is that of
`Gemma3ImageProcessor.pan_and_scan`, which wants the pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["PanAndScan"]


@attrs.frozen(kw_only=True)
class PanAndScan:
    """Settings of Pan & Scan. The crops of a wide image stand side by side, those of a tall one below each other."""

    on: bool
    max_crops: int
    min_crop_size: int
    min_ratio: float

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Keyword arguments of the image processor; its attributes of the same names have no effect."""
        return {
            "do_pan_and_scan": self.on,
            "pan_and_scan_max_num_crops": self.max_crops,
            "pan_and_scan_min_crop_size": self.min_crop_size,
            "pan_and_scan_min_ratio_to_activate": self.min_ratio,
        }

    def crops(self, width: int, height: int) -> int:
        """Pictures that are added to the image of this size; each costs as many tokens as the image itself."""
        if not self.on or self.why_none(width, height):
            return 0
        return self._count(width, height)

    def why_none(self, width: int, height: int) -> str:
        """Why an image of this size gets no crops, or nothing if it gets some."""
        longer, shorter = max(width, height), min(width, height)
        if longer / shorter < self.min_ratio:
            return f"its sides are {longer / shorter:.2f} to 1, under min_ratio ({self.min_ratio:g})"
        smallest = min(shorter, math.ceil(longer / self._count(width, height)))
        if smallest < self.min_crop_size:
            return f"a crop would have {smallest} pixels, under min_crop_size ({self.min_crop_size})"
        return ""

    def _count(self, width: int, height: int) -> int:
        longer, shorter = max(width, height), min(width, height)
        wanted = min(longer // self.min_crop_size, math.floor(longer / shorter + 0.5))
        return min(self.max_crops, max(2, wanted))
