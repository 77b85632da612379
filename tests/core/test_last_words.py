"""The last words of processes that end early, and what the others make of them."""

from __future__ import annotations

import attrs
import pytest

from ftcore.errors import (
    CrashError,
    ExitCode,
    Interrupted,
    OutOfMemoryError,
    PluginError,
    ProfileError,
    RunError,
)
from ftcore.processes import last_words
from ftcore.processes.failures import comes_again, lost_another
from ftcore.processes.last_words import forget, leave, leave_to_main, smaller_batch_in, true_reason, words_in
from ftcore.values import Profile, Run, World

LOST = ConnectionError("connection closed by peer")
STOP = Interrupted("SIGTERM received", ExitCode.RESUMABLE)


@pytest.fixture
def rank(tmp_path):
    """The run as process N of three sees it."""

    def seen_by(number, started_by="torchrun"):
        world = World(rank=number, size=3, local_rank=number, local_size=3, started_by=started_by)
        return Run(name="x", folder=tmp_path, profile=Profile(), world=world)

    return seen_by


@pytest.mark.parametrize(
    "error",
    [
        RunError("no rows"),
        ProfileError("no rows"),
        PluginError("no rows"),
        CrashError("no rows"),
        OutOfMemoryError("no rows", smaller=2),
    ],
)
@pytest.mark.parametrize("raised", [LOST, STOP])
def test_who_has_lost_another_process_ends_for_its_reason(rank, error, raised):
    leave(rank(1), error, str(error))
    found = true_reason(rank(0), raised, None)
    assert (type(found), str(found)) == (type(error), "no rows")
    assert isinstance(found, type(error))
    assert found.told, "the other one tells it"
    assert not lost_another(found)
    assert comes_again(found) == comes_again(error)
    assert getattr(found, "smaller", 0) == getattr(error, "smaller", 0)


def test_the_first_word_counts(rank):
    leave(rank(2), RunError("first"), "first")
    leave(rank(1), RunError("second"), "second")
    assert str(true_reason(rank(0), LOST, None)) == "first"


def test_a_reason_of_its_own_stays(rank):
    leave(rank(1), RunError("theirs"), "theirs")
    own = ValueError("own")
    assert true_reason(rank(0), own, None) is own
    alone = attrs.evolve(rank(0), world=World())
    assert true_reason(alone, LOST, None) is LOST


def test_a_full_disk_of_one_is_known_to_all_as_one_that_another_attempt_would_find(rank):
    crash = CrashError("no space left on the disk")
    crash.__cause__ = OSError(28, "No space left on device")
    leave(rank(1), crash, str(crash))
    assert comes_again(true_reason(rank(0), LOST, None))


@pytest.mark.parametrize(
    ("started_by", "other_stopped", "expected"),
    [
        ("torchrun", False, STOP),  # somebody else's launcher may have meant it
        ("torchrun", True, STOP),
        ("ftcore", True, STOP),
        ("ftcore", False, LOST),  # the launcher ends all when one has died
    ],
)
def test_a_signal_and_a_lost_process(rank, started_by, other_stopped, expected):
    if other_stopped:
        leave(rank(1), STOP, STOP.reason)
    assert true_reason(rank(0, started_by), LOST, STOP) is expected
    assert true_reason(rank(0, started_by), LOST, None) is LOST


def test_what_the_main_process_finds_as_well_is_left_to_it(rank, monkeypatch):
    monkeypatch.setattr(last_words, "PATIENCE", 0.1)
    for text, told in (("same", True), ("other", False)):
        error = RunError("same")
        leave(rank(0), RunError(text), text)
        leave(rank(1), error, "same")
        leave_to_main(error, rank(1))
        assert error.told is told
    main = RunError("other")
    leave_to_main(main, rank(0))
    assert not main.told


def test_words_of_an_earlier_attempt_are_forgotten_and_strange_ones_not_read(rank, tmp_path):
    leave(rank(1), OutOfMemoryError("x", smaller=4), "x")
    leave(rank(2), OutOfMemoryError("x", smaller=2), "x")
    (tmp_path / "ranks" / "rank-7.json").write_text("{")
    assert smaller_batch_in(tmp_path) == 2
    forget(tmp_path)
    assert words_in(tmp_path) == []
    assert smaller_batch_in(tmp_path) == 0


def test_a_process_of_its_own_leaves_none(tmp_path):
    leave(Run(name="x", folder=tmp_path, profile=Profile()), RunError("x"), "x")
    assert list(tmp_path.iterdir()) == []
