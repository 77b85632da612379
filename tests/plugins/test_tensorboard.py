"""TensorBoard's event files, read back by its own reader: every point once, whatever happened in between."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftcore.api import Event, EventKind, RunState, Tracker
from ftcore_plugins import tensorboard as module
from ftcore_plugins.tensorboard import Options, TensorBoard
from tiny_kit import make_run
from tracking_kit import ROW, event, png, point, write_journal

pytest.importorskip("tensorboard")

SETTINGS = {"train": {"learning_rate": 0.5, "betas": [0.9, 0.99]}, "data": {"id": "https://me:secret@host/rows"}}


def open_tracker(folder: Path, sent: int = 0, config: Options | None = None) -> Tracker:
    return TensorBoard(config or Options()).track(make_run(folder), SETTINGS, sent)


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0, "histograms": 0})
    found.Reload()
    return found


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    """As both of its readers see them: the one for programs, and the one that its pages are made from."""
    from tensorboard.util.tensor_util import make_ndarray

    values = [(each.step, float(make_ndarray(each.tensor_proto))) for each in shown(folder).Tensors(name)]
    assert [(each.step, each.value) for each in read(folder / "tensorboard").Scalars(name)] == values
    return [(step, pytest.approx(value)) for step, value in values]


def shown(folder: Path) -> Any:
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"tensors": 0})
    found.Reload()
    return found


def text(found: Any, name: str) -> list[str]:
    return [each.tensor_proto.string_val[0].decode() for each in found.Tensors(name)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one of everything."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    png(folder / "samples/a.png")
    rows = [{**ROW, "images": ["samples/a.png", "../../escape.png", "samples/gone.png"]}]
    counted = {"target/left": 2.0, "target/right": 1.0, "predicted/right": 3.0}
    tracker = open_tracker(folder)
    facts = {"base": "org/model", "parameters": {"total": 1000, "trainable": 10}}
    tracker.tell(event(EventKind.MODEL, **facts))
    answered = {"loss": 4.0, "scores": {"accuracy": 0.25, **counted}, "rows": rows}
    tracker.tell(event(EventKind.ANSWERS, when="before", **answered))
    tracker.tell(event(EventKind.STARTED, from_step=0, total_steps=3))
    tracker.send([point(1, loss=3.0, learning_rate=0.5), point(2, **{"loss": 2.0, "system/cpu": 50.0})])
    tracker.send([point(2, eval_loss=1.5)])
    tracker.tell(event(EventKind.ANSWERS, 2, when="during", loss=1.5, scores=counted, rows=rows))
    tracker.tell(
        event(EventKind.NOTICE, 2, sign="loss-rising", text="the loss rises", advice="lower the rate", page="")
    )
    tracker.tell(event(EventKind.ANSWERS, 2, when="after", loss=1.0, scores={"accuracy": 0.5}, rows=rows))
    proof = {"verdict": "proved", "figures": {"mean_kl": 1e-5}, "note": "as it should be"}
    path = str(folder / "exports/gguf/q8_0.gguf")
    tracker.tell(event(EventKind.ARTIFACT, 2, kind="gguf", path=path, details={}, proof=proof))
    tracker.close(RunState.FAILED, "a reason")
    return folder


def test_every_figure_becomes_a_scalar(whole: Path) -> None:
    assert scalars(whole, "train/loss") == [(1, 3.0), (2, 2.0)]
    assert scalars(whole, "train/learning_rate") == [(1, 0.5)]
    assert scalars(whole, "system/cpu") == [(2, 50.0)]
    assert scalars(whole, "eval/loss") == [(2, 1.5)]
    assert scalars(whole, "eval/loss_before") == [(0, 4.0)]
    assert scalars(whole, "eval/accuracy_after") == [(2, 0.5)]
    assert [each.wall_time for each in read(whole / "tensorboard").Scalars("train/loss")] == [1e9 + 1, 1e9 + 2]


def test_actions_are_histograms_with_a_bin_for_each(whole: Path) -> None:
    found = read(whole / "tensorboard")
    target, predicted = (found.Histograms(f"actions/{kind}")[-1].histogram_value for kind in ("target", "predicted"))
    assert (target.bucket_limit, target.bucket) == ([0.0, 1.0, 2.0], [0.0, 2.0, 1.0])
    assert predicted.bucket == [0.0, 0.0, 3.0]
    assert [each.step for each in found.Histograms("actions/target_before")] == [0]
    assert "| right | 1 | 3 |" in text(found, "actions")[0]


def test_texts_say_what_cannot_be_drawn(whole: Path) -> None:
    found = read(whole / "tensorboard")
    assert '"train.learning_rate": 0.5' in text(found, "settings")[0]
    assert "secret" not in text(found, "settings")[0]
    assert "| model/trainable_share | 0.01 |" in text(found, "model")[0]
    assert text(found, "notices/loss-rising") == ["the loss rises; lower the rate"]
    assert "proved" in text(found, "artifacts/gguf/q8_0.gguf")[0]
    assert "| artifacts/gguf/q8_0.gguf/mean_kl | 1e-05 |" in text(found, "artifacts/gguf/q8_0.gguf")[0]
    assert text(found, "outcome") == ["failed: a reason"]


def test_answers_are_a_table_that_a_model_cannot_break(whole: Path) -> None:
    [table] = text(read(whole / "tensorboard"), "samples/during")
    line = table.splitlines()[-1]
    assert line == "| rows.jsonl:1 | go &lt;b>&#124;left | left | &#96;right&#96;<br>now |"


def test_images_of_samples_come_once_and_only_from_the_run(whole: Path) -> None:
    found = read(whole / "tensorboard")
    assert found.Tags()["images"] == ["samples/rows.jsonl:1"]
    [image] = found.Images("samples/rows.jsonl:1")
    assert (image.step, image.width, image.height) == (0, 3, 2)
    assert image.encoded_image_string == (whole / "samples/a.png").read_bytes()


def test_hyper_parameters_and_how_the_run_has_ended(whole: Path) -> None:
    from tensorboard.plugins.hparams import api_pb2, metadata

    found = read(whole / "tensorboard")
    about = found.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    start = metadata.parse_session_start_info_plugin_data(about)
    assert start.group_name == "run"
    assert start.hparams["train.learning_rate"].number_value == 0.5
    assert start.hparams["train.betas"].string_value == "[0.9, 0.99]"
    assert start.hparams["data.id"].string_value == "https://host/rows"
    assert start.hparams["model/trainable"].number_value == 10
    end = metadata.parse_session_end_info_plugin_data(
        found.SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
    )
    assert end.status == api_pb2.STATUS_FAILURE


def test_a_killed_process_leaves_no_point_twice_and_none_out(tmp_path: Path) -> None:
    points = [point(1), point(2), point(2, eval_loss=1.0), point(3)]
    told = event(EventKind.ANSWERS, 2, when="during", loss=1.0, scores={}, rows=[ROW])
    write_journal(tmp_path, points, [event(EventKind.STARTED, from_step=0), told])
    first = open_tracker(tmp_path)
    first.tell(event(EventKind.STARTED, from_step=0))
    first.send(points)  # and is killed before anybody noted more than step 2
    second = open_tracker(tmp_path, sent=2)
    second.send(points[2:])
    second.tell(told)
    second.send(points[3:])
    second.close(RunState.FINISHED, "")
    assert scalars(tmp_path, "train/loss") == [(1, 9.0), (2, 4.5), (3, 3.0)]
    assert scalars(tmp_path, "eval/loss") == [(2, 1.0)]
    assert len(text(shown(tmp_path), "samples/during")) == 1


def test_a_process_killed_before_the_first_step_loses_no_settings(tmp_path: Path) -> None:
    started = event(EventKind.STARTED, from_step=0)
    write_journal(tmp_path, [], [started])
    open_tracker(tmp_path).tell(started)
    second = open_tracker(tmp_path)
    second.send([point(1)])
    second.close(RunState.FINISHED, "")
    assert len(text(shown(tmp_path), "settings")) == 1
    assert scalars(tmp_path, "train/loss") == [(1, 9.0)]


@pytest.mark.parametrize("another", [True, False], ids=["another-process", "the-same-process"])
def test_steps_that_are_taken_again_replace_the_first_ones(tmp_path: Path, another: bool) -> None:
    png(tmp_path / "samples/a.png")
    answered = event(EventKind.ANSWERS, 3, when="during", rows=[{**ROW, "images": ["samples/a.png"]}])
    tracker = open_tracker(tmp_path)
    tracker.send([point(1), point(2), point(3, loss=99.0), point(3, eval_loss=99.0)])
    tracker.tell(answered)
    write_journal(tmp_path, [point(1), point(2)])
    if another:
        tracker = open_tracker(tmp_path, sent=3)
    tracker.tell(Event(kind=EventKind.STARTED, step=2, time=2e9, values={"from_step": 2}))
    tracker.send([point(3), point(4), point(4, eval_loss=0.5)])
    tracker.tell(answered)
    tracker.close(RunState.FINISHED, "")
    assert scalars(tmp_path, "train/loss") == [(1, 9.0), (2, 4.5), (3, 3.0), (4, 2.25)]
    assert scalars(tmp_path, "eval/loss") == [(4, 0.5)]
    assert [each.step for each in read(tmp_path / "tensorboard").Images("samples/rows.jsonl:1")] == [3]


def test_points_given_twice_are_written_once(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path)
    for _ in range(2):
        tracker.send([point(1), point(1, eval_loss=1.0), point(2)])
    assert scalars(tmp_path, "train/loss") == [(1, 9.0), (2, 4.5)]  # also before it is closed
    assert scalars(tmp_path, "eval/loss") == [(1, 1.0)]


def test_the_folder_can_be_chosen(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path / "run", config=Options(folder=tmp_path / "all"))
    tracker.send([point(1)])
    assert [each.step for each in read(tmp_path / "all/run").Scalars("train/loss")] == [1]
    assert not (tmp_path / "run/tensorboard").exists()


OTHER = """
import resource, signal, sys
from pathlib import Path
from ftcore.api import Point, Profile, Run
from ftcore_plugins.tensorboard import Options, TensorBoard

run = Run(name="r", folder=Path(sys.argv[1]), profile=Profile())
tracker = TensorBoard(Options()).track(run, {}, 0)
tracker.send([Point(step=1, time=1.0, metrics={"loss": 1.0})])
assert not {"torch", "tensorflow"} & set(sys.modules)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    for step in range(2, 1000):
        tracker.send([Point(step=step, time=1.0, metrics={"loss": 1.0})])
except OSError as error:
    sys.exit(f"told: {error}")
"""


def test_a_process_without_torch_writes_at_once_and_tells_of_a_full_disk(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OTHER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "told: [Errno 27] File too large" in done.stderr
    assert scalars(tmp_path, "train/loss")[:2] == [(1, 1.0), (2, 1.0)]


def test_a_missing_package_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TensorBoard(Options()).check() == []
    find = module.missing.__globals__["find_spec"]
    monkeypatch.setitem(
        module.missing.__globals__, "find_spec", lambda name: None if name == "tensorboard" else find(name)
    )
    [problem] = TensorBoard(Options()).check()
    assert problem.key == "plugin.tensorboard"
    assert "pip install 'ftcore[tensorboard]'" in problem.message
