"""Several light processes: they meet in a folder of files, and each step is the same on all of them."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftcore.api import Control, Decision, Example, Loaded, Run, World, hookimpl
from light_plugins import Arithmetic, both, fault

PLACE = "LIGHT_MEETING"


class Meeting:
    """A folder in which every process leaves its word, and waits for those of the others."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name, self._number = world, name, 0
        self._folder = Path(os.environ[PLACE]) / os.environ.get("FTCORE_RESTART", "0")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._alive = (self._folder / f".{name}-alive-{world.rank}").open("w")
        fcntl.flock(self._alive, fcntl.LOCK_EX)  # until this process ends, however it does
        Path(self._alive.name).rename(self._folder / f"{name}-alive-{world.rank}")

    def gather(self, word: str) -> list[str]:
        self._number += 1
        stem = f"{self._name}-{self._number}"
        staging = self._folder / f".{stem}-{self._world.rank}"
        staging.write_text(word, "utf-8")
        staging.rename(self._folder / f"{stem}-{self._world.rank}")
        paths = [self._folder / f"{stem}-{rank}" for rank in range(self._world.size)]
        end = time.monotonic() + 30
        while not all(path.exists() for path in paths):
            gone = any(self._has_gone(rank) and not paths[rank].exists() for rank in range(self._world.size))
            if gone or time.monotonic() > end:
                raise RuntimeError("gloo: connection closed by peer")  # as torch says it
            time.sleep(0.002)
        return [path.read_text("utf-8") for path in paths]

    def _has_gone(self, rank: int) -> bool:
        place = self._folder / f"{self._name}-alive-{rank}"
        if rank == self._world.rank or not place.exists():
            return False
        with place.open() as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True


class LightRanks:
    """Two workers on this machine, and how they talk."""

    def __init__(self) -> None:
        self._meeting: Meeting | None = None

    @hookimpl
    def launch(self, run: Run, command: Sequence[str]) -> int | None:
        size = run.profile.hardware.processes
        if run.world.size > 1 or size == 1:
            return None
        common = {**os.environ, "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
        with tempfile.TemporaryDirectory() as place:
            common |= {PLACE: place, "LOCAL_WORLD_SIZE": str(size)}
            ranks = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
            workers = [subprocess.Popen(command, env=environment) for environment in ranks]
            return max(worker.wait() for worker in workers)

    @hookimpl
    def share(self, run: Run, value: str | None) -> str:
        self._meeting = self._meeting or Meeting(run.world, "share")
        return self._meeting.gather(value or "")[0]


class Team(Arithmetic):
    """The same arithmetic on every process; what one decides, all do."""

    def __init__(self, run: Run, loaded: Loaded, *rest: Any) -> None:
        super().__init__(run, loaded, *rest)
        self._world = run.world
        self._meeting = Meeting(run.world, "team") if PLACE in os.environ else Collective()

    def _obey(self, control: Control, decision: Decision, state: Mapping[str, Any]) -> bool:
        agreed = self._agreed(decision)
        if agreed.evaluate:
            agreed = both(agreed, self._agreed(control.evaluated(state["step"], self.evaluate())))
        if not agreed.checkpoint or self._world.is_main:
            return self._main_obeys(control, agreed, state)
        self._meeting.gather("")  # the folder is there
        with control.checkpoint(state["step"]) as folder:
            fault(f"checkpoint:{state['step']}")
            (folder / f"rank-{self._world.rank}.json").write_text(json.dumps(state["noise"]), "utf-8")
        self._meeting.gather("")
        return agreed.stop

    def _agreed(self, decision: Decision) -> Decision:
        said = [decision.evaluate, decision.checkpoint, decision.stop]
        words = [json.loads(word) for word in self._meeting.gather(json.dumps(said))]
        names = ("evaluate", "checkpoint", "stop")
        return Decision(**{name: any(word[place] for word in words) for place, name in enumerate(names)})

    def _main_obeys(self, control: Control, decision: Decision, state: Mapping[str, Any]) -> bool:
        if not decision.checkpoint:
            return decision.stop
        with control.checkpoint(state["step"]) as folder:
            self._meeting.gather("")
            (folder / "state.json").write_text(json.dumps(state), "utf-8")
            self._meeting.gather("")
        return decision.stop

    def generate(self, examples: Sequence[Example], max_new_tokens: int, temperature: float = 0.0) -> Sequence[str]:
        self._meeting.gather("")  # as a sharded model, it takes all of them to answer
        return super().generate(examples, max_new_tokens, temperature)

    def save(self, folder: Path) -> Loaded:
        return super().save(folder) if self._world.is_main else self._loaded


class Collective:
    """The same through torch, where it has made a group."""

    def gather(self, word: str) -> list[str]:
        import torch.distributed as dist

        words: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(words, word)
        return words
