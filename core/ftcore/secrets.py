"""Texts without what nobody else may read: they go into files, to terminals, into reports and to trackers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["sentence", "settings_without_logins", "without_logins", "without_secrets"]

SHORTEST = 6
"""A shorter value is a flag, such as `1`, and stands in many a sentence."""

_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
"""How the names of environment variables that hold secrets end; `TOKEN_FILE` and `TOKENIZERS` hold none."""

_LOGIN = re.compile(r"""(?<=://)[^/?#\s"'<>]+@""")


def without_logins(text: str) -> str:
    """`text` with addresses that have no login in them: `https://host/x` for `https://me:secret@host/x`."""
    return _LOGIN.sub("", text)


def settings_without_logins(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same for each text of nested tables and lists."""
    return {name: _value_without_logins(value) for name, value in settings.items()}


def without_secrets(text: str) -> str:
    """The same, and with three stars for the values of environment variables such as `WANDB_API_KEY`."""
    found = [value for name, value in os.environ.items() if _NAME.search(name)]
    for value in sorted(found, key=len, reverse=True):
        if len(value) >= SHORTEST:
            text = text.replace(value, "***")
    return without_logins(text)


def sentence(error: BaseException, longest: int = 300) -> str:
    """An error on one line, without secrets."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    text = without_secrets(text.removesuffix(":"))
    return text if len(text) <= longest else f"{text[:longest]}..."


def _value_without_logins(value: Any) -> Any:
    if isinstance(value, str):
        return without_logins(value)
    if isinstance(value, Mapping):
        return settings_without_logins(value)
    return [_value_without_logins(item) for item in value] if isinstance(value, list | tuple) else value
