"""Whose key it is, asked in seconds and without the client, which would wait for minutes, or ask the user."""

from __future__ import annotations

import base64
import http.client
import json
import netrc
import os
import urllib.error
import urllib.request
from configparser import ConfigParser
from configparser import Error as ConfigError
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

__all__ = ["Login", "Refused", "Unreachable", "ask_account", "find_login", "server"]

SECONDS = 5.0
ADDRESS = "https://api.wandb.ai"
HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")
"""Where the service of Weights & Biases itself is: a login may name either."""

UNKNOWN = (401, 403)
QUESTION = json.dumps({"query": "query Viewer { viewer { id } }"}).encode()


class Refused(Exception):  # noqa: N818
    """The server does not know the key."""


class Unreachable(Exception):  # noqa: N818
    """The server has not answered; says why."""


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
    if key := _netrc_key():
        return Login(source="wandb login", key=key)
    if key := _setting("api_key"):
        return Login(source="the settings of wandb", key=key)
    return None


class _Staying(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def ask_account(login: Login) -> None:
    """Whether the server knows the key. Raises `Refused` and `Unreachable`."""
    url = f"{server()}/graphql"
    if not url.startswith(("http://", "https://")):
        raise Unreachable("WANDB_BASE_URL is no address")
    if not login.key:
        return
    if not (login.key.isascii() and login.key.isprintable() and " " not in login.key):
        raise Refused
    word = base64.b64encode(f"api:{login.key}".encode()).decode()
    headers = {"Authorization": f"Basic {word}", "Content-Type": "application/json"}
    try:
        request = urllib.request.Request(url, data=QUESTION, headers=headers)  # noqa: S310
        # A key must not follow a redirection to another address.
        with urllib.request.build_opener(_Staying).open(request, timeout=SECONDS) as answer:
            known = json.load(answer)["data"]["viewer"]
    except urllib.error.HTTPError as error:
        if error.code in UNKNOWN:
            raise Refused from None
        raise Unreachable(f"status {error.code}") from None
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, RecursionError) as error:
        text = str(getattr(error, "reason", error)).strip().partition("\n")[0]
        raise Unreachable(text or type(error).__name__) from None
    if known is None:
        raise Refused


def _netrc_key() -> str:
    named = os.environ.get("NETRC")
    paths = [Path(named)] if named else [Path("~/.netrc"), Path("~/_netrc")]
    for path in (path.expanduser() for path in paths):
        try:
            logins = netrc.netrc(path)
        except (OSError, netrc.NetrcParseError, ValueError):
            continue
        for host in _hosts():
            found = logins.authenticators(host)
            if found and found[2]:
                return str(found[2])
    return ""


def _hosts() -> tuple[str, ...]:
    host = urlsplit(server()).netloc
    return HOSTS if host in HOSTS else (host,)


def _setting(name: str) -> str:
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    parser = ConfigParser(interpolation=None)
    try:
        parser.read(folder / "settings", encoding="utf-8")
    except (OSError, ConfigError, ValueError):
        return ""
    return parser.get("default", name, fallback="").strip()
