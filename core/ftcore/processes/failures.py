"""How a worker ended, left where its launcher looks: in the file that torch's elastic agent names.

The form is that of `torch.distributed.elastic.multiprocessing.errors`, so that `torchrun` shows the message as well.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ftcore.errors import CrashError, FtcoreError, OutOfMemoryError
from ftcore.files import disk_is_full, replace_text

FILE = "TORCHELASTIC_ERROR_FILE"
LOST = ("connection closed by peer", "connection reset by peer", "gloo", "nccl", "tcpstore", "connection refused")
"""Words of the errors with which torch tells that another process is gone, or has been silent for too long."""


@contextmanager
def failures_recorded() -> Iterator[None]:
    """Whatever ends the block early is left for the launcher, if one waits for it."""
    try:
        yield
    except Exception as error:
        record_failure(error)
        raise


def record_failure(error: Exception) -> bool:
    """Leave the reason; tells whether there was a place for it."""
    path = os.environ.get(FILE, "")
    if not path or path == os.devnull:
        return False
    trace = "".join(traceback.format_exception(error))
    extra = {"timestamp": str(int(time.time())), "py_callstack": trace, "ftcore": _kind(error)}
    document = json.dumps({"message": {"message": str(error), "extraInfo": extra}})
    with suppress(OSError):
        replace_text(Path(path), document, durable=False)  # whole: the agent, which reads it, may end this process now
        return True
    return False


def _kind(error: Exception) -> dict[str, object]:
    meant = comes_again(error) or disk_is_full(error.__cause__ or error)  # another attempt would find it full again
    code = error.exit_code if isinstance(error, FtcoreError) else 1
    return {
        "meant": meant,
        "lost_another": lost_another(error),
        "exit_code": int(code),
        "smaller": smaller_batch(error),
    }


def comes_again(error: BaseException) -> bool:
    """Whether another attempt would end the same way: what is told on purpose, unless smaller batches may fit."""
    accident = isinstance(error, CrashError) or lost_another(error) or smaller_batch(error)
    return isinstance(error, FtcoreError) and not accident


def smaller_batch(error: BaseException) -> int:
    """The micro-batch that all processes may fit with where memory has run out for one; else 0."""
    return error.smaller if isinstance(error, OutOfMemoryError) else 0


def lost_another(error: BaseException) -> bool:
    """Whether `error` only says that another process has gone: then the reason is that one's."""
    cause: BaseException | None = error
    while cause is not None:
        torch = type(cause).__module__.startswith("torch") and type(cause).__name__.startswith("Dist")
        plain = isinstance(cause, ConnectionError | RuntimeError) and _tells(str(cause))
        if torch or plain:
            return True
        cause = cause.__cause__
    return False


def _tells(text: str) -> bool:
    return any(word in text.lower() for word in LOST)
