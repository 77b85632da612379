"""Heavy imports are paid once; every run is a forked child."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from forked import QUICKSTART, SMALL, Child, fork_ftcore, only_run

Start = Callable[..., Child]


@pytest.fixture(scope="session")
def heavy() -> None:
    """Import once what every run imports."""
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    for name in ("torch", "transformers", "trl", "peft", "torch.utils.tensorboard"):
        __import__(name)


@pytest.fixture
def start(heavy: None, tmp_path: Path) -> Start:
    """Start `ftcore` with arguments in a child process."""
    numbers = itertools.count(1)
    return lambda *arguments: fork_ftcore(
        [str(argument) for argument in arguments], tmp_path / f"output-{next(numbers)}.txt"
    )


@pytest.fixture(scope="session")
def finished(heavy: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Child]:
    """One small quickstart, run to its end: its folder, and what it said."""
    folder = tmp_path_factory.mktemp("finished")
    child = fork_ftcore(["run", str(QUICKSTART), f"--set=run.output_dir={folder}", *SMALL], folder / "output.txt")
    assert child.wait() == 0, child.text
    return only_run(folder), child
