"""The folder of a run must be the same one on every machine."""

from __future__ import annotations

import threading

import attrs
import pytest

from ftcore.errors import RunError
from ftcore.processes import ranks
from ftcore.processes.ranks import Ranks
from ftcore.values import Profile, Run, World


class Together:
    """`share` of processes that are threads."""

    def __init__(self, size):
        self._barrier, self._said = threading.Barrier(size, timeout=10), None

    def share(self, run, value):
        if run.world.is_main:
            self._said = value
        self._barrier.wait()
        said = self._said
        self._barrier.wait()
        return said


def ended(folders, local_size):
    """Why each rank, which takes its folder for that of the run, has refused to go on; empty if it has not."""
    size, plugins, told = len(folders), Together(len(folders)), {}

    def begin(rank):
        world = World(rank=rank, size=size, local_rank=rank % local_size, local_size=local_size)
        run = Run(name="x", folder=folders[rank], profile=Profile(), world=world)
        try:
            Ranks(plugins, run).require_shared(folders[rank])
            told[rank] = ""
        except RunError as error:
            told[rank] = str(error)

    threads = [threading.Thread(target=begin, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return [told[rank] for rank in range(size)]


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(ranks, "SLOWEST_SIGHT", 0.2)


def test_a_folder_that_all_machines_see_is_left_as_it_was(tmp_path, impatient):
    assert ended([tmp_path] * 4, local_size=2) == [""] * 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", [True, False])
def test_a_machine_with_a_folder_of_its_own_ends_all(tmp_path, impatient, there):
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    if there:
        second.mkdir()  # a copy, say; and one that an earlier attempt has marked
        (first / ".seen-by-2").touch()
    told = ended([first, first, second, second], local_size=2)
    assert len(set(told[:2])) == 1
    assert told[0] == (
        f"rank 2 cannot write into {first}, which the first machine has made; put run.output_dir on a file system that"
        " all machines share, at the same path"
    )
    assert all(told)


def test_on_one_machine_nobody_asks(tmp_path):
    world = World(size=2, local_size=2)
    run = Run(name="x", folder=tmp_path, profile=Profile(), world=world)
    Ranks(None, run).require_shared(tmp_path / "none")
    alone = attrs.evolve(run, world=World())
    Ranks(None, alone).require_shared(tmp_path / "none")
