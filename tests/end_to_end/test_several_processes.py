"""Real processes that torch's elastic agent, or torchrun, starts: they meet over gloo and train by arithmetic.

The light trainer of tests/core keeps such a run at a few seconds, most of which are imports of torch. So runs are
shared: what is broken in one test goes on in the same test, and the run that hangs does so beside all others.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest

from ftcore.checkpoints import verify
from ftcore.manifest import read_manifest
from ftcore.runs import run_info
from journals import figures
from light_profile import LIGHT, PLUGINS, PROFILE

pytestmark = pytest.mark.slow

TWO = PROFILE.replace('profile = "cpu"\n', 'profile = "cpu"\ndevice = "cpu"\nprocesses = 2\nheartbeat = 8\n')
FTCORE = [sys.executable, "-m", "ftcore.cli"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "ftcore.cli"]


@attrs.frozen
class Place:
    """A working folder, and the environment in which the light plugins are installed beside the real ones."""

    folder: Path
    environment: dict[str, str]

    def start(self, *arguments: str, command=FTCORE, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, command=FTCORE, **environment: str) -> tuple[int, str, str]:
        process = self.start(*arguments, command=command, **environment)
        out, err = process.communicate(timeout=180)
        return process.returncode, out, err

    def only_run(self) -> Path:
        (folder,) = self.folder.glob("runs/*")
        return folder

    def wait_for_step(self, step: int, process: subprocess.Popen[str]) -> Path:
        """Until the run of `process` has come that far."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            assert process.poll() is None, process.communicate()[1]
            for path in self.folder.glob("runs/*/metrics.jsonl"):
                if any(line["step"] >= step for line in figures(path.parent)):
                    return path.parent
            time.sleep(0.02)
        raise AssertionError(f"step {step} was not reached")


def workers_of(process: subprocess.Popen[str]) -> dict[int, int]:
    """Ranks and their process ids, as Linux tells them."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if parent == process.pid:
            rank = next((item for item in variables if item.startswith(b"RANK=")), b"RANK=-1")
            found[int(rank.removeprefix(b"RANK="))] = int(entry.name)
    return {rank: pid for rank, pid in found.items() if rank >= 0}


def new_place(root: Path) -> Place:
    site, folder = root / "site", root / "desk"
    info = site / "light_plugins-1.0.dist-info"
    info.mkdir(parents=True)
    folder.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: light-plugins\nVersion: 1.0\n")
    points = "".join(f"{name} = {target}\n" for name, target in PLUGINS.items())
    (info / "entry_points.txt").write_text(f"[ftcore.plugins]\n{points}")
    rows = ({"prompt": f"what is {n}?", "reply": f"{n} is {n * n}."} for n in range(12))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "light.toml").write_text(TWO)
    path = os.pathsep.join([str(site), str(LIGHT)])
    return Place(folder, {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"})


@pytest.fixture
def place(tmp_path):
    return new_place(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The metrics of one process that nothing has happened to."""
    place = new_place(tmp_path_factory.mktemp("whole"))
    code, _, err = place.run("run", "light.toml", "--quiet", "--set", "hardware.processes=1")
    assert code == 0, err
    return figures(place.only_run())


@pytest.fixture(scope="module", autouse=True)
def hung(tmp_path_factory):
    """A run with a rank that hangs from step 4 on. It takes a minute, most of it waiting; the last test looks at it."""
    place = new_place(tmp_path_factory.mktemp("hung"))
    process = place.start("run", "light.toml", LIGHT_PAUSE="0.1")
    try:
        place.wait_for_step(4, process)
        os.kill(workers_of(process)[1], signal.SIGSTOP)
        yield place, process, datetime.now(UTC)
    finally:
        process.kill()
        process.communicate()


