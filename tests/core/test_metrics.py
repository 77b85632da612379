"""`metrics.jsonl` is the truth: no kill loses a line, and a resumed run leaves no trace of the lost steps."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

import pytest

from ftcore.files import replace_text
from ftcore.journal import lines
from ftcore.journal.events import read_events
from ftcore.journal.metrics import MetricsLog, cut_metrics, last_time, read_metrics
from ftcore.journal.writing import Journal
from journals import steps


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def written(path: Path, *steps: int) -> None:
    log = MetricsLog(path)
    for step in steps:
        log.write(step, {"loss": 1 / step})
    log.close()


def test_a_line_is_one_object_with_its_step_first(path):
    written(path, 1, 2)
    first, second = path.read_text().splitlines()
    assert re.fullmatch(r'\{"step": 1, "time": \d+\.\d+, "loss": 1\.0\}', first)
    assert second.startswith('{"step": 2, "time": ')
    assert second.endswith(', "loss": 0.5}')


def test_a_line_can_be_read_at_once_by_another_process(path):
    log = MetricsLog(path)
    log.write(1, {"loss": 2.0})
    assert [line["loss"] for line in read_metrics(path)] == [2.0]
    log.close()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_lacks_is_null(path, value):
    log = MetricsLog(path)
    log.write(3, {"loss": value, "grad_norm": 1.5})
    log.close()
    assert path.read_text().endswith(', "loss": null, "grad_norm": 1.5}\n')


def test_every_bit_of_a_figure_survives(path):
    value = 0.1 + 0.2
    log = MetricsLog(path)
    log.write(1, {"loss": value})
    log.close()
    assert next(read_metrics(path))["loss"].hex() == value.hex()


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', "{", '{"step": 3', '"', "\0\0\0\0", '{"step": 3, "l\udcff'])
def test_a_torn_last_line_is_passed_over(path, torn):
    written(path, 1, 2)
    with path.open("ab") as file:
        file.write(torn.encode("utf-8", "surrogateescape"))
    assert [line["step"] for line in read_metrics(path)] == [1, 2]


@pytest.mark.parametrize("odd", ["[1, 2]", "5", "null", '{"loss": 1}', '{"step": "3"}', '{"step": null}', ""])
def test_a_line_of_another_kind_is_passed_over(path, odd):
    path.write_text(f'{{"step": 1}}\n{odd}\n{{"step": 2}}\n')
    assert [line["step"] for line in read_metrics(path)] == [1, 2]


@pytest.mark.parametrize("block", [1, 7, 64, 2**16])
@pytest.mark.parametrize("end", ["", "\n", "\n\n", '\n{"step": 9', '{"step": 9}'])
def test_lines_from_the_end_are_the_same_backwards(path, monkeypatch, block, end):
    monkeypatch.setattr(lines, "BLOCK", block)
    for count in (0, 1, 30):
        whole = "\n".join(json.dumps({"step": step, "text": "ä" * step}) for step in range(count))
        path.write_text(whole + end, "utf-8")
        assert [*lines.last_lines(path)] == [line for line, _ in lines.whole_lines(path)][::-1]


def test_going_on_tells_when_the_last_line_was_written_before_it_is_cut(path):
    with Journal(path.parent) as journal:
        journal.begin(0, 9)
        steps(journal, 1, 3)
    with Journal(path.parent) as journal:
        cut = last_time(path)
        journal.begin(2, 9)
    told = [event.values["until"] for event in read_events(path.parent / "events.jsonl")]
    assert told == [None, cut]


def test_no_file_is_no_lines(path):
    assert list(read_metrics(path)) == []


def test_cutting_drops_later_steps_and_the_torn_line_and_leaves_the_rest_byte_for_byte(path):
    written(path, 1, 2, 3)
    before = path.read_text()
    written(path, 4, 5)
    with path.open("a") as file:
        file.write('{"step": 6, "lo')
    cut_metrics(path, 3)
    assert path.read_text() == before


def test_cutting_keeps_evaluations_of_the_last_step(path):
    log = MetricsLog(path)
    log.write(3, {"loss": 1.0})
    log.write(3, {"eval_loss": 2.0})
    log.write(4, {"loss": 1.0})
    log.close()
    cut_metrics(path, 3)
    assert [sorted(line) for line in read_metrics(path)] == [["loss", "step", "time"], ["eval_loss", "step", "time"]]


def test_cutting_where_nothing_is_makes_an_empty_file(path):
    cut_metrics(path, 0)
    assert path.read_text() == ""


def test_appending_after_a_cut_goes_on(path):
    written(path, 1, 2, 3)
    cut_metrics(path, 1)
    written(path, 2)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_replacing_a_text_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "file.txt"
    replace_text(path, "old")
    replace_text(path, "new ü")
    assert path.read_text("utf-8") == "new ü"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_a_replacement_that_fails_leaves_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    replace_text(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_an_unpaired_surrogate_is_written_as_json_escapes_it(tmp_path):
    replace_text(tmp_path / "file.json", json.dumps("a \udcff b", ensure_ascii=False))
    assert json.loads((tmp_path / "file.json").read_text("utf-8")) == "a \udcff b"
