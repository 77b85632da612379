"""Which process of which world this one is, by what torchrun, deepspeed, accelerate, Slurm and operators leave."""

from __future__ import annotations

import pytest

from ftcore import engine
from ftcore.errors import ProfileError
from ftcore.processes.world import enter_world, first_host, worker_world
from ftcore.values import World

MEET = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
TORCHRUN = {
    **MEET,
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "TORCHELASTIC_RUN_ID": "x",
}
SLURM = {
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_TASKS_PER_NODE": "2(x2),1",
    "SLURM_JOB_NODELIST": "gpu[07-09]",
    "SLURM_JOB_ID": "31415",
    "SLURM_STEP_ID": "0",
}


@pytest.mark.parametrize(
    ("environment", "world"),
    [
        ({}, World()),
        ({"RANK": "0", "WORLD_SIZE": "1"}, World()),
        ({"WORLD_SIZE": "4"}, World()),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, World()),
        ({"SLURM_PROCID": "0"}, World()),
        (TORCHRUN, World(rank=3, size=4, local_rank=1, local_size=2, started_by="torchrun")),
        (
            {**MEET, "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_SIZE": "2"},  # deepspeed
            World(rank=1, size=2, local_rank=1, local_size=2, started_by="environment"),
        ),
        (
            {**MEET, "RANK": "1", "WORLD_SIZE": "2"},  # an operator: one process a machine
            World(rank=1, size=2, local_rank=0, local_size=1, started_by="environment"),
        ),
        (dict(SLURM), World(rank=3, size=5, local_rank=1, local_size=2, started_by="slurm")),
        (
            {**SLURM, **TORCHRUN},  # torchrun as the one task of each node
            World(rank=3, size=4, local_rank=1, local_size=2, started_by="torchrun"),
        ),
    ],
)
def test_the_world_of_an_environment(environment, world):
    assert enter_world(dict(environment)) == world


def test_what_torch_reads_is_left_for_it_where_slurm_has_started_us():
    environment = dict(SLURM)
    enter_world(environment)
    written = {name: environment[name] for name in environment if name not in SLURM}
    assert written == {
        "RANK": "3",
        "WORLD_SIZE": "5",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": str(15_000 + 31415 % 20_000),
    }


def test_a_place_that_the_user_names_is_kept():
    environment = {**SLURM, **MEET}
    enter_world(environment)
    assert environment["MASTER_ADDR"] == "10.0.0.1"


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node", "node"),
        ("a,b", "a"),
        ("gpu[07-09,12],login", "gpu07"),
        ("gpu[3,5]", "gpu3"),
        ("rack[1-2]-node", "rack1-node"),
    ],
)
def test_the_first_host_of_a_list(nodes, host):
    assert first_host(nodes) == host


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"RANK": "4"}, "RANK=4 is not below WORLD_SIZE=4; processes are numbered from 0"),
        ({"RANK": "-1"}, "RANK=-1 is not below WORLD_SIZE=4; processes are numbered from 0"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK=2 is not below LOCAL_WORLD_SIZE=2; processes are numbered from 0"),
        ({"RANK": "one"}, "RANK=one in the environment is no whole number; unset it or mend it"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0 with LOCAL_WORLD_SIZE=2 is no world; count from 1"),
        ({"MASTER_ADDR": ""}, "WORLD_SIZE is 4 and MASTER_ADDR is not set; name where the processes meet"),
    ],
)
def test_numbers_that_make_no_world_are_told(changes, told):
    with pytest.raises(ProfileError) as caught:
        enter_world({**TORCHRUN, **changes})
    assert str(caught.value) == told


def test_a_job_script_that_is_no_task_is_told_what_to_type():
    script = {name: value for name, value in SLURM.items() if name != "SLURM_STEP_ID"}
    with pytest.raises(ProfileError) as caught:
        enter_world({**script, "SLURM_PROCID": "0"})
    assert str(caught.value) == (
        "this is the script of a Slurm job of 5 tasks, and none of them; write srun before the command, or ask for"
        " one task (sbatch --ntasks=1)"
    )
    assert enter_world({**script, "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) == World()
    assert enter_world({**script, **TORCHRUN}).started_by == "torchrun"


def test_a_job_script_may_check_the_profile(desk, monkeypatch):
    for name, value in {**SLURM, "SLURM_PROCID": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_STEP_ID")
    assert engine.check(desk.load(), report=print) == []
    with pytest.raises(ProfileError, match="write srun before the command"):
        engine.run(desk.load())


def test_slurm_without_a_host_is_told():
    with pytest.raises(ProfileError, match="names no host; start the run with srun"):
        enter_world({**SLURM, "SLURM_JOB_NODELIST": "[1-2]"})


def test_a_worker_of_ours_knows_how_often_it_was_started_again():
    world = worker_world({**TORCHRUN, "FTCORE_RESTART": "2"})
    assert (world.started_by, world.restart, world.rank) == ("ftcore", 2, 3)
    assert worker_world({}) == World(started_by="ftcore")
