"""What an error says, without what nobody else may read: it goes into files, to terminals and into reports."""

from __future__ import annotations

import os
import re

NAMES = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")
"""Parts of the names of environment variables that hold secrets."""

SHORTEST = 6
"""A shorter value is a flag, such as `1`, and stands in many a sentence."""

_LOGIN = re.compile(r"(?<=://)[^/\s@]+(?=@)")


def without_secrets(text: str) -> str:
    """`text` with three stars for logins in addresses, and for the values of variables such as `WANDB_API_KEY`."""
    found = [value for name, value in os.environ.items() if any(part in name.upper() for part in NAMES)]
    for value in sorted(found, key=len, reverse=True):
        if len(value) >= SHORTEST:
            text = text.replace(value, "***")
    return _LOGIN.sub("***", text)


def sentence(error: BaseException, longest: int = 300) -> str:
    """An error on one line, without secrets."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    text = without_secrets(text.removesuffix(":"))
    return text if len(text) <= longest else f"{text[:longest]}..."
