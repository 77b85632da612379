"""Run a task on ranges of rows, in this process or in several that do nothing else.

The processes are started by themselves rather than by `multiprocessing`: that would import the user's script
again in each of them, or fork a process that has threads. They hold what the task needs and no torch.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, BinaryIO, Generic, TypeVar, cast

from ftcore.errors import RunError

T = TypeVar("T")
Task = Callable[[int, int], T]

MANY_ROWS = 20_000
"""Rows from which on other processes are worth their start, about a second."""

QUIET = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}


def processes(wanted: int, rows: int) -> int:
    """How many processes format so many rows; `wanted` is `data.workers`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return wanted or (cores if rows >= MANY_ROWS else 1)


def in_order(task: Task[T], ranges: Iterable[tuple[int, int]], workers: int) -> Iterator[T]:
    """The task's answer for each range, in order. Raises what the task raises.

    Raises `RunError` when a process dies, and `pickle.PicklingError` or its like for a task that cannot travel.
    """
    if workers <= 1:
        yield from (task(start, stop) for start, stop in ranges)
        return
    frozen = pickle.dumps(task)
    with ExitStack() as stack:
        children = [stack.enter_context(_Child[T](frozen)) for _ in range(workers)]
        idle: queue.Queue[_Child[T]] = queue.Queue()
        for child in children:
            idle.put(child)
        threads = stack.enter_context(ThreadPoolExecutor(workers))
        stack.callback(_end, children)  # before the threads are waited for, which read from them
        yield from _windowed(threads, lambda part: _asked(idle, part), ranges, 2 * workers)


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

    def __init__(self, frozen: bytes) -> None:
        command = [sys.executable, "-m", "ftcore.data.pool"]
        environment = {**os.environ, **QUIET}
        self._process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self._send(sys.path)
        self._send(frozen)

    def __enter__(self) -> _Child[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._process.wait()

    def ask(self, part: tuple[int, int]) -> T:
        try:
            self._send(part)
            answer = pickle.load(cast("BinaryIO", self._process.stdout))  # noqa: S301  # from our own process
        except (EOFError, OSError, ValueError) as error:
            code = self._process.wait()
            raise RunError(
                f"a process that formats rows has died (exit code {code}); "
                "if memory ran out, set data.workers to a smaller number"
            ) from error
        if isinstance(answer, BaseException):
            raise answer
        return cast("T", answer)

    def end(self) -> None:
        self._process.kill()

    def _send(self, value: Any) -> None:
        pipe = cast("BinaryIO", self._process.stdin)
        pickle.dump(value, pipe)
        pipe.flush()


def _end(children: Iterable[_Child[Any]]) -> None:
    for child in children:
        child.end()


def main() -> None:
    """Answer ranges on standard input until it ends; whatever the task prints goes to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.path[:] = pickle.load(questions)  # noqa: S301  # from our own parent
    task: Task[Any] = pickle.loads(pickle.load(questions))  # noqa: S301
    while True:
        try:
            start, stop = pickle.load(questions)  # noqa: S301
        except EOFError:
            return
        try:
            answer = pickle.dumps(_answered(task, start, stop))
            answers.write(answer)
            answers.flush()
        except BrokenPipeError:
            return


def _answered(task: Task[Any], start: int, stop: int) -> Any:
    try:
        return task(start, stop)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301  # an exception may pickle and not come back
        except Exception:
            return RunError(f"{type(error).__name__}: {error}")
        return error


if __name__ == "__main__":
    main()
