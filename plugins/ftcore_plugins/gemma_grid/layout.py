"""Put four frames into one picture: the 2x2 grid, read like a page. Pillow is imported where it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FRAMES", "Layout", "LayoutError"]

FRAMES = 4
Size = tuple[int, int]

NUMBER_SHARE, SMALLEST_NUMBER = 6, 10
"""Height of a drawn number: this part of a frame's, and at least so many pixels."""


class LayoutError(Exception):
    """Frames that make no grid, in one sentence for the user."""


@attrs.frozen(kw_only=True)
class Layout:
    """How the grid is laid out. Frames 1 and 2 stand above 3 and 4; `gap` pixels of `background` lie between them.

    `frame_size` is width and height that every frame is scaled to, or None to keep the frames' own.
    """

    frame_size: Size | None = None
    gap: int = 0
    background: tuple[int, int, int] = (0, 0, 0)
    resampling: str = "bilinear"
    numbers: bool = False

    def size(self, frames: Sequence[Size]) -> Size:
        """Width and height of the grid of frames of these sizes. Raises `LayoutError` when they differ."""
        if self.frame_size is not None:
            width, height = self.frame_size
            return 2 * width + self.gap, 2 * height + self.gap
        if len(set(frames)) > 1:
            sizes = ", ".join(f"{width}x{height}" for width, height in frames)
            raise LayoutError(f"the frames differ in size ({sizes}); set frame_size")
        width, height = frames[0]
        return 2 * width + self.gap, 2 * height + self.gap

    def compose(self, frames: Sequence[Image.Image]) -> Image.Image:
        """The grid of four RGB frames, oldest first."""
        from PIL import Image

        grid = Image.new("RGB", self.size([frame.size for frame in frames]), self.background)
        width, height = self.frame_size or frames[0].size
        scaled = [frame.resize((width, height), Image.Resampling[self.resampling.upper()]) for frame in frames]
        if self.numbers:
            _number(scaled, height)
        for place, frame in enumerate(scaled):
            grid.paste(frame, (place % 2 * (width + self.gap), place // 2 * (height + self.gap)))
        return grid


def _number(frames: Sequence[Image.Image], height: int) -> None:
    """Draw 1, 2, ... on the frames: white with a black edge, which shows on any ground."""
    from PIL import ImageDraw, ImageFont

    size = max(SMALLEST_NUMBER, height // NUMBER_SHARE)
    edge, font = max(1, size // 10), ImageFont.load_default(size)
    for number, frame in enumerate(frames, start=1):
        pen = ImageDraw.Draw(frame)
        pen.text((2 * edge, edge), str(number), "white", font, stroke_width=edge, stroke_fill="black")
