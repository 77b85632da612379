"""Examples to a batch with pixels. Imports torch when a batch is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from PIL import Image

from ftcore.api import Example, RunError
from ftcore_plugins.common.collate import PadRight
from ftcore_plugins.common.images import ImageError
from ftcore_plugins.gemma_grid.encode import CONTENT, CROPS, IMAGES, Pictures, content_of
from ftcore_plugins.gemma_grid.layout import LayoutError

__all__ = ["GridCollator"]


@attrs.frozen(kw_only=True)
class GridCollator:
    """A collator: opens the images of a batch and lets the image processor scale, crop and normalize them.

    Besides the tokens there are `token_type_ids`, 1 on the tokens of an image and of shape (rows, tokens), and
    `pixel_values` of shape (pictures, channels, height, width): for each row the grid, then its crops. It holds
    no state, so that it pickles into loader workers and may be called from several threads.
    """

    pad: PadRight
    pictures: Pictures
    image_processor: Any
    image_arguments: Mapping[str, Any]
    image_token: int

    def __call__(self, examples: Sequence[Example]) -> Mapping[str, Any]:
        """Collate a batch. Raises `RunError` when an image is not what it was when its row was tokenized."""
        batch = self.pad(examples)
        grids = [[self._grid(example)] for example in examples]
        images = self.image_processor(grids, return_tensors="pt", **self.image_arguments)
        if images["num_crops"].tolist() != [example.features[CROPS] for example in examples]:
            raise RunError("the image processor makes other crops than were counted; report this with its version")
        types = (batch["input_ids"] == self.image_token).long()
        return {**batch, "token_type_ids": types, "pixel_values": images["pixel_values"]}

    def _grid(self, example: Example) -> Image.Image:
        try:
            opened = self.pictures.open(example.folder, example.features[IMAGES])
            grid = self.pictures.grid(opened)
        except (ImageError, LayoutError) as error:
            raise RunError(f"{example.origin}: {error}") from error
        if content_of(opened) != example.features[CONTENT]:
            raise RunError(f"{example.origin}: an image has changed since its row was read; begin a new run")
        return grid
