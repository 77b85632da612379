"""kill -9 at random moments of runs with trackers: does every run go on to the same figures, and every tracker get all?

    python benchmarks/kill_trackers.py --trials 100

Light runs, without torch, beside trackers of which one is sound and the others raise, die or block in one call of a
few. In each trial the run, processes of its trackers, or both are killed again and again; the run is resumed until it
ends, and `ftcore sync`, which is killed as well, sends what is left. A trial fails unless `metrics.jsonl` is that of a
run that nobody killed, every tracker has been given every point and event at least once, points in their order, and
was closed as finished, and nothing is left behind: no process, no lock, no half-written file. Prints one line a trial
and exits 1 if any fails.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY / "tests" / "kit")]

from light_runs import install, write_desk  # noqa: E402

from ftcore import engine, session  # noqa: E402, F401  (each trial forks from here)
from ftcore.cli import main as ftcore  # noqa: E402
from ftcore.journal.events import read_events  # noqa: E402
from ftcore.locks import is_locked  # noqa: E402
from ftcore.runs import run_info  # noqa: E402
from ftcore.tracking import beside, sync  # noqa: E402, F401
from journals import OWN, figures  # noqa: E402

STEPS = 40
FINISH_SECONDS = 3.0
"""So long the end of a run waits for its trackers here."""

LONGEST = 120.0
"""Seconds after which a command hangs."""

FAULTS = {"sound": "", "raises": "all=raises/3", "dies": "all=dies/6", "blocks": "send=blocks/12"}
TARGETS = ("run", "run", "tracker", "tracker", "trackers", "both", "both", "SIGTERM", "SIGINT")
HIDDEN = {".lock", ".command.lock", ".weights", *(f".{name}.lock" for name in FAULTS)}
"""What a run has that is no half-written file."""


class TrialError(Exception):
    """What a trial did not keep to."""


def main() -> int:
    """Run the reference, then each trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="ftcore-kill-trackers-"))
    prepare(scratch)
    whole = scratch / "reference"
    reference = figures(finished(whole, {}))
    draw = random.Random(parsed.seed)
    failures, kills = 0, Counter[str]()
    for number in range(1, parsed.trials + 1):
        folder = scratch / f"trial-{number}"
        try:
            said = trial(folder, draw, reference, kills)
        except Exception as error:
            failures += 1
            said = f"FAILED: {error}; {folder}" if isinstance(error, TrialError) else traceback.format_exc()
        else:
            shutil.rmtree(folder)
        print(f"{number:>3}/{parsed.trials}  {said}", flush=True)
    print(f"{parsed.trials - failures} of {parsed.trials} lost nothing and left nothing; kills: {dict(kills)}")
    if not failures:
        shutil.rmtree(scratch)
    return 1 if failures else 0


def prepare(folder: Path) -> None:
    """The light plugins, for runs that take their time and do not wait long for their trackers."""
    install(folder, FAULTS)
    os.environ["LIGHT_PAUSE"] = "0.03"
    session.FINISH_SECONDS = FINISH_SECONDS


def finished(folder: Path, faults: Mapping[str, str]) -> Path:
    """The folder of a run that nobody killed."""
    code = ended(begin(desk(folder, faults), "run", "light.toml"))
    if code:
        raise SystemExit(f"the reference run failed with exit code {code}; see {folder}")
    return runs(folder)[0]


def desk(folder: Path, faults: Mapping[str, str]) -> Path:
    """A working folder with a profile and its rows."""
    folder.mkdir()
    write_desk(folder, faults, steps=STEPS, save_steps=3, more="[plugin.light_export]\n")
    return folder


def begin(folder: Path, *command: str) -> int:
    """`ftcore` in a process of its own, which has imported everything already."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    os.chdir(folder)
    log = os.open("output.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        code = ftcore(list(command))
    finally:
        os._exit(code)


def ended(child: int, seconds: float = LONGEST) -> int:
    """The exit code. Raises `TrialError` for a process that hangs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TrialError(f"a command took more than {seconds:g} s")


def runs(folder: Path) -> list[Path]:
    """The run's folder, once it is there."""
    return [manifest.parent for manifest in folder.glob("runs/light-*/manifest.json")]


