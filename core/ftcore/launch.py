"""Start the workers of a run, or go on in this process."""

from __future__ import annotations

import sys
from pathlib import Path

from ftcore.plugins import Plugins
from ftcore.values import Run


def launch(plugins: Plugins, run: Run) -> int | None:
    """The exit code of the workers that a plugin started, or None when the run goes on here."""
    return plugins.launch(run, worker_command(run.folder))


def worker_command(folder: Path) -> list[str]:
    """The command that does the work of a run whose folder is there."""
    return [sys.executable, "-m", "ftcore.cli", "worker", str(folder)]
