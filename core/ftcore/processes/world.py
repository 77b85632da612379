"""Which process of which world this one is, as whoever started it has left it in the environment. Without torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping

import attrs

from ftcore.errors import ProfileError
from ftcore.values import World

RESTART = "FTCORE_RESTART"
"""How often a launcher has started the workers again."""

FIRST_PORT, PORTS = 15_000, 20_000
"""Slurm names no port: one of these is taken by the job's number, the same in every task."""

_HOSTS = re.compile(r"([^,\[]+)(?:\[([^\]]*)\])?([^,\[]*)")


def enter_world(environment: MutableMapping[str, str] = os.environ) -> World:
    """The world that this process was started in; alone, if nobody says otherwise.

    For Slurm, which speaks of tasks, what torch reads is written into `environment`. Raises `ProfileError` for
    numbers that make no world, and in a job's script that is none of its tasks.
    """
    if "SLURM_PROCID" in environment and "WORLD_SIZE" not in environment:
        if is_job_script(environment):
            here = f"this is the script of a Slurm job of {environment['SLURM_NTASKS']} tasks, and none of them"
            raise ProfileError(f"{here}; write srun before the command, or ask for one task (sbatch --ntasks=1)")
        environment.update(_from_slurm(environment))
        started_by = "slurm"
    else:
        started_by = "torchrun" if "TORCHELASTIC_RUN_ID" in environment else "environment"
    if "RANK" not in environment or _number(environment, "WORLD_SIZE", 1) == 1:
        return World()
    world = World(
        rank=_number(environment, "RANK", 0),
        size=_number(environment, "WORLD_SIZE", 1),
        local_rank=_number(environment, "LOCAL_RANK", 0),
        local_size=_local_size(environment),
        started_by=started_by,
    )
    _require_sense(world, environment)
    return world


def worker_world(environment: MutableMapping[str, str] = os.environ) -> World:
    """The world of a worker of ours, which may have been started again. Raises as `enter_world` does."""
    restart = _number(environment, RESTART, 0)
    return attrs.evolve(enter_world(environment), started_by="ftcore", restart=restart)


def _local_size(environment: Mapping[str, str]) -> int:
    """Processes on this machine; where nobody says, one if they are not numbered, else all."""
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE"):  # the second one is deepspeed's
        if name in environment:
            return _number(environment, name, 1)
    return _number(environment, "WORLD_SIZE", 1) if "LOCAL_RANK" in environment else 1


def _require_sense(world: World, environment: Mapping[str, str]) -> None:
    if world.size < 1 or world.local_size < 1:
        sizes = f"WORLD_SIZE={world.size} with LOCAL_WORLD_SIZE={world.local_size}"
        raise ProfileError(f"{sizes} is no world; count from 1")
    for rank, size, names in (
        (world.rank, world.size, ("RANK", "WORLD_SIZE")),
        (world.local_rank, world.local_size, ("LOCAL_RANK", "LOCAL_WORLD_SIZE")),
    ):
        if not 0 <= rank < size:
            raise ProfileError(f"{names[0]}={rank} is not below {names[1]}={size}; processes are numbered from 0")
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]
    if missing:
        raise ProfileError(f"WORLD_SIZE is {world.size} and {missing[0]} is not set; name where the processes meet")


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    try:
        return int(text)
    except ValueError:
        raise ProfileError(f"{name}={text} in the environment is no whole number; unset it or mend it") from None


def is_job_script(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether sbatch runs this, once and numbered like the first task: the others, which srun starts, never come."""
    started = {"SLURM_PROCID", "SLURM_NTASKS"} <= environment.keys() and "WORLD_SIZE" not in environment
    return started and "SLURM_STEP_ID" not in environment and _number(environment, "SLURM_NTASKS", 1) > 1


def _from_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """What srun's tasks are in torch's words; nothing for a single task (https://slurm.schedmd.com/srun.html)."""
    tasks = _number(environment, "SLURM_STEP_NUM_TASKS", _number(environment, "SLURM_NTASKS", 1))
    if tasks <= 1:
        return {}
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or "127.0.0.1"
    port = FIRST_PORT + _number(environment, "SLURM_JOB_ID", 0) % PORTS
    found = {
        "RANK": str(_number(environment, "SLURM_PROCID", 0)),
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": str(_number(environment, "SLURM_LOCALID", 0)),
        "LOCAL_WORLD_SIZE": str(_tasks_here(environment, tasks)),
        "MASTER_ADDR": first_host(nodes),
        "MASTER_PORT": str(port),
    }
    return {**found, **{name: environment[name] for name in ("MASTER_ADDR", "MASTER_PORT") if name in environment}}


def first_host(nodes: str) -> str:
    """The first of a list in Slurm's short form: `gpu[07-09,12],login` begins with gpu07."""
    match = _HOSTS.match(nodes.strip())
    if match is None:
        raise ProfileError(f"SLURM_JOB_NODELIST={nodes} names no host; start the run with srun")
    before, numbers, after = match[1], match[2] or "", match[3]
    return f"{before}{re.split('[,-]', numbers)[0]}{after}"


def _tasks_here(environment: Mapping[str, str], tasks: int) -> int:
    """Of `2(x3),1`, tasks on each node in turn, this node's."""
    text = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE") or str(tasks)
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(count)] * int(times or 1)
    node = _number(environment, "SLURM_NODEID", 0)
    return counts[node] if node < len(counts) else 1
