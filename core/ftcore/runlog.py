"""`run.log`: what the display said, with the time, and what libraries logged."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType

from ftcore.display import Display
from ftcore.values import Event, Point, Step

FILE = "run.log"
LOGGERS = ("", "transformers")  # the second one does not pass its records on
PLUGINS = "ftcore.plugins"


@contextmanager
def plugins_heard(say: Callable[[str], None]) -> Iterator[None]:
    """What plugins log to `ftcore.plugins.NAME`, at INFO or above, is said to the user."""
    logger, handler = logging.getLogger(PLUGINS), _Saying(say)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # said once, not written again by the run's log
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


class _Saying(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        mark = "warning: " if record.levelno >= logging.WARNING else ""
        self._say(f"{mark}{record.getMessage()}")


@contextmanager
def logged_to(path: Path) -> Iterator[logging.Handler]:
    """What libraries log at WARNING or above goes to the end of this file, and not to a terminal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _Lasting(path, encoding="utf-8")
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S"))
    try:
        for name in LOGGERS:
            logging.getLogger(name).addHandler(handler)
        yield handler
    finally:
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(handler)
        handler.close()


class _Lasting(logging.FileHandler):
    """On a disk that is full, lines are lost; what the run fails of is told by what cannot do without."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


class RunLog:
    """A display that also writes each line to the run folder. Steps are in `metrics.jsonl`.

    A context manager: however its block ends, the terminal and the root logger are left in order.
    """

    def __init__(self, folder: Path, display: Display) -> None:
        self._file = folder / FILE
        self._display = display
        self._stack = ExitStack()

    def __enter__(self) -> RunLog:
        self._handler = self._stack.enter_context(logged_to(self._file))
        self._stack.enter_context(plugins_heard(self.say))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.close()
        self._stack.close()

    def stage(self, number: int, total: int, title: str) -> None:
        """Shown and written."""
        self._write(f"[{number}/{total}] {title}")
        self._display.stage(number, total, title)

    def step(self, step: Step) -> None:
        """Shown."""
        self._display.step(step)

    def point(self, point: Point) -> None:
        """Shown."""
        self._display.point(point)

    def event(self, event: Event) -> None:
        """Shown."""
        self._display.event(event)

    def say(self, text: str) -> None:
        """Shown and written."""
        self._write(text)
        self._display.say(text)

    def close(self) -> None:
        """Training is over; lines may follow."""
        self._display.close()

    def _write(self, text: str) -> None:
        self._handler.handle(logging.LogRecord("ftcore", logging.INFO, "", 0, "%s", (text,), None))
