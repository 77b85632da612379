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

from ftcore.errors import CrashError, FtcoreError
from ftcore.files import disk_is_full

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
    with suppress(OSError):
        Path(path).write_text(json.dumps({"message": {"message": str(error), "extraInfo": extra}}), "utf-8")
        return True
    return False


def _kind(error: Exception) -> dict[str, object]:
    lost = lost_another(error)
    told = isinstance(error, FtcoreError) and not isinstance(error, CrashError) and not lost
    meant = told or disk_is_full(error.__cause__ or error)  # another attempt would find it full again
    code = error.exit_code if isinstance(error, FtcoreError) else 1
    return {"meant": meant, "lost_another": lost, "exit_code": int(code)}


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
