"""Whether a server answers and knows the login: asked in seconds, and without MLflow's client, which is heavy."""

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
from collections.abc import Callable
from configparser import ConfigParser
from configparser import Error as ConfigError
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

__all__ = ["Refused", "Unreachable", "ask_server"]

SECONDS = 2.0
QUESTION = "/api/2.0/mlflow/experiments/search"
REFUSALS = (401, 403)
OTHER_LOGINS = ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_TRACKING_CLIENT_CERT_PATH")


class Refused(Exception):  # noqa: N818
    """The server does not know the login, or there is none; says what the server said."""


class Unreachable(Exception):  # noqa: N818
    """No MLflow server has answered; says why."""


class _Staying(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def ask_server(uri: str) -> None:
    """Ask for one experiment. Raises `Refused` and `Unreachable`."""
    answer = _in_time(lambda: _ask(uri), 2 * SECONDS)
    if isinstance(answer, Exception):
        raise answer


def _in_time(call: Callable[[], Exception | None], seconds: float) -> Exception | None:
    """What `call` answers; looking up a name may take longer than any timeout that the library knows."""
    answers: list[Exception | None] = []
    thread = threading.Thread(target=lambda: answers.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else Unreachable(f"no answer within {seconds:g} s")


def _ask(uri: str) -> Exception | None:
    address, login = _split(uri)
    try:
        request = urllib.request.Request(  # noqa: S310
            f"{address}{QUESTION}",
            data=json.dumps({"max_results": 1}).encode(),
            headers={"Content-Type": "application/json", **_headers(address, login)},
        )
        # A login must not follow a redirection to another address.
        opener = urllib.request.build_opener(_Staying, urllib.request.HTTPSHandler(context=_context()))
        with opener.open(request, timeout=SECONDS) as answer:
            found = json.load(answer)
    except urllib.error.HTTPError as error:
        return _refusal(error)
    except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
        return Unreachable(_said(error))
    return None if isinstance(found, dict) else Unreachable("the answer is not MLflow's")


def _refusal(error: urllib.error.HTTPError) -> Exception | None:
    if error.code not in REFUSALS:
        return Unreachable(f"status {error.code}")
    if any(os.environ.get(name) for name in OTHER_LOGINS):  # of the client's own, which are not tried here
        return None
    text = error.read(200).decode("utf-8", "replace").strip().partition("\n")[0]
    return Refused(text if text and not text.startswith(("<", "{")) else f"status {error.code}")


def _split(uri: str) -> tuple[str, str]:
    """The address without its login, and the login."""
    parts = urlsplit(uri)
    login, _, host = parts.netloc.rpartition("@")
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", "")), login


def _headers(address: str, login: str) -> dict[str, str]:
    """As the client makes them: a name and password win over a token, and that over a login in a file."""
    kept = _kept_login()
    name = os.environ.get("MLFLOW_TRACKING_USERNAME") or kept[0]
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD") or kept[1]
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if token and not (name and password):
        return {"Authorization": f"Bearer {token}"}
    login = f"{name}:{password}" if name and password else login or _netrc_login(address)
    return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}


def _kept_login() -> tuple[str, str]:
    """What stands in `~/.mlflow/credentials`, which the client reads too."""
    parser = ConfigParser(interpolation=None)
    try:
        parser.read(Path.home() / ".mlflow" / "credentials", "utf-8")
    except (ConfigError, OSError, UnicodeDecodeError, RuntimeError):
        return "", ""
    name, password = (parser.get("mlflow", f"mlflow_tracking_{part}", fallback="") for part in ("username", "password"))
    return name, password


def _netrc_login(address: str) -> str:
    try:
        found = netrc.netrc().authenticators(urlsplit(address).hostname or "")
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError, RuntimeError):
        return ""
    return f"{found[0]}:{found[2]}" if found else ""


def _context() -> ssl.SSLContext:
    bundle = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or os.environ.get("REQUESTS_CA_BUNDLE")
    context = ssl.create_default_context(cafile=bundle or None)
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _said(error: BaseException) -> str:
    reason = getattr(error, "reason", error)
    text = str(getattr(reason, "strerror", None) or reason).strip().partition("\n")[0]
    return text or type(error).__name__
