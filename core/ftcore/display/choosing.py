"""Which display a command gets."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from ftcore.display.base import Display, Silent
from ftcore.display.plain import Plain

MODES = ("auto", "live", "plain", "json")
DUMB = ("dumb", "unknown")


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person looks at `stream`; a closed standard stream is None."""
    return stream is not None and not stream.closed and stream.isatty()


def can_move(stream: TextIO | None) -> bool:
    """Whether `stream` is a terminal whose cursor can be moved, so that what is on it can be drawn again."""
    return is_terminal(stream) and os.environ.get("TERM", "").lower() not in DUMB


def choose_display(*, quiet: bool = False, progress: str = "auto") -> Display:
    """A live view for a terminal, plain lines otherwise, nothing when quiet; or what `progress` names."""
    if quiet or progress == Silent.mode or sys.stderr is None:  # `print` would take standard output instead
        return Silent()
    if progress == "json":
        from ftcore.display.lines import Lines

        return Lines()
    if progress == "live" or (progress == "auto" and can_move(sys.stderr)):
        from ftcore.display.live import Live

        return Live()
    return Plain()