def processes(folder: Path) -> dict[int, bool]:
    """Those that work in `folder`, and whether each is a tracker's."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink() == folder and (words := (entry / "cmdline").read_bytes()):
                found[int(entry.name)] = b"\0tracker\0" in words
        except OSError:  # it has ended
            continue
    return found


def trial(folder: Path, draw: random.Random, reference: Sequence[Mapping[str, Any]], kills: Counter[str]) -> str:
    """Kill and resume one run until it has ended, send the rest, and look at what there is."""
    desk(folder, FAULTS)
    wanted, done = draw.randint(1, 5), []
    child = begin(folder, "run", "light.toml")
    while True:
        code = None
        while len(done) < wanted and code is None:
            time.sleep(draw.uniform(0.02, 1.6))
            found, status = os.waitpid(child, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if found else None
            if code is None:
                done.append(draw.choice(TARGETS))
                kills[done[-1]] += 1
                code = struck(child, folder, done[-1], draw)
        code = ended(child) if code is None else code
        if code == 0 or (runs(folder) and run_info(runs(folder)[0]).state == "finished"):  # killed behind its last word
            break
        if code not in (-signal.SIGKILL, 75, 130):
            raise TrialError(f"exit code {code} after {done}")
        time.sleep(draw.choice([0.0, 0.0, 0.3, 1.0]))
        child = begin(
            folder,
            *(["run", "--resume", str(run)] if (run := next(iter(runs(folder)), None)) else ["run", "light.toml"]),
        )
    run = runs(folder)[-1]
    unsent = synced(folder, run, draw, kills)
    verify(folder, run, reference)
    return f"{', '.join(done) or 'nothing'} killed; {unsent} times synced"


def struck(child: int, folder: Path, target: str, draw: random.Random) -> int | None:
    """Kill it; the run's exit code if that was the run."""
    trackers = [process for process, tracks in processes(folder).items() if tracks]
    chosen = {"tracker": draw.sample(trackers, min(1, len(trackers))), "trackers": trackers, "both": trackers}
    blows = [*chosen.get(target, []), *([child] if target in ("run", "both") else [])]
    draw.shuffle(blows)
    for process in blows:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
    if target.startswith("SIG"):
        os.kill(child, signal.Signals[target])
        return ended(child)
    return ended(child) if target in ("run", "both") else None


def synced(folder: Path, run: Path, draw: random.Random, kills: Counter[str]) -> int:
    """How often `ftcore sync` had to be asked. It is killed once in a while, and faults end after some time."""
    for number in range(1, 20):
        if number > 2:
            for name in FAULTS:
                (folder / f"{name}.fault").write_text("", "utf-8")
        child = begin(folder, "sync", str(run))
        if number < 3:
            time.sleep(draw.uniform(0.0, 1.5))
            os.kill(child, signal.SIGKILL)
            kills["sync"] += 1
        if ended(child) == 0:
            return number
    raise TrialError("sync cannot send the rest")


def verify(folder: Path, run: Path, reference: Sequence[Mapping[str, Any]]) -> None:
    """Raises `TrialError`."""
    if run_info(run).state != "finished":
        raise TrialError(f"the run is {run_info(run).state}")
    if figures(run) != reference:
        raise TrialError("metrics.jsonl differs")
    told = [(str(event.kind), event.step) for event in read_events(run / "events.jsonl") if event.kind != "ended"]
    for name in FAULTS:
        lines = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
        given = [(step, bare(figure)) for line in lines if line["what"] == "send" for step, figure in pairs(line)]
        first = list({json.dumps(each): each for each in given}.values())
        if first != [(line["step"], bare(line)) for line in reference]:
            raise TrialError(f"{name} was given other points: {len(first)} of {len(reference)}")
        heard = Counter((line["event"], line["step"]) for line in lines if line["what"] == "tell")
        if Counter(told) - heard:
            raise TrialError(f"{name} was not told {Counter(told) - heard}")
        if lines[-1] != {"what": "close", "state": "finished", "reason": ""}:
            raise TrialError(f"{name} was last asked to {lines[-1]}")
    nothing_is_left(folder, run)


def pairs(line: Mapping[str, Any]) -> list[tuple[int, Mapping[str, float]]]:
    """Step and figures of each point that was sent together."""
    return list(zip(line["steps"], line["points"], strict=True))


def bare(figure: Mapping[str, Any]) -> dict[str, Any]:
    """Without what no two runs share."""
    return {
        name: value for name, value in figure.items() if name not in (*OWN, "step") and not name.startswith("system/")
    }


def nothing_is_left(folder: Path, run: Path) -> None:
    """Raises `TrialError` for a process, a lock or a half-written file."""
    end = time.monotonic() + 10
    while (left := processes(folder)) and time.monotonic() < end:
        time.sleep(0.05)
    if left:
        raise TrialError(f"processes are left: {left}")
    if is_locked(run):
        raise TrialError("the run is locked")
    for name in FAULTS:
        with (run / "trackers" / f".{name}.lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    hidden = {path.name for path in run.rglob(".*")} - HIDDEN
    staging = {path.name for path in (folder / "runs").glob(".*")}
    if hidden or len(staging) > 4:
        raise TrialError(f"half-written: {hidden} {staging}")


if __name__ == "__main__":
    sys.exit(main())
