"""The grid is what the options say, pixel by pixel; crops are counted as the processor counts them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ftcore_plugins.gemma_grid.crops import PanAndScan
from ftcore_plugins.gemma_grid.layout import Layout, LayoutError

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 3), dtype=np.uint8)
FRAMES = [Image.fromarray(pixels) for pixels in PIXELS]


def composed(frames: list[Image.Image] = FRAMES, **options: Any) -> np.ndarray:
    layout = Layout(**options)
    grid = layout.compose(frames)
    assert grid.mode == "RGB"
    assert grid.size == layout.size([frame.size for frame in frames])
    return np.asarray(grid)


def test_frames_lie_as_a_page_is_read() -> None:
    rows = [np.concatenate(PIXELS[start : start + 2], axis=1) for start in (0, 2)]
    assert np.array_equal(composed(), np.concatenate(rows))


def test_gap() -> None:
    grid = composed(gap=2, background=(1, 2, 3))
    assert grid.shape == (2 * 3 + 2, 2 * 5 + 2, 3)
    assert np.array_equal(grid[:3, :5], PIXELS[0])
    assert np.array_equal(grid[:3, 7:], PIXELS[1])
    assert np.array_equal(grid[5:, :5], PIXELS[2])
    assert np.array_equal(grid[5:, 7:], PIXELS[3])
    assert (grid[3:5] == (1, 2, 3)).all()
    assert (grid[:, 5:7] == (1, 2, 3)).all()


def test_nearest_keeps_the_pixels() -> None:
    grid = composed(frame_size=(10, 6), resampling="nearest")
    assert np.array_equal(grid[6:, 10:], PIXELS[3].repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_resampling_is_pillows(resampling: str) -> None:
    scaled = FRAMES[1].resize((7, 4), Image.Resampling[resampling.upper()])
    assert np.array_equal(composed(frame_size=(7, 4), resampling=resampling)[:4, 7:], np.asarray(scaled))


def test_frames_of_different_sizes() -> None:
    frames = [*FRAMES[:3], Image.new("RGB", (6, 3))]
    with pytest.raises(LayoutError, match="differ in size \\(5x3, 5x3, 5x3, 6x3\\); set frame_size"):
        composed(frames)
    assert composed(frames, frame_size=(5, 3)).shape == (6, 10, 3)


def test_numbers() -> None:
    blank = [Image.new("RGB", (60, 60), "blue")] * 4
    plain, numbered = composed(blank), composed(blank, numbers=True)
    cells = [numbered[y : y + 60, x : x + 60] for y in (0, 60) for x in (0, 60)]
    assert not (plain == numbered).all()
    assert len({cell.tobytes() for cell in cells}) == 4
    for cell in cells:
        drawn = (cell != (0, 0, 255)).any(axis=2)
        assert 10 < drawn.sum() < 200
        assert not drawn[20:].any()
        assert not drawn[:, 20:].any()
    assert (np.asarray(blank[0]) == (0, 0, 255)).all(), "the frame itself is left alone"


def test_crops_are_the_processors() -> None:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    real, draw = Gemma3ImageProcessorPil(), random.Random(0)
    seen = set()
    for _ in range(3000):
        width, height = (draw.choice([draw.randint(1, 40), draw.randint(1, 2000)]) for _ in range(2))
        settings = (draw.choice([16, 100, 256, 896]), draw.randint(2, 16), draw.choice([1.0, 1.2, 1.5, 3.0]))
        size, crops, ratio = settings
        pixels = np.broadcast_to(np.zeros((), np.uint8), (3, height, width))  # takes no memory
        wanted = real.pan_and_scan(pixels, *settings)
        pan = PanAndScan(on=True, max_crops=crops, min_crop_size=size, min_ratio=ratio)
        assert pan.crops(width, height) == len(wanted), (width, height, settings)
        assert bool(wanted) == (not pan.why_none(width, height))
        assert all(0 not in crop.shape for crop in wanted)
        seen.add(len(wanted))
    assert {0, 2, 3, 4} <= seen


def test_switched_off() -> None:
    pan = PanAndScan(on=False, max_crops=4, min_crop_size=16, min_ratio=1.0)
    assert pan.crops(1000, 100) == 0


def test_why_none() -> None:
    guide = PanAndScan(on=True, max_crops=4, min_crop_size=896, min_ratio=1.2)
    assert guide.why_none(448, 448) == "its sides are 1.00 to 1, under min_ratio (1.2)"
    assert guide.why_none(480, 320) == "a crop would have 240 pixels, under min_crop_size (896)"
    smaller = PanAndScan(on=True, max_crops=4, min_crop_size=240, min_ratio=1.2)
    assert (smaller.why_none(480, 320), smaller.crops(480, 320)) == ("", 2)
