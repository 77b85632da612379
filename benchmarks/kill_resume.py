"""kill -9 at random moments of the quickstart: does every resume, unattended, give the same losses, bit for bit?

    python benchmarks/kill_resume.py --kills 50

Imports once and forks a child for each run, so that a trial costs training time, not import time. The moment is
drawn between the start of the child and the end of the reference run, so that it also falls into reading,
loading, saving and exporting. Prints one line a trial and exits 1 if any differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

PROFILE = Path(__file__).parent.parent / "profiles" / "quickstart.toml"
HEAVY = ("torch", "transformers", "trl", "peft", "torch.utils.tensorboard")


def main() -> int:
    """Run the reference, then each trial."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=0, help="train.max_steps; 0 leaves the quickstart as it is")
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    for name in HEAVY:
        __import__(name)
    scratch = Path(tempfile.mkdtemp(prefix="ftcore-kill-"))
    sets = [f"--set=train.max_steps={parsed.steps}"] if parsed.steps else []
    reference, seconds = _reference(scratch / "reference", sets)
    print(f"reference: {len(reference)} steps in {seconds:.1f} s", flush=True)
    draw = random.Random(parsed.seed)
    failures = 0
    for number in range(parsed.kills):
        moment = draw.uniform(0.05, seconds)
        folder = scratch / f"trial-{number}"
        said = _trial(folder, sets, moment, reference)
        failures += bool(said.startswith("FAILED"))
        print(f"{number + 1:>3}/{parsed.kills}  killed after {moment:5.1f} s  {said}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{parsed.kills - failures} of {parsed.kills} resumed to the same losses and weights")
    shutil.rmtree(scratch, ignore_errors=True)
    return 1 if failures else 0


def _reference(folder: Path, sets: list[str]) -> tuple[dict[int, float], float]:
    start = time.monotonic()
    code = _wait(_fork(["run", str(PROFILE), f"--set=run.output_dir={folder}", "--quiet", *sets], folder))
    if code:
        raise SystemExit(f"the reference run failed with exit code {code}; see {folder}")
    return _losses(folder), time.monotonic() - start


def _trial(folder: Path, sets: list[str], moment: float, reference: dict[int, float]) -> str:
    command = ["run", str(PROFILE), f"--set=run.output_dir={folder}", "--quiet", *sets]
    child = _fork(command, folder)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    _wait(child)
    runs = _runs(folder)
    at = len(_losses(folder)) if runs else 0
    if runs and json.loads((runs[0] / "manifest.json").read_text())["state"] == "finished":
        return "had already finished"
    code = _wait(_fork(["run", "--resume", str(runs[0]), "--quiet"] if runs else command, folder))
    if code:
        return f"FAILED at step {at}: the resume ended with exit code {code}; {folder}"
    if _losses(folder) != reference:
        return f"FAILED at step {at}: losses differ"
    if _weights(folder) != _weights(folder.parent / "reference"):
        return f"FAILED at step {at}: weights differ"
    return f"at step {at}: resumed, same losses and weights" if runs else "before the run folder: started again, same"


def _fork(command: list[str], folder: Path) -> int:
    child = os.fork()
    if child:
        return child
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / "output.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        from ftcore.cli import main as ftcore

        code = ftcore(command)
    finally:
        os._exit(code)


def _wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _runs(folder: Path) -> list[Path]:
    return [manifest.parent for manifest in folder.glob("*/manifest.json")]


def _losses(folder: Path) -> dict[int, float]:
    run = _runs(folder)[0]
    if not (run / "metrics.jsonl").exists():
        return {}
    lines = (run / "metrics.jsonl").read_text().splitlines()
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    return {line["step"]: line["loss"] for line in whole if "loss" in line}


def _weights(folder: Path) -> str:
    import hashlib

    (saved,) = _runs(folder)[0].glob("*/adapter_model.safetensors")
    return hashlib.sha256(saved.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
