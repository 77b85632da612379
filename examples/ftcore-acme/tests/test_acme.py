"""Tests as a plugin author writes them: `ftcore.testing` makes the runs, and no engine is needed."""

from __future__ import annotations

import csv
import json
import pickle
import zipfile
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from ftcore_acme.card import Card, prove
from ftcore_acme.csv_tracker import CsvTracker
from ftcore_acme.tickets import Tickets

from ftcore.api import Event, EventKind, Loaded, Point, PreparedData, Row, RunError, RunState, Verdict
from ftcore.testing import formatted, heavy_imports, make_config, make_run, plugin_faults, prove_labels

PLUGINS = [point for point in entry_points(group="ftcore.plugins") if point.name.startswith("acme_")]


class Letters:
    """A tokenizer of single letters: enough for a formatter, and quicker than a real one."""

    chat_template = "{{ messages }}"
    pad_token_id: int | None = None
    end = "~"

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, tokens: list[int], **_: Any) -> str:
        return "".join(map(chr, tokens))

    def apply_chat_template(self, messages: Any, tokenize: bool, add_generation_prompt: bool = False) -> str:
        turns = [f"<{message['role'][0]}>{message['content']}{self.end}" for message in messages]
        return "".join(turns) + ("<a>" if add_generation_prompt else "")


def make_rows(*pairs: tuple[str, str]) -> list[Row]:
    return [Row(values={"question": q, "answer": a}, origin=f"t.jsonl:{n}") for n, (q, a) in enumerate(pairs, 1)]


def prepare(folder: Path, options: dict[str, Any], *pairs: tuple[str, str], **tables: Any) -> PreparedData:
    """The rows as a run would train them, labels proved."""
    run = make_run(folder, data={"validation": 0, **tables.pop("data", {})}, **tables)
    made = Tickets(make_config(Tickets.Config, options)).format_dataset(Letters())
    data = formatted(run, made, make_rows(*pairs))
    assert prove_labels(data, made.processor, seed=1) == len(data.train)
    return data


@pytest.mark.parametrize("point", PLUGINS, ids=lambda point: point.name)
def test_class_fits(point: Any) -> None:
    assert plugin_faults(point.load()) == []
    assert heavy_imports(point.module) == []


def test_tickets_train_the_answer_and_its_end(tmp_path: Path) -> None:
    data = prepare(tmp_path, {"signature": "Acme"}, ("Why?", "So."), ("Who?", ""))
    assert [example.replies for example in data.train] == [("So.\nAcme",)]
    assert (data.ledger.rows, dict(data.ledger.reasons)) == (2, {"no answer": 1})
    assert data.end_of_turn == ord("~")


def test_tickets_name_a_row_without_the_column(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"t\.jsonl:1: column 'reply' holds no text; the row has question, answer"):
        prepare(tmp_path, {"answer": "reply"}, ("Why?", "So."))


def test_tickets_refuse_a_template_without_an_end() -> None:
    endless = Letters()
    endless.end = ""
    with pytest.raises(RunError, match="does not render a reply as it is"):
        Tickets(make_config(Tickets.Config)).format_dataset(endless)


def test_tickets_travel_to_other_processes() -> None:
    made = Tickets(make_config(Tickets.Config)).format_dataset(Letters())
    rows = make_rows(("Why?", "So."))
    assert pickle.loads(pickle.dumps(made.encode))(rows) == made.encode(rows)


def points(*steps: int) -> list[Point]:
    return [Point(step=step, time=0.0, metrics={"loss": 1 / step}) for step in steps]


def test_tracker_cuts_the_steps_that_a_resumed_run_repeats(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.folder.mkdir()
    plugin = CsvTracker(make_config(CsvTracker.Config, {"columns": ["loss"]}))
    first = plugin.track(run, 0)
    first.send(points(1, 2, 3))  # killed after step 3, resumed from the checkpoint of step 2
    first.close(RunState.FAILED, "the run was killed")
    second = plugin.track(run, 3)
    second.tell(Event(kind=EventKind.STARTED, step=2, time=0.0, values={"from_step": 2}))
    second.send([*points(3, 4), Point(step=4, time=0.0, metrics={"eval_loss": 0.1})])
    second.close(RunState.FINISHED, "")
    with (run.folder / "steps.csv").open(newline="") as file:
        assert [line[0] for line in csv.reader(file)] == ["step", "1", "2", "3", "4"]
    assert (tmp_path / "runs.csv").read_text().splitlines() == ["run,state,step,reason", "run,finished,4,"]


def test_tracker_writes_points_once_that_are_given_twice(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.folder.mkdir()
    plugin = CsvTracker(make_config(CsvTracker.Config, {"columns": ["loss"], "index": ""}))
    tracker = plugin.track(run, 0)
    tracker.send(points(1, 2))
    with (run.folder / "steps.csv").open("a") as file:
        file.write("3,0.3")  # a call that was cut off
    tracker.send(points(3))
    plugin.track(run, 2).send(points(3))  # killed before it was noted that 3 is sent
    assert (run.folder / "steps.csv").read_text().split() == ["step,loss", "1,1.0", "2,0.5", f"3,{1 / 3}"]


def test_tracker_refuses_a_path() -> None:
    (problem,) = CsvTracker(make_config(CsvTracker.Config, {"file": "../steps.csv"})).check()
    assert problem.key == "plugin.acme_csv.file"


def test_card_is_proved_and_the_same_each_time(tmp_path: Path) -> None:
    first, second = _export(tmp_path), _export(tmp_path)
    assert first.proof.verdict is Verdict.PROVED
    assert first.path.read_bytes() == second.path.read_bytes()
    with zipfile.ZipFile(first.path) as archive:
        assert json.loads(archive.read("card.json"))["contact"] == "desk@acme.example"


def test_card_with_another_file_is_not_proved(tmp_path: Path) -> None:
    bundle = _export(tmp_path).path
    proof = prove(bundle, {"weights.safetensors": "0" * 64})
    assert (proof.verdict, proof.note) == (Verdict.FAILED, "weights.safetensors differs")


def _export(folder: Path) -> Any:
    saved = folder / "adapter"
    saved.mkdir(exist_ok=True)
    (saved / "weights.safetensors").write_bytes(b"weights")
    plugin = Card(make_config(Card.Config, {"contact": "desk@acme.example"}))
    loaded = Loaded(model=None, processor=None, base="base", adapter="lora")
    return plugin.export(make_run(folder), loaded, saved, folder / "exports")
