"""Whether a server answers and knows a login: asked in seconds, and without its heavy client, which waits for ever."""

from __future__ import annotations

import base64
import http.client
import json
import netrc
import os
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from configparser import ConfigParser
from configparser import Error as ConfigError
from pathlib import Path
from typing import Any

__all__ = ["Refused", "Unreachable", "ask", "basic", "kept_setting", "netrc_login"]

SECONDS = 5.0
REFUSALS = (401, 403)


class Refused(Exception):  # noqa: N818
    """The server does not know the login, or there is none; says what the server said."""


class Unreachable(Exception):  # noqa: N818
    """No such server has answered; says why."""


class _Staying(urllib.request.HTTPRedirectHandler):
    """A login must not follow a redirection to another address."""

    def redirect_request(self, *_: Any) -> None:
        return None


def ask(
    url: str, headers: Mapping[str, str], question: Any = None, *, context: ssl.SSLContext | None = None
) -> dict[str, Any]:
    """The JSON object that a server answers, with `question` posted as JSON if there is one.

    Raises `Refused` and `Unreachable`.
    """
    if not all(value.isascii() and value.isprintable() for value in headers.values()):
        raise Refused("it has signs that cannot be sent")  # what libraries say of those shows the whole of it
    kind = {} if question is None else {"Content-Type": "application/json"}
    data = None if question is None else json.dumps(question).encode()

    def answer() -> dict[str, Any] | Exception:
        try:
            request = urllib.request.Request(url, data=data, headers={**kind, **headers})  # noqa: S310
            opener = urllib.request.build_opener(_Staying, urllib.request.HTTPSHandler(context=context))
            with opener.open(request, timeout=SECONDS) as found:
                document = json.load(found)
        except urllib.error.HTTPError as error:
            return _fault(error)
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            return Unreachable(_said(error))
        return document if isinstance(document, dict) else Unreachable("the answer is no JSON object")

    found = _in_time(answer, 2 * SECONDS)
    if isinstance(found, Exception):
        raise found
    return found


def basic(name: str, password: str) -> dict[str, str]:
    """The header that logs in with a name and a password."""
    return {"Authorization": f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"}


def netrc_login(*hosts: str) -> tuple[str, str] | None:
    """Name and password of the first of the hosts that the user's netrc file knows."""
    named = os.environ.get("NETRC")
    for path in [Path(named)] if named else [Path("~/.netrc"), Path("~/_netrc")]:
        try:
            logins = netrc.netrc(path.expanduser())
        except (OSError, netrc.NetrcParseError, ValueError, RuntimeError):
            continue
        for host in hosts:
            found = logins.authenticators(host)
            if found and found[2]:
                return found[0], found[2]
    return None


def kept_setting(file: str, section: str, name: str) -> str:
    """What a client has written to its settings in the user's home, empty if nothing."""
    parser = ConfigParser(interpolation=None)
    try:
        parser.read(Path(file).expanduser(), encoding="utf-8")
    except (OSError, ConfigError, ValueError, RuntimeError):
        return ""
    return parser.get(section, name, fallback="").strip()


def _in_time(call: Callable[[], dict[str, Any] | Exception], seconds: float) -> dict[str, Any] | Exception:
    """What `call` answers; looking up a name may take longer than any timeout that the library knows."""
    answers: list[dict[str, Any] | Exception] = []
    thread = threading.Thread(target=lambda: answers.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else Unreachable(f"no answer within {seconds:g} s")


def _fault(error: urllib.error.HTTPError) -> Exception:
    if error.code not in REFUSALS:
        return Unreachable(f"status {error.code}")
    text = error.read(200).decode("utf-8", "replace").strip().partition("\n")[0]
    return Refused(text if text and not text.startswith(("<", "{")) else f"status {error.code}")


def _said(error: BaseException) -> str:
    reason = getattr(error, "reason", error)
    text = str(getattr(reason, "strerror", None) or reason).strip().partition("\n")[0]
    return text or type(error).__name__
