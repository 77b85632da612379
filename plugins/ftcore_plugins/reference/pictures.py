"""One image that is drawn anew the same each time, and the prompt around it. Imports Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAME = "square.png"
QUESTION = "What is in this picture?"
SIDE = 224
"""Pixels where the processor does not say which size it wants."""


def draw(path: Path, processor: Any) -> None:
    """A square of the processor's own size, so that no runtime scales it, each in its own way."""
    side = _side(processor)
    row, column = np.mgrid[0:side, 0:side] / side
    rings = (np.hypot(row - 0.4, column - 0.6) * 8).astype(int) % 2
    tiles = ((row * 6).astype(int) + (column * 6).astype(int)) % 2
    channels = (255 * row, 160 * column + 80 * tiles, 200 * rings + 40 * (1 - column))
    pixels = np.stack([channel.clip(0, 255) for channel in channels], axis=-1)
    Image.fromarray(pixels.astype(np.uint8), "RGB").save(path)


def _side(processor: Any) -> int:
    images = processor.image_processor
    for wanted in (getattr(images, "crop_size", None), getattr(images, "size", None)):
        if wanted is not None and wanted.get("height") and wanted.get("height") == wanted.get("width"):
            return int(wanted["height"])
    return SIDE


def prompt_with_image(processor: Any) -> tuple[str, str]:
    """A question about an image as the chat template writes it, and the placeholder in it.

    Raises `NotImplementedError` when it writes none, or not one.
    """
    placeholder = getattr(processor, "image_token", None)
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    if not placeholder or prompt.count(placeholder) != 1:
        raise NotImplementedError("the chat template has no single place for an image")
    return prompt, placeholder
