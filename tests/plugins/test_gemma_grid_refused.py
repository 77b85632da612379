"""Rows, images, models and templates that `gemma_grid` does not take, each with its sentence."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from ftcore.api import Drop, Example, RowError, Run, RunError
from ftcore.testing import formatted, make_run
from grid_kit import WIDE, make_format, make_processor, make_row, save


@pytest.fixture(scope="module")
def processor() -> Any:
    return make_processor()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "run").mkdir()
    return make_run(tmp_path / "run", data={"validation": 0.0})


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ("gone.png", "is not there"),
        ("../out.png", "without '..'"),
        ("https://x.org/a.png", "is a URL"),
        ("small.png", "the frames differ in size"),
        ("text.png", "is none of PNG"),
    ],
)
def test_bad_images_are_row_errors(run: Run, tmp_path: Path, processor: Any, frame: str, reason: str) -> None:
    save(tmp_path, "small.png", size=(3, 3))
    (tmp_path / "text.png").write_text("no picture")
    good = make_row(tmp_path, 1)
    bad = make_row(tmp_path, 2, frames=[*good.values["frames"][:3], frame])
    format_ = make_format(run, [good, bad], processor)
    with pytest.raises(RowError) as caught:
        list(format_.encode([good, bad]))
    assert caught.value.origin == "rows.jsonl:2"
    assert reason in caught.value.reason


def test_limits_are_options(run: Run, tmp_path: Path, processor: Any) -> None:
    row = make_row(tmp_path)
    for options, reason in (
        ({"max_megapixels": 0.001}, "over the limit of 0.001 megapixels"),
        ({"max_megabytes": 1e-6}, "MB"),
    ):
        with pytest.raises(RowError, match=reason):
            list(make_format(run, [row], processor, options).encode([row]))


def test_bad_rows_are_set_aside(tmp_path: Path, processor: Any) -> None:
    (tmp_path / "run").mkdir()
    run = make_run(tmp_path / "run", data={"max_bad_rows": 1, "validation": 0.0})
    rows = [make_row(tmp_path, 1), make_row(tmp_path, 2, frames=["gone.png"] * 4), make_row(tmp_path, 3)]
    data = formatted(run, make_format(run, rows, processor), rows)
    assert data.ledger.trained == 2
    assert len(data.ledger.dropped) == 1


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"context": "go <start_of_image> now"}, "contains control tokens"),
        ({"context": "<end_of_turn>"}, "contains control tokens"),
        ({"question": "a <image_soft_token>"}, "contains control tokens"),
        ({"action": {"button": "<eos>"}}, "contains control tokens"),
        ({"context": "half \ud83d"}, "not valid unicode"),
    ],
)
def test_dropped_rows(run: Run, tmp_path: Path, processor: Any, values: dict[str, Any], reason: str) -> None:
    rows = [make_row(tmp_path, 1), make_row(tmp_path, 2, **values), make_row(tmp_path, 3)]
    first, second, third = make_format(run, rows, processor).encode(rows)
    assert second == Drop(origin="rows.jsonl:2", reason=reason)
    assert isinstance(first, Example)
    assert isinstance(third, Example)


def test_image_that_changes_during_the_run(run: Run, tmp_path: Path, processor: Any) -> None:
    row = make_row(tmp_path)
    format_ = make_format(run, [row], processor, WIDE)
    examples = list(format_.encode([row]))
    save(tmp_path, row.values["frames"][2], "black")
    with pytest.raises(RunError, match=r"rows.jsonl:1: an image has changed"):
        format_.collate(examples)
    shutil.rmtree(tmp_path / "frames")
    with pytest.raises(RunError, match=r"rows.jsonl:1: image .* is not there"):
        format_.collate(examples)


def test_model_without_images(run: Run, tmp_path: Path, processor: Any) -> None:
    with pytest.raises(RunError, match=r"takes a Gemma 3 that reads images.*GemmaTokenizer"):
        make_format(run, [make_row(tmp_path)], processor.tokenizer)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages[0].content[1].text }}", "does not write an image"),
        ("<start_of_image>{{ messages[0].content[1].text | upper }}", "does not write an image"),
        ("<start_of_image>{{ messages[0].content[1].text }}", "does not ask for the reply"),
        ("<start_of_image>{{ messages[0].content[1].text }}{{ add_generation_prompt }}", "does not ask for the reply"),
        ("<start_of_image>{% for m in messages %}{{ m.content[-1].text }}{% endfor %}", "with no special token"),
        ("{{ 1 / 0 }}", "does not take an image"),
        ("{{ raise_exception('no images') }}", "does not take an image and a text: no images"),
    ],
)
def test_unfit_chat_templates(run: Run, tmp_path: Path, template: str, reason: str) -> None:
    processor = make_processor()
    processor.chat_template = processor.tokenizer.chat_template = template
    with pytest.raises(RunError, match=reason):
        make_format(run, [make_row(tmp_path)], processor)


def test_no_room_for_a_grid(tmp_path: Path, processor: Any) -> None:
    run = make_run(tmp_path, train={"max_length": 12})
    row = make_row(tmp_path)
    make_format(run, [row], processor)
    with pytest.raises(RunError, match=r"train.max_length: a grid alone takes 12 tokens of 12"):
        make_format(run, [row], processor, WIDE)


def test_pan_and_scan_without_effect_is_told(
    run: Run, tmp_path: Path, processor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    row = make_row(tmp_path)
    with caplog.at_level(logging.INFO, "ftcore"):
        make_format(run, [row], processor)
        assert not caplog.messages
        make_format(run, [row], processor, {"pan_and_scan": True, "min_crop_size": 896})
        make_format(run, [row], processor, WIDE)
    reason = "a crop would have 48 pixels, under min_crop_size (896)"
    assert caplog.messages == [
        f"plugin.gemma_grid.pan_and_scan: a grid of 96x64 gets no crops: {reason}",
        "a grid of 96x64 gets 2 crops: 12 image tokens",
    ]
