"""Whether a server answers and knows the login: asked in seconds, and without MLflow's client, which is heavy."""

from __future__ import annotations

import os
import ssl
from urllib.parse import urlsplit, urlunsplit

from ftcore_plugins.common.asking import Refused, Unreachable, ask, basic, kept_setting, netrc_login

__all__ = ["ask_server"]

QUESTION = "/api/2.0/mlflow/experiments/search"
OTHER_LOGINS = ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_TRACKING_CLIENT_CERT_PATH")


def ask_server(uri: str) -> None:
    """Ask for one experiment. Raises `Refused` and `Unreachable`."""
    address, login = _split(uri)
    try:
        ask(f"{address}{QUESTION}", _headers(address, login), {"max_results": 1}, context=_context())
    except Refused:
        if not any(os.environ.get(name) for name in OTHER_LOGINS):  # of the client's own, which are not tried here
            raise


def _split(uri: str) -> tuple[str, str]:
    """The address without its login, and the login."""
    parts = urlsplit(uri)
    login, _, host = parts.netloc.rpartition("@")
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", "")), login


def _headers(address: str, login: str) -> dict[str, str]:
    """As the client makes them: a name and password win over a token, and that over a login in a file."""
    name, password = (
        os.environ.get(f"MLFLOW_TRACKING_{part}")
        or kept_setting("~/.mlflow/credentials", "mlflow", f"mlflow_tracking_{part.lower()}")
        for part in ("USERNAME", "PASSWORD")
    )
    if name and password:
        return basic(name, password)
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    if login:
        return basic(*login.split(":", 1)) if ":" in login else basic(login, "")
    found = netrc_login(urlsplit(address).hostname or "")
    return basic(*found) if found else {}


def _context() -> ssl.SSLContext:
    bundle = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or os.environ.get("REQUESTS_CA_BUNDLE")
    try:
        context = ssl.create_default_context(cafile=bundle or None)
    except OSError as error:
        raise Unreachable(f"{bundle} holds no certificates: {error.strerror}") from error
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
