"""Open images that rows name: regular files below the data folder, within limits, decoded, as RGB. Imports Pillow."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import IO

import attrs
from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = ["Colour", "ImageError", "Limits", "open_image"]

Colour = tuple[int, int, int]

# By name: among the formats that Pillow knows are some that it opens with other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM", "TIFF")
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(//|.*,)")
"""Also a `data:` URL, which holds the picture itself."""

DEEP = ("I", "F")
"""Beginnings of Pillow's modes with more than 8 bits a pixel's channel; converted, they would be white all over."""


class ImageError(Exception):
    """What is wrong with an image, in one sentence for the user that names it."""


@attrs.frozen(kw_only=True)
class Limits:
    """Largest image that is read, in bytes of the file and in pixels."""

    file_bytes: int
    pixels: int


def open_image(folder: Path | None, name: str, limits: Limits, background: Colour = (0, 0, 0)) -> Image.Image:
    """The decoded image at `name`, relative to `folder`, as RGB; `background` shows through transparent parts.

    Turned upright as its EXIF data say. Of several pictures in one file it is the first. Nothing outside of
    `folder` is opened, links resolved, and nothing that is no regular file. Raises `ImageError`.
    """
    path = confined(folder, name)
    with _regular(path, name, limits) as file:
        return _decoded(file, name, limits, background)


def confined(folder: Path | None, name: str) -> Path:
    """The file that `name` stands for, without links. Raises `ImageError` when it is not below `folder`."""
    if URL.match(name):
        raise ImageError(f"image {_shown(name)} is a URL; download it beside the rows and name the file")
    if folder is None:
        raise ImageError(f"image {_shown(name)} cannot be found: these rows come with no folder of files")
    if not name or ".." in PurePath(name).parts:
        raise ImageError(f"image {_shown(name)} is no path below {folder}; name it without '..'")
    try:
        base = folder.resolve()
        path = (base / name).resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:  # the last two: a loop of links, a NUL
        raise ImageError(f"image {_shown(name)} {_reason(error)} (looked in {folder})") from error
    if not any(path.is_relative_to(root) for root in (base, *_of_the_hub(base))):
        raise ImageError(f"image {_shown(name)} lies outside of {folder}; put it beside the rows")
    return path


def _of_the_hub(base: Path) -> Iterator[Path]:
    """Where the hub's client keeps what the files of a data set link to, for a folder in its cache."""
    yield from (parent.parent / "blobs" for parent in base.parents if parent.name == "snapshots")


@contextmanager
def _regular(path: Path, name: str, limits: Limits) -> Iterator[IO[bytes]]:
    """The open file. What it is is asked once it is open, when nobody can put another in its place."""
    try:
        # Without O_NONBLOCK, opening a FIFO waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ImageError(f"image {_shown(name)} {_reason(error)} (looked in {path.parent})") from error
    try:
        _require_fitting(os.fstat(descriptor), name, limits)
        with open(descriptor, "rb", closefd=False) as file:  # a descriptor, not a path
            yield file
    finally:
        os.close(descriptor)


def _require_fitting(status: os.stat_result, name: str, limits: Limits) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"image {_shown(name)} is not a regular file; name one")
    if status.st_size > limits.file_bytes:
        size, most = f"{status.st_size / 1e6:.1f}", f"{limits.file_bytes / 1e6:g}"
        raise ImageError(f"image {_shown(name)} has {size} MB, over the limit of {most}; make it smaller")


def _decoded(file: IO[bytes], name: str, limits: Limits, background: Colour) -> Image.Image:
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > limits.pixels:
                raise ImageError(_too_large(name, limits, f"{image.width}x{image.height} pixels, "))
            return _rgb(image, name, background)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(_too_large(name, limits)) from None
    except UnidentifiedImageError:
        raise ImageError(f"image {_shown(name)} is none of {', '.join(FORMATS)}; convert it or leave it out") from None
    except Exception as error:  # decoders of broken files raise whatever they stumble over
        cause = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ImageError(f"image {_shown(name)} does not decode ({cause}); mend it or leave it out") from error


def _too_large(name: str, limits: Limits, size: str = "") -> str:
    return f"image {_shown(name)} has {size}over the limit of {limits.pixels / 1e6:g} megapixels; make it smaller"


def _rgb(image: Image.Image, name: str, background: Colour) -> Image.Image:
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(DEEP):
        raise ImageError(f"image {_shown(name)} has more than 8 bits a channel; save it with 8")
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    layer = upright.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, (*background, 255)), layer).convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "is not there"
    return f"cannot be opened: {error.strerror if isinstance(error, OSError) else error}"


def _shown(name: str) -> str:
    return repr(name if len(name) < 200 else f"{name[:100]}...")  # noqa: PLR2004
