"""Where the hub's client keeps its files and its token, and whether it may go online; without importing it."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["exchanges_tokens", "find_token", "hub_address", "hub_cache", "is_offline", "is_token", "token_source"]

YES = {"1", "ON", "YES", "TRUE"}
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def is_offline() -> bool:
    """Whether the environment forbids to ask the hub."""
    return any(os.environ.get(name, "").upper() in YES for name in OFFLINE)


def hub_address() -> str:
    """The hub itself, or what `HF_ENDPOINT` puts in its place."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def hub_cache() -> Path:
    """The folder of downloaded repositories."""
    return Path(os.environ.get("HF_HUB_CACHE") or _home() / "hub").expanduser()


def find_token() -> str:
    """The token that the client would send; empty if there is none. Never write it anywhere."""
    named = next((value for name in VARIABLES if (value := os.environ.get(name, "").strip())), "")
    if named:
        return named
    try:
        return _file().read_text("utf-8").strip()
    except (OSError, ValueError):
        return ""


def is_token(text: str) -> bool:
    """Whether it may be sent; what libraries say of other characters in a header shows the whole of it."""
    return text.isascii() and text.isprintable() and " " not in text


def exchanges_tokens() -> bool:
    """Whether the client gets a token of its own from a CI service, when it needs one."""
    return bool(os.environ.get("HF_OIDC_RESOURCE"))


def token_source() -> str:
    """In a user's words, where the token is from."""
    return next((name for name in VARIABLES if os.environ.get(name, "").strip()), "the login of hf auth login")


def _file() -> Path:
    return Path(os.environ.get("HF_TOKEN_PATH") or _home() / "token").expanduser()


def _home() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or f"{cache}/huggingface").expanduser()
