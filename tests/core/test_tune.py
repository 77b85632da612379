"""`ftcore tune`: what is tried, how a try ends, what is written, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib

import pytest

from ftcore.cli import main
from ftcore.hardware import hardware_profiles
from ftcore.tables import TrainTable
from ftcore.tuning.search import Try, fastest, largest, search
from ftcore.tuning.trial import is_out_of_memory, longest_rows
from ftcore.values import Example, Ledger, PreparedData, Profile, Run


def searched(limit, batch, fits, speed=float):
    order = []

    def attempt(rows):
        order.append(rows)
        return Try(rows=rows, fits=rows <= fits, speed=speed(rows) if rows <= fits else None)

    return search(limit, batch, attempt), order


@pytest.mark.parametrize(
    ("limit", "batch", "fits", "order"),
    [
        (8, 8, 100, [1, 2, 4, 8]),
        (12, 12, 100, [1, 2, 4, 8, 12]),
        (1, 1, 100, [1]),
        (16, 16, 0, [1]),
        (16, 16, 1, [1, 2]),
        (16, 16, 5, [1, 2, 4, 8, 6, 5]),
        (64, 8, 23, [1, 2, 4, 8, 16, 32, 24, 20, 22, 23]),
        (30, 30, 11, [1, 2, 4, 8, 16, 12, 10, 11]),
        (9, 9, 5, [1, 2, 4, 8, 6, 5, 3]),
    ],
)
def test_powers_of_two_are_tried_and_then_what_lies_between(limit, batch, fits, order):
    tries, tried = searched(limit, batch, fits)
    assert tried == order
    assert [done.rows for done in tries] == sorted(order)
    found = largest(tries)
    assert (found.rows if found else 0) == min(fits, limit)


def test_every_limit_is_found():
    for limit in range(1, 40):
        for fits in range(limit + 1):
            tries, order = searched(limit, 12, fits)
            found = largest(tries)
            assert (found.rows if found else 0) == fits
            assert len(order) == len(set(order)) <= 12


def test_the_fastest_must_divide_the_batch():
    tries, _ = searched(12, 12, 7)
    best = fastest(tries, 12)
    assert best is not None
    assert best.rows == 6
    slow, _ = searched(12, 12, 7, speed=lambda rows: 10.0 if rows in (2, 4) else 1.0)
    best = fastest(slow, 12)
    assert best is not None
    assert best.rows == 2, "as fast with less memory"
    assert fastest(searched(4, 4, 0)[0], 4) is None


def test_without_speeds_the_largest_is_taken():
    tries, _ = searched(16, 16, 5, speed=lambda rows: None)
    best = fastest(tries, 16)
    assert best is not None
    assert best.rows == 4


def data(lengths):
    train = [
        Example(input_ids=[1] * length, labels=[1] * length, replies=(), origin=f"r:{length}") for length in lengths
    ]
    ledger = Ledger(rows=len(train) + 1, trained=len(train), held_out=1)
    return PreparedData(train=train, validation=train[:1], lengths=lengths, collate=dict, ledger=ledger, end_of_turn=3)


def run_of(tmp_path, **train):
    return Run(name="t", folder=tmp_path, profile=Profile(train=TrainTable(**train)))


def test_the_longest_row_is_in_every_place(tmp_path):
    found = longest_rows(data([3, 9, 5]), run_of(tmp_path, batch_size=4, max_steps=3))
    assert list(found.lengths) == [9] * 12
    assert {example.origin for example in found.train} == {"r:9"}
    assert [example.origin for example in found.train[2:4]] == ["r:9", "r:9"]
    assert found.validation == ()


def test_packed_rows_fill_whole_sequences(tmp_path):
    found = longest_rows(data([3, 9, 5]), run_of(tmp_path, batch_size=4, max_steps=3, max_length=16, packing=True))
    assert sum(found.lengths) >= 4 * 3 * 16 * 2
    assert set(found.lengths) == {3, 5, 9}
    assert len(found.train) == len(found.lengths)


def chained(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), True),
        (chained(ValueError("the hook failed"), MemoryError()), True),
        (ValueError("shapes differ"), False),
    ],
)
def test_out_of_memory_is_recognised(error, expected):
    assert is_out_of_memory(error) == expected


# A trainer whose micro-batches of over FITS rows do not fit, each in another manner.
HUNGRY = """
    import logging, os, signal, time
    from pathlib import Path

    class Trainer:
        total_steps = 1

        def __init__(self, run, data):
            self.run, self.data = run, data

        def train(self, control, checkpoint):
            train = self.run.profile.train
            rows, manner = train.micro_batch_size, os.environ.get("HUNGRY", "")
            (Path(os.environ["SEEN"]) / f"{rows}").write_text(f"{os.getpid()} {self.run.folder} {len(self.data.train)}")
            if rows > int(os.environ.get("FITS", "1000")):
                self.lack(manner)
            held = bytearray(rows * 50 * 2**20) if manner == "held" else None
            for number in range(1, train.max_steps + 1):
                time.sleep(0.2 if held else 0)
                speed = 1.0 if number == 1 else 100.0 * rows if rows < 8 else 50.0
                metrics = {"loss": 1.0, "tokens": 7.0, "tokens_per_second": speed}
                if manner == "device":
                    metrics["memory"] = 0.5 * rows
                decision = control.step_ended(Step(number=number, total=train.max_steps, epoch=0, metrics=metrics))
                assert not (decision.evaluate or decision.checkpoint or decision.stop)
            return train.max_steps

        def lack(self, manner):
            if manner == "raise":
                raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")
            if manner == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if manner == "parts":
                logging.getLogger("ftcore.plugins.sft").warning("out of memory: taken in micro-batches of 1")
            if manner == "hang":
                time.sleep(60)
            if manner == "fail":
                raise RunError("the weights are torn")
            if manner == "exit":
                os._exit(9)

    class Plugin:
        @hookimpl
        def make_trainer(self, run, data):
            return Trainer(run, data)
