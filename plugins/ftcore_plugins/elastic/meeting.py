"""Where the processes of a run meet: torch's store, and the process group that trainers use. Imports torch."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ftcore.api import Run, RunError

FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.2
"""Seconds between two looks into the store. A wait in it would hear no signal, and warn of every time-out."""

AGENT_PATIENCE = 30.0
"""Seconds that torch's agent gives a process to end by itself before it kills it."""


def longest_silence(heartbeat: float) -> float:
    """Seconds that a process waits for another one, so that all of them have ended within the heartbeat."""
    return max(heartbeat - AGENT_PATIENCE, heartbeat / 2)


class Meeting:
    """One process' seat. The first one to be taken makes the default process group, and proves that it works.

    Raises `RunError` when the others do not come, or when the processes are not the world that they think.
    """

    def __init__(self, run: Run) -> None:
        self._world = run.world
        hardware = run.profile.hardware
        store = _store(run)
        self._store = dist.PrefixStore("ftcore", store)
        self._number = 0
        _wait_for_all(self._store, run)
        backend = _backend(run)
        if not dist.is_initialized():
            dist.init_process_group(
                backend,
                store=dist.PrefixStore("torch", store),
                rank=self._world.rank,
                world_size=self._world.size,
                timeout=timedelta(seconds=longest_silence(hardware.heartbeat)),
            )
        _prove(self._world.size, ["cpu", "cuda"] if "cuda" in backend else ["cpu"])

    def share(self, value: str | None) -> str:
        """What the main process says, once all of them have asked; the main one goes on when all have heard."""
        self._number += 1
        said = f"said/{self._number}"
        if not self._world.is_main:
            self._arrive("here")
            self._wait(said)
            heard: bytes = self._store.get(said)
            self._arrive("heard")
            return heard.decode()
        self._wait(f"here/{self._number}/all")
        self._store.set(said, (value or "").encode())
        self._wait(f"heard/{self._number}/all")  # the store may be this process', which may end now
        self._store.delete_key(said)
        return value or ""

    def _arrive(self, what: str) -> None:
        key = f"{what}/{self._number}"
        if self._store.add(key, 1) == self._world.size - 1:
            self._store.set(f"{key}/all", b"1")

    def _wait(self, key: str) -> None:
        """However long it takes, as long as the store is there."""
        _wait_for(self._store, [key], float("inf"))


def _store(run: Run) -> Any:
    world, seconds = run.world, run.profile.hardware.rendezvous_timeout
    try:
        meeting = dist.rendezvous("env://", world.rank, world.size, timeout=timedelta(seconds=seconds))
        store, _, _ = next(iter(meeting))
    except (RuntimeError, ValueError) as error:
        raise RunError(_nobody(seconds)) from error
    return store


def _wait_for_all(store: Any, run: Run) -> None:
    """Processes start at their own pace; the group's time-out, the heartbeat, is not made for that."""
    seconds = run.profile.hardware.rendezvous_timeout
    keys = [f"seat/{rank}" for rank in range(run.world.size)]
    store.set(keys[run.world.rank], b"1")
    if not _wait_for(store, keys, seconds):
        text = f"not all {run.world.size} processes have come within {seconds:g} s; look whether each was started"
        raise RunError(text)


def _wait_for(store: Any, keys: Sequence[str], seconds: float) -> bool:
    """Whether the keys are in the store before so many seconds have passed."""
    pause, end = FIRST_PAUSE, time.monotonic() + seconds
    while not store.check(list(keys)):
        if time.monotonic() >= end:
            return False
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
    return True


def _nobody(seconds: float) -> str:
    place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    return f"the main process did not answer at {place} within {seconds:g} s; look whether it runs and can be reached"


def _backend(run: Run) -> str:
    """gloo on a CPU; NCCL beside it where each process has a GPU of its own."""
    if run.profile.hardware.device in ("cpu", "mps") or not torch.cuda.is_available():
        return "gloo"
    world, gpus = run.world, torch.cuda.device_count()
    if world.local_rank >= gpus:
        raise RunError(f"{world.local_size} processes on a machine with {gpus} GPUs; start one for each GPU")
    torch.cuda.set_device(world.local_rank)
    return "cpu:gloo,cuda:nccl"


def _prove(size: int, devices: Sequence[str]) -> None:
    """Every process adds one. A wrong world (two runs of one process, say) does not add up."""
    for device in devices:
        ones = torch.ones(1, device=device)
        dist.all_reduce(ones)
        if int(ones.item()) != size:
            raise RunError(f"{size} processes add up to {int(ones.item())}; they are not one world")
