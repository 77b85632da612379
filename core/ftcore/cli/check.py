"""Find every mistake that can be known without a GPU and without heavy imports."""

from __future__ import annotations

import argparse

from ftcore.cli.common import add_profile_arguments, complain, follower, load, print_json
from ftcore.errors import ExitCode, FtcoreError, ProfileError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore check`."""
    add_profile_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the problems as JSON")


def main(parsed: argparse.Namespace) -> int:
    """Check the profile, and each of its plugins what it can."""
    from ftcore.engine import check

    try:
        warnings = check(load(parsed), report=complain)
    except ProfileError as error:
        if not parsed.json:
            raise
        print_json({"ok": False, "problems": [problem.as_json() for problem in error.problems]})
        return ExitCode.PROFILE
    except FtcoreError as error:
        if not parsed.json:
            raise
        print_json({"ok": False, "problems": [{"message": str(error), "severity": "error"}]})
        return error.exit_code
    if follower():
        return 0
    if parsed.json:
        print_json({"ok": True, "problems": [problem.as_json() for problem in warnings]})
        return 0
    for warning in warnings:
        complain(str(warning))
    print(f"{parsed.profile}: ready to run" + (f", {len(warnings)} warnings" if warnings else ""))
    return 0