def test_the_agent_starts_two_processes_that_write_one_run(place, whole):
    code, out, err = place.run("run", "light.toml", "--trace-hooks")
    assert code == 0, err
    folder = place.only_run()
    assert figures(folder) == whole
    assert run_info(folder).state == "finished"
    assert (folder / "checkpoints" / "step-000010" / "rank-1.json").is_file()
    assert verify(folder / "checkpoints" / "step-000010") == ""
    assert out.count("finished after 10 steps") == 1, "one process speaks"
    assert err.count("[5/7] training") == 1
    assert "make_trainer     light_trainer" in err, "the trace of the workers' hooks is shown as well"
    assert "share            elastic" in (folder / "ranks" / "rank-1.log").read_text(), "the other one has a file"


def test_a_killed_rank_is_told_and_started_again_from_the_last_checkpoint_until_that_is_used_up(place, whole):
    fault = {"LIGHT_FAULT": "step:8=SIGKILL", "LIGHT_FAULT_RANK": "0"}
    code, _, err = place.run("run", "light.toml", "--set", "hardware.max_restarts=1", **fault)
    again = "warning: rank 0 was killed by SIGKILL; starting again from the last checkpoint (1 of 1)"
    reason = "rank 0 was killed by SIGKILL; hardware.max_restarts = 1 is used up"
    assert again in err.splitlines()
    assert err.count("going on from the checkpoint of step 6") == 1
    assert (code, err.splitlines()[-1]) == (1, reason)
    folder = place.only_run()
    assert again in (folder / "run.log").read_text("utf-8")
    manifest = read_manifest(folder)
    assert (manifest.state, manifest.reason) == ("failed", reason)
    changes = ["--set", "hardware.processes=1", "--allow-changes"]
    code, _, err = place.run("run", "--resume", str(folder), *changes)
    assert code == 0, err
    assert figures(folder) == whole, "one process goes on with what two have begun"


def test_a_known_reason_of_one_rank_is_told_once_and_nothing_is_started_again(place):
    code, _, err = place.run("run", "light.toml", LIGHT_FAULT="step:8=RunError", LIGHT_FAULT_RANK="1")
    assert code == 1
    assert err.splitlines()[-1] == "light fault in step:8"
    assert err.count("light fault") == 1
    assert "starting again" not in err
    assert read_manifest(place.only_run()).reason == "light fault in step:8"
    last = json.loads((place.folder / "diary.jsonl").read_text("utf-8").splitlines()[-1])
    assert (last["hook"], last["state"], last["reason"]) == ("run_ended", "failed", "light fault in step:8")


def test_memory_that_runs_out_for_one_rank_is_no_restart_and_all_go_on_in_smaller_batches(place, whole):
    fault = {"LIGHT_FAULT": "step:8=OutOfMemory", "LIGHT_FAULT_RANK": "1", "LIGHT_FAULT_ONCE": "1"}
    code, _, err = place.run("run", "light.toml", "--set", "hardware.max_restarts=0", **fault)
    assert code == 0, err
    assert (
        "warning: rank 1 ran out of memory; starting again from the last checkpoint in micro-batches of 1, the batch"
        " stays as it is; set train.micro_batch_size = 1"
    ) in err.splitlines()
    folder = place.only_run()
    assert figures(folder) == whole
    assert read_manifest(folder).micro_batch_size == 1


def test_a_signal_to_the_parent_commits_one_checkpoint_and_the_run_goes_on(place, whole):
    code, err = signalled(place, signal.SIGTERM, 2, "run", "light.toml")
    assert (code, err.splitlines()[-1]) == (75, "stopped: SIGTERM received")
    folder = place.only_run()
    assert run_info(folder).state == "stopped"
    code, err = signalled(place, signal.SIGINT, figures(folder)[-1]["step"] + 1, "run", "--resume", str(folder))
    assert (code, err.splitlines()[-1]) == (130, "stopped: SIGINT received")
    assert run_info(folder).state == "stopped"
    assert not (folder / "exports").exists()
    code, _, err = place.run("run", "--resume", str(folder), "--quiet")
    assert code == 0, err
    assert figures(folder) == whole


