"""The parent: starts the workers, hands signals on, and starts them again when one has died. Imports torch.

torch's own restarts are not used: they count on each machine apart, take a wrong profile for an accident, and
share one store between attempts, in which gloo finds the addresses of the dead.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ftcore.api import Run, RunError
from ftcore_plugins.elastic import here
from ftcore_plugins.elastic.failures import PARTED, Ending, ending_of, known_reason, left_in, what_happened
from ftcore_plugins.elastic.network import interface_of, is_free, own_address

RESUMABLE, INTERRUPTED = 75, 130
SIGNALS = "SIGTERM,SIGINT"
LONGEST_TRY, BETWEEN_TRIES = 5.0, 0.5
"""Seconds of one try to reach the first machine, and to the next one."""

EXTRA = 60
"""Seconds over the heartbeat that workers have to commit a checkpoint after a signal, before they are killed."""


class Launcher:
    """The workers of this machine, from the first attempt to the last."""

    def __init__(self, run: Run, command: Sequence[str]) -> None:
        self._run = run
        self._command = command
        self._hardware = run.profile.hardware
        self._restarts = 0
        self._rows = 0  # of the micro-batches that memory was too small for, the half; 0 before it was
        self._log = logging.getLogger("ftcore.plugins.elastic")

    def run(self) -> int:
        """See `Elastic.launch`."""
        _hush_agent()
        for restart in count():
            try:
                endings = self._attempt(restart)
            except SignalException as stop:
                return INTERRUPTED if stop.sigval.name == "SIGINT" else RESUMABLE
            if not endings:
                return 0
            self._require_another_chance(endings)
        raise AssertionError("a count has no end")

    def _require_another_chance(self, endings: Sequence[Ending]) -> None:
        """Raise what has ended the run, unless another attempt may fare better; say so."""
        short = [ending for ending in endings if 0 < ending.smaller < (self._rows or ending.smaller + 1)]
        if short:  # no accident: it does not count as a restart, and cannot go on for ever
            self._rows = short[0].smaller
            self._log.warning(
                "rank %d ran out of memory; starting again from the last checkpoint in micro-batches of %d, the batch"
                " stays as it is; set train.micro_batch_size = %d",
                short[0].rank,
                self._rows,
                self._rows,
            )
            return
        reason = known_reason(endings)
        if reason is not None:
            raise reason
        happened, most = what_happened(endings, str(self._run.folder / "ranks")), self._hardware.max_restarts
        if self._restarts == most:
            raise RunError(f"{happened}; hardware.max_restarts = {most} is used up" if most else happened)
        self._restarts += 1
        self._log.warning("%s; starting again from the last checkpoint (%d of %d)", happened, self._restarts, most)

    def _attempt(self, restart: int) -> list[Ending]:
        """Start the workers and wait; how those ended that failed."""
        if not self._hosts():
            self._reach()
        with tempfile.TemporaryDirectory(prefix="ftcore-ranks-") as logs, environment(self._shared(restart)):
            try:
                elastic_launch(self._config(restart, logs), self._command[0])(*self._command[1:])
            except ChildFailedError as error:
                return [ending_of(rank, failure) for rank, failure in error.failures.items()]
            except (RendezvousError, TimeoutError) as error:
                if not any(Path(logs).iterdir()):  # no worker was started
                    raise RunError(self._unreachable()) from error
                return left_in(Path(logs)) or [PARTED]
        return []

    def _config(self, restart: int, logs: str) -> LaunchConfig:
        hardware = self._hardware
        return LaunchConfig(
            min_nodes=hardware.machines,
            max_nodes=hardware.machines,
            nproc_per_node=hardware.processes,
            run_id=f"{self._run.name}-{restart}",
            role="ftcore",
            rdzv_backend=here.NAME if self._alone else "c10d",
            rdzv_endpoint="" if self._alone else hardware.rendezvous,
            rdzv_configs={} if self._alone else self._meeting_options(),
            max_restarts=0,
            monitor_interval=0.1,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
            local_addr=self._own_address(),
            signals_to_handle=SIGNALS,
            shutdown_timeout=round(hardware.heartbeat) + EXTRA,
        )

    @property
    def _alone(self) -> bool:
        return self._hardware.machines == 1

    @property
    def _host(self) -> str:
        return here.ADDRESS if self._alone else self._hardware.rendezvous.rpartition(":")[0]

    @property
    def _port(self) -> int:
        return int(self._hardware.rendezvous.rpartition(":")[2])

    def _meeting_options(self) -> dict[str, Any]:
        seconds = max(1, round(self._hardware.rendezvous_timeout))
        options: dict[str, Any] = {"timeout": seconds, "join_timeout": seconds, "read_timeout": seconds}
        return {**options, "is_host": self._hosts()}

    def _hosts(self) -> bool:
        """Whether the machines meet at this one. Torch looks at host names, which may say nothing."""
        return self._alone or is_free(self._host, self._port)

    def _reach(self) -> None:
        """Wait for the first machine. Torch would do so too, and tell of each try."""
        end = time.monotonic() + self._hardware.rendezvous_timeout
        while time.monotonic() < end:
            with suppress(OSError), socket.create_connection((self._host, self._port), timeout=LONGEST_TRY):
                return
            time.sleep(BETWEEN_TRIES)
        raise RunError(self._unreachable())

    def _own_address(self) -> str:
        try:
            return own_address(self._host)
        except OSError as error:
            text = f"hardware.rendezvous: there is no way from here to {self._host}: {error.strerror}"
            raise RunError(text) from error

    def _shared(self, restart: int) -> Mapping[str, str]:
        """What every worker finds in its environment, unless the user has set it."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        defaults = {
            "OMP_NUM_THREADS": str(max(1, cores // self._hardware.processes)),
            "GLOO_SOCKET_IFNAME": interface_of(self._own_address()),
        }
        unset = {name: value for name, value in defaults.items() if value and name not in os.environ}
        return {**unset, "FTCORE_RESTART": str(restart), "FTCORE_LAUNCHER": str(os.getpid())}

    def _unreachable(self) -> str:
        hardware = self._hardware
        if hardware.machines == 1:
            return "the workers did not meet on this machine; look whether 127.0.0.1 can be reached"
        return (
            f"{hardware.machines} machines did not meet at {hardware.rendezvous} within "
            f"{hardware.rendezvous_timeout:g} s; start the run on each of them, and open that port on the first one"
        )


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """These variables, for the time of the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _hush_agent() -> None:
    """What the agent tells of its workers' ends is told by us, once."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
