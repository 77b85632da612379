"""What goes wrong with MLflow, in one sentence: its client's own texts run over many lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ftcore.api import FtcoreError, RunError
from ftcore_plugins.mlflow.address import Place

__all__ = ["mlflow_errors"]

REASON = re.compile(r"\[Errno [^]]*\] ([^\"')]+)|(too many \d+ error responses|timed? ?out)", re.IGNORECASE)
CODES = {
    "UNAUTHENTICATED": "does not know the login; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
    "or MLFLOW_TRACKING_TOKEN",
    "PERMISSION_DENIED": "does not let this login write",
}


@contextmanager
def mlflow_errors(place: Place) -> Iterator[None]:
    """Turn what goes wrong at `place` into a `RunError`."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except FtcoreError:
        raise
    except MlflowException as error:
        told = CODES.get(getattr(error, "error_code", ""))
        how = "cannot be reached" if isinstance(error.__context__, OSError) else "answers"
        raise RunError(f"plugin.mlflow: {place.shown} {told or f'{how}: {_short(error)}'}") from error
    except ImportError as error:
        raise RunError(f"plugin.mlflow: {place.shown} needs a package of its own: {_short(error)}") from error
    except _out_of_reach() as error:
        raise RunError(f"plugin.mlflow: {place.shown} cannot be reached: {_short(error)}") from error


def _out_of_reach() -> tuple[type[Exception], ...]:
    """What requests, the file system and databases raise."""
    try:
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:  # with a server, there is no need of it
        return (OSError,)
    return (OSError, SQLAlchemyError)


def _short(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    found = REASON.search(text)
    return (found[1] or found[2] if found else text)[:200].rstrip(": ")
