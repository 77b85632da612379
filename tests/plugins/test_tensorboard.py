"""TensorBoard's event files: what they hold, and that a resumed run leaves no step twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftcore.api import Outcome, Run, RunState, Step
from ftcore_plugins import tensorboard as module
from ftcore_plugins.tensorboard import Options, TensorBoard
from tiny_kit import make_run

pytest.importorskip("tensorboard")


def step(number: int, loss: float) -> Step:
    return Step(number=number, total=9, epoch=0.1, metrics={"loss": loss, "learning_rate": 0.5})


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, pytest.approx(event.value)) for event in events(folder).Scalars(name)]


def write(run: Run, steps: list[Step], config: Options | None = None, outcome: Outcome | None = None) -> None:
    plugin = TensorBoard(config or Options())
    plugin.run_started(run, {"train": {"learning_rate": 0.5}})
    for each in steps:
        plugin.on_step(each)
    plugin.run_ended(outcome or Outcome(folder=run.folder, state=RunState.STOPPED, step=len(steps)))


def test_every_metric_becomes_a_scalar(tmp_path: Path) -> None:
    outcome = Outcome(
        folder=tmp_path,
        state=RunState.FINISHED,
        step=2,
        loss_before=4.0,
        loss_after=1.0,
        scores_after={"accuracy": 0.5},
    )
    write(make_run(tmp_path), [step(1, 3.0), step(2, 2.0)], outcome=outcome)
    folder = tmp_path / "tensorboard"
    assert scalars(folder, "train/loss") == [(1, 3.0), (2, 2.0)]
    assert scalars(folder, "train/learning_rate") == [(1, 0.5), (2, 0.5)]
    assert scalars(folder, "eval/loss_before") == [(0, 4.0)]
    assert scalars(folder, "eval/loss_after") == [(2, 1.0)]
    assert scalars(folder, "eval/accuracy_after") == [(2, 0.5)]
    text = events(folder).Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert '"learning_rate": 0.5' in text


def test_a_resumed_run_replaces_the_steps_it_takes_again(tmp_path: Path) -> None:
    write(make_run(tmp_path), [step(1, 3.0), step(2, 2.0), step(3, 9.0)])
    run = make_run(tmp_path)
    resumed = Run(name=run.name, folder=run.folder, profile=run.profile, resumed=True)
    write(resumed, [step(3, 1.5), step(4, 1.0)])
    assert scalars(tmp_path / "tensorboard", "train/loss") == [(1, 3.0), (2, 2.0), (3, 1.5), (4, 1.0)]


def test_the_folder_can_be_chosen(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write(run, [step(1, 3.0)], Options(folder=tmp_path / "all"))
    assert scalars(tmp_path / "all/run", "train/loss") == [(1, 3.0)]
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TensorBoard(Options()).check() == []
    find = module.missing.__globals__["find_spec"]
    monkeypatch.setitem(
        module.missing.__globals__, "find_spec", lambda name: None if name == "tensorboard" else find(name)
    )
    [problem] = TensorBoard(Options()).check()
    assert problem.key == "plugin.tensorboard"
    assert "pip install 'ftcore[tensorboard]'" in problem.message
