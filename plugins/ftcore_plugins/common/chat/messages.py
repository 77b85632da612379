"""Conversations as data sets write them, made into one form and checked."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from ftcore.api import RowError
from ftcore_plugins.common.chat.calls import NoMessageError, calls_of, parsed, tools_of

__all__ = ["OPEN_THOUGHTS", "THOUGHTS", "Conversation", "Message", "conversation", "kind_of", "texts_of"]

Message = dict[str, Any]
"""`role` (system, user, assistant or tool), `content`, which is a text, and maybe `tool_calls` and their like."""

CALLS = "function_call"
"""The role of a ShareGPT message whose text is calls of tools, in JSON."""

ROLES: Mapping[str, str] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    CALLS: "assistant",
    "tool": "tool",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
}
"""Names of roles: those of OpenAI's messages, of ShareGPT, and of sets that were made after it."""

FOLLOWS: Mapping[str, frozenset[str]] = {
    "": frozenset({"system", "user"}),
    "system": frozenset({"user"}),
    "user": frozenset({"assistant"}),
    "assistant": frozenset({"user", "tool"}),
    "tool": frozenset({"tool", "assistant"}),
}

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names that the thoughts before a reply go by; templates know the first."""

FLAGS = ("weight", "train", "training")
"""Flags of a message that is trained, or is not if they are false or 0: OpenAI's, and those of Axolotl's examples."""

DETAILS = ("train_detail", "training_detail")
"""What Axolotl's examples call the parts of a message that are trained alone."""

THOUGHTS = re.compile(r"\s*<think>(.*?)</think>\s*(.*)", re.DOTALL)
"""Thoughts that are written into the reply, as the reasoning models put them out."""

OPEN_THOUGHTS = re.compile(r"\s*(?:<think>)?(.*?)</think>\s*(.*)", re.DOTALL)
"""The same where the prompt has opened them already: such models do not put out the first tag."""


@attrs.frozen(kw_only=True)
class Conversation:
    """Checked messages, up to the last reply, and the tools that the template writes for the model.

    `roles` are those of the messages. `given` are the replies that are not trained, by their place among the
    messages. A `plain` conversation is roles and texts, and nothing else.
    """

    messages: Sequence[Message]
    roles: tuple[str, ...]
    origin: str
    tools: Sequence[Mapping[str, Any]] = ()
    given: frozenset[int] = frozenset()
    plain: bool = True


def conversation(
    messages: Any, origin: str, *, system: str = "", tools: Any = None, given: int = 0, name: str = "messages"
) -> Conversation:
    """Check messages, and put `system` before them if they have none. The first `given` are not trained.

    Takes `role` and `content` of OpenAI as well as `from` and `value` of ShareGPT; replies with one of `FLAGS` that
    is false are not trained. What follows the last reply is cut off, since nothing in it is trained. Raises
    `RowError` unless user and assistant take turns, after an optional system message; tools answer an assistant.
    """
    if isinstance(messages, str):  # CSV has no lists
        messages = parsed(messages) or messages
    if not isinstance(messages, list | tuple):
        raise RowError(f"{name} must be a list, not {kind_of(messages)}", origin=origin)
    if not messages:
        raise RowError(f"{name} is an empty list; write a question and a reply, or leave the row out", origin=origin)
    made = [_message(raw, number, origin) for number, raw in enumerate(messages, start=1)]
    roles = tuple([message["role"] for message in made])
    fault, length = _order(roles)
    if fault:
        raise RowError(fault, origin=origin)
    untrained = {*range(given), *_flagged(messages, roles, origin)}
    if system and roles[0] != "system":
        made.insert(0, {"role": "system", "content": system})
        roles, length, untrained = ("system", *roles), length + 1, {place + 1 for place in untrained}
    ready = tools_of(tools, origin)
    return Conversation(
        messages=made[:length],
        roles=roles[:length],
        origin=origin,
        tools=ready,
        given=frozenset(untrained),
        plain=not ready and all(len(message) == 2 for message in made),  # noqa: PLR2004
    )