def signalled(place: Place, number: int, step: int, *arguments: str) -> tuple[int, str]:
    process = place.start(*arguments, LIGHT_PAUSE="0.2")
    place.wait_for_step(step, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def test_workers_end_with_a_parent_that_is_killed_or_gets_a_second_signal(place):
    process = place.start("run", "light.toml", LIGHT_PAUSE="0.2")
    folder = place.wait_for_step(1, process)
    workers = workers_of(process)
    process.kill()
    process.communicate(timeout=10)
    assert_gone(workers)
    assert run_info(folder).state == "interrupted"
    process = place.start("run", "--resume", str(folder), LIGHT_PAUSE="20")
    end = time.monotonic() + 60
    while "going on from" not in (folder / "run.log").read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    workers = workers_of(process)
    assert sorted(workers) == [0, 1]
    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 75
    assert_gone(workers)
    assert run_info(folder).state == "stopped"


def assert_gone(workers: dict[int, int]) -> None:
    end = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in workers.values()):
        assert time.monotonic() < end, "a worker lives on"
        time.sleep(0.05)


def test_torchrun_starts_the_same_command_twice_and_there_is_one_run(place, whole):
    code, out, err = place.run("run", "light.toml", command=TORCHRUN)
    assert code == 0, err
    folder = place.only_run()
    assert figures(folder) == whole
    assert out.count("finished after 10 steps") == 1
    assert err.count("run folder: ") == 1


def test_two_machines_meet_at_the_first_ones_address(place, whole):
    """Both are this one."""
    with socket.socket() as tried:  # other runs of this test may be at work
        tried.bind(("127.0.0.1", 0))
        port = tried.getsockname()[1]
    machines = ["--set", "hardware.machines=2", "--set", "hardware.processes=1"]
    machines += ["--set", f"hardware.rendezvous=127.0.0.1:{port}", "--quiet"]
    first = place.start("run", "light.toml", *machines)
    end = time.monotonic() + 60
    while not is_taken(port):
        assert time.monotonic() < end
        time.sleep(0.05)
    code, _, err = place.run("run", "light.toml", *machines)
    assert code == 0, err
    first.communicate(timeout=60)
    assert first.returncode == 0
    folder = place.only_run()
    assert figures(folder) == whole
    assert run_info(folder).state == "finished"


def is_taken(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def test_a_rendezvous_that_nobody_answers_at_times_out_with_its_address(place):
    machines = ["--set", "hardware.machines=2", "--set", "hardware.rendezvous=192.0.2.1:29400"]
    code, _, err = place.run("run", "light.toml", *machines, "--set", "hardware.rendezvous_timeout=3", "--quiet")
    assert (code, err) == (
        1,
        "2 machines did not meet at 192.0.2.1:29400 within 3 s; start the run on each of them, "
        "and open that port on the first one\n",
    )
    assert list(place.folder.glob("runs/*")) == []


def test_check_starts_the_processes_and_lets_them_add_up(place):
    code, out, err = place.run("check", "light.toml")
    assert (code, out, err) == (0, "light.toml: ready to run\n", "")
    assert list(place.folder.glob("runs/*")) == []
    code, _, err = place.run("check", "light.toml", LIGHT_FAULT="check=RunError", LIGHT_FAULT_RANK="1")
    assert (code, err) == (1, "light fault in check\n")


def test_a_hung_rank_ends_all_and_the_run_goes_on_by_itself(hung, whole):
    place, process, begun = hung
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    said = (
        "rank 1 gave no sign of life within hardware.heartbeat and was killed; starting again from the last checkpoint"
    )
    assert said in err
    folder = place.only_run()
    taken = datetime.fromisoformat(read_manifest(folder).ended) - begun
    assert taken.total_seconds() < 8 + 30 + 60  # the heartbeat, the agent's patience, and a run
    assert figures(folder) == whole
