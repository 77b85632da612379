"""Pushes what a run has made, with its card, to a repository of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import attrs

from ftcore.api import Artifact, Problem, Run, hookimpl, option
from ftcore_plugins.common.asking import Refused, Unreachable
from ftcore_plugins.common.hub_login import exchanges_tokens, find_token, hub_address, is_offline, token_source
from ftcore_plugins.common.requirements import missing
from ftcore_plugins.hub.account import ask_account
from ftcore_plugins.hub.names import fault_of, is_branch, named

KEY = "plugin.hub"
NO_LOGIN = "no HF_TOKEN to push with; make one with the write role at {page} and set it, or run: hf auth login"


@attrs.frozen(kw_only=True)
class Options:
    """Options of `[plugin.hub]`. The token comes from `HF_TOKEN` or from the login of the hub's client."""

    repository: str = option(
        "{user}/{run}", help="repository to push to; {user} is the owner of the token and {run} the run's name"
    )
    private: bool = option(True, help="make the repository private; one that is public is then refused")
    what: tuple[Literal["adapter", "merged", "gguf", "mlx"], ...] = option(
        (), help="what to push; everything if empty. adapter is what was trained, also where that is the whole model"
    )
    revision: str = option("main", help="branch to push to; it is made if there is none")


class Hub:
    """Pushes the adapter, the artifacts and a card, in commits that a repeated push does not repeat."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config

    @hookimpl
    def check(self, run: Run) -> Sequence[Problem]:
        """The client, a name that the hub accepts, and a token that may write there: asked of the hub if it answers."""
        problems = missing("hub", "train", "huggingface_hub")
        fault = fault_of(self.config.repository, run.name)
        if fault:
            problems.append(Problem(key=f"{KEY}.repository", message=fault))
        if not is_branch(self.config.revision):
            message = f"{self.config.revision!r} is no name of a branch; write one such as main"
            problems.append(Problem(key=f"{KEY}.revision", message=message))
        return [*problems, *_login_problems(self.config.repository, run.name, known=not fault)]

    @hookimpl
    def publish(self, run: Run, artifacts: Sequence[Artifact], saved: Path) -> str:
        """Push, and return the address of the repository."""
        from ftcore_plugins.hub.push import push

        return push(self.config, run, artifacts, saved)


def _login_problems(repository: str, run: str, *, known: bool) -> Iterator[Problem]:
    if is_offline():
        yield Problem(key=KEY, message="HF_HUB_OFFLINE is set, so nothing can be pushed; unset it")
    elif not find_token():
        if not exchanges_tokens():
            yield Problem(key=KEY, message=NO_LOGIN.format(page=_page()))
    else:
        yield from _token_problems(repository, run, known=known)


def _token_problems(repository: str, run: str, *, known: bool) -> Iterator[Problem]:
    """What the hub says of the token, in a few seconds."""
    try:
        account = ask_account(hub_address(), find_token())
    except Refused:
        yield Problem(
            key=KEY, message=f"the hub does not know the token of {token_source()}; make another at {_page()}"
        )
        return
    except Unreachable as error:
        text = f"{hub_address()} does not answer ({error}), and a push needs it"
        yield Problem(key=KEY, message=text, severity="warning")
        return
    target = named(repository, account.name, run)
    if not account.writes:
        text = f"the token of {token_source()} may only read; make one with the write role at {_page()}"
        yield Problem(key=KEY, message=text)
    elif known and not account.owns(target):
        text = f"{target} is not {account.name}'s own: it may be refused, unless the token may write there"
        yield Problem(key=f"{KEY}.repository", message=text, severity="warning")


def _page() -> str:
    return f"{hub_address()}/settings/tokens"
