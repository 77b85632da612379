"""What several commands share: profile arguments, messages on standard error, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftcore.cli.env_file import read_env_file
from ftcore.errors import ExitCode, FtcoreError, Interrupted, ProfileError
from ftcore.preflight import LoadedProfile, load_profile
from ftcore.processes.failures import failures_recorded
from ftcore.signals import raising

Command = Callable[[argparse.Namespace], int]

WAIT = 600.0
"""Seconds that a command waits for a run, unless it is told otherwise."""


def guarded(command: Command, parsed: argparse.Namespace) -> int:
    """Run a command. What ftcore raises on purpose becomes one message a line and its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter gets its escape
    try:
        # A `KeyboardInterrupt` that comes out of a plugin is the plugin's own.
        with raising(signal.SIGINT):
            return _answered(command, parsed)
    except (OSError, SystemExit) as error:
        return _unheard(error)
    finally:
        _settle_stderr()


def _answered(command: Command, parsed: argparse.Namespace) -> int:
    try:
        read_env_file()
        code = command(parsed)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a reader that has left or a full disk can still be told
        return code
    except FtcoreError as error:
        _tell(error)
        return error.exit_code
    except Interrupted as stop:
        if not follower():
            complain(f"stopped: {stop.reason}")
        return stop.exit_code
    except (OSError, SystemExit):
        raise
    except Exception as error:  # a mistake of ftcore's own: one sentence here, the rest on request
        if os.environ.get("FTCORE_TRACEBACK"):
            raise
        complain(f"unexpected {type(error).__name__}: {error}; set FTCORE_TRACEBACK=1 to see where, and report it")
        return ExitCode.RUN_FAILED


def follower() -> int:
    """The rank of a process that somebody has started beside the main one, which speaks for all; else 0."""
    rank, size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    return int(rank) if rank.isdecimal() and size.isdecimal() and int(size) > 1 else 0


def _tell(error: FtcoreError) -> None:
    from ftcore.processes.failures import lost_another

    rank = follower()
    if error.told:
        return
    if not rank:
        complain(str(error))
    elif not lost_another(error) and not _same_for_all(error):  # that one, or the main one, tells it itself
        complain(f"rank {rank}: {error}")


def _same_for_all(error: FtcoreError) -> bool:
    """Whether every process on this machine finds the same: a mistake in the profile, which is one file to them."""
    placed = isinstance(error, ProfileError) and all(problem.key or problem.file for problem in error.problems)
    return placed and os.environ.get("LOCAL_RANK", "0") != "0"


def _unheard(error: OSError | SystemExit) -> int:
    """A file that cannot be written, or a pipe whose reader has left (`ftcore runs | head`), which is no failure."""
    left = isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError)  # rich exits with 1
    if isinstance(error, SystemExit) and not left:
        raise error
    if isinstance(error, OSError) and not left:
        complain(": ".join(part for part in (error.filename, error.strerror or str(error)) if part))
    sys.stdout = None  # the interpreter must not complain at exit
    return ExitCode.DONE if left else ExitCode.RUN_FAILED


def complain(text: str) -> None:
    """A message on standard error, if anyone still reads it; the exit code says the rest."""
    if sys.stderr is None:  # `print` would take standard output instead
        return
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr)


def _settle_stderr() -> None:
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except OSError:
        sys.stderr = None  # else the interpreter tries again at exit, and ends with a code of its own


def print_json(value: Any) -> None:
    """A JSON document on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def add_profile_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """The profile, and what the command line lays over it."""
    parser.add_argument("profile", type=Path, nargs=None if required else "?", help="profile, such as profile.toml")
    add_sets(parser)
    parser.add_argument(
        "--with", dest="switch_on", action="append", default=[], metavar="PLUGIN", help="switch a plugin on"
    )
    parser.add_argument(
        "--without", dest="switch_off", action="append", default=[], metavar="PLUGIN", help="switch a plugin off"
    )


def add_run(parser: argparse.ArgumentParser, what: str = "folder of a run") -> None:
    """The run that a command is about."""
    parser.add_argument("run", type=Path, metavar="RUN", help=what)


def add_sets(parser: argparse.ArgumentParser) -> None:
    """What is laid over a profile, or over that of a run."""
    parser.add_argument(
        "--set", dest="sets", action="append", default=[], metavar="KEY=VALUE", help="override a key; may be repeated"
    )


def add_wait(parser: argparse.ArgumentParser, what: str) -> None:
    """How long a command waits for what it has asked of a run."""
    text = f"how long to wait for {what} (default: {WAIT:g})"
    parser.add_argument("--wait", type=_seconds, default=WAIT, metavar="SECONDS", help=text)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError("must be a number of seconds above 0")
    return seconds


@failures_recorded()
def load(parsed: argparse.Namespace) -> LoadedProfile:
    """The profile that the arguments name."""
    return load_profile(parsed.profile, sets=parsed.sets, switch_on=parsed.switch_on, switch_off=parsed.switch_off)


def table(columns: list[str], rows: list[list[str]]) -> None:
    """A table on standard output, without colours when that is no terminal."""
    from rich.console import Console
    from rich.table import Table

    from ftcore.display import is_terminal

    view = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        view.add_column(column, overflow="fold")
    for row in rows:
        view.add_row(*row)
    Console(width=None if is_terminal(sys.stdout) else 200).print(view, markup=False)
