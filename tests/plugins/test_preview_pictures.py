"""The images on the page of `ftcore preview --html`: what the model sees, with its colours back."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import torch
from PIL import Image

from ftcore.data.prepare import Prepared
from ftcore.evaluation.samples import picture_of
from ftcore.preview import pictures as pictures_module
from ftcore.preview.page import page
from ftcore.preview.pictures import Picture, pictures_of
from ftcore.testing import make_run
from ftcore.values import Example, Format, Ledger, PreparedData, Rows

MEAN, STD = [0.5, 0.4, 0.3], [0.5, 0.2, 0.25]


def images(count: int, channels: int = 3, height: int = 4, width: int = 6) -> torch.Tensor:
    """Bytes, as an image file has them."""
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, channels, height, width), generator=generator, dtype=torch.uint8)


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (pixels / 255 - mean) / std


def prepared(pixels: Any, **settings: Any) -> Prepared:
    example = Example(input_ids=[65, 66], labels=[-100, 66], replies=("",), origin="x:1")
    processor = SimpleNamespace(
        image_processor=SimpleNamespace(**settings), decode=lambda tokens, **_: "".join(map(chr, tokens))
    )
    data = PreparedData(
        train=[example],
        validation=[],
        lengths=[2],
        collate=lambda examples: {} if pixels is None else {"pixel_values": pixels},
        ledger=Ledger(rows=1, trained=1, held_out=0),
        end_of_turn=66,
    )
    rows = Rows(train=[], validation=[], fingerprint="")
    format_ = Format(encode=lambda _: [], collate=data.collate, processor=processor, end_of_turn=66)
    return Prepared(processor=processor, data=data, fingerprint="00", proved=1, format=format_, rows=rows)


def drawn(pixels: Any, **settings: Any) -> list[torch.Tensor]:
    made = prepared(pixels, **settings)
    return [read(picture) for picture in pictures_of(made, made.data.train[0]).shown]


def read(picture: Picture) -> torch.Tensor:
    head, _, body = picture.source.partition(",")
    assert head == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(body)))
    assert image.format == "PNG"
    assert image.size == (picture.width, picture.height)
    raw = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return raw.view(image.height, image.width, -1).permute(2, 0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_pixels_of_the_file_come_back(dtype: torch.dtype) -> None:
    pixels = images(2)
    shown = torch.stack(drawn(normalised(pixels).to(dtype), image_mean=MEAN, image_std=STD))
    assert (shown.int() - pixels.int()).abs().max() <= (0 if dtype == torch.float32 else 3)


def test_pixels_that_were_not_normalised() -> None:
    pixels = images(1)
    assert torch.equal(drawn(pixels / 255, do_normalize=False, image_mean=MEAN, image_std=STD)[0], pixels[0])
    assert torch.equal(drawn(pixels.float(), do_normalize=False, do_rescale=False)[0], pixels[0])


def test_without_mean_and_deviation_the_range_is_spread() -> None:
    (shown,) = drawn(torch.tensor([[[[-3.0, 1.0]], [[-1.0, 0.0]], [[5.0, 5.0]]]]))
    assert shown.flatten().tolist() == [0, 128, 64, 96, 255, 255]
    (flat,) = drawn(torch.full((1, 3, 2, 2), 7.0))
    assert flat.flatten().tolist() == [0] * 12


def test_grey_images_and_a_dimension_more() -> None:
    pixels = images(1, channels=1)
    assert torch.equal(drawn(pixels / 255, do_normalize=False)[0], pixels[0])
    many = images(6).view(2, 3, 3, 4, 6)
    assert torch.equal(torch.stack(drawn(many / 255, do_normalize=False)), many.view(6, 3, 4, 6))


def test_the_first_picture_of_a_row_is_written_once_beside_the_run(tmp_path: Path) -> None:
    pixels = images(3)
    made = prepared(normalised(pixels), image_mean=MEAN, image_std=STD, do_pan_and_scan=True)
    example = made.data.train[0]
    (name,) = picture_of(tmp_path, made, example)
    image = Image.open(tmp_path / name)
    assert (name.startswith("samples/"), image.format) == (True, "PNG")
    shown = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(4, 6, 3).permute(2, 0, 1)
    assert torch.equal(shown, pixels[0])  # the picture itself, not its crops
    when = (tmp_path / name).stat().st_mtime_ns
    assert picture_of(tmp_path, made, example) == (name,)
    assert (tmp_path / name).stat().st_mtime_ns == when
    other = attrs.evolve(example, features={"content": "another file of the same name"})
    assert picture_of(tmp_path, made, other) != (name,)


@pytest.mark.parametrize("pixels", [None, torch.zeros(2, 5), torch.zeros(0, 3, 4, 4)], ids=["none", "odd", "empty"])
def test_rows_without_a_picture_leave_no_file(tmp_path: Path, pixels: Any) -> None:
    made = prepared(pixels)
    assert picture_of(tmp_path, made, made.data.train[0]) == ()
    assert list(tmp_path.iterdir()) == []


def test_captions() -> None:
    def captions(count: int, **settings: Any) -> list[str]:
        made = prepared(normalised(images(count)), **settings)
        return [picture.caption for picture in pictures_of(made, made.data.train[0]).shown]

    assert captions(1) == ["image"]
    assert captions(1, do_pan_and_scan=True) == ["image"]
    assert captions(3, do_pan_and_scan=True) == ["image", "crop 1", "crop 2"]
    assert captions(2, do_pan_and_scan=None) == ["image 1", "image 2"]


def test_a_row_without_images_and_one_with_what_cannot_be_drawn() -> None:
    assert drawn(None) == []
    made = prepared(torch.zeros(64, 1176))
    found = pictures_of(made, made.data.train[0])
    assert not found.shown
    assert found.note == "its images are a tensor of shape 64 x 1176, which this page cannot draw"


def test_without_pillow_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures_module, "find_spec", lambda name: None)
    made = prepared(normalised(images(1)))
    assert pictures_of(made, made.data.train[0]).note == "its images are not shown: install Pillow"


def test_a_row_of_very_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures_module, "MOST", 2)
    made = prepared(normalised(images(5)), image_mean=MEAN, image_std=STD)
    found = pictures_of(made, made.data.train[0])
    assert len(found.shown) == 2
    assert found.note == "3 more images are not shown"


def test_the_page_holds_them(tmp_path: Path) -> None:
    made = prepared(normalised(images(3)), image_mean=MEAN, image_std=STD, do_pan_and_scan=True)
    text = page(make_run(tmp_path), made, 1).text
    assert text.count('<img src="data:image/png;base64,') == text.count("<img ") == 3
    assert 'alt="crop 2"' in text
    assert "6 &times; 4" in text
