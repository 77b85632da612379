"""Show rows as the model will see them: trained tokens in one colour, masked ones in another."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from ftcore.cli.common import add_profile_arguments, complain, load, print_json
from ftcore.errors import ProfileError

if TYPE_CHECKING:
    from ftcore.data.prepare import Prepared
    from ftcore.values import Run

PAGE = Path("preview.html")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore preview`."""
    add_profile_arguments(parser)
    parser.add_argument("--rows", type=int, default=3, metavar="N", help="rows to show (default: 3)")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--json", action="store_true", help="print tokens, labels and the ledger as JSON")
    kinds.add_argument(
        "--html",
        type=Path,
        nargs="?",
        const=PAGE,
        metavar="FILE",
        help=f"write a page with the images and a histogram of the lengths (default: {PAGE})",
    )


def main(parsed: argparse.Namespace) -> int:
    """Prepare the rows as a run would, without the model's weights, and show them."""
    from ftcore.data.prepare import prepare
    from ftcore.engine import planned
    from ftcore.preflight import check_profile
    from ftcore.runlog import plugins_heard

    _check_arguments(parsed)
    loaded = load(parsed)
    with tempfile.TemporaryDirectory() as scratch:
        run = attrs.evolve(planned(loaded), folder=Path(scratch))
        plugins, _ = check_profile(loaded, run, report=complain)
        with plugins_heard(complain):
            prepared = prepare(plugins, run, _quiet)
        _show(parsed, run, prepared)
    return 0


def _check_arguments(parsed: argparse.Namespace) -> None:
    """Before the rows are read, which may take minutes."""
    if parsed.rows < 0:
        raise ProfileError(f"--rows {parsed.rows}: write how many rows to show, 0 for none")
    page: Path | None = parsed.html
    if page is None:
        return
    if page.suffix.lower() not in (".html", ".htm"):
        raise ProfileError(f"--html {page}: write a file name that ends with .html")
    if page.is_dir() or not page.parent.is_dir():
        raise ProfileError(f"--html {page}: {'that is a folder' if page.is_dir() else 'no such folder'}")


def _show(parsed: argparse.Namespace, run: Run, prepared: Prepared) -> None:
    from ftcore.display import is_terminal
    from ftcore.preview.text import as_json, show

    if parsed.json:
        print_json(as_json(prepared, parsed.rows))
    elif parsed.html:
        _write_page(parsed.html, run, prepared, parsed.rows)
    else:
        show(prepared, parsed.rows, colour=is_terminal(sys.stdout))


def _write_page(path: Path, run: Run, prepared: Prepared, count: int) -> None:
    from ftcore.files import replace_text
    from ftcore.preview.page import page

    made = page(run, prepared, count)
    replace_text(path, made.text)
    print(f"wrote {path.absolute()}: {made.rows} rows, {path.stat().st_size / 1e6:.1f} MB")


def _quiet(title: str) -> None:
    """A preview needs no stages."""
