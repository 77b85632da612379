"""Files of one MLflow run. Where they are kept may be another place than where the figures are."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Files"]

LOG = logging.getLogger("ftcore.plugins.mlflow")


class Files:
    """Sends artifacts. A store of files that does not work is told of once, and the figures go on."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._told = False

    def text(self, name: str, text: str) -> None:
        """A file with this text; an earlier one of the name is replaced."""
        self._send(lambda: self._client.log_text(self._run_id, text, name))

    def json(self, name: str, document: Mapping[str, Any]) -> None:
        """A JSON file."""
        self.text(name, json.dumps(document, ensure_ascii=False, default=str))

    def file(self, path: Path, folder: str = "") -> None:
        """A copy of a file, in a folder of the MLflow run."""
        self._send(lambda: self._client.log_artifact(self._run_id, str(path), folder or None))

    def _send(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:  # of requests, boto3, Azure or the file system, which share no base
            self._client.get_run(self._run_id)  # raises when it is the server that is away: then all is tried again
            if not self._told:
                self._told = True
                LOG.warning("the figures are kept, but no files are taken: %s", _short(error))


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
