"""Mute what a user can do nothing about: bars, notes and deprecations between libraries."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Without the bars that transformers draws while it reads or writes weights. Warnings stay."""
    from transformers.utils import logging as library

    shown = library.is_progress_bar_enabled()
    library.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            library.enable_progress_bar()


@contextmanager
def quiet_logger(name: str) -> Iterator[None]:
    """Without what one logger says below an error."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def no_deprecations() -> Iterator[None]:
    """Without `FutureWarning`s, which one library gives another for calls that no user made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


@contextmanager
def no_false_patterns() -> Iterator[None]:
    """Without PEFT's word that patterns for the rank were ignored, which nobody set.

    It makes them itself for experts that lie in one tensor, goes by them, and then looks for them among the modules.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"The following (rank|alpha)_pattern keys did not match", RuntimeWarning)
        yield


def no_telemetry() -> None:
    """Before DeepSpeed is imported, which accelerate does as soon as it is installed, also for runs without it.

    Its autotuner imports MLflow if that is installed, and MLflow would tell its makers of the training process.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
