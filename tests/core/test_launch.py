"""What is known about a launch before it, and how workers leave the reason of their end."""

from __future__ import annotations

import json
import socket

import attrs
import pytest

from ftcore import engine
from ftcore.errors import CrashError, OutOfMemoryError, PluginError, ProfileError, RunError
from ftcore.processes import placement
from ftcore.processes.failures import failures_recorded, lost_another
from ftcore.processes.launch import worker_command
from ftcore.processes.placement import gpus_here, is_several, launch_problems, leads, with_processes
from ftcore.tables import HardwareTable
from ftcore.values import Profile, World


@pytest.fixture
def planned(desk):
    def make(**hardware):
        run = engine.planned(desk.load())
        return attrs.evolve(run, profile=Profile(hardware=HardwareTable(**hardware)))

    return make


@pytest.fixture
def gpus(monkeypatch):
    def there(number):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(placement, "nvidia_memory_gib", lambda: [24.0] * number)

    return there


def told(run):
    return [str(problem) for problem in launch_problems(run)]


def test_more_processes_than_gpus_are_refused(planned, gpus):
    gpus(2)
    assert told(planned(processes=4)) == [
        "hardware.processes: 4 processes on this machine, which has 2 GPUs; set 0 for one process on each GPU"
    ]
    assert told(planned(processes=2)) == []
    assert told(planned(processes=4, device="cpu")) == []


def test_a_machine_without_gpus_trains_in_several_processes_unless_gpus_are_asked_for(planned, gpus):
    gpus(0)
    assert told(planned(processes=2)) == []
    assert told(planned(processes=2, device="cuda")) == [
        "hardware.processes: 2 processes on this machine, which has 0 GPUs;"
        ' set hardware.device = "cpu" to train without'
    ]


def test_processes_that_somebody_else_has_placed_are_not_counted(planned, gpus):
    gpus(1)
    assert told(attrs.evolve(planned(processes=4), world=World(size=4))) == []


def test_a_process_for_each_gpu(planned, gpus, monkeypatch):
    gpus(3)
    assert with_processes(planned(processes=0)).profile.hardware.processes == 3
    assert is_several(planned(processes=0))
    assert with_processes(planned(processes=0, device="cpu")).profile.hardware.processes == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    assert gpus_here() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert with_processes(planned(processes=0)).profile.hardware.processes == 1


@pytest.mark.parametrize(
    ("rendezvous", "fault"),
    [
        ("", "2 machines need a place to meet; write host:port of the first one"),
        ("localhost", "'localhost' is not host:port, such as 10.0.0.1:29400"),
        ("localhost:http", "'localhost:http' is not host:port, such as 10.0.0.1:29400"),
        ("localhost:70000", "'localhost:70000' is not host:port, such as 10.0.0.1:29400"),
    ],
)
def test_a_rendezvous_must_be_a_place(planned, rendezvous, fault):
    assert told(planned(machines=2, rendezvous=rendezvous)) == [f"hardware.rendezvous: {fault}"]


def test_an_unknown_host_is_told_before_anything_waits_for_it(planned):
    (problem,) = told(planned(machines=2, rendezvous="no-such-host.invalid:29400"))
    assert problem.startswith("hardware.rendezvous: the host 'no-such-host.invalid' is not known here (")


def test_the_first_machine_is_the_one_with_the_address(planned):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.listen()
        assert not leads(planned(machines=2, rendezvous=f"127.0.0.1:{port}")), "somebody listens there"
    assert leads(planned(machines=2, rendezvous=f"127.0.0.1:{port}"))
    assert not leads(planned(machines=2, rendezvous="192.0.2.1:29400"))
    assert leads(planned())


def test_the_flags_of_the_parent_reach_the_workers(tmp_path):
    command = worker_command(tmp_path, progress="quiet", trace=True)
    assert command[-2:] == ["--progress=quiet", "--trace-hooks"]
    assert worker_command(tmp_path)[-1] == str(tmp_path)


def test_several_processes_without_a_launcher_are_told(desk):
    with pytest.raises(RunError, match="no plugin launches several processes"):
        engine.run(desk.load(sets=["hardware.processes=2"]))
    with pytest.raises(RunError, match="no plugin launches several processes"):
        engine.check(desk.load(sets=["hardware.processes=2"]), report=print)


# -- endings --------------------------------------------------------------------------------------


@pytest.fixture
def left(tmp_path, monkeypatch):
    """What a worker that raises this leaves for its launcher."""
    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))

    def raise_and_read(error):
        with pytest.raises(type(error)), failures_recorded():
            raise error
        return json.loads(path.read_text())["message"]

    return raise_and_read


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RunError("no"), {"meant": True, "lost_another": False, "exit_code": 1}),
        (OutOfMemoryError("no"), {"meant": True, "lost_another": False, "exit_code": 1}),
        (OutOfMemoryError("no", smaller=2), {"meant": False, "lost_another": False, "exit_code": 1, "smaller": 2}),
        (ProfileError("no"), {"meant": True, "lost_another": False, "exit_code": 2}),
        (caused(PluginError("no"), ValueError("x")), {"meant": True, "lost_another": False, "exit_code": 3}),
        (CrashError("no"), {"meant": False, "lost_another": False, "exit_code": 1}),
        (
            caused(PluginError("no"), RuntimeError("[gloo/tcp/pair.cc] Connection closed by peer")),
            {"meant": False, "lost_another": True, "exit_code": 3},
        ),
        (ValueError("no"), {"meant": False, "lost_another": False, "exit_code": 1}),
        (caused(CrashError("no"), OSError(28, "full")), {"meant": True, "lost_another": False, "exit_code": 1}),
    ],
)
def test_a_worker_leaves_why_it_ended(left, error, kind):
    message = left(error)
    assert message["message"] == "no"
    assert message["extraInfo"]["ftcore"] == {"smaller": 0, **kind}
    assert message["extraInfo"]["timestamp"].isdecimal()
    assert "Error" in message["extraInfo"]["py_callstack"]


def test_nothing_is_left_where_nobody_waits(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    with pytest.raises(RunError), failures_recorded():
        raise RunError("no")


def test_a_reason_of_its_own_is_not_taken_for_the_loss_of_another():
    assert not lost_another(caused(RunError("no room"), OSError(28, "No space left on device")))
    assert lost_another(caused(CrashError("x"), RuntimeError("NCCL error: remote process exited")))
