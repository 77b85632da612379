"""What the command line costs before it does anything: processor time of `ftcore --help` and of `ftcore check`.

    python benchmarks/startup.py

Runs `python -c pass`, `ftcore --help` and `ftcore check profiles/quickstart.toml` in turn, so that a busy machine
slows all of them alike, and compares medians of user plus system time, as the kernel counts it for each child.
Exits 1 when `--help` takes over 2.5 times what an empty program takes, or when a command imports a heavy library.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROFILE = ROOT / "profiles" / "quickstart.toml"
LIMIT = 2.5
LEAST_RUNS = 20
HEAVY = ("torch", "transformers", "datasets", "numpy", "trl", "peft", "accelerate", "tokenizers", "safetensors")

LIST_MODULES = """
import sys, contextlib, io
if len(sys.argv) > 1:
    from ftcore.cli import main
    with contextlib.redirect_stdout(io.StringIO()):
        main(sys.argv[1:])
print("\\n".join(sys.modules))
"""


def main() -> int:
    """Measure and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40, help=f"runs of each command, at least {LEAST_RUNS}")
    parsed = parser.parse_args()
    if parsed.runs < LEAST_RUNS:
        parser.error(f"--runs {parsed.runs}: a median of under {LEAST_RUNS} runs says little")
    seconds = measure(commands(), parsed.runs)
    empty = seconds["python -c pass"]
    for name, cost in seconds.items():
        print(f"{name:<42} {cost * 1000:7.1f} ms of processor time  {cost / empty:5.2f} x")
    loaded = {name: modules(arguments) for name, arguments in ARGUMENTS.items()}
    for name, found in loaded.items():
        print(f"{name:<42} {len(found):5} modules")
    ratio = seconds["ftcore --help"] / empty
    faults = [f"ftcore --help costs {ratio:.2f} times an empty program, over {LIMIT}"] if ratio > LIMIT else []
    faults += [f"{name} imports {heavy}" for name, found in loaded.items() for heavy in HEAVY if heavy in found]
    for fault in faults:
        print(f"FAILED: {fault}", file=sys.stderr)
    return 1 if faults else 0


ARGUMENTS: Mapping[str, Sequence[str]] = {
    "python -c pass": (),
    "ftcore --help": ("--help",),
    "ftcore check profiles/quickstart.toml": ("check", str(PROFILE)),
}


def commands() -> dict[str, list[str]]:
    """What is measured, by name; the console script as a person calls it, if it is installed."""
    script = Path(sys.executable).with_name("ftcore")
    ftcore = [str(script)] if script.exists() else [sys.executable, "-m", "ftcore.cli"]
    pairs = {name: [*ftcore, *arguments] for name, arguments in ARGUMENTS.items() if arguments}
    return {"python -c pass": [sys.executable, "-c", "pass"], **pairs}


def measure(named: Mapping[str, Sequence[str]], runs: int) -> dict[str, float]:
    """Median processor seconds of each command, run in turn."""
    for command in named.values():
        cost(command)  # the first run writes the byte code
    found: dict[str, list[float]] = {name: [] for name in named}
    for _ in range(runs):
        for name, command in named.items():
            found[name].append(cost(command))
    return {name: statistics.median(costs) for name, costs in found.items()}


def cost(command: Sequence[str]) -> float:
    """User plus system seconds of one run. Raises `RuntimeError` when it fails."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def modules(arguments: Sequence[str]) -> set[str]:
    """The modules that are loaded once a command is done."""
    command = [sys.executable, "-c", LIST_MODULES, *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    return set(answer.stdout.split())


def environment() -> dict[str, str]:
    """This one, but byte code is kept, as where a package is installed."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


if __name__ == "__main__":
    sys.exit(main())
