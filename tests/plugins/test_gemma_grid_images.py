"""Bad images are refused, each with its sentence, before training and without harm."""

from __future__ import annotations

import os
import struct
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image

from ftcore_plugins.common.images import ImageError, Limits, open_image

LIMITS = Limits(file_bytes=100_000, pixels=1_000_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    Image.new("RGB", (4, 2), "red").save(tmp_path / "data" / "good.png")
    return tmp_path / "data"


def refused(folder: Path | None, name: str) -> str:
    with pytest.raises(ImageError) as caught:
        open_image(folder, name, LIMITS)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


def bomb(path: Path, side: int) -> None:
    """A PNG that says it has `side` squared pixels, in a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
    )


def test_good(folder: Path) -> None:
    image = open_image(folder, "good.png", LIMITS)
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (4, 2), (255, 0, 0))
    assert open_image(folder, str(folder / "good.png"), LIMITS).size == (4, 2)


def test_missing(folder: Path) -> None:
    assert refused(folder, "gone.png") == f"image 'gone.png' is not there (looked in {folder})"
    assert "is not there" in refused(folder, "no/such/folder.png")


@pytest.mark.parametrize(
    "name", ["http://localhost:9/a.png", "https://x.org/a", "file:///etc/passwd", "data:image/png;base64,iVBO"]
)
def test_url(folder: Path, name: str) -> None:
    assert "is a URL" in refused(folder, name)


@pytest.mark.parametrize("name", ["../good.png", "a/../../data/good.png", "a/../good.png", "..", ""])
def test_upwards(folder: Path, name: str) -> None:
    assert "is no path below" in refused(folder, name)


def test_absolute_path_outside(folder: Path) -> None:
    outside = folder.parent / "outside.png"
    Image.new("RGB", (2, 2)).save(outside)
    assert "lies outside of" in refused(folder, str(outside))


def test_link_out_of_the_folder(folder: Path) -> None:
    outside = folder.parent / "outside.png"
    Image.new("RGB", (2, 2)).save(outside)
    (folder / "link.png").symlink_to(outside)
    (folder / "up").symlink_to(folder.parent, target_is_directory=True)
    assert "lies outside of" in refused(folder, "link.png")
    assert "lies outside of" in refused(folder, "up/outside.png")


def test_link_within_the_folder(folder: Path) -> None:
    (folder / "link.png").symlink_to("good.png")
    assert open_image(folder, "link.png", LIMITS).size == (4, 2)


def test_data_folder_that_is_a_link(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder, target_is_directory=True)
    assert open_image(link, "good.png", LIMITS).size == (4, 2)


def test_loop_of_links(folder: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    assert "image 'a'" in refused(folder, "a")


def test_no_folder() -> None:
    assert "no folder of files" in refused(None, "a.png")


def test_names_that_no_file_has(folder: Path) -> None:
    assert "image" in refused(folder, "a\0b")
    assert "cannot be opened" in refused(folder, "a" * 5000)
    assert "image" in refused(folder, "\ud800")


def test_fifo_does_not_hang(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    start = time.monotonic()
    assert "not a regular file" in refused(folder, "pipe.png")
    assert time.monotonic() - start < 2


def test_folder_and_device(folder: Path) -> None:
    (folder / "inner").mkdir()
    assert "not a regular file" in refused(folder, "inner")
    assert "not a regular file" in refused(folder, ".")
    assert "outside" in refused(folder, "/dev/zero")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_forbidden(folder: Path) -> None:
    (folder / "good.png").chmod(0)
    assert "cannot be opened" in refused(folder, "good.png")


def test_too_many_bytes(folder: Path) -> None:
    (folder / "big.png").write_bytes(b"0" * 100_001)
    assert refused(folder, "big.png") == "image 'big.png' has 0.1 MB, over the limit of 0.1; make it smaller"


@pytest.mark.parametrize("side", [1001, 20_000, 2**31 - 1])
def test_too_many_pixels(folder: Path, side: int) -> None:
    bomb(folder / "bomb.png", side)
    start = time.monotonic()
    assert "over the limit of 1 megapixels" in refused(folder, "bomb.png")
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("share", [0.0, 0.001, 0.005, 0.01, 0.5, 0.9, 0.98])
def test_cut_off(folder: Path, share: float) -> None:
    Image.effect_noise((64, 64), 50).save(folder / "cut.png")
    whole = (folder / "cut.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: int(len(whole) * share)])
    assert "image 'cut.png'" in refused(folder, "cut.png")


def test_cut_off_jpeg(folder: Path) -> None:
    Image.effect_noise((64, 64), 50).convert("RGB").save(folder / "a.jpg")
    whole = (folder / "a.jpg").read_bytes()
    (folder / "a.jpg").write_bytes(whole[: len(whole) // 2])
    assert "does not decode" in refused(folder, "a.jpg")


def test_broken_bits(folder: Path) -> None:
    Image.effect_noise((64, 64), 50).save(folder / "noise.png")
    whole = bytearray((folder / "noise.png").read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    (folder / "noise.png").write_bytes(whole)
    assert "does not decode" in refused(folder, "noise.png")


@pytest.mark.parametrize(
    "content", [b"", b"not a picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg/>"]
)
def test_no_picture(folder: Path, content: bytes) -> None:
    (folder / "text.png").write_bytes(content)
    assert "is none of PNG, JPEG" in refused(folder, "text.png")


def test_cmyk(folder: Path) -> None:
    Image.new("CMYK", (2, 2), (0, 255, 255, 0)).save(folder / "c.jpg", quality=100)
    red, green, blue = open_image(folder, "c.jpg", LIMITS).getpixel((0, 0))
    assert red > 250
    assert green < 5
    assert blue < 5


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "RGB"])
def test_other_modes(folder: Path, mode: str) -> None:
    Image.new("RGB", (2, 2), "white").convert(mode).save(folder / "m.png")
    image = open_image(folder, "m.png", LIMITS)
    assert (image.mode, image.getpixel((1, 1))) == ("RGB", (255, 255, 255))


def test_transparent_parts_show_the_background(folder: Path) -> None:
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    picture.putpixel((1, 0), (255, 0, 0, 255))
    picture.save(folder / "rgba.png")
    picture.convert("P").save(folder / "p.png", transparency=picture.convert("P").getpixel((0, 0)))
    image = open_image(folder, "rgba.png", LIMITS, (0, 0, 255))
    assert [image.getpixel((0, 0)), image.getpixel((1, 0))] == [(0, 0, 255), (255, 0, 0)]
    assert open_image(folder, "p.png", LIMITS, (0, 0, 255)).getpixel((0, 0)) == (0, 0, 255)


def test_16_bit_grey_is_refused(folder: Path) -> None:
    Image.new("I;16", (2, 2), 1000).save(folder / "deep.png")
    assert "more than 8 bits" in refused(folder, "deep.png")


def test_turned_upright(folder: Path) -> None:
    picture = Image.new("RGB", (4, 2))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(folder / "turned.jpg", exif=exif)
    assert open_image(folder, "turned.jpg", LIMITS).size == (2, 4)
