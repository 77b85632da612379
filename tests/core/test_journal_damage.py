"""A journal that a kill, a full disk or a person has damaged costs what was damaged, and nothing else."""

from __future__ import annotations

import errno
import json
import math
import random
import shutil
import subprocess

import attrs
import pytest

from ftcore import engine
from ftcore.display.watching import Watched
from ftcore.errors import RunError
from ftcore.journal.events import EventsLog, event_of, read_events
from ftcore.journal.lines import is_torn
from ftcore.journal.metrics import MetricsLog, cut_metrics, last_figure, point_of, read_points
from ftcore.journal.writing import Journal
from ftcore.manifest import read_manifest
from ftcore.report.document import as_json
from ftcore.report.page import page
from ftcore.report.record import read_record
from ftcore.runs import run_info
from ftcore.tracking.cursor import Cursor
from ftcore.tracking.following import KILLED, ending, left, news
from ftcore.values import EventKind, RunState
from journals import figures, steps

HUGE = 10**400


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path) as opened:
        yield opened


def given(folder, cursor):
    """The steps of the points that a tracker is given, and where it is then."""
    pieces = list(news(folder, cursor))
    return [point.step for piece in pieces for point in piece.points], pieces[-1].after


# -- lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [True, -1, HUGE, 1.0, "1", None, [1]])
def test_a_step_is_a_whole_number_that_can_be_counted_to(step):
    assert point_of({"step": step, "loss": 1.0}) is None
    assert event_of({"event": "stage", "step": step, "time": 1.0}) is None


def test_a_figure_that_no_float_holds_is_passed_over_and_the_others_stay():
    point = point_of({"step": 3, "time": HUGE, "loss": HUGE, "epoch": True, "name": "x", "grad_norm": 2, "odd": None})
    assert (point.step, point.time, dict(point.metrics, odd=0.0)) == (3, 0.0, {"grad_norm": 2.0, "odd": 0.0})
    assert math.isnan(point.metrics["odd"])


@pytest.mark.parametrize("changed", [{"event": []}, {"event": {}}, {"time": HUGE}, {"time": math.nan}, {"time": "now"}])
def test_an_event_of_another_shape_is_passed_over(changed):
    assert event_of({"event": "stage", "step": 1, "time": 1.0, **changed}) is None


def test_the_last_figure_is_a_number(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1, "tokens": 5}}\n{{"step": 2, "tokens": {HUGE}}}\n{{"step": 3, "tokens": null}}\n')
    assert last_figure(path, "tokens") == 5


# -- torn and cut ---------------------------------------------------------------------------------


@pytest.mark.parametrize("torn", ['{"event": "sta', '{"event": "stage", "step": 0, "time": 1}'])
def test_the_first_event_after_a_torn_line_is_not_lost_with_it(tmp_path, torn):
    path = tmp_path / "events.jsonl"
    path.write_text(f'{{"event": "stage", "step": 1, "time": 1}}\n{torn}')
    assert is_torn(path)
    log = EventsLog(path)
    log.write(EventKind.STARTED, 1, from_step=1)
    log.close()
    assert [event.kind for event in read_events(path)][:: len(list(read_events(path))) - 1] == ["stage", "started"]
    assert not is_torn(path)


def test_cutting_says_up_to_where_the_file_is_as_it_was(tmp_path, journal):
    journal.begin(0, 9)
    steps(journal, 1, 4)
    path = tmp_path / "metrics.jsonl"
    first, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first, b"no json\r\n", *others, b'{"step": 5, "lo']))
    assert cut_metrics(path, 3) == len(first)
    assert path.read_bytes() == b"".join([first, *others[:2]])
    assert cut_metrics(path, 3) == len(path.read_bytes())


def test_a_tracker_is_given_everything_behind_a_damaged_line_that_was_dropped(tmp_path, journal):
    journal.begin(0, 9)
    steps(journal, 1, 2)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b"no json, and longer than any line that a run has written down, so far\n")
    steps(journal, 3, 5)
    _, cursor = given(tmp_path, Cursor())
    journal.begin(4, 9)
    steps(journal, 5, 7)
    assert given(tmp_path, cursor)[0] == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("name", ["events.jsonl", "metrics.jsonl"])
