"""Check, train, prove and ship what a profile says; or go on with a run that was stopped or killed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ftcore.cli.common import add_profile_arguments, follower, load, print_json

if TYPE_CHECKING:
    from ftcore.display import Display
    from ftcore.isolation import Traced
    from ftcore.values import Outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore run`."""
    add_profile_arguments(parser, required=False)
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with the run in this folder")
    parser.add_argument(
        "--checkpoint", type=int, metavar="STEP", help="with --resume: go on from this step's checkpoint"
    )
    parser.add_argument(
        "--allow-changes", action="store_true", help="with --resume: go on although profile, data or model changed"
    )
    parser.add_argument("--trace-hooks", action="store_true", help="print which plugin answered which hook, how fast")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--progress",
        choices=("auto", "live", "plain", "json"),
        default="auto",
        help="on standard error: a live view, plain lines, or one JSON object a line (default: live in a terminal, "
        "else plain)",
    )
    shown.add_argument("--quiet", action="store_true", help="show neither progress nor summary")
    parser.add_argument("--json", action="store_true", help="print the report as JSON at the end, also of a failed run")


def main(parsed: argparse.Namespace) -> int:
    """Run, or resume."""
    from ftcore.display import choose_display
    from ftcore.display.lines import Lines
    from ftcore.errors import FtcoreError, Interrupted
    from ftcore.summary import print_summary, print_trace

    display = choose_display(quiet=parsed.quiet, progress=parsed.progress)
    traced: list[Traced] = []
    begun: list[Path] = []
    try:
        finished = _finished(parsed, display, traced.append if parsed.trace_hooks else None, begun.append)
    except BaseException as error:
        if parsed.json and begun and not follower():
            with suppress(OSError, ValueError):  # its disk may be full, or the reader gone: that is not the news
                _print_report(begun[-1])
        if isinstance(error, FtcoreError | Interrupted) and isinstance(display, Lines) and not follower():
            with suppress(OSError):  # the reader has gone; the exit code says the rest
                display.fail(str(error), error.exit_code)
            return error.exit_code
        raise
    finally:
        if parsed.trace_hooks and not follower():
            print_trace(traced)
    if follower():
        return 0
    if parsed.json:
        _print_report(finished.folder)
    elif not parsed.quiet:
        print_summary(finished)
    return 0


def _finished(
    parsed: argparse.Namespace,
    display: Display,
    record: Callable[[Traced], None] | None,
    begun: Callable[[Path], None],
) -> Outcome:
    from ftcore.engine import resume, run

    _reject_odd_usage(parsed)
    if not parsed.resume:
        return run(load(parsed), display=display, record=record, begun=begun)
    return resume(
        parsed.resume,
        sets=parsed.sets,
        switch_on=parsed.switch_on,
        switch_off=parsed.switch_off,
        checkpoint=parsed.checkpoint,
        allow_changes=parsed.allow_changes,
        display=display,
        record=record,
        begun=begun,
    )


def _print_report(folder: Path) -> None:
    from ftcore.report.document import FILE

    print_json(json.loads((folder / FILE).read_text("utf-8")))
    if sys.stdout is not None:
        sys.stdout.flush()


def _reject_odd_usage(parsed: argparse.Namespace) -> None:
    from ftcore.errors import ProfileError

    if bool(parsed.profile) == bool(parsed.resume):
        raise ProfileError("name a profile (ftcore run profile.toml) or a run to go on with (ftcore run --resume RUN)")
    if not parsed.resume and (parsed.allow_changes or parsed.checkpoint is not None):
        raise ProfileError("--allow-changes and --checkpoint go with --resume")
