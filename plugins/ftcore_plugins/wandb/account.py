"""Whose key it is, asked in seconds and without the client, which would wait for minutes, or ask the user."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import attrs

from ftcore_plugins.common.asking import Refused, Unreachable, ask, basic, kept_setting, netrc_login

__all__ = ["Login", "ask_account", "find_login", "server"]

ADDRESS = "https://api.wandb.ai"
HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")
"""Where the service of Weights & Biases itself is: a login may name either."""

QUESTION = {"query": "query Viewer { viewer { id } }"}


@attrs.frozen(kw_only=True)
class Login:
    """What the client logs in with. `key` is empty where it gets a token of its own. Never write it anywhere."""

    source: str
    key: str = attrs.field(repr=False)


def server() -> str:
    """The address that `WANDB_BASE_URL` or `wandb login --host` names, else the service itself."""
    return (os.environ.get("WANDB_BASE_URL") or _setting("base_url") or ADDRESS).rstrip("/")


def find_login() -> Login | None:
    """What the client would find by itself, in its order."""
    if key := os.environ.get("WANDB_API_KEY", "").strip():
        return Login(source="WANDB_API_KEY", key=key)
    if os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return Login(source="WANDB_IDENTITY_TOKEN_FILE", key="")
    if found := netrc_login(*_hosts()):
        return Login(source="wandb login", key=found[1])
    if key := _setting("api_key"):
        return Login(source="the settings of wandb", key=key)
    return None


def ask_account(login: Login) -> None:
    """Whether the server knows the key. Raises `Refused` and `Unreachable`."""
    url = f"{server()}/graphql"
    if not url.startswith(("http://", "https://")):
        raise Unreachable("WANDB_BASE_URL is no address")
    if not login.key:
        return
    if not (login.key.isascii() and login.key.isprintable() and " " not in login.key):
        raise Refused("it has signs that cannot be sent")
    found = ask(url, basic("api", login.key), QUESTION).get("data")
    if not isinstance(found, dict) or "viewer" not in found:
        raise Unreachable("the answer is not that of Weights & Biases")
    if found["viewer"] is None:
        raise Refused("nobody has it")


def _hosts() -> tuple[str, ...]:
    host = urlsplit(server()).netloc
    return HOSTS if host in HOSTS else (host,)


def _setting(name: str) -> str:
    folder = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    return kept_setting(f"{folder}/settings", "default", name)
