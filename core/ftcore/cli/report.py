"""Write the report of a run anew, or one page that compares several."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from ftcore.cli.common import print_json
from ftcore.errors import ProfileError, RunError

COMPARISON = Path("comparison.html")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore report`."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run, whatever its state")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=f"page to write (default: report.html in the run's folder; of several runs, {COMPARISON})",
    )
    parser.add_argument("--open", action="store_true", help="show the page in a browser")
    parser.add_argument("--json", action="store_true", help="print what report.json holds, and write nothing")


def main(parsed: argparse.Namespace) -> int:
    """Read the runs' folders, and write."""
    _check_arguments(parsed)
    runs = [folder.absolute() for folder in parsed.runs]
    if parsed.json:
        _print(runs)
        return 0
    path = _write(runs, parsed.output)
    print(f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB")
    if parsed.open:
        _show(path)
    return 0


def _check_arguments(parsed: argparse.Namespace) -> None:
    page: Path | None = parsed.output
    if page is None:
        return
    if page.suffix.lower() not in (".html", ".htm"):
        raise ProfileError(f"--output {page}: write a file name that ends with .html")
    if page.is_dir() or not page.parent.is_dir():
        raise ProfileError(f"--output {page}: {'that is a folder' if page.is_dir() else 'no such folder'}")


def _print(runs: Sequence[Path]) -> None:
    from ftcore.files import finite
    from ftcore.report.document import as_json
    from ftcore.report.record import read_record

    found = [finite(as_json(read_record(folder))) for folder in runs]
    print_json(found[0] if len(found) == 1 else found)


def _write(runs: Sequence[Path], output: Path | None) -> Path:
    from ftcore.files import replace_text
    from ftcore.report.comparison import comparison
    from ftcore.report.document import PAGE
    from ftcore.report.page import page
    from ftcore.report.record import read_record

    records = [read_record(folder) for folder in runs]
    path = (output or (runs[0] / PAGE if len(runs) == 1 else COMPARISON)).absolute()
    made = page(records[0]) if len(records) == 1 else comparison(records)
    try:
        replace_text(path, made)
    except OSError as error:
        again = f"ftcore report {shlex.join(map(str, runs))} --output FILE"
        raise RunError(f"{path} cannot be written ({error.strerror}); write it elsewhere: {again}") from error
    return path


def _show(path: Path) -> None:
    import webbrowser

    if not webbrowser.open(path.as_uri()):
        raise RunError(f"no browser was found to open {path}; open it yourself")
