"""The parts of the launcher that need no processes; the processes are in tests/end_to_end/test_several_processes.py."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from ftcore.api import PluginError, Problem, Profile, ProfileError, Run, RunError, World
from ftcore.tables import HardwareTable
from ftcore_plugins.elastic import Elastic
from ftcore_plugins.elastic.failures import Ending, ending_of, known_reason, what_happened
from ftcore_plugins.elastic.network import interface_of, is_free, own_address


def ended(rank: int, exit_code: int = 1, at: float = 100.0, **kind: object) -> Ending:
    return Ending(rank=rank, exit_code=exit_code, at=at, **kind)


LOST = {"message": "Connection closed by peer", "lost_another": True}


@pytest.mark.parametrize(
    ("endings", "happened"),
    [
        ([ended(1, -9)], "rank 1 was killed by SIGKILL"),
        ([ended(0, **LOST), ended(1, -11)], "rank 1 was killed by SIGSEGV"),
        ([ended(0, -15), ended(1, -9)], "rank 1 was killed by SIGKILL"),
        ([ended(0, message="ValueError: x"), ended(1, **LOST)], "rank 0 has failed: ValueError: x"),
        (
            [ended(0, **LOST), ended(1, -9, at=130.0)],
            "rank 1 gave no sign of life within hardware.heartbeat and was killed",
        ),
        ([ended(0, message="ValueError: x"), ended(1, -9, at=130.0)], "rank 0 has failed: ValueError: x"),
        ([ended(1, 3)], "rank 1 ended with exit code 3; ranks may say why"),
        ([ended(0, **LOST)], "rank 0 lost the connection to the others"),
        ([ended(0, -200)], "rank 0 was killed by signal 200"),
    ],
)
def test_the_death_that_began_it_is_named(endings: list[Ending], happened: str) -> None:
    assert what_happened(endings, "ranks") == happened


def test_a_reason_that_was_meant_for_the_user_is_raised_as_what_it_was() -> None:
    assert known_reason([ended(0, **LOST), ended(1, -9)]) is None
    endings = [ended(1, message="second", meant=True, at=101.0), ended(0, message="first", meant=True)]
    error = known_reason(endings)
    assert (type(error), str(error)) == (RunError, "first")
    assert type(known_reason([ended(0, message="x", meant=True, error_code=2)])) is ProfileError
    assert type(known_reason([ended(0, message="x", meant=True, error_code=3)])) is PluginError


def test_endings_are_read_from_what_torch_hands_on() -> None:
    told = {"meant": True, "lost_another": False, "exit_code": 2, "smaller": 1}
    data = {"message": {"message": "no rows", "extraInfo": {"timestamp": "7", "ftcore": told}}}
    failure = SimpleNamespace(error_file_data=data, exitcode=2, timestamp=7)
    assert ending_of(3, failure) == Ending(
        rank=3, exit_code=2, at=7.0, message="no rows", meant=True, lost_another=False, error_code=2, smaller=1
    )
    silent = SimpleNamespace(error_file_data={"message": "", "errorTraits": {}}, exitcode=-9, timestamp=8)
    assert ending_of(1, silent) == ended(1, -9, at=8.0)


# -- the network ----------------------------------------------------------------------------------


def test_this_machine_is_seen_from_where_the_machines_meet() -> None:
    assert own_address("127.0.0.1") == "127.0.0.1"


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_the_interface_of_an_address() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") == ""


def test_a_port_is_free_where_it_can_be_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not is_free("127.0.0.1", port)
    assert is_free("127.0.0.1", port)
    assert not is_free("192.0.2.1", port)


# -- the plugin and the launch configuration ------------------------------------------------------


@pytest.fixture
def run_of(tmp_path):
    def make(**hardware: object) -> Run:
        return Run(name="x", folder=tmp_path, profile=Profile(hardware=HardwareTable(**hardware)))

    return make


def test_a_run_of_one_process_is_not_launched(run_of) -> None:
    assert Elastic().launch(run_of(), ["x"]) is None
    assert Elastic().launch(attrs.evolve(run_of(processes=2), world=World(size=2)), ["x"]) is None


def test_without_torch_the_extra_is_named_if_there_is_something_to_launch(run_of, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert Elastic().check(run_of()) == []
    (problem,) = Elastic().check(run_of(processes=2))
    assert isinstance(problem, Problem)
    assert problem.message == "torch not installed; run: pip install 'ftcore[train]'"


@pytest.fixture
def launcher(run_of):
    from ftcore_plugins.elastic.launcher import Launcher

    return lambda **hardware: Launcher(run_of(**hardware), ["true"])


def test_the_settings_reach_torch(launcher, tmp_path) -> None:
    made = launcher(processes=3, machines=2, rendezvous="127.0.0.1:29411", rendezvous_timeout=7, heartbeat=40)
    config = made._config(2, str(tmp_path))
    assert (config.nproc_per_node, config.min_nodes, config.max_nodes) == (3, 2, 2)
    assert (config.rdzv_backend, config.rdzv_endpoint, config.run_id) == ("c10d", "127.0.0.1:29411", "x-2")
    assert config.rdzv_configs == {"timeout": 7, "join_timeout": 7, "read_timeout": 7, "is_host": True}
    assert config.max_restarts == 0
    assert config.shutdown_timeout == 100
    assert config.local_addr == "127.0.0.1"
    alone = launcher(processes=2, rendezvous="127.0.0.1:29411")._config(0, str(tmp_path))
    assert (alone.rdzv_backend, alone.rdzv_endpoint, alone.local_addr) == ("ftcore_here", "", "127.0.0.1")


def test_the_meeting_of_one_machine_is_at_an_address_that_only_it_can_reach() -> None:
    from torch.distributed.elastic.rendezvous import RendezvousParameters, rendezvous_handler_registry
    from torch.distributed.elastic.rendezvous.api import RendezvousHandler

    import ftcore_plugins.elastic.launcher  # noqa: F401 - registers it

    parameters = RendezvousParameters("ftcore_here", endpoint="", run_id="x-0", min_nodes=1, max_nodes=1)
    handler: RendezvousHandler = rendezvous_handler_registry.create_handler(parameters)
    met = handler.next_rendezvous()
    assert (met.rank, met.world_size, handler.get_run_id(), handler.use_agent_store) == (0, 1, "x-0", True)
    place = met.bootstrap_store_info
    assert place is not None
    with socket.create_connection(("127.0.0.1", place.master_port), timeout=5):
        pass
    with pytest.raises(OSError, match="refused"):  # another address of this machine
        socket.create_connection(("127.0.0.2", place.master_port), timeout=5)
    met.store.set("key", "value")
    assert met.store.get("key") == b"value"
    assert not handler.is_closed()
    assert handler.shutdown()
    assert handler.is_closed()


def test_the_environment_of_workers_keeps_what_the_user_has_set(launcher, monkeypatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    shared = launcher(processes=64)._shared(3)
    assert (shared["OMP_NUM_THREADS"], shared["FTCORE_RESTART"]) == ("1", "3")
    assert shared["FTCORE_LAUNCHER"] == str(os.getpid())
    if sys.platform == "linux":
        assert shared["GLOO_SOCKET_IFNAME"] == "lo"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert "OMP_NUM_THREADS" not in launcher(processes=2)._shared(0)


def test_variables_are_there_for_a_block_only(monkeypatch) -> None:
    from ftcore_plugins.elastic.launcher import environment

    monkeypatch.setenv("FTCORE_A", "before")
    with environment({"FTCORE_A": "within", "FTCORE_B": "new"}):
        assert (os.environ["FTCORE_A"], os.environ["FTCORE_B"]) == ("within", "new")
    assert os.environ["FTCORE_A"] == "before"
    assert "FTCORE_B" not in os.environ


def test_restarts_end_with_the_last_death(launcher, monkeypatch, caplog) -> None:
    made = launcher(processes=2, max_restarts=2)
    monkeypatch.setattr(made, "_attempt", lambda restart: [ended(1, -signal.SIGKILL)])
    with pytest.raises(RunError, match=r"rank 1 was killed by SIGKILL; hardware.max_restarts = 2 is used up"):
        made.run()
    assert [record.getMessage() for record in caplog.records] == [
        f"rank 1 was killed by SIGKILL; starting again from the last checkpoint ({n} of 2)" for n in (1, 2)
    ]


def test_memory_that_ran_out_is_no_restart_but_ends_where_no_batch_is_smaller(launcher, monkeypatch, caplog) -> None:
    made, tried = launcher(processes=2, max_restarts=0), [4, 2, 2]
    short = {"message": "out of memory with a micro-batch of 8 rows"}
    monkeypatch.setattr(made, "_attempt", lambda restart: [ended(0, -15), ended(1, smaller=tried[restart], **short)])
    with pytest.raises(RunError, match="rank 1 has failed: out of memory with a micro-batch of 8 rows"):
        made.run()
    assert [record.getMessage() for record in caplog.records] == [
        "rank 1 ran out of memory; starting again from the last checkpoint in micro-batches of"
        f" {rows}, the batch stays as it is; set train.micro_batch_size = {rows}"
        for rows in (4, 2)
    ]


def test_a_meeting_that_is_gone_while_workers_run_is_not_told_as_one_that_never_was(launcher, monkeypatch) -> None:
    from torch.distributed.elastic.rendezvous.api import RendezvousConnectionError

    from ftcore_plugins.elastic import launcher as module

    made = launcher(processes=1, machines=2, rendezvous="127.0.0.1:29411", max_restarts=0)
    known = {"timestamp": "7", "ftcore": {"meant": True, "exit_code": 1}}
    left: list[dict[str, object]] = [{"message": {"message": "no rows", "extraInfo": known}}, {}]

    def part(config: Any, command: str) -> Any:
        folder = config.logs_specs.root_log_dir
        place = Path(folder) / "x-0_1" / "attempt_0" / "0"
        place.mkdir(parents=True)
        (place / "error.json").write_text(json.dumps(left.pop(0)))

        def start(*arguments: str) -> None:
            raise RendezvousConnectionError("the connection to the C10d store has failed")

        return start

    def fail(config: Any, command: str) -> Any:
        raise RendezvousConnectionError("nobody came")

    monkeypatch.setattr(module, "elastic_launch", part)
    with pytest.raises(RunError, match=r"^no rows$"):
        made.run()
    with pytest.raises(RunError, match=r"^rank 0 has failed: the first machine has left the meeting$"):
        made.run()
    monkeypatch.setattr(module, "elastic_launch", fail)
    with pytest.raises(RunError, match=r"^2 machines did not meet at 127\.0\.0\.1:29411 within "):
        made.run()


def test_a_world_that_does_not_add_up_is_refused(run_of, monkeypatch) -> None:
    import torch

    from ftcore_plugins.elastic import meeting

    monkeypatch.setattr(torch.distributed, "all_reduce", lambda ones: None)
    with pytest.raises(RunError, match="2 processes add up to 1; they are not one world"):
        meeting._prove(2, ["cpu"])


@pytest.mark.parametrize(("heartbeat", "silence"), [(600.0, 570.0), (60.0, 30.0), (8.0, 4.0)])
def test_all_have_ended_within_the_heartbeat(heartbeat, silence):
    from ftcore_plugins.elastic.meeting import longest_silence

    assert longest_silence(heartbeat) == silence
