"""What MLflow's client reads from its environment, set before it is imported."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["patient", "prepare_environment"]

ALWAYS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
UNLESS_SET = {  # a request that fails is made again by who follows the run, and told of until then
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
TIMEOUT, PATIENT_SECONDS = "MLFLOW_HTTP_REQUEST_TIMEOUT", 600


def prepare_environment() -> None:
    """No telemetry, no bars, and requests that fail soon: for a process that does nothing but track."""
    os.environ.update(ALWAYS)
    for name, value in UNLESS_SET.items():
        os.environ.setdefault(name, value)


@contextmanager
def patient() -> Iterator[None]:
    """A server that is sent a large file may need minutes to put it away before it answers."""
    before = os.environ.get(TIMEOUT, "0")
    os.environ[TIMEOUT] = str(max(PATIENT_SECONDS, int(before) if before.isdigit() else 0))
    try:
        yield
    finally:
        os.environ[TIMEOUT] = before
