"""Check, train, prove and ship what a profile says; or go on with a run that was stopped or killed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ftcore.cli.common import add_profile_arguments, follower, load, print_json


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
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument("--json", action="store_true", help="print the report as JSON at the end")


def main(parsed: argparse.Namespace) -> int:
    """Run, or resume."""
    from ftcore.display import choose_display
    from ftcore.engine import resume, run
    from ftcore.isolation import Traced
    from ftcore.report.document import FILE as REPORT
    from ftcore.summary import print_summary, print_trace

    _reject_odd_usage(parsed)
    display = choose_display(quiet=parsed.quiet)
    traced: list[Traced] = []
    record = traced.append if parsed.trace_hooks else None
    try:
        if parsed.resume:
            finished = resume(
                parsed.resume,
                sets=parsed.sets,
                checkpoint=parsed.checkpoint,
                allow_changes=parsed.allow_changes,
                display=display,
                record=record,
            )
        else:
            finished = run(load(parsed), display=display, record=record)
    finally:
        if parsed.trace_hooks and not follower():
            print_trace(traced)
    if follower():
        return 0
    if parsed.json:
        print_json(json.loads((finished.folder / REPORT).read_text("utf-8")))
    elif not parsed.quiet:
        print_summary(finished)
    return 0


def _reject_odd_usage(parsed: argparse.Namespace) -> None:
    from ftcore.errors import ProfileError

    if bool(parsed.profile) == bool(parsed.resume):
        raise ProfileError("name a profile (ftcore run profile.toml) or a run to go on with (ftcore run --resume RUN)")
    if parsed.resume and (parsed.switch_on or parsed.switch_off):
        raise ProfileError("--with and --without do not go with --resume; a run keeps its plugins")
    if not parsed.resume and (parsed.allow_changes or parsed.checkpoint is not None):
        raise ProfileError("--allow-changes and --checkpoint go with --resume")
