"""Prove that a file or folder answers like the tuned model, whoever made it.

Exit codes: 0 proved; 1 failed, or not proved, which is never taken for passed; 2 nobody knows how this is proved.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ftcore.cli.common import complain, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore verify`."""
    parser.add_argument("path", type=Path, help="artifact: a file or folder")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FOLDER",
        help="compare it with this run, its exports/step-N, or a folder with a model (default: the artifact's run)",
    )
    parser.add_argument("--json", action="store_true", help="print the proof as JSON")


def main(parsed: argparse.Namespace) -> int:
    """Verify."""
    from ftcore.manifest import artifact_as_json
    from ftcore.runlog import plugins_heard
    from ftcore.shipping.verifying import verify_path
    from ftcore.summary import artifact_lines
    from ftcore.values import Verdict

    with plugins_heard(complain):
        artifact = verify_path(parsed.path, parsed.against, complain)
    if parsed.json:
        print_json(artifact_as_json(artifact))
    else:
        for line in artifact_lines(artifact):
            print(line)
    return 0 if artifact.proof.verdict is Verdict.PROVED else 1
