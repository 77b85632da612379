"""Try out a tokenizer with a chat template: what ends a reply, and what the template does to it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import MASKED, RunError
from ftcore_plugins.common.chat.encoding import ChatFormat, Refused, Train
from ftcore_plugins.common.chat.exact import CLOSED, OPENED, Exact
from ftcore_plugins.common.chat.layout import Layout, probe_conversation
from ftcore_plugins.common.chat.messages import OPEN_THOUGHTS, THOUGHTS
from ftcore_plugins.common.chat.named import chosen_template
from ftcore_plugins.common.chat.rendering import ChatTemplate, looked_for
from ftcore_plugins.common.chat.tokens import anchor_of, control_tokens, normal_form, tokens_of

__all__ = ["chat_format"]

PROBE = "ftcoreprobe"
"""A reply to try a template with: letters that no template writes by itself."""

PADDED = f"\n {PROBE} \n"
QUESTION = "question"

COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
THINKS = re.compile(r"think>|reasoning_content")
"""A template that writes thoughts, or leaves them out."""


def chat_format(tokenizer: Any, template: str = "", path: Path | None = None, train: Train = "all") -> ChatFormat:
    """Try out a tokenizer with its own chat template, or with the one that the options choose.

    Raises `RunError` if there is no template, its tokens are not in the vocabulary, it does not render a
    reply as it is, nothing ends the reply, or it hangs.
    """
    source = chosen_template(tokenizer, template, path)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    exact = _tried(
        Exact(template=ChatTemplate(source=source, special=special), control=control_tokens(tokenizer, source))
    )
    tokens = tokens_of(tokenizer, exact.control)
    strips = _strips(exact.template)
    ready = ChatFormat(
        tokens=tokens,
        layout=Layout(exact=exact, looked_for=looked_for(source), strips=strips),
        control=exact.control,
        normal=normal_form(tokens),
        anchor=anchor_of(tokens),
        strips="assistant" in strips,
        thoughts=_thoughts(exact.template),
    )
    return attrs.evolve(ready, end_of_turn=_end_of_turn(ready, tokenizer.added_tokens_decoder), train=train)


def _tried(plain: Exact) -> Exact:
    template = plain.template
    question, chat = _asked(), _asked(PROBE)
    [prompt], [text] = template.prompts([question]), template.texts([chat])
    start = _marked_start(template, prompt) if template.has_marks else None
    exact = attrs.evolve(plain, marked=start is not None)
    place = text.find(PROBE, _common(prompt, text) if start is None else start)
    if place < 0:
        raise RunError("chat template: it does not write the reply that it is given; use another template")
    tail = text[place + len(PROBE) :]
    ends = plain.control.search(tail)
    if not ends:
        raise RunError("chat template: it ends the reply with no special token; use another template")
    prelude = _prelude(prompt, text[:place], start)
    return attrs.evolve(exact, prelude=prelude, end=ends.group(), tail=tail)


def _prelude(prompt: str, before: str, start: int | None) -> str:
    """What stands between a prompt and its reply. `before` is the text before the reply."""
    if start is not None or before.startswith(prompt):
        return before[len(prompt) if start is None else start :]
    if not OPENED.search(prompt):
        return ""
    closed = before[_common(prompt, before) :]  # a template without thoughts to write may write empty ones
    return closed if "</think>" in closed else CLOSED


def _marked_start(template: ChatTemplate, prompt: str) -> int | None:
    """Where the reply begins by the template's marks, or None if the prompts are the better guide.

    Marks around the header as well would train what is always given, and Phi 3 has two marks for one reply.
    """
    [(_, spans)] = template.marked([_asked("answer")])
    return spans[0][0] if len(spans) == 1 and spans[0][0] >= len(prompt) else None


def _strips(template: ChatTemplate) -> frozenset[str]:
    """The roles whose texts the template strips."""
    found = set()
    for role in ("system", "user", "assistant"):
        texts = {"system": "brief", "user": QUESTION, "assistant": "answer", role: PADDED}
        roles = [name for name in texts if name != "system" or role == "system"]
        try:
            [text] = template.texts([probe_conversation(roles, [texts[name] for name in roles])])
        except RunError:  # a template without a system prompt; a row that has one is told so
            continue
        found |= {role} if PADDED not in text else set()
    return frozenset(found)


def _thoughts(template: ChatTemplate) -> re.Pattern[str] | None:
    if OPENED.search(template.prompts([_asked()])[0]):
        return OPEN_THOUGHTS
    return THOUGHTS if THINKS.search(COMMENT.sub("", template.source)) else None


def _end_of_turn(ready: ChatFormat, added: Sequence[int]) -> int:
    [encoded] = ready.encode([_asked(PROBE)])
    if isinstance(encoded, Refused):
        raise RunError(f"chat template: it cannot be trained with this tokenizer: {encoded.reason}")
    last = max(place for place, label in enumerate(encoded.labels) if label != MASKED)
    token = encoded.input_ids[last]
    if token not in added:
        raise RunError("chat template: the tokenizer splits the token that ends a reply; add it as a special token")
    return token


def _asked(*replies: str) -> Any:
    return probe_conversation(("user", "assistant")[: 1 + len(replies)], [QUESTION, *replies])


def _common(first: str, second: str) -> int:
    """Characters at the beginning that two texts share."""
    pairs = zip(first, second, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
