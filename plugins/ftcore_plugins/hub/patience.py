"""Asking again what may only have failed this once."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import attrs

from ftcore_plugins.common.hub import causes

__all__ = ["Patience", "is_passing", "status_of"]

T = TypeVar("T")
SECONDS = re.compile(r"\s*(\d+)\s*")
USED_UP = re.compile(r"\br=0\s*;\s*t=(\d+)")  # draft-ietf-httpapi-ratelimit-headers: none left, for t seconds
PASSING = (408, 409, 412, 429, 500, 502, 503, 504)  # 409 and 412: another commit was faster


@attrs.frozen(kw_only=True)
class Patience:
    """Waits twice as long each time, with up to a half more by chance; or as long as the hub asks for, within reason.

    The client itself asks five times for each part of an upload before it gives up; this is about what is left.
    A hub that says nothing for `silence` seconds counts as one that has hung up; the client alone would wait for ever.
    """

    tries: int = 6
    first: float = 2.0
    most: float = 60.0
    longest_asked: float = 900.0
    silence: float = 300.0
    sleep: Callable[[float], None] = time.sleep

    def __call__(self, call: Callable[[], T], say: Callable[[str], None]) -> T:
        """What `call` returns. What it raises when it fails for good, or too often, is raised."""
        for number in range(1, self.tries):
            try:
                return call()
            except Exception as error:  # httpx and the hub's own share no base
                asked = _asked(error)
                if not is_passing(error) or asked > self.longest_asked:
                    raise
                wait = asked or min(self.most, self.first * 2 ** (number - 1)) * (1 + random.random() / 2)  # noqa: S311
                say(f"{_what(error)}; trying again in {wait:.0f} s ({number + 1} of {self.tries})")
                self.sleep(wait)
        return call()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While it lasts, the hub's client takes silence for a broken connection."""
        from huggingface_hub import get_session

        session = get_session()
        before, session.timeout = session.timeout, self.silence
        try:
            yield
        finally:
            session.timeout = before


def is_passing(error: BaseException) -> bool:
    """Whether the same call may work in a while: the network, or a hub that is ill or busy."""
    from huggingface_hub import errors

    chain = list(causes(error))
    if any(isinstance(cause, errors.OfflineModeIsEnabled) for cause in chain):
        return False
    status = status_of(error)
    if status:
        return status in PASSING
    return any(isinstance(cause, ConnectionError | TimeoutError | errors.HTTPError) for cause in chain)


def status_of(error: BaseException) -> int:
    """The status of the hub's answer; 0 if there was none."""
    return next((int(answer.status_code) for answer in _answers(error)), 0)


def _asked(error: BaseException) -> float:
    """The seconds that the hub asks to wait; 0 if it does not."""
    for answer in _answers(error):
        found = SECONDS.fullmatch(answer.headers.get("Retry-After", "")) or USED_UP.search(
            answer.headers.get("RateLimit", "")
        )
        if found:
            return float(found[1]) + 1  # the second that has begun
    return 0.0


def _answers(error: BaseException) -> Iterator[Any]:
    yield from (answer for cause in causes(error) if (answer := getattr(cause, "response", None)) is not None)


def _what(error: BaseException) -> str:
    status = status_of(error)
    if status:
        return f"the hub answers {status}"
    text = str(list(causes(error))[-1]).strip().partition("\n")[0]
    return f"the connection to the hub has failed ({text or type(error).__name__})"
