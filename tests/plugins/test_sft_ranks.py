"""Two processes train what one would: really run, by DDP, FSDP2, ZeRO-2 and ZeRO-3, on CPUs and over gloo."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tiny_kit import Tiny

STRATEGIES = {"ddp": "MULTI_CPU", "fsdp": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}
KINDS: Mapping[str, dict[str, Any] | None] = {"full": None, "lora": {"r": 4}}
WORKER = Path(__file__).parent / "ranks_worker.py"

# 21 rows in steps of 8: the third step has five rows, which two processes cannot share out evenly.
TRAIN = {"max_steps": 8, "batch_size": 8, "micro_batch_size": 2, "learning_rate": 1e-3, "scheduler": "linear"}
SAVED = 5
EQUAL = 1e-5

pytestmark = pytest.mark.slow


def launch(folder: Path, jobs: Sequence[Mapping[str, Any]], processes: int) -> None:
    """Do the jobs in so many processes; 1 is a process of its own, without a launcher."""
    folder.mkdir(exist_ok=True)
    plan = folder / f"jobs-{processes}.json"
    plan.write_text(json.dumps(list(jobs)), "utf-8")
    distributed = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(distributed if processes > 1 else []), str(WORKER), str(plan)]
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    environment = {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(WORKER.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def trained(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every training of this file, in three launches: one process, two, and one again."""
    folder = tmp_path_factory.mktemp("ranks")
    shutil.copytree(tiny.base, folder / "tiny")

    def job(name: str, strategy: str, kind: str, **more: Any) -> dict[str, Any]:
        base = {"name": name, "strategy": strategy, "base": str(folder / "tiny"), "lora": KINDS[kind], "train": TRAIN}
        return base | more

    def saved(name: str) -> str:
        return str(folder / f"{name}-checkpoints" / f"step-{SAVED:06d}")

    judged = {"judge": True, "checkpoint_at": SAVED}
    ones = [job(f"one-{kind}", "one", kind, **judged) for kind in KINDS]
    ones.append(job("one-packed", "one", "lora", train={**TRAIN, "packing": True, "max_length": 64}))
    launch(folder, ones, 1)
    two = [job("ddp-packed", "ddp", "lora", train={**TRAIN, "packing": True, "max_length": 64})]
    for strategy in STRATEGIES:
        for kind in KINDS:
            two.append(job(f"{strategy}-{kind}", strategy, kind, **judged))
            two.append(job(f"{strategy}-{kind}-again", strategy, kind, resume=saved(f"{strategy}-{kind}")))
        halved = {**TRAIN, "micro_batch_size": 1}  # as all ranks take them once memory ran out for one
        two.append(job(f"{strategy}-grown", strategy, "lora", resume=saved("one-lora"), train=halved))
    options = {"offload_optimizer": "cpu", "offload_parameters": "cpu"}
    two.append(job("zero2-offload", "zero2", "lora", options={"offload_optimizer": "cpu"}))
    two.append(job("zero3-offload", "zero3", "lora", options=options))
    launch(folder, two, 2)
    shrunk = [job(f"{strategy}-shrunk", "one", "lora", resume=saved(f"{strategy}-lora")) for strategy in STRATEGIES]
    launch(folder, [*shrunk, job("zero3-alone", "zero3", "lora", options=options)], 1)
    return folder


def found(folder: Path, name: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / f"{name}.json").read_text("utf-8"))
    return told


def assert_near(folder: Path, name: str, reference: str, *, within: float = EQUAL) -> None:
    """The losses of the steps that both took, and what was saved."""
    losses = found(folder, name)["losses"]
    assert losses == pytest.approx(found(folder, reference)["losses"][-len(losses) :], abs=within, rel=0)
    saved, expected = weights(folder / name), weights(folder / reference)
    assert saved.keys() == expected.keys()
    largest = max((saved[key] - expected[key]).abs().max().item() for key in saved)
    assert largest <= within


def weights(folder: Path) -> dict[str, Any]:
    return {name: value for path in folder.glob("*model.safetensors") for name, value in load_file(path).items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_train_what_one_does(trained: Path, strategy: str, kind: str) -> None:
    told, one = found(trained, f"{strategy}-{kind}"), found(trained, f"one-{kind}")
    assert told["type"] == STRATEGIES[strategy]
    assert_near(trained, f"{strategy}-{kind}", f"one-{kind}")
    for name in ("tokens", "learning_rate"):
        assert [step[name] for step in told["metrics"]] == [step[name] for step in one["metrics"]]
    norms = [step["grad_norm"] for step in one["metrics"]]
    assert [step["grad_norm"] for step in told["metrics"]] == pytest.approx(norms, abs=1e-4)
    for moment in ("before", "after"):
        assert told[moment]["eval_loss"] == pytest.approx(one[moment]["eval_loss"], abs=EQUAL)
    assert told["answers"] == one["answers"]
    assert told["row_losses"] == pytest.approx(one["row_losses"], abs=10 * EQUAL)
    assert len(told["drawn"]) == len(one["drawn"])
    assert len(told["evaluations"]) == 2  # in the midst of training, which goes on as if nothing had been


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_weights_of_a_checkpoint_come_back_after_training(trained: Path, strategy: str, kind: str) -> None:
    told = found(trained, f"{strategy}-{kind}")
    assert told["back"]["eval_loss"] == pytest.approx(told["evaluations"][0]["eval_loss"], abs=1e-6)
    assert told["back"]["eval_loss"] != pytest.approx(told["after"]["eval_loss"], abs=1e-4)
    assert told["tuned_back"] == pytest.approx(told["back"]["eval_loss"], abs=EQUAL)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_save_returns_is_the_whole_tuned_model(trained: Path, strategy: str, kind: str) -> None:
    told = found(trained, f"{strategy}-{kind}")
    assert told["tuned"] == pytest.approx(told["after"]["eval_loss"], abs=EQUAL)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_resume_by_as_many_processes_is_bit_equal(trained: Path, strategy: str, kind: str) -> None:
    assert_near(trained, f"{strategy}-{kind}-again", f"{strategy}-{kind}", within=0.0)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("change", ["grown", "shrunk"])
def test_a_checkpoint_resumes_on_another_number_of_processes(trained: Path, strategy: str, change: str) -> None:
    """And, where there are more of them, in smaller micro-batches."""
    assert_near(trained, f"{strategy}-{change}", "one-lora")


@pytest.mark.parametrize("name", ["zero2-offload", "zero3-offload", "zero3-alone"])
def test_offloading_changes_no_number(trained: Path, name: str) -> None:
    assert_near(trained, name, "one-lora")


def test_packed_rows_are_dealt_out_too(trained: Path) -> None:
    assert_near(trained, "ddp-packed", "one-packed")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_checkpoint_by_two_has_one_state_and_two_random_ones(trained: Path, strategy: str) -> None:
    folder = trained / f"{strategy}-lora-checkpoints" / f"step-{SAVED:06d}"
    alone = trained / "one-lora-checkpoints" / f"step-{SAVED:06d}"
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in alone.iterdir()} | {"random-1.safetensors", "random-1.json"}
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
