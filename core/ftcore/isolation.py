"""Calls into a plugin: every failure names it, and an observer cannot hurt the run."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import attrs

from ftcore.discovery import Source
from ftcore.errors import FtcoreError, Interrupted, PluginError, Problem
from ftcore.values import Notice, StopRequest

OBSERVER_SECONDS = 30.0
"""How long one call of an observer may take before it is left out."""

START_SECONDS = 120.0
"""The same for `run_started`, which may import libraries and log in."""

SLOW_SECONDS, SLOW_SHARE = 60.0, 0.1
"""An observer whose `on_step` has cost this much time, and this share of all time, is left out as well."""

ANSWERS: Mapping[str, tuple[type[Any], type[Any]]] = {
    "check": (Sequence, Problem),
    "launch": (int, object),
    "training_args": (Mapping, object),
    "score": (Mapping, object),
}
"""Hooks whose answers are used where a wrong type would go unnamed: the type, and that of the items."""

TELLING = frozenset({"on_step", "on_evaluation"})
"""Observers whose answers are used: a request to stop, a notice, several of them, or nothing."""

Call = Callable[..., Any]
Report = Callable[[str], None]


@attrs.frozen(kw_only=True)
class Traced:
    """One call of one hook implementation."""

    hook: str
    plugin: str
    seconds: float
    answered: bool


class Worker:
    """A daemon thread that runs one plugin's calls in turn, so that a hanging one blocks nobody else."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Call, tuple[Any, ...]]] = queue.SimpleQueue()
        threading.Thread(target=self._loop, name=f"ftcore-{name}", daemon=True).start()

    def call(self, function: Call, arguments: tuple[Any, ...], seconds: float) -> Any:
        """Run `function` and wait for its answer. Raises what it raises, or `TimeoutError`."""
        future: Future[Any] = Future()
        self._calls.put((future, function, arguments))
        return future.result(timeout=seconds)

    def _loop(self) -> None:
        while True:
            future, function, arguments = self._calls.get()
            try:
                future.set_result(function(*arguments))
            except BaseException as error:  # a plugin may call sys.exit(); the waiting side decides
                future.set_exception(error)


class Observer:
    """One plugin's observer hooks: the first failure is reported, and the rest are left out."""

    def __init__(self, source: Source, report: Report, seconds: float = OBSERVER_SECONDS) -> None:
        self._source = source
        self._report = report
        self._seconds = seconds
        self._worker: Worker | None = None
        self._left_out = False
        self._first_step = 0.0
        self._waited = 0.0

    def guard(self, hook: str, function: Call) -> Call:
        """`function`, run apart from the run; a failed call answers None."""

        def call(*arguments: Any) -> Any:
            last = hook == "run_ended"
            if self._left_out and not last:
                return None
            if self._worker is None or (self._left_out and last):
                self._worker = Worker(self._source.name)
            return self._call(hook, function, arguments)

        return call

    def _call(self, hook: str, function: Call, arguments: tuple[Any, ...]) -> Any:
        assert self._worker is not None  # noqa: S101
        seconds = max(self._seconds, START_SECONDS) if hook == "run_started" else self._seconds
        start = time.perf_counter()
        try:
            answer = self._worker.call(function, arguments, seconds)
            _check_told(hook, answer)
            if hook != "on_step" or not self._is_slow(start):
                return answer
            cause = f"it took over {SLOW_SHARE:.0%} of the time"
        except TimeoutError as error:
            cause = str(error) or f"no answer within {seconds:g} s"
        except Interrupted:
            raise
        except BaseException as error:
            cause = f"{type(error).__name__}: {error}"
        self._left_out = True
        self._report(f"plugin {self._source} is left out for the rest of the run: {hook} failed: {cause}")
        return None

    def _is_slow(self, start: float) -> bool:
        now = time.perf_counter()
        self._first_step = self._first_step or start
        self._waited += now - start
        return self._waited > SLOW_SECONDS and self._waited > SLOW_SHARE * (now - self._first_step)


def name_failures(source: Source, hook: str, function: Call) -> Call:
    """`function`, whose unexpected exceptions become a `PluginError` that names plugin and hook."""

    def call(*arguments: Any) -> Any:
        try:
            answer = function(*arguments)
            if isinstance(answer, Generator):  # what it raises comes later
                return name_wrapper_failures(source, hook, lambda: answer)()
            _check_answer(hook, answer)
            return answer
        except (FtcoreError, Interrupted):
            raise
        except BaseException as error:  # SystemExit must not end a run as a success
            raise _failure(source, hook, error) from error

    return call


def name_wrapper_failures(source: Source, hook: str, function: Call) -> Call:
    """The same for a wrapper, a generator function."""

    def call(*arguments: Any) -> Any:
        try:
            return (yield from function(*arguments))
        except (FtcoreError, Interrupted, GeneratorExit):
            raise
        except BaseException as error:
            raise _failure(source, hook, error) from error

    return call


def _failure(source: Source, hook: str, error: BaseException) -> PluginError:
    return PluginError(f"plugin {source} failed in {hook}: {type(error).__name__}: {error}")


def _check_answer(hook: str, answer: Any) -> None:
    wanted, items = ANSWERS.get(hook, (object, object))
    if answer is not None and not isinstance(answer, wanted):
        raise TypeError(f"must return a {wanted.__name__}, got {type(answer).__name__}")
    if items is not object and not all(isinstance(item, items) for item in answer or ()):
        raise TypeError(f"must return a sequence of {items.__name__}")


def _check_told(hook: str, answer: Any) -> None:
    if answer is None or hook not in TELLING:
        return
    for one in answer if isinstance(answer, Sequence) and not isinstance(answer, str) else [answer]:
        if not isinstance(one, StopRequest | Notice):
            raise TypeError(f"must return StopRequest, Notice, several of them or nothing, got {type(one).__name__}")


def trace(source: Source, hook: str, function: Call, record: Callable[[Traced], None]) -> Call:
    """`function`, each of whose calls is recorded."""

    def call(*arguments: Any) -> Any:
        start, answer = time.perf_counter(), None
        try:
            answer = function(*arguments)
            return answer
        finally:
            seconds = time.perf_counter() - start
            record(Traced(hook=hook, plugin=source.name, seconds=seconds, answered=answer is not None))

    return call
