"""Find every mistake that can be known without a GPU and without heavy imports."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcore.cli.common import add_profile_arguments, complain, follower, load, print_json
from ftcore.errors import ExitCode, FtcoreError, Problem, ProfileError

if TYPE_CHECKING:
    from ftcore.preflight import LoadedProfile
    from ftcore.tracking.sync import Sent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore check`."""
    add_profile_arguments(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="open each tracker as well, write one point to it, and close it"
    )
    parser.add_argument("--json", action="store_true", help="print the problems as JSON")


def main(parsed: argparse.Namespace) -> int:
    """Check the profile, and each of its plugins what it can."""
    from ftcore.engine import check

    try:
        loaded = load(parsed)
        warnings = check(loaded, report=complain)
    except FtcoreError as error:
        if not parsed.json:
            raise
        print_json({"ok": False, "problems": _problems(error)})
        return error.exit_code
    if follower():
        return 0
    tried = _tried(loaded) if parsed.dry_run else []
    if parsed.json:
        problems = [problem.as_json() for problem in warnings]
        print_json({"ok": _all_work(tried), "problems": problems, "trackers": [_as_json(sent) for sent in tried]})
    else:
        _say(parsed.profile, warnings, tried)
    return 0 if _all_work(tried) else ExitCode.RUN_FAILED


def _problems(error: FtcoreError) -> list[dict[str, Any]]:
    if isinstance(error, ProfileError):
        return [problem.as_json() for problem in error.problems]
    return [{"message": str(error), "severity": "error"}]


def _say(profile: Path, warnings: list[Problem], tried: list[Sent]) -> None:
    for warning in warnings:
        complain(str(warning))
    for sent in tried:
        if sent.lacks:
            complain(f"{sent.name}: {sent.error}")
        else:
            print(f"{sent.name}: opened, one point written, closed in {sent.seconds:.1f} s")
    if _all_work(tried):
        told = f", {len(warnings)} warning{'s' * (len(warnings) > 1)}" if warnings else ""
        print(f"{profile}: ready to run{told}")


def _all_work(tried: list[Sent]) -> bool:
    return not any(sent.lacks for sent in tried)


def _tried(loaded: LoadedProfile) -> list[Sent]:
    from ftcore.tracking.dry_run import dry_run

    tried = dry_run(loaded, complain)
    if not tried:
        complain("no tracker to try; switch one on, such as --with tensorboard")
    return tried


def _as_json(sent: Sent) -> dict[str, Any]:
    return {"name": sent.name, "ok": not sent.lacks, "error": sent.error, "seconds": sent.seconds}
