"""Sends a run to Weights & Biases, or writes the files that `wandb sync` sends later. Never asks for a login."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import attrs

from ftcore.api import Problem, Run, Tracker, hookimpl, option
from ftcore_plugins.common.asking import Refused, Unreachable
from ftcore_plugins.common.requirements import missing
from ftcore_plugins.wandb.account import ask_account, find_login, server

KEY = "plugin.wandb"
NO_LOGIN = (
    'no key of Weights & Biases; set WANDB_API_KEY, run wandb login, or write mode = "offline" to keep its files here'
)


@attrs.frozen(kw_only=True)
class Options:
    """Options of `[plugin.wandb]`. The key comes from `WANDB_API_KEY` or `wandb login`, never from here."""

    project: str = option("", help="project to log to; WANDB_PROJECT if empty, else ftcore")
    entity: str = option("", help="user or team that the project is of; WANDB_ENTITY or the key's own if empty")
    name: str = option("", help="name of the run there; the name of the run's folder if empty")
    group: str = option("", help="group that its page shows the run in, such as a sweep")
    tags: tuple[str, ...] = option((), help="tags of the run")
    notes: str = option("", help="notes on the run, as Markdown")
    mode: Literal["auto", "online", "offline"] = option(
        "auto", help="online, or offline to write files that wandb sync sends; auto is WANDB_MODE, else online"
    )
    artifacts: bool = option(False, help="upload what was exported, as artifacts of type model")
    git: bool = option(False, help="tell the commit and the remote of the working directory's repository")
    start_timeout: float = option(30.0, above=0, help="seconds to wait for the server when the run is opened there")
    end_timeout: float = option(
        45.0, above=0, help="seconds to wait at the end until all is sent; what is not, ftcore sync sends"
    )

    @property
    def online(self) -> bool:
        """Whether it is sent while the run goes on."""
        return _mode(self) == "online"


class WandB:
    """Sends curves, configuration, histograms of actions, answers with images, and proofs to Weights & Biases."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config

    @hookimpl
    def check(self) -> Sequence[Problem]:
        """The package, and a key that the server knows: asked of it if it answers."""
        problems = missing("wandb", "wandb", "wandb")
        mode = _mode(self.config)
        if mode not in ("online", "offline"):
            message = f"WANDB_MODE={mode} sends nothing; set it to online or offline, or leave the plugin out"
            problems.append(Problem(key=f"{KEY}.mode", message=message))
        return [*problems, *(_login_problems() if mode == "online" else ())]

    @hookimpl
    def track(self, run: Run, settings: Mapping[str, Any], sent: int) -> Tracker:
        """Open the run there, or the same one again."""
        from ftcore_plugins.wandb.tracker import open_tracker

        return open_tracker(self.config, run, settings, sent)


def _mode(config: Options) -> str:
    return config.mode if config.mode != "auto" else os.environ.get("WANDB_MODE") or "online"


def _login_problems() -> Iterator[Problem]:
    login = find_login()
    if login is None:
        yield Problem(key=KEY, message=NO_LOGIN)
        return
    try:
        ask_account(login)
    except Refused:
        message = f"{server()} does not know the key of {login.source}; make another one there, and set WANDB_API_KEY"
        yield Problem(key=KEY, message=message)
    except Unreachable as error:
        message = f"{server()} does not answer ({error}); the run goes on without it, and ftcore sync sends it later"
        yield Problem(key=KEY, message=message, severity="warning")
