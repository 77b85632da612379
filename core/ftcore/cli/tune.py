"""Find the largest micro-batch that fits by trying, and the fastest; write it as a hardware profile."""

from __future__ import annotations

import argparse
import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftcore.cli.common import add_profile_arguments, complain, load, print_json, table
from ftcore.engine import check
from ftcore.errors import ExitCode, Interrupted, OutOfMemoryError, ProfileError
from ftcore.hardware import Machine, this_machine
from ftcore.hardware.machine import free_memory
from ftcore.preflight import LoadedProfile
from ftcore.processes.placement import world_size
from ftcore.processes.world import enter_world, is_job_script
from ftcore.tuning.result import default_output, hardware_profile, require_free, write
from ftcore.tuning.search import Try, fastest, largest, search
from ftcore.tuning.tries import Tries


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore tune`."""
    add_profile_arguments(parser)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="hardware profile to write (default: in your own folder, by the names of profile and machine)",
    )
    parser.add_argument(
        "--memory",
        type=_positive,
        metavar="GIB",
        help="most memory that the device may hold; on a CPU, the process (default there: what is free now)",
    )
    parser.add_argument(
        "--most",
        type=_count,
        metavar="ROWS",
        help="largest micro-batch to try (default: what a process has of train.batch_size)",
    )
    parser.add_argument(
        "--steps", type=_count, default=4, help="steps of each try, of which the first does not count (default: 4)"
    )
    parser.add_argument(
        "--timeout", type=_positive, default=600.0, metavar="SECONDS", help="longest that a try may take (default: 600)"
    )
    parser.add_argument("--json", action="store_true", help="print the tries and the result as JSON")


def main(parsed: argparse.Namespace) -> int:
    """Try, choose, and write."""
    loaded = load(parsed)
    processes = _processes(loaded)
    for warning in check(loaded, report=complain):
        complain(str(warning))
    output = parsed.output or default_output(loaded)
    require_free(output)
    machine, share = this_machine(), max(1, loaded.profile.train.batch_size // processes)
    with _ended_by_sigterm(), _tries(parsed, loaded, machine, processes) as tries:
        rows = tries.prepare()
        complain(f"{rows['rows']} rows are prepared; the longest one has {rows['longest']} tokens")
        found = search(parsed.most or share, share, lambda rows: _told(tries.attempt(rows)))
    best, most = fastest(found, share), largest(found)
    if best is None or most is None:
        raise OutOfMemoryError(
            f"not even one row fits ({found[0].reason}); use a smaller train.max_length,"
            " train.activation_checkpointing or [plugin.qlora]; ftcore plan ranks them"
        )
    write(output, hardware_profile(loaded, machine, best))
    _tell(parsed, loaded, found, {"largest": most.rows, "fastest": best.rows, "output": str(output)})
    return ExitCode.DONE


def _tries(parsed: argparse.Namespace, loaded: LoadedProfile, machine: Machine, processes: int) -> Tries:
    device = loaded.profile.hardware.device
    on_cpu = device == "cpu" or (device == "auto" and not machine.cards and not machine.apple_silicon)
    # To fill the memory of a machine to the brim would end whatever else runs there.
    memory = parsed.memory or (free_memory() / 2**30 / processes if on_cpu else None)
    return Tries(loaded, steps=parsed.steps, timeout=parsed.timeout, memory=memory, on_cpu=on_cpu, processes=processes)


def _processes(loaded: LoadedProfile) -> int:
    hardware = loaded.profile.hardware
    if not is_job_script() and enter_world().size > 1:
        raise ProfileError("tune starts its own processes; start it once, without torchrun, accelerate or srun")
    if hardware.machines > 1:
        raise ProfileError("hardware.machines: tune tries on one machine; pass --set hardware.machines=1")
    return world_size(hardware)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM is as Ctrl-C here: the try that runs ends, and its folder goes."""

    def stop(*_: object) -> None:
        raise Interrupted("SIGTERM received", ExitCode.INTERRUPTED)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _told(done: Try) -> Try:
    memory = f", {done.memory:.2f} GiB" if done.memory is not None else ""
    speed = f", {done.speed:.0f} tokens a second" if done.speed else ""
    complain(f"{done.rows} rows: {'fits' if done.fits else done.reason}{memory}{speed}")
    return done


def _tell(parsed: argparse.Namespace, loaded: LoadedProfile, found: list[Try], result: dict[str, Any]) -> None:
    if parsed.json:
        print_json({"tries": [done.as_json() for done in found], **result})
    else:
        table(["micro-batch", "fits", "peak GiB", "tokens/s", ""], [_row(done, result) for done in found])
        output = Path(result["output"])
        name = str(output.absolute()) if parsed.output else output.stem
        print(f'\nwrote {output}; to use it: [hardware] profile = "{name}"')
    layer = loaded.source.layer_of(("train", "micro_batch_size"))
    if layer in loaded.source.layers[-2:]:
        key = ("train", "micro_batch_size")
        text = f"the profile says {loaded.profile.train.micro_batch_size} itself; take it out to use what was found"
        complain(str(loaded.source.problem(key, text, "warning")))


def _row(done: Try, result: dict[str, Any]) -> list[str]:
    marks = [mark for mark in ("largest", "fastest") if result[mark] == done.rows]
    return [
        str(done.rows),
        "yes" if done.fits else "no",
        "-" if done.memory is None else f"{done.memory:.2f}",
        "-" if done.speed is None else f"{done.speed:.0f}",
        ", ".join(marks) or done.reason,
    ]


def _positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text} is no number above 0")


def _count(text: str) -> int:
    if text.isdecimal() and int(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} is no whole number from 1")