"""


@pytest.fixture
def hungry(desk, monkeypatch, tmp_path):
    """The desk with a trainer that needs memory; answers `ftcore tune` of it, and what it wrote."""
    desk.installation.plugin("hungry", HUNGRY)
    desk.replace("[plugin.light_trainer]", "[plugin.hungry]")
    seen, own = tmp_path / "seen", tmp_path / "own"
    seen.mkdir()
    monkeypatch.setenv("PYTHONPATH", desk.installation.env["PYTHONPATH"])
    monkeypatch.setenv("SEEN", str(seen))
    monkeypatch.setenv("FTCORE_HARDWARE_PROFILES", str(own))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    yield desk
    assert list((tmp_path / "temporary").iterdir()) == []
    assert desk.runs() == []
    for path in seen.iterdir():
        assert not _alive(int(path.read_text().split()[0]))


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def tuned(hungry, capsys, *arguments, code=0):
    assert main(["tune", str(hungry.profile), "--json", *arguments]) == code
    captured = capsys.readouterr()
    return json.loads(captured.out) if not code else captured.err


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        ("raise", "out of memory"),
        ("kill", "out of memory (the system has killed it)"),
        ("parts", "out of memory"),
    ],
)
def test_what_does_not_fit_is_found_in_every_manner(hungry, capsys, monkeypatch, manner, reason):
    monkeypatch.setenv("HUNGRY", manner)
    monkeypatch.setenv("FITS", "2")
    found = tuned(hungry, capsys, "--steps", "2")
    assert [(done["micro_batch_size"], done["fits"]) for done in found["tries"]] == [
        (1, True),
        (2, True),
        (3, False),
        (4, False),
    ]
    assert found["tries"][-1]["reason"] == reason
    assert (found["largest"], found["fastest"]) == (2, 2)
    assert found["tries"][1]["tokens_per_second"] == pytest.approx(200), "the first step does not count"


def test_a_try_that_takes_too_long_does_not_fit(hungry, capsys, monkeypatch):
    monkeypatch.setenv("HUNGRY", "hang")
    monkeypatch.setenv("FITS", "1")
    found = tuned(hungry, capsys, "--timeout", "10", "--most", "2", "--steps", "1")
    assert [(done["fits"], done["reason"]) for done in found["tries"]] == [(True, ""), (False, "took over 10 seconds")]


def test_the_result_is_a_hardware_profile_that_a_run_can_name(hungry, capsys, tmp_path):
    assert main(["tune", str(hungry.profile), "--steps", "2"]) == 0
    text = capsys.readouterr().out
    path = tmp_path / "own" / "light_cpu.toml"
    assert hardware_profiles()["light_cpu"] == path
    assert path.read_text().startswith("# Tuned by ftcore tune for light on ")
    assert tomllib.loads(path.read_text()) == {
        "hardware": {"device": "cpu"},
        "train": {"precision": "fp32", "micro_batch_size": 4},
    }
    assert f'wrote {path}; to use it: [hardware] profile = "light_cpu"' in text
    (line,) = [line for line in text.splitlines() if line.startswith("8 ")]
    assert line.split() == ["8", "yes", line.split()[2], "50", "largest"]
    assert any(line.startswith("4 ") and line.rstrip().endswith("fastest") for line in text.splitlines())
    hungry.replace('profile = "cpu"', 'profile = "light_cpu"')
    assert hungry.load().profile.train.micro_batch_size == 4


def test_the_profile_own_micro_batch_hides_the_result_and_that_is_told(hungry, capsys):
    hungry.replace("max_steps = 10", "max_steps = 10\nmicro_batch_size = 2\nbatch_size = 4")
    assert main(["tune", str(hungry.profile), "--steps", "2", "--output", "box.toml"]) == 0
    captured = capsys.readouterr()
    assert "light.toml:14: warning: train.micro_batch_size: the profile says 2 itself; take it out" in captured.err
    assert f'profile = "{hungry.folder / "box.toml"}"' in captured.out
    assert tomllib.loads((hungry.folder / "box.toml").read_text())["train"]["micro_batch_size"] == 4


def test_what_the_device_holds_is_compared_with_the_limit(hungry, capsys, monkeypatch):
    monkeypatch.setenv("HUNGRY", "device")
    found = tuned(hungry, capsys, "--memory", "1.5", "--steps", "2")
    assert {done["micro_batch_size"]: done["reason"] for done in found["tries"]} == {
        1: "",
        2: "",
        3: "",
        4: "over 1.5 GiB",
    }
    assert [done["memory"] for done in found["tries"]] == [0.5, 1.0, 1.5, 2.0]
    assert (found["largest"], found["fastest"]) == (3, 2)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only the try's own report tells its memory")
def test_a_process_that_passes_the_limit_is_ended(hungry, capsys, monkeypatch):
    monkeypatch.setenv("HUNGRY", "held")
    found = tuned(hungry, capsys, "--memory", "0.33", "--steps", "2")
    assert found["tries"][-1]["reason"] == "over 0.33 GiB"
    assert found["tries"][-1]["memory"] > 0.33
    assert found["largest"] < 8


def test_more_than_a_batch_is_tried_on_request_and_only_the_rows_that_are_needed(hungry, capsys, monkeypatch, tmp_path):
    found = tuned(hungry, capsys, "--most", "16", "--steps", "3")
    assert (found["largest"], found["fastest"]) == (16, 4)
    rows = {path.name: int(path.read_text().split()[-1]) for path in (tmp_path / "seen").iterdir()}
    assert rows == {"1": 3, "2": 6, "4": 12, "8": 24, "16": 48}


@pytest.mark.parametrize(
    ("manner", "code", "said"),
    [
        ("raise", 1, "not even one row fits (out of memory); use a smaller train.max_length"),
        ("fail", 1, "the weights are torn"),
        ("exit", 1, "the try with 1 rows ended with exit code 9: it said nothing"),
    ],
)
def test_what_ends_the_tuning(hungry, capsys, monkeypatch, tmp_path, manner, code, said):
    monkeypatch.setenv("HUNGRY", manner)
    monkeypatch.setenv("FITS", "0")
    assert said in tuned(hungry, capsys, code=code)
    assert not (tmp_path / "own").exists()


# An engine: starts the processes, and lets the first tell the others, through files.
PAIR = """
    import os, subprocess, time
    from pathlib import Path

    class Plugin:
        told = 0

        @hookimpl
        def launch(self, run, command):
            count = run.profile.hardware.processes
            shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "x", "MASTER_PORT": "1"}
            ranks = [
                subprocess.Popen(command, env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
                for rank in range(count)
            ]
            if any([process.wait() for process in ranks]):
                raise RunError("a rank has failed")
            return 0

        @hookimpl
        def share(self, run, value):
            self.told += 1
            place = run.folder / f"told-{run.profile.train.micro_batch_size}-{self.told}"
            if run.world.rank == 0:
                (run.folder / "new").write_text(value)
                (run.folder / "new").rename(place)
            while not place.exists():
                time.sleep(0.01)
            return place.read_text()
"""


@pytest.mark.parametrize("manner", ["raise", "parts", "device"])
def test_several_processes_are_tried_together(hungry, capsys, monkeypatch, tmp_path, manner):
    hungry.installation.plugin("pair", PAIR)
    hungry.append("[plugin.pair]\n")
    monkeypatch.setenv("HUNGRY", manner)
    monkeypatch.setenv("FITS", "1")
    options = ["--steps", "2", "--most", "2", "--memory", "0.7"]
    found = tuned(hungry, capsys, *options, "--set", "hardware.processes=2")
    assert [done["fits"] for done in found["tries"]] == [True, False]
    assert found["tries"][-1]["reason"] == ("over 0.7 GiB" if manner == "device" else "out of memory")
    rows = {path.name: int(path.read_text().split()[-1]) for path in (tmp_path / "seen").iterdir()}
    assert rows["2"] == 2 * 2 * 2, "two steps of two processes with two rows each"


def test_a_failure_of_one_of_several_processes_is_told(hungry, capsys, monkeypatch):
    hungry.installation.plugin("pair", PAIR)
    hungry.append("[plugin.pair]\n")
    monkeypatch.setenv("HUNGRY", "fail")
    monkeypatch.setenv("FITS", "0")
    assert "the weights are torn" in tuned(hungry, capsys, "--set", "hardware.processes=2", code=1)


def test_rows_that_cannot_be_prepared_are_told_as_in_a_run(hungry, capsys):
    hungry.write_rows(0)
    assert "row" in tuned(hungry, capsys, code=1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--output", "theirs.toml"], "theirs.toml is there already, and tuning did not write it; name another file"),
        (["--output", "/dev/null/box.toml"], "--output /dev/null/box.toml: cannot be written: "),
        (["--output", "box.json"], "--output box.json: a hardware profile ends in .toml"),
        (
            ["--set", "hardware.machines=2", "--set", "hardware.rendezvous=127.0.0.1:29400"],
            "hardware.machines: tune tries on one machine; pass --set hardware.machines=1",
        ),
    ],
)
def test_odd_usage_is_a_sentence(hungry, capsys, arguments, said):
    (hungry.folder / "theirs.toml").write_text("# mine\n")
    assert said in tuned(hungry, capsys, *arguments, code=2)


def test_it_is_started_once(hungry, capsys, monkeypatch):
    world = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    for name, value in world.items():
        monkeypatch.setenv(name, value)
    assert "tune starts its own processes; start it once" in tuned(hungry, capsys, code=2)


@pytest.mark.parametrize("arguments", [["--memory", "0"], ["--memory", "x"], ["--most", "0"], ["--steps", "-1"]])
def test_numbers_have_bounds(hungry, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(["tune", str(hungry.profile), *arguments])
    assert caught.value.code == 2
    assert f"{arguments[1]} is no " in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_a_signal_leaves_no_try_behind(hungry, monkeypatch, tmp_path, number, code):
    monkeypatch.setenv("HUNGRY", "hang")
    monkeypatch.setenv("FITS", "0")
    command = [sys.executable, "-m", "ftcore.cli", "tune", str(hungry.profile)]
    process = subprocess.Popen(command, cwd=hungry.folder, stderr=subprocess.PIPE, text=True)
    seen = tmp_path / "seen" / "1"
    _wait_until(lambda: seen.exists() and seen.read_text())
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    if number == signal.SIGKILL:  # nobody is left to tidy up, but what it started ends
        import shutil

        _wait_until(lambda: not _alive(int(seen.read_text().split()[0])))
        shutil.rmtree(seen.read_text().split()[1])
    else:
        assert f"stopped: {signal.Signals(number).name} received" in said


def _wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