@pytest.mark.parametrize("text", [None, "", '{"torn'])
def test_a_file_that_somebody_has_replaced_is_sent_from_its_start(tmp_path, name, text):
    with Journal(tmp_path) as journal:
        journal.event(EventKind.STAGE, number=1, total=1, title="a long title, so that what follows is shorter")
        journal.begin(0, 9)
        steps(journal, 1, 6)
        _, cursor = given(tmp_path, Cursor())
    (tmp_path / name).unlink()
    if text is not None:
        (tmp_path / name).write_text(text)
    with Journal(tmp_path) as journal:
        journal.begin(2, 9)
        steps(journal, 3, 4)
    sent, after = given(tmp_path, cursor)
    assert sent[-2:] == [3, 4]
    assert left(tmp_path, after) == (0, 0)


@pytest.mark.parametrize("back", [0.0, -3600.0])
def test_a_clock_that_stands_still_or_jumps_back_loses_no_point_and_no_order(tmp_path, monkeypatch, back):
    now = [1000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    with Journal(tmp_path) as journal:
        journal.begin(0, 9)
        steps(journal, 1, 3)
        now[0] += back
        journal.event(EventKind.CHECKPOINT, path="x")
        steps(journal, 4, 5)
        seen, cursor = given(tmp_path, Cursor())
        assert seen == [1, 2, 3, 4, 5]
        now[0] += back
        journal.begin(3, 9)
        steps(journal, 4, 6)
    places = [piece.after for piece in news(tmp_path, cursor)]
    assert given(tmp_path, cursor)[0] == [4, 5, 6]
    for place in places[:-1]:  # wherever it is killed, what is left follows
        assert given(tmp_path, place)[0][-1:] in ([6], [])
    assert left(tmp_path, places[-1]) == (0, 0)


def test_a_run_that_is_killed_before_its_last_event_has_ended_as_its_manifest_says(desk):
    folder = engine.run(desk.load()).folder
    lines = (folder / "events.jsonl").read_text("utf-8").splitlines(keepends=True)
    assert '"ended"' in lines[-1]
    (folder / "events.jsonl").write_text("".join(lines[:-1]), "utf-8")
    assert ending(folder) == (RunState.FINISHED, "")
    attrs.evolve(read_manifest(folder), state=RunState.RUNNING).write(folder)
    assert ending(folder) == (RunState.FAILED, KILLED)


# -- readers --------------------------------------------------------------------------------------

ODD = (None, True, -1, 0, HUGE, 1e308, math.nan, math.inf, "", "x", "\ud800", [], {}, [None], {"text": None}, "started")


def changed(value, draw):
    """One value somewhere in it is another."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        if draw.random() < 0.1:
            return {name: each for name, each in value.items() if name != key}
        return {**value, key: changed(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        place = draw.randrange(len(value))
        return [*value[:place], changed(value[place], draw), *value[place + 1 :]]
    return draw.choice(ODD)


def spoil(folder, draw):
    """Change a few values of the journal, or of the manifest."""
    name = draw.choice(["events.jsonl", "events.jsonl", "metrics.jsonl", "manifest.json"])
    text = (folder / name).read_text("utf-8")
    lines = text.splitlines() if name.endswith("l") else [text]
    for _ in range(draw.choice([1, 5, 20])):
        place = draw.randrange(len(lines))
        lines[place] = json.dumps(changed(json.loads(lines[place]), draw))
    (folder / name).write_text("\n".join(lines) + "\n", "utf-8")


def test_every_view_takes_a_damaged_run_or_says_so_in_a_sentence(desk, tmp_path, monkeypatch):
    """Two hundred of them; anything but a `RunError` fails."""
    monkeypatch.setenv("LIGHT_FAULT", "export=RunError")
    with pytest.raises(RunError):
        engine.run(desk.load())
    (whole,) = desk.runs()
    draw, refused = random.Random(7), 0
    for number in range(200):
        folder = tmp_path / "damaged" / str(number)
        folder.mkdir(parents=True)
        for name in ("manifest.json", "metrics.jsonl", "events.jsonl"):
            shutil.copy(whole / name, folder / name)
        spoil(folder, draw)
        try:
            run_info(folder)
            json.dumps(Watched(folder).as_json())
            record = read_record(folder)
            json.dumps(as_json(record))
            page(record)
        except RunError:
            refused += 1
        list(read_points(folder / "metrics.jsonl"))
        cut_metrics(folder / "metrics.jsonl", 3)
    assert 10 < refused < 60


@pytest.mark.parametrize(
    "change",
    [
        {"loss": {"before": [1], "after": None}},
        {"scores": {"before": {"x": "y"}, "after": {}}},
        {"data": {"ledger": {"rows": "many"}}},
        {"data": {"ledger": {"dropped": 3}}},
    ],
)
def test_a_manifest_with_figures_that_are_none_is_damaged(desk, change):
    folder = engine.run(desk.load()).folder
    (folder / "manifest.json").write_text(json.dumps({**attrs.asdict(read_manifest(folder)), **change}))
    with pytest.raises(RunError, match="is damaged"):
        read_manifest(folder)


def test_a_list_of_runs_shows_no_loss_that_is_no_number(desk, ftcore):
    folder = engine.run(desk.load()).folder
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "loss": {}}\n{"step": 11, "loss": null}\n')
    assert ftcore("runs", "runs")[0] == 0
    assert run_info(folder).loss is None


# -- a full disk ----------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["metrics.jsonl", "events.jsonl"])
def test_a_disk_that_fills_while_a_line_is_written(desk, ftcore, monkeypatch, file):
    """Half of a line goes onto the disk; the run says why it ends, and the resumed one has every figure."""
    whole = figures(engine.run(desk.load()).folder)
    log = MetricsLog if file == "metrics.jsonl" else EventsLog
    with monkeypatch.context() as patched:
        patched.setattr(log, "write", half_a_line(log.write, after=10))
        code, _, err = ftcore("run", desk.profile, "--quiet")
    folder = desk.runs()[-1]
    assert code == 1
    assert err.splitlines()[-1].startswith(f"no space left on the disk ({folder} has ")
    assert err.splitlines()[-1].endswith("MiB free); free some and resume; run.log says where")
    assert is_torn(folder / file)
    assert ftcore("run", "--resume", folder, "--quiet")[0] == 0
    assert figures(folder) == whole
    assert [event.kind for event in read_events(folder / "events.jsonl")].count("started") == 2
    assert list(read_events(folder / "events.jsonl"))[-1].values["state"] == "finished"


def half_a_line(real, after):
    """A `write` that fails for good once it was called so often."""
    calls = []

    def write(self, *arguments, **values):
        calls.append(arguments)
        if len(calls) <= after:
            return real(self, *arguments, **values)
        if len(calls) == after + 1:
            self._file.write('{"step": 1, "time": 1.0')
            self._file.flush()
        raise OSError(errno.ENOSPC, "No space left on device")

    return write


def fill(disk):
    with Journal(disk) as journal:
        journal.begin(0, 10_000)
        steps(journal, 1, 10_000)


def test_a_really_full_disk(desk, tmp_path):
    """A tmpfs of 64 KiB, where mounting is allowed: the journal takes what fits."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount")
    try:
        (disk / "others").write_bytes(b"x" * 40_000)
        with pytest.raises(OSError, match="No space left"):
            fill(disk)
        last = list(read_points(disk / "metrics.jsonl"))[-1].step
        (disk / "others").unlink()
        with Journal(disk) as journal:
            journal.begin(last // 2, 10_000)
            steps(journal, last // 2 + 1, last // 2 + 5)
        assert [point.step for point in read_points(disk / "metrics.jsonl")] == list(range(1, last // 2 + 6))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
