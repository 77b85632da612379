"""A run can be ended anywhere, and goes on to the same losses and weights, bit for bit."""

from __future__ import annotations

import hashlib
import signal
from pathlib import Path

import pytest

from forked import QUICKSTART, SMALL, Child, losses, only_run, read, wait_for_step

Finished = tuple[Path, Child]


def weights(run: Path) -> str:
    return hashlib.sha256((run / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.fixture
def begin(start, tmp_path: Path):
    """Start a small quickstart, slowed down enough to be hit in the middle."""

    def run(*more: str) -> tuple[Child, Path]:
        output_dir = tmp_path / "runs"
        return start("run", QUICKSTART, f"--set=run.output_dir={output_dir}", *SMALL, *more), output_dir

    return run


@pytest.mark.parametrize(
    ("number", "code", "state"),
    [(signal.SIGTERM, 75, "stopped"), (signal.SIGINT, 130, "stopped"), (signal.SIGKILL, 137, "running")],
)
@pytest.mark.parametrize("step", [1, 6])
def test_ended_run_resumes_bit_for_bit(
    finished: Finished, begin, start, number: signal.Signals, code: int, state: str, step: int
) -> None:
    child, output_dir = begin()
    run = wait_for_step(output_dir, step)
    child.kill(number)
    assert child.wait() == code, child.text
    assert read(run / "manifest.json")["state"] == state
    assert not (run / "adapter").exists()
    resumed = start("run", "--resume", run)
    assert resumed.wait() == 0, resumed.text
    assert losses(run) == losses(finished[0])
    assert weights(run) == weights(finished[0])
    assert len(read(run / "manifest.json")["resumes"]) == 1


def test_signal_commits_the_step_that_it_interrupts(begin) -> None:
    child, output_dir = begin()
    run = wait_for_step(output_dir, 2)
    child.kill(signal.SIGTERM)
    assert child.wait() == 75
    last = max(losses(run))
    assert (run / "checkpoints" / f"step-{last:06d}" / "checksums.json").is_file()
    assert not (run / "exports").exists()
    assert "SIGTERM" in read(run / "manifest.json")["reason"]


def test_damaged_checkpoint_is_skipped_by_name(finished: Finished, begin, start) -> None:
    child, output_dir = begin("--set=train.save_steps=2")
    run = wait_for_step(output_dir, 7)
    child.kill(signal.SIGKILL)
    child.wait()
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    (newest / "optimizer.safetensors").write_bytes(b"torn")
    resumed = start("run", "--resume", run)
    assert resumed.wait() == 0, resumed.text
    assert f"skipping checkpoint {newest.name}: optimizer.safetensors has changed" in resumed.text
    assert losses(run) == losses(finished[0])


def test_second_run_in_one_folder_is_refused(begin, start) -> None:
    child, output_dir = begin("--set=train.max_steps=400")
    run = wait_for_step(output_dir, 1)
    second = start("run", "--resume", run)
    assert second.wait() == 1
    assert f"in use by pid {child.pid} on " in second.text
    child.kill(signal.SIGKILL)
    child.wait()


def test_changed_settings_are_refused_and_allowed_by_a_flag(begin, start) -> None:
    child, output_dir = begin()
    run = wait_for_step(output_dir, 5)
    child.kill(signal.SIGKILL)
    child.wait()
    refused = start("run", "--resume", run, "--set=train.max_steps=14")
    assert refused.wait() == 2
    assert "train.max_steps: 12 -> 14" in refused.text
    allowed = start("run", "--resume", run, "--set=train.max_steps=14", "--allow-changes")
    assert allowed.wait() == 0, allowed.text
    assert max(losses(run)) == 14
    assert read(run / "manifest.json")["resumes"][0]["changes"] == ["train.max_steps: 12 -> 14"]


def test_finished_run_trains_on_when_told_to(begin, start) -> None:
    child, output_dir = begin()
    assert child.wait() == 0, child.text
    run = only_run(output_dir)
    first = losses(run)
    longer = start("run", "--resume", run, "--set=train.max_steps=15", "--allow-changes")
    assert longer.wait() == 0, longer.text
    assert sorted(losses(run)) == list(range(1, 16))
    assert {step: loss for step, loss in losses(run).items() if step <= 12} == first
    assert read(run / "report.json")["step"] == 15