def texts_of(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from texts_of(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from texts_of(item)


def kind_of(value: Any) -> str:
    """What a JSON value is, in a word for the user."""
    names = {list: "a list", str: "a text", dict: "an object", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")


@functools.lru_cache(maxsize=4096)
def _order(roles: tuple[str, ...]) -> tuple[str, int]:
    """What is wrong with the order of the roles, and how many messages there are up to the last reply."""
    before = ""
    for number, role in enumerate(roles, start=1):
        if role not in FOLLOWS[before]:
            return _disorder(before, role, number), 0
        before = role
    if "assistant" not in roles:
        return "there is no reply to train: no message is the assistant's", 0
    return "", len(roles) - roles[::-1].index("assistant")


def _disorder(before: str, role: str, number: int) -> str:
    if not before:
        return f"the conversation begins with the {role}; it must begin with the user, after an optional system message"
    if role == "system":
        return f"message {number} is a system message; only the first one may be"
    if role == before:
        return f"messages {number - 1} and {number} are both the {role}'s; user and assistant must take turns"
    return f"message {number} ({role}) may not follow the {before}'s; user and assistant must take turns"


def _flagged(messages: Sequence[Any], roles: Sequence[str], origin: str) -> Iterator[int]:
    """The places of the replies that are not to be trained. Raises `RowError` for a flag that cannot be followed."""
    for place, (raw, role) in enumerate(zip(messages, roles, strict=True)):
        if len(raw) == 2:  # noqa: PLR2004  # role and content alone
            continue
        fault, trained = _flags(raw, role)
        if fault:
            raise RowError(f"message {place + 1} ({role}) has {fault}", origin=origin)
        if not trained:
            yield place


def _flags(raw: Mapping[str, Any], role: str) -> tuple[str, bool]:
    """What is wrong with the flags of a message, and whether it is trained by them."""
    found = {name: raw[name] for name in FLAGS if raw.get(name) is not None}
    for name, value in found.items():
        if value not in (0, 1):
            return f"{name!r} {value!r}, which must be true or false, or 1 or 0", False
        if value and role != "assistant" and name != "weight":  # OpenAI gives no weights to others
            return f"{name!r} true, but replies alone are trained; leave it out", False
    detail = next((name for name in DETAILS if raw.get(name)), "")
    return f"{detail!r}, but a reply is trained as a whole; leave it out" if detail else "", all(found.values())


def _message(raw: Any, number: int, origin: str) -> Message:
    if not isinstance(raw, Mapping):
        raise RowError(f"message {number} must have a role and a content, but it is {kind_of(raw)}", origin=origin)
    name = raw.get("role")
    if name is None:
        name = raw.get("from")
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise RowError(_no_role(name, number), origin=origin)
    content = raw.get("content")
    if content is None:
        content = raw.get("value")
    if len(raw) == 2 and type(content) is str and name != CALLS:  # noqa: PLR2004
        return {"role": role, "content": content}
    try:
        return _rich(raw, role, content, calls_only=name == CALLS)
    except NoMessageError as fault:
        raise RowError(f"message {number} ({role}) {fault}", origin=origin) from None


def _no_role(name: Any, number: int) -> str:
    if not isinstance(name, str):
        return f"message {number} has no role; it must be system, user, assistant or tool"
    close = difflib.get_close_matches(name.lower(), ROLES, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "there are system, user, assistant and tool"
    return f"message {number} has the unknown role {name!r}; {hint}"


def _rich(raw: Mapping[str, Any], role: str, content: Any, *, calls_only: bool) -> Message:
    """A message that has more than a role and a text, or does not have them."""
    calls = calls_of(raw, content if calls_only else None) if role == "assistant" else []
    text = "" if calls and (content is None or calls_only) else _text(content)
    message: Message = {"role": role, "content": text}
    if calls:
        message["tool_calls"] = calls
    thoughts = next((raw[key] for key in REASONING if isinstance(raw.get(key), str) and raw[key].strip()), "")
    if thoughts and role == "assistant":
        message["reasoning_content"] = thoughts
    if role == "tool":
        message |= {key: raw[key] for key in ("name", "tool_call_id") if isinstance(raw.get(key), str)}
    return message


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else None
    if parts and all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in parts):
        return "".join(part["text"] for part in parts)
    if parts:
        raise NoMessageError("has parts that are no text; a plugin for images can train them")
    raise NoMessageError(f"must have a text as its content, not {kind_of(content)}")
