"""What a tracker is given, in which order, and from where it goes on."""

from __future__ import annotations

import json
import math

import attrs
import pytest

from ftcore.journal.writing import Journal
from ftcore.secrets import sentence, without_secrets
from ftcore.tracking.cursor import Cursor, cursor_file, read_cursor, write_cursor
from ftcore.tracking.following import KILLED, ending, left, news
from ftcore.tracking.sending import FIRST_POLL, GaveUpError, Sender
from ftcore.values import EventKind, RunState
from journals import steps


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Every line is written ten milliseconds after the one before."""
    ticks = iter(range(10**9))
    monkeypatch.setattr("time.time", lambda: 1000.0 + next(ticks) / 100)


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path) as opened:
        yield opened


def shown(pieces):
    """What is given: the kind of an event, the steps of points."""
    return [str(each.event.kind) if each.event else [point.step for point in each.points] for each in pieces]


def test_points_and_events_come_in_the_order_in_which_they_were_written(tmp_path, journal):
    journal.event(EventKind.STAGE, number=1, total=1, title="training")
    journal.begin(0, 4)
    steps(journal, 1, 2)
    journal.event(EventKind.CHECKPOINT, path="checkpoints/step-000002")
    steps(journal, 3, 4)
    journal.event(EventKind.ENDED, state="finished", reason="")
    pieces = list(news(tmp_path, Cursor()))
    assert shown(pieces) == ["stage", "started", [1, 2], "checkpoint", [3, 4], "ended"]
    assert pieces[-1].after.sent == 4
    assert list(news(tmp_path, pieces[-1].after)) == []
    assert left(tmp_path, pieces[-1].after) == (0, 0)


def test_what_was_sent_is_not_given_again(tmp_path, journal):
    journal.begin(0, 4)
    steps(journal, 1, 2)
    cursor = list(news(tmp_path, Cursor()))[-1].after
    steps(journal, 3, 4)
    assert left(tmp_path, cursor) == (2, 0)
    assert shown(news(tmp_path, cursor)) == [[3, 4]]


def test_many_points_come_a_thousand_at_a_time(tmp_path, journal):
    journal.begin(0, 2500)
    steps(journal, 1, 2500)
    assert [len(piece.points) for piece in news(tmp_path, Cursor()) if piece.points] == [1000, 1000, 500]


def test_a_torn_last_line_waits_for_its_rest(tmp_path, journal):
    journal.begin(0, 2)
    steps(journal, 1, 1)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "time": 1')
    pieces = list(news(tmp_path, Cursor()))
    assert shown(pieces) == ["started", [1]]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('001, "loss": null}\nno json\n')
    (rest,) = news(tmp_path, pieces[-1].after)
    assert [point.step for point in rest.points] == [2]
    assert math.isnan(rest.points[0].metrics["loss"])
    assert left(tmp_path, rest.after) == (0, 0), "what nobody can read is not missing"


def test_a_resumed_run_is_followed_from_where_its_metrics_were_cut(tmp_path, journal):
    """Steps 3 and 4 were sent, then the run was killed, and went on from its checkpoint of step 2."""
    journal.begin(0, 6)
    steps(journal, 1, 4)
    cursor = list(news(tmp_path, Cursor()))[-1].after
    journal.begin(2, 6)
    assert left(tmp_path, cursor) == (0, 1)
    steps(journal, 3, 6)
    pieces = list(news(tmp_path, cursor))
    assert shown(pieces) == ["started", [3, 4, 5, 6]]
    assert pieces[0].after.sent == 2


def test_points_that_were_not_sent_before_a_kill_come_before_it_goes_on(tmp_path, journal):
    journal.begin(0, 6)
    cursor = list(news(tmp_path, Cursor()))[-1].after
    steps(journal, 1, 4)
    journal.begin(2, 6)
    steps(journal, 3, 3)
    assert shown(news(tmp_path, cursor)) == [[1, 2], "started", [3]]


def test_an_event_that_came_while_the_files_were_looked_at_is_not_overtaken(tmp_path, journal, monkeypatch):
    journal.begin(0, 4)
    looks = []

    def size(path):
        looks.append(path.name)
        found = path.stat().st_size
        if len(looks) == 1:  # between the look at the events and that at the points
            journal.event(EventKind.CHECKPOINT, path="x")
            steps(journal, 1, 1)
        return found

    monkeypatch.setattr("ftcore.tracking.following._size", size)
    assert shown(news(tmp_path, Cursor())) == ["started", "checkpoint", [1]]


@pytest.mark.parametrize(
    ("events", "wanted"),
    [
        ([], (RunState.FAILED, KILLED)),
        ([("stage", {}), ("started", {})], (RunState.FAILED, KILLED)),
        ([("ended", {"state": "finished", "reason": ""})], (RunState.FINISHED, "")),
        ([("ended", {"state": "stopped", "reason": "SIGTERM received"})], (RunState.STOPPED, "SIGTERM received")),
        ([("ended", {"state": "stopped"}), ("stage", {})], (RunState.FAILED, KILLED)),
        ([("ended", {"state": "stopped"}), ("started", {}), ("ended", {"state": "finished"})], (RunState.FINISHED, "")),
        ([("ended", {"state": "lost"})], (RunState.FAILED, "the journal says 'lost'")),
    ],
)
def test_how_the_run_ended(tmp_path, journal, events, wanted):
    for kind, values in events:
        journal.event(EventKind(kind), **values)
    assert ending(tmp_path) == wanted


def test_without_a_journal_there_is_nothing(tmp_path):
    assert list(news(tmp_path, Cursor())) == []
    assert left(tmp_path, Cursor()) == (0, 0)


def test_a_cursor_comes_back(tmp_path):
    cursor = Cursor(metrics_bytes=9, events_bytes=7, sent=3, failures=2, error="no", said=("look here", "and here"))
    write_cursor(tmp_path / "x.json", cursor)
    assert read_cursor(tmp_path / "x.json") == cursor


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sent": 1}', "\x00\xff", '{"sent": "many"}', "[" * 10_000])
def test_a_damaged_cursor_begins_again(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    assert read_cursor(path) == Cursor()
    values = {**attrs.asdict(Cursor()), "sent": -1}
    path.write_text(json.dumps(values))
    assert read_cursor(path) == Cursor()


def test_secrets_are_kept(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "abcdef0123456789")
    monkeypatch.setenv("MY_TOKEN", "1")
    monkeypatch.setenv("TOKENIZERS_CACHE", "harmless")
    text = "401 at https://ann:hunter@22@host/x, key abcdef0123456789, 1 harmless try, see https://host/y@z"
    assert without_secrets(text) == "401 at https://host/x, key ***, 1 harmless try, see https://host/y@z"
    assert sentence(ValueError("a\n  b\x1b")) == "ValueError: a b\x1b"
    assert len(sentence(ValueError("x" * 5000))) < 310


class Over:
    """A parent that has ended, or ends after so many waits."""

    def __init__(self, waits=0):
        self.waits = waits
        self.waited = []

    @property
    def is_over(self):
        return len(self.waited) >= self.waits

    def wait(self, seconds):
        self.waited.append(seconds)


class Shaky:
    """A tracker whose first calls fail."""

    def __init__(self, failures=0):
        self.failures = failures
        self.given = []

    def _maybe(self, what):
        if self.failures:
            self.failures -= 1
            raise ConnectionError("no route to host")
        self.given.append(what)

    def send(self, points):
        self._maybe([point.step for point in points])

    def tell(self, event):
        self._maybe(str(event.kind))

    def close(self, state, reason):
        self._maybe((str(state), reason))


@pytest.fixture
def sender(tmp_path, journal, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    journal.begin(0, 2)
    steps(journal, 1, 2)
    journal.event(EventKind.ENDED, state="finished", reason="")
    (tmp_path / "trackers").mkdir()
    return Sender(tmp_path, "shaky")


def test_a_tracker_that_fails_is_asked_again_after_growing_waits(tmp_path, sender):
    tracker, parent = Shaky(failures=4), Over(waits=5)
    sender.work(parent, lambda sent: tracker)
    assert tracker.given == ["started", [1, 2], ("finished", "")]
    assert parent.waited == [1, 2, 4, 8, FIRST_POLL]
    cursor = read_cursor(cursor_file(tmp_path, "shaky"))
    assert (cursor.sent, cursor.closed, cursor.error, cursor.failures) == (2, "finished", "", 0)
    assert left(tmp_path, cursor) == (0, 0)


def test_one_that_always_fails_makes_room_for_a_new_process(tmp_path, sender):
    with pytest.raises(GaveUpError):
        sender.work(Over(waits=99), lambda sent: Shaky(failures=99))
    cursor = read_cursor(cursor_file(tmp_path, "shaky"))
    assert (cursor.failures, cursor.error) == (5, "tell: ConnectionError: no route to host")


def test_after_the_end_it_is_tried_three_times(tmp_path, sender):
    asked = []
    with pytest.raises(GaveUpError):
        sender.work(Over(), asked.append)
    assert asked == [0], "a tracker that is none fails in its first call"
    assert read_cursor(cursor_file(tmp_path, "shaky")).failures == 3


def test_a_later_process_learns_what_was_sent(tmp_path, sender, journal):
    sender.work(Over(), lambda sent: Shaky())
    asked = []

    def make(sent):
        asked.append(sent)
        return Shaky()

    Sender(tmp_path, "shaky").work(Over(), make)
    assert asked == [2]


def test_a_call_without_an_answer_is_told_of(tmp_path, sender, monkeypatch):
    class Slow(Shaky):
        def send(self, points):
            sender.tick()
            now.append(now[-1] + 31)
            sender.tick()
            errors.append(read_cursor(cursor_file(tmp_path, "shaky")).error)

    now, errors = [100.0], []
    monkeypatch.setattr("time.monotonic", lambda: now[-1])
    sender.work(Over(), lambda sent: Slow())
    assert errors == ["send has not answered for 30 s"]
    assert read_cursor(cursor_file(tmp_path, "shaky")).error == ""
