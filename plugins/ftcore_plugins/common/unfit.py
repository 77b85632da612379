"""Texts that no row may have, whoever formats it."""

from __future__ import annotations

import re

__all__ = ["refusal_of"]

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a character, which JSON can spell, but UTF-8 and tokenizers cannot."""


def refusal_of(text: str, control: re.Pattern[str]) -> str:
    """Why a text cannot be trained on, if it cannot. `control` finds the tokens that no row may spell."""
    if not text.isascii() and LONE_SURROGATE.search(text):
        return "not valid unicode"
    return "contains control tokens" if control.search(text) else ""
