"""kill -9 of one rank of two at random moments: does every run go on by itself to the same end, bit for bit?

    python benchmarks/kill_rank.py --kills 20

Each trial is `ftcore run` as a user types it: the quickstart's job, shortened, on two processes over gloo. The moment
is drawn between the start of the processes and their end in the reference run, so that it also falls into imports,
reading, loading, saving and exporting. A trial fails unless the command ends with 0, says once who was killed, leaves
a finished run and no process, and has the metrics and the adapter of the reference. Prints one line a trial and exits
1 if any fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROFILE = Path(__file__).parent.parent / "profiles" / "quickstart.toml"
RANKS = 2
SHORT = (
    "hardware.device=cpu",
    f"hardware.processes={RANKS}",
    "train.max_steps=24",
    "train.save_steps=4",
    "train.eval_steps=6",
    "train.batch_size=4",
    "train.max_length=256",
    "plugin.python_functions.limit=80",
    "plugin.python_functions.modules=['json', 'textwrap', 'shutil', 'string', 'ast', 'inspect']",
    "plugin.lora.dropout=0.1",
    "run.sample_tokens=8",
)
SPEEDS = ("tokens_per_second", "memory")
"""Metrics that no two runs have in common."""

LONGEST = 300.0
"""Seconds after which a trial hangs."""

Result = tuple[list[dict[str, Any]], str]


def main() -> int:
    """Run the reference, then each trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="ftcore-kill-rank-"))
    seconds, reference = _reference(scratch / "reference")
    print(f"reference: its processes took {seconds:.1f} s", flush=True)
    draw = random.Random(parsed.seed)
    failures = killed = 0
    while killed < parsed.kills:
        moment, folder = draw.uniform(0, seconds), scratch / f"trial-{killed + 1}"
        said = _trial(folder, moment, draw, reference)
        killed += bool(said)
        failures += said.startswith("FAILED")
        print(f"{killed:>3}/{parsed.kills}  kill after {moment:5.1f} s  {said or 'had already ended'}", flush=True)
        if not said.startswith("FAILED"):
            shutil.rmtree(folder)
    print(f"{parsed.kills - failures} of {parsed.kills} went on by themselves to the same metrics and the same adapter")
    if not failures:
        shutil.rmtree(scratch)
    return 1 if failures else 0


def _reference(folder: Path) -> tuple[float, Result]:
    process = _start(folder)
    started = _started(process, folder)
    if process.wait():
        raise SystemExit(f"the reference run failed with exit code {process.returncode}; see {folder / 'output.log'}")
    return time.monotonic() - started, _result(folder)


def _trial(folder: Path, moment: float, draw: random.Random, reference: Result) -> str:
    """What came of it; nothing if the processes had ended by then."""
    process = _start(folder)
    _started(process, folder)
    time.sleep(moment)
    workers = _workers(process.pid)
    if not workers:
        process.wait()
        return ""
    rank, stage = draw.choice(sorted(workers)), _stage(folder)
    os.kill(workers[rank], signal.SIGKILL)
    fault = _fault(process, folder, rank) or _difference(_result(folder), reference)
    if fault:
        return f"FAILED: rank {rank} at {stage}: {fault}; see {folder}"
    return f"rank {rank} at {stage}: went on, same metrics and adapter"


def _started(process: subprocess.Popen[bytes], folder: Path) -> float:
    """When its ranks were there."""
    while len(_workers(process.pid)) < RANKS:
        if process.poll() is not None:
            raise SystemExit(f"the run started no processes; see {folder / 'output.log'}")
        time.sleep(0.01)
    return time.monotonic()


def _difference(result: Result, reference: Result) -> str:
    if result[0] != reference[0]:
        return "metrics differ"
    return "adapters differ" if result[1] != reference[1] else ""


def _fault(process: subprocess.Popen[bytes], folder: Path, rank: int) -> str:
    """What is wrong with how the command ended, if anything."""
    try:
        code = process.wait(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        process.kill()
        return f"still there after {LONGEST:g} s"
    said = (folder / "output.log").read_text("utf-8").count(f"rank {rank} was killed by SIGKILL; starting again")
    if code:
        return f"exit code {code}"
    if said != 1:
        return f"the death was told {said} times"
    if json.loads((_run(folder) / "manifest.json").read_text("utf-8"))["state"] != "finished":
        return "the manifest does not say that it has finished"
    return f"processes live on: {_left(folder)}" if _left(folder) else ""


def _start(folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True)
    sets = [f"--set={text}" for text in (*SHORT, f"run.output_dir={folder}")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with (folder / "output.log").open("wb") as log:
        command = [sys.executable, "-m", "ftcore.cli", "run", str(PROFILE), *sets]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def _workers(parent: int) -> dict[int, int]:
    """Process ids by rank, as Linux tells them."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) != parent:
                continue
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        ranks = [item for item in variables if item.startswith(b"RANK=")]
        if ranks:
            found[int(ranks[0].removeprefix(b"RANK="))] = int(entry.name)
    return found


def _left(folder: Path) -> list[str]:
    """Processes that still have the trial's folder in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(folder) in (entry / "cmdline").read_bytes():
                found.append(entry.name)
        except OSError:
            continue
    return found


def _stage(folder: Path) -> str:
    """What the run was about, as its log tells."""
    log = folder / "output.log"
    lines = [line for line in log.read_text("utf-8").splitlines() if line.startswith(("[", "step "))]
    return lines[-1].partition("  ")[0] if lines else "the start"


def _run(folder: Path) -> Path:
    (manifest,) = folder.glob("*/manifest.json")
    return manifest.parent


def _result(folder: Path) -> Result:
    run = _run(folder)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    metrics = [{name: value for name, value in line.items() if name not in SPEEDS} for line in lines]
    return metrics, hashlib.sha256((run / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
