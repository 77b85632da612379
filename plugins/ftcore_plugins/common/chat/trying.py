"""Try out a tokenizer with a chat template: what ends a reply, and what the template does to it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import MASKED, RowError, RunError
from ftcore_plugins.common.chat.encoding import ChatFormat, Refused, Train
from ftcore_plugins.common.chat.exact import CLOSED, OPENED, Exact
from ftcore_plugins.common.chat.layout import Layout, probe_conversation
from ftcore_plugins.common.chat.messages import OPEN_THOUGHTS, THOUGHTS, Conversation, Message
from ftcore_plugins.common.chat.named import Variables, chosen_template
from ftcore_plugins.common.chat.rendering import ChatTemplate, looked_for
from ftcore_plugins.common.chat.tokens import anchor_of, control_tokens, normal_form, tokens_of

__all__ = ["chat_format"]

PROBE = "ftcoreprobe"
"""A reply to try a template with: letters that no template writes by itself."""

KEY, VALUE = "ftcorekey", "ftcorevalue"
"""An argument of a call to try a template with."""

PADDED = f"\n {PROBE} \n"
QUESTION = "question"

COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
THINKS = re.compile(r"think>|reasoning_content")
"""A template that writes thoughts, or leaves them out."""


def chat_format(
    processor: Any,
    template: str = "",
    path: Path | None = None,
    train: Train = "all",
    variables: Variables | None = None,
) -> ChatFormat:
    """Try out a tokenizer, or that of a processor, with its own chat template, or the one that the options choose.

    Raises `RunError` if there is no template, its tokens are not in the vocabulary, it does not render a
    reply as it is, nothing ends the reply, or it hangs.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    source = chosen_template(processor, template, path)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    chosen = ChatTemplate(source=source, special=special, variables=dict(variables or {}))
    exact = _tried(Exact(template=_told(chosen), control=control_tokens(tokenizer, source)))
    tokens, added = tokens_of(tokenizer, exact.control), tokenizer.added_tokens_decoder
    other, inner = (
        {text: ids[0] for text in texts if (ids := tokens.encode([text])[0])[0] in added} for texts in _ends(exact)
    )
    exact = attrs.evolve(exact, ends=frozenset({exact.end, *other, *inner}))
    strips = _strips(exact.template)
    ready = ChatFormat(
        tokens=tokens,
        layout=Layout(exact=exact, looked_for=looked_for(source), strips=strips),
        control=exact.control,
        other_ends=frozenset(other.values()),
        inner_ends=frozenset(inner.values()),
        normal=normal_form(tokens),
        anchor=anchor_of(tokens),
        strips="assistant" in strips,
        thoughts=_thoughts(exact.template),
    )
    return attrs.evolve(ready, end_of_turn=_end_of_turn(ready, added), train=train)


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
    return attrs.evolve(exact, prelude=prelude, end=ends.group(), tail=tail, ends=frozenset({ends.group()}))


def _told(template: ChatTemplate) -> ChatTemplate:
    """The template, told to take messages in the first form that it writes whole, if there is one."""
    asked = _asked(PROBE)
    forms = (tried for tried in (template, attrs.evolve(template, parts=True)) if PROBE in _rendered(tried, asked))
    template = next(forms, template)
    calling = (
        attrs.evolve(template, text_arguments=as_text, null_content=as_null)
        for as_null in (False, True)
        for as_text in (False, True)
    )
    if "tool_calls" not in template.source:
        return template
    return next((tried for tried in calling if _writes_calls(tried)), template)


def _writes_calls(template: ChatTemplate) -> bool:
    text = _rendered(template, _calling(1))
    return PROBE in text and VALUE in text and f"{{'{KEY}'" not in text  # so Python writes an object, and JSON does not


def _ends(exact: Exact) -> tuple[set[str], set[str]]:
    """Tokens other than the usual one that end a call of tools, and a reply in the midst of a conversation."""
    one, two = (_rendered(exact.template, _calling(count)) for count in (1, 2))
    ending = exact.ending(one)
    calls = {ending.group()} if ending and -1 < one.rfind(PROBE) < ending.start() else set()
    # What ends each of several calls does not end the reply.
    calls -= {*exact.control.findall(two, two.find(PROBE), max(0, two.rfind(PROBE)))}
    return calls - {exact.end}, _inner_end(exact) - {exact.end}


def _inner_end(exact: Exact) -> set[str]:
    """The token between a reply and what comes next, whoever is next to speak, if another one begins the latter."""
    going_on = probe_conversation(("user", "assistant", "user"), [QUESTION, PROBE, QUESTION])
    texts = _rendered(exact.template, _asked(PROBE), prompt=True), _rendered(exact.template, going_on)
    after, before = (text.partition(PROBE)[2] for text in texts)
    found = exact.control.findall(after[: _common(after, before)])
    return {found[0]} if len(found) > 1 else set()


def _rendered(template: ChatTemplate, one: Conversation, *, prompt: bool = False) -> str:
    """What the template makes of it; nothing if it refuses it, which a row that needs it is told."""
    try:
        return (template.prompts if prompt else template.texts)([one])[0]
    except RowError:
        return ""


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
        text = _rendered(template, probe_conversation(roles, [texts[name] for name in roles]))
        found |= {role} if text and PADDED not in text else set()
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


def _calling(count: int) -> Conversation:
    function = {"name": PROBE, "arguments": {KEY: VALUE}}
    calls = [{"type": "function", "id": f"ftcore{place:03}", "function": function} for place in range(count)]
    messages: list[Message] = [{"role": "user", "content": QUESTION}]
    messages.append({"role": "assistant", "content": "", "tool_calls": calls})
    return Conversation(messages=messages, roles=("user", "assistant"), origin="chat template", plain=False)


def _asked(*replies: str) -> Any:
    return probe_conversation(("user", "assistant")[: 1 + len(replies)], [QUESTION, *replies])


def _common(first: str, second: str) -> int:
    """Characters at the beginning that two texts share."""
    pairs = zip(first, second, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
