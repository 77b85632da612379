"""Tell a text that is far too long by its beginning: all of its tokens would take minutes and gigabytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["is_far_too_long"]

Encode = Callable[[Sequence[str]], Sequence[Sequence[int]]]

FAR = 64
"""Characters a token from which on the beginning is asked; texts have three to five."""

CERTAIN = 2
"""How many times over the beginning alone must be too long: where it is cut, its tokens are not the text's."""


def is_far_too_long(encode: Encode, texts: Sequence[str], most: int) -> bool:
    """Whether the texts, one after the other, are sure to have more than `most` tokens. With 0, nothing is."""
    reach = FAR * most
    if not most or sum(map(len, texts)) <= reach:
        return False
    [tokens] = encode(["".join(text[:reach] for text in texts)[:reach]])
    return len(tokens) > CERTAIN * most
