"""The options of `[plugin.gemma_grid]`, and what they come to."""

from __future__ import annotations

from typing import Literal

import attrs

from ftcore.api import option
from ftcore_plugins.gemma_grid.crops import PanAndScan
from ftcore_plugins.gemma_grid.layout import Layout
from ftcore_plugins.gemma_grid.prompt import DEFAULT_PROMPT

__all__ = ["Options", "layout_of", "pan_and_scan_of"]


@attrs.frozen(kw_only=True)
class Options:
    """Options of `[plugin.gemma_grid]`. Of several names of a column, the first that a row has is taken."""

    frames: str | tuple[str, ...] = option("frames", help="column with the paths of four frames, oldest first")
    image: str | tuple[str, ...] = option(("image", "grid"), help="column with the path of a ready 2x2 grid")
    context: str | tuple[str, ...] = option("context", help="column with what the model is told about the game")
    question: str | tuple[str, ...] = option(
        ("question", "instruction"), help="column with what it is asked; rows may lack it"
    )
    action: str | tuple[str, ...] = option(
        ("action", "output"), help="column with the action: an object, its JSON text, or the word that is action_key"
    )
    action_key: str = option("button", help="key of the action that names it, and that answers are scored by")
    keys: tuple[str, ...] = option(
        (), help="keys of the action to train, in this order; if empty all, action_key first and the others by name"
    )
    prompt: str = option(
        DEFAULT_PROMPT, help="the question; {context} and {question} are filled in, and lines with nothing left out"
    )
    frame_size: tuple[int, ...] = option((), help="width and height that frames are scaled to; their own if empty")
    gap: int = option(0, at_least=0, at_most=1024, help="pixels between the frames of the grid")
    background: str = option("#000000", help="colour of the gap, and behind transparent images")
    resampling: Literal["nearest", "bilinear", "bicubic", "lanczos"] = option(
        "bilinear", help="how frames are scaled to frame_size"
    )
    frame_numbers: bool = option(False, help="draw 1 to 4 on the frames; a ready grid stays as it is")
    pan_and_scan: bool = option(
        False, help="show the model crops of a grid that is not square, too; each costs as much as the grid"
    )
    max_crops: int = option(4, at_least=2, at_most=16, help="most crops of Pan & Scan")
    min_crop_size: int = option(256, at_least=16, help="pixels of the shorter side of a crop, or there are no crops")
    min_ratio: float = option(1.2, at_least=1, help="how long a grid's longer side is to the shorter one, or no crops")
    max_megapixels: float = option(32.0, above=0, at_most=80, help="largest image that is read")
    max_megabytes: float = option(64.0, above=0, help="largest image file that is read")


def layout_of(config: Options) -> Layout:
    """How the options lay out a grid."""
    red, green, blue = bytes.fromhex(config.background.removeprefix("#"))
    return Layout(
        frame_size=(config.frame_size[0], config.frame_size[1]) if config.frame_size else None,
        gap=config.gap,
        background=(red, green, blue),
        resampling=config.resampling,
        numbers=config.frame_numbers,
    )


def pan_and_scan_of(config: Options) -> PanAndScan:
    """What the options say about crops."""
    return PanAndScan(
        on=config.pan_and_scan,
        max_crops=config.max_crops,
        min_crop_size=config.min_crop_size,
        min_ratio=config.min_ratio,
    )
