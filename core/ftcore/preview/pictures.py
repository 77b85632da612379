"""The images of a row as the processor hands them to the model: resized, cropped, and here with their colours back."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import attrs

from ftcore.data.prepare import Prepared
from ftcore.values import Example

MOST = 32


@attrs.frozen(kw_only=True)
class Picture:
    """One image. `source` is a `data:` URI of a PNG."""

    caption: str
    width: int
    height: int
    source: str


@attrs.frozen(kw_only=True)
class Pictures:
    """The images of a row, and what cannot be shown of them."""

    shown: Sequence[Picture] = ()
    note: str = ""


def pictures_of(prepared: Prepared, example: Example) -> Pictures:
    """What the collator gives the model for this row as `pixel_values`, of shape (..., channels, height, width)."""
    pixels = prepared.data.collate([example]).get("pixel_values")
    if pixels is None:
        return Pictures()
    if not _is_drawable(pixels):
        return Pictures(
            note=f"its images are a tensor of shape {_times(tuple(pixels.shape))}, which this page cannot draw"
        )
    if find_spec("PIL") is None:
        return Pictures(note="its images are not shown: install Pillow")
    images = _flat(pixels)
    count = int(images.shape[0])
    processor = getattr(prepared.processor, "image_processor", None)
    captions = _captions(processor, count)
    shown = [_picture(images[place], captions[place], processor) for place in range(min(count, MOST))]
    return Pictures(shown=shown, note=f"{count - MOST} more images are not shown" if count > MOST else "")


def first_png(prepared: Prepared, example: Example) -> bytes | None:
    """The row's first image as the bytes of a PNG: the whole picture where crops follow it. None if there is none.

    Also None for what cannot be drawn, and without Pillow.
    """
    pixels = prepared.data.collate([example]).get("pixel_values")
    if pixels is None or not _is_drawable(pixels) or find_spec("PIL") is None or not len(_flat(pixels)):
        return None
    return _png(_flat(pixels)[0], getattr(prepared.processor, "image_processor", None))


def _is_drawable(pixels: Any) -> bool:
    return tuple(pixels.shape)[-3:-2] in ((1,), (3,))


def _flat(pixels: Any) -> Any:
    return pixels.reshape(-1, *tuple(pixels.shape)[-3:])


def _captions(processor: Any, count: int) -> list[str]:
    """Pan & Scan of Gemma 3 puts the crops behind the image that they are from."""
    if getattr(processor, "do_pan_and_scan", None):
        return ["image", *(f"crop {number}" for number in range(1, count))]
    return [f"image {number}" for number in range(1, count + 1)] if count > 1 else ["image"]


def _picture(image: Any, caption: str, processor: Any) -> Picture:
    height, width = (int(size) for size in image.shape[1:])
    source = f"data:image/png;base64,{base64.b64encode(_png(image, processor)).decode()}"
    return Picture(caption=caption, width=width, height=height, source=source)


def _png(image: Any, processor: Any) -> bytes:
    from PIL import Image

    channels, height, width = (int(size) for size in image.shape)
    planes = [Image.frombytes("L", (width, height), raw) for raw in _bytes(image, processor)]
    merged = planes[0] if channels == 1 else Image.merge("RGB", planes)
    file = io.BytesIO()
    merged.save(file, "PNG")
    return file.getvalue()


def _bytes(image: Any, processor: Any) -> Iterator[bytes]:
    """Each channel as bytes. By tensor methods alone: core knows no tensor library, and pixels are millions."""
    image = image.detach().float().cpu()
    for channel, (factor, offset) in enumerate(_undoing(image, processor)):
        plane = image[channel].mul(factor).add(offset)
        yield plane.round().clamp(0, 255).byte().numpy().tobytes()


def _undoing(image: Any, processor: Any) -> list[tuple[float, float]]:
    """For each channel, what turns the model's numbers into 0 to 255: normalising undone, else the range spread."""
    channels = int(image.shape[0])
    scale = 1.0 if getattr(processor, "do_rescale", True) is False else 255.0
    if getattr(processor, "do_normalize", True) is False:
        return [(scale, 0.0)] * channels
    means, spreads = (list(getattr(processor, name, None) or ()) for name in ("image_mean", "image_std"))
    if len(means) == len(spreads) == channels:
        return [(spread * scale, mean * scale) for mean, spread in zip(means, spreads, strict=True)]
    low, high = float(image.min()), float(image.max())
    factor = 255 / (high - low or 1.0)
    return [(factor, -low * factor)] * channels


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
