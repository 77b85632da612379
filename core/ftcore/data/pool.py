"""Run a task on ranges of rows, in this process or in several that do nothing else.

The processes are started by themselves rather than by `multiprocessing`: that would import the user's script
again in each of them, or fork a process that has threads. They hold what the task needs and no torch.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import pickle
import queue
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar, cast

from ftcore.errors import RunError

T = TypeVar("T")
Task = Callable[[int, int], T]

MANY_ROWS = 20_000
"""Rows from which on other processes are worth their start, about a second."""

ENDING_SECONDS = 5.0
"""How long a process may take from its last word to its end, which has an exit code of its own."""

COLLECTED_AFTER = 1_000_000
"""Objects between two looks for cycles: rows and examples have none, and the search took a tenth of the time."""

QUIET = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

START = (
    # Ctrl-C and an end of the whole group reach the children too: it is the parent that ends them.
    "import json, signal, sys; [signal.signal(each, signal.SIG_IGN) for each in (signal.SIGINT, signal.SIGTERM)]; "
    "sys.path[:] = json.loads(sys.argv[1]); from ftcore.data.pool import main; main()"
)


def processes(wanted: int, rows: int) -> int:
    """How many processes format so many rows; `wanted` is `data.workers`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return wanted or (cores if rows >= MANY_ROWS else 1)


def in_order(task: Task[T], ranges: Sequence[tuple[int, int]], workers: int) -> Iterator[T]:
    """The task's answer for each range, in order. Raises what the task raises.

    A task that other processes cannot be given (it does not pickle, or is of a notebook) is done in this one, with a
    word in the log. Raises `RunError` when a process dies.
    """
    workers = min(workers, len(ranges))
    with ExitStack() as stack:
        children = _started(task, workers, stack) if workers > 1 else []
        if not children:
            yield from (task(start, stop) for start, stop in ranges)
            return
        idle: queue.Queue[_Child[T]] = queue.Queue()
        for child in children:
            idle.put(child)
        threads = stack.enter_context(ThreadPoolExecutor(len(children)))
        stack.callback(_end, children)  # before the threads are waited for, which read from them
        yield from _windowed(threads, lambda part: _asked(idle, part), ranges, 2 * len(children))


def _started(task: Task[T], workers: int, stack: ExitStack) -> list[_Child[T]]:
    """Processes that hold the task; none if it cannot be sent or cannot be loaded there."""
    try:
        frozen = pickle.dumps(task)
    except Exception as error:  # whatever an object raises that does not pickle
        return _stay(error)
    children = [stack.enter_context(_Child[T]()) for _ in range(workers)]
    for child in children:
        child.send(frozen)
    faults = [fault for child in children if (fault := child.answer()) is not None]
    if faults:
        _end(children)
        return _stay(faults[0])
    return children


def _stay(fault: object) -> list[Any]:
    logging.getLogger("ftcore").warning("rows are formatted in one process, since others cannot: %s", fault)
    return []


def _windowed(
    threads: ThreadPoolExecutor,
    ask: Callable[[tuple[int, int]], T],
    ranges: Iterable[tuple[int, int]],
    window: int,
) -> Iterator[T]:
    pending: deque[Future[T]] = deque()
    for part in ranges:
        pending.append(threads.submit(ask, part))
        if len(pending) >= window:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _asked(idle: queue.Queue[_Child[T]], part: tuple[int, int]) -> T:
    child = idle.get()
    try:
        return child.ask(part)
    finally:
        idle.put(child)


class _Child(Generic[T]):
    """A process that holds the task."""

    def __init__(self) -> None:
        # -P: no module of the user's folder in the place of one of ours.
        command = [sys.executable, "-P", "-c", START, json.dumps([str(Path(path).absolute()) for path in sys.path])]
        pipe, environment = subprocess.PIPE, {**os.environ, **QUIET}
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment)  # noqa: S603

    def __enter__(self) -> _Child[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        with suppress(OSError):  # what was not sent any more
            self._process.__exit__(None, None, None)

    def ask(self, part: tuple[int, int]) -> T:
        """The task's answer. Raises what the task raises, and `RunError` when the process dies."""
        self.send(part)
        answer = self.answer()
        if isinstance(answer, BaseException):
            raise answer
        return cast("T", answer)

    def send(self, value: Any) -> None:
        pipe = cast("BinaryIO", self._process.stdin)
        try:
            pickle.dump(value, pipe)
            pipe.flush()
        except (OSError, ValueError) as error:
            raise self._died() from error

    def answer(self) -> Any:
        try:
            return pickle.load(cast("BinaryIO", self._process.stdout))  # noqa: S301  # from our own process
        except (EOFError, OSError, ValueError, pickle.UnpicklingError) as error:  # it ends before, or in the middle
            raise self._died() from error

    def end(self) -> None:
        self._process.kill()

    def _died(self) -> RunError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING_SECONDS)
        self.end()
        return RunError(
            f"a process that formats rows has died (exit code {self._process.wait()}); "
            "if memory ran out, set data.workers to a smaller number"
        )


def _end(children: Iterable[_Child[Any]]) -> None:
    for child in children:
        child.end()


def main() -> None:
    """Take a task, then answer ranges, until there are no more questions or nobody listens."""
    questions, answers = _channels()
    with suppress(EOFError, BrokenPipeError, pickle.UnpicklingError):  # the parent has ended
        frozen = pickle.load(questions)  # noqa: S301  # from our own parent
        task, fault = _loaded(frozen)
        _say(answers, fault)
        gc.freeze()
        gc.set_threshold(COLLECTED_AFTER)
        while task is not None:
            start, stop = pickle.load(questions)  # noqa: S301
            _say(answers, _answered(task, start, stop))


def _channels() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output, for us alone: a task reads nothing there, and what it prints is an error's."""
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return questions, cast("BinaryIO", answers)


def _loaded(frozen: bytes) -> tuple[Task[Any] | None, str | None]:
    try:
        return pickle.loads(frozen), None  # noqa: S301
    except Exception as error:  # its module is not found here, say
        return None, f"{type(error).__name__}: {error}"


def _say(answers: BinaryIO, value: Any) -> None:
    rest = memoryview(pickle.dumps(value))
    while rest:
        rest = rest[answers.write(rest) :]


def _answered(task: Task[Any], start: int, stop: int) -> Any:
    try:
        return task(start, stop)
    except BaseException as error:  # a task may call sys.exit()
        error.add_note(f"in a process that formats rows:\n{traceback.format_exc()}")
        return error if _travels(error) else RunError(f"{type(error).__name__}: {error}")


def _travels(error: BaseException) -> bool:
    """An exception may pickle and not come back."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:
        return False
    return isinstance(error, Exception)
