"""What can go wrong, and the exit code that each kind of failure ends with."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs

if TYPE_CHECKING:  # `--help` does without values
    from ftcore.values import Notice


class ExitCode(IntEnum):
    """Exit codes of the command line; 75 is `EX_TEMPFAIL` of sysexits.h: run the same command again."""

    DONE = 0
    RUN_FAILED = 1
    PROFILE = 2
    PLUGIN = 3
    RESUMABLE = 75
    INTERRUPTED = 130


def printable(text: str, keep: str = "") -> str:
    """`text` with escapes for what would move a terminal's cursor or colours; `keep` stays as it is."""
    return "".join(letter if letter.isprintable() or letter in keep else repr(letter)[1:-1] for letter in text)


Severity = Literal["error", "warning"]


@attrs.frozen(kw_only=True)
class Problem:
    """One mistake, or one doubt, in one sentence.

    `key` is the dotted key path (`train.learning_rate`); `file` and `line` say where the key was
    written, and are empty for a key that nobody wrote.
    """

    message: str
    key: str = ""
    file: Path | None = None
    line: int | None = None
    severity: Severity = "error"

    def __str__(self) -> str:
        place = "" if self.file is None else f"{self.file}:{self.line or 1}: "
        # A key in quotes may hold anything, and this goes to terminals and logs.
        key = f"{printable(self.key)}: " if self.key else ""
        mark = "warning: " if self.severity == "warning" else ""
        return f"{place}{mark}{key}{self.message}"

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        values = attrs.asdict(self)
        return {**values, "file": None if self.file is None else str(self.file)}


class FtcoreError(Exception):
    """Base of every error that ftcore raises on purpose; its text is one sentence for the user."""

    exit_code = ExitCode.RUN_FAILED
    told = False
    """Of several processes another one tells the user; then this one is silent."""


class ProfileError(FtcoreError):
    """The profile, or how the command was used, is wrong. Carries every problem found."""

    exit_code = ExitCode.PROFILE

    def __init__(self, problems: Iterable[Problem] | str) -> None:
        found = [Problem(message=problems)] if isinstance(problems, str) else list(problems)
        self.problems = sorted(found, key=_by_place)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class PluginError(FtcoreError):
    """A plugin is broken: it cannot be imported, names an unknown hook, or raised in a hook."""

    exit_code = ExitCode.PLUGIN


class RunError(FtcoreError):
    """A run could not go on, for a reason that lies in its data, its model or its machine.

    `notice` is for what watches the run, where the docs have a page on the reason.
    """

    def __init__(self, *texts: str, notice: Notice | None = None) -> None:
        super().__init__(*texts)
        self.notice = notice


class CrashError(RunError):
    """An exception that nobody raised on purpose has ended the run; another attempt may fare better."""


class OutOfMemoryError(RunError):
    """A micro-batch does not fit into the memory of the device, or of the machine.

    `smaller` is one that may fit, where all processes have to take it together; 0 if there is none.
    """

    def __init__(self, *texts: str, smaller: int = 0) -> None:
        super().__init__(*texts)
        self.smaller = smaller


class RowError(RunError):
    """One row is broken, or not what the format takes. The profile says how many of them a run bears.

    `reason` is for the user; `origin` is the row's, and `raw` what stands there, as far as it can be shown.
    """

    def __init__(self, reason: str, *, origin: str, raw: str = "") -> None:
        super().__init__(f"{origin}: {reason}")
        self.reason, self.origin, self.raw = reason, origin, raw

    def __reduce__(self) -> Any:
        """Exceptions pickle by their arguments, which these are not."""
        return partial(RowError, origin=self.origin, raw=self.raw), (self.reason,)


class Interrupted(BaseException):
    """The user or the system asked the run to end; not an `Exception`, so that no plugin swallows it."""

    def __init__(self, reason: str, exit_code: ExitCode) -> None:
        super().__init__(reason)
        self.reason = reason
        self.exit_code = exit_code


def _by_place(problem: Problem) -> tuple[str, int, str]:
    return (str(problem.file or ""), problem.line or 0, problem.key)
