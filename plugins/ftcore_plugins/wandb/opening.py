"""Open a run of Weights & Biases without a word on the terminal, a question, or a file outside the run's folder."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftcore.api import Run, RunError
from ftcore_plugins.wandb.account import find_login, server

if TYPE_CHECKING:
    from ftcore_plugins.wandb import Options

__all__ = ["board_of", "identity_of"]

FLUSH = 0.2
"""Seconds after which wandb writes down what it was given; by default it may lose a quarter of a minute to a kill."""


def identity_of(folder: Path) -> str:
    """The id that the run has there; it is kept in the folder, so that a run that goes on is the same one."""
    file = folder / "run_id"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / "run_id.part"
        part.write_text(secrets.token_hex(4), "utf-8")
        part.replace(file)
    return file.read_text("utf-8").strip()


def board_of(config: Options, run: Run, identity: str, facts: Mapping[str, Any]) -> Any:
    """The run there. Raises `RunError` where wandb would ask for a login, and when the server does not answer."""
    if config.online and find_login() is None:
        raise RunError("plugin.wandb: no key of Weights & Biases; set WANDB_API_KEY")
    _keep_below(run.folder / "wandb")
    import wandb
    from wandb.errors import Error

    try:
        board = wandb.init(
            project=config.project or os.environ.get("WANDB_PROJECT") or "ftcore",
            entity=config.entity or None,
            id=identity,
            name=config.name or run.folder.name,
            group=config.group or None,
            tags=config.tags or None,
            notes=config.notes or None,
            config=dict(facts),
            dir=run.folder,
            mode="online" if config.online else "offline",
            resume="allow",
            reinit="create_new",
            allow_val_change=True,
            settings=_settings(config),
        )
    except Error as error:  # a server that is away, a key that is refused
        said = str(error).strip().partition("\n")[0]
        raise RunError(f"plugin.wandb: the run cannot be opened at {server()}: {said}") from error
    board.define_metric("step", hidden=True)
    board.define_metric("*", step_metric="step")
    return board


def _settings(config: Options) -> Any:
    import wandb

    wanted: dict[str, Any] = {
        "silent": True,
        "console": "off",
        "save_code": False,
        "disable_code": True,
        "disable_git": not config.git,
        "use_dot_wandb": False,
        "init_timeout": config.start_timeout,
        "finish_timeout": config.end_timeout,
        "finish_timeout_raises": True,
        "stop_fn": _go_on,
        "x_disable_stats": True,  # the journal has them, of the training process
        "x_save_requirements": False,
        "x_transaction_log_flush_interval": FLUSH,
    }
    known = wandb.Settings.model_fields  # those with an x may go without notice
    return wandb.Settings(**{name: value for name, value in wanted.items() if name in known})


def _go_on() -> None:
    """A press on the stop button there reaches this process only, which has to send what is left."""


def _keep_below(folder: Path) -> None:
    """Have what wandb stages and caches below the run's folder, unless the user has named other places."""
    os.environ["WANDB_SILENT"] = "true"
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # reports of its own faults
    for name, place in (("WANDB_CACHE_DIR", "cache"), ("WANDB_DATA_DIR", "staging")):
        os.environ.setdefault(name, str(folder / place))
