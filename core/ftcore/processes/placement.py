"""How many processes a run starts on which machines, and whether they have a place there. Without torch."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import attrs

from ftcore.errors import Problem
from ftcore.hardware import nvidia_memory_gib
from ftcore.tables import HardwareTable
from ftcore.values import Run

MAX_PORT = 65_535


def with_processes(run: Run) -> Run:
    """`run` with the number of processes that each machine starts, where the profile leaves it to the GPUs."""
    hardware = run.profile.hardware
    if hardware.processes:
        return run
    hardware = attrs.evolve(hardware, processes=1 if hardware.device == "cpu" else max(gpus_here(), 1))
    return attrs.evolve(run, profile=attrs.evolve(run.profile, hardware=hardware))


def world_size(hardware: HardwareTable) -> int:
    """Processes that will train together: as whoever started this one says, else as the profile does."""
    started = os.environ.get("WORLD_SIZE", "")
    if started.isdecimal() and int(started):
        return int(started)
    here = hardware.processes or (1 if hardware.device == "cpu" else max(gpus_here(), 1))
    return here * hardware.machines


def is_several(run: Run) -> bool:
    """Whether the run wants more processes than this one, and this one shall start them."""
    hardware = with_processes(run).profile.hardware
    return run.world.size == 1 and hardware.processes * hardware.machines > 1


def gpus_here() -> int:
    """NVIDIA GPUs that a process may use, found without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return len(nvidia_memory_gib())


def launch_problems(run: Run) -> Iterator[Problem]:
    """What can be known beforehand about processes that shall train together."""
    hardware = run.profile.hardware
    if run.world.size > 1:  # whoever started them has placed them
        return
    if hardware.processes > 1 and hardware.device in ("auto", "cuda"):
        gpus = gpus_here()
        if hardware.processes > gpus and (gpus or hardware.device == "cuda"):
            fix = "set 0 for one process on each GPU" if gpus else 'set hardware.device = "cpu" to train without'
            text = f"{hardware.processes} processes on this machine, which has {gpus} GPUs; {fix}"
            yield Problem(key="hardware.processes", message=text)
    if hardware.machines > 1 or hardware.rendezvous:
        fault = _rendezvous_fault(hardware)
        if fault:
            yield Problem(key="hardware.rendezvous", message=fault)


def leads(run: Run) -> bool:
    """Whether this is the first machine: the one that has the rendezvous' address, where nobody listens yet."""
    hardware = run.profile.hardware
    if hardware.machines == 1:
        return True
    host, _, port = hardware.rendezvous.rpartition(":")
    try:
        address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(address[0], socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address[4])
    except OSError:
        return False
    return True


def _rendezvous_fault(hardware: HardwareTable) -> str:
    host, _, port = hardware.rendezvous.rpartition(":")
    if not hardware.rendezvous:
        return f"{hardware.machines} machines need a place to meet; write host:port of the first one"
    if not host or not port.isdecimal() or not 0 < int(port) <= MAX_PORT:
        return f"{hardware.rendezvous!r} is not host:port, such as 10.0.0.1:29400"
    try:
        socket.getaddrinfo(host, int(port))
    except OSError as error:
        return f"the host {host!r} is not known here ({error.strerror or error}); name it or its address"
    return ""
