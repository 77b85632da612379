"""A chat template in Ollama's language, Go's text/template, read off from what the Jinja template writes.

Templates of Llama 3, ChatML, Gemma, Mistral and their kin put every turn between a few fixed strings. These are found
by rendering conversations of known words; a template that writes anything else is not translated. What is the result
of a fault here is found by rendering other conversations both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs

Messages = Sequence[Mapping[str, str]]
Render = Callable[[Messages, bool], str]
"""Writes a conversation out, with or without the start of the reply. Raises `ValueError` for one that it refuses."""

ASKED, ANSWERED, AGAIN, ORDERED = "First words", "Second words", "Third words", "Orders given"


@attrs.frozen(kw_only=True)
class Turns:
    """The strings around turns. `opening` and the two around a system prompt stand before the first user's words.

    `user` stands before the words of a later one, and is None where that is never asked.
    """

    opening: str
    system: tuple[str, str] | None
    user: str
    user_end: str
    assistant: str
    assistant_end: str
    reply: str


def translated(render: Render) -> str | None:
    """The Go template that writes what `render` writes, or None if this one cannot be translated."""
    try:
        turns = _turns(render)
        same = all(_filled(turns, messages) == render(messages, True) for messages in _conversations(turns))
    except ValueError:
        return None
    strings = [piece for piece in attrs.astuple(turns, recurse=False) if isinstance(piece, str)] + [
        *(turns.system or ())
    ]
    writable = not any("{{" in piece or "}}" in piece or '"""' in piece for piece in strings)
    return _go(turns) if same and writable else None


def _turns(render: Render) -> Turns:
    first, answer, second = _said("user", ASKED), _said("assistant", ANSWERED), _said("user", AGAIN)
    opening, ending = _between(render([first], False), ASKED)
    _, asking = _between(render([first], True), ASKED)
    whole = render([first, answer, second], True)
    to_answer, to_again = _between(_between(whole, ASKED)[1], ANSWERED)
    assistant_end = _between(render([first, answer], False), ANSWERED)[1]
    after, _ = _between(to_again, AGAIN)
    return Turns(
        opening=opening,
        system=_system(render, first),
        user=_without(after, assistant_end),
        user_end=ending,
        assistant=_without(to_answer, ending),
        assistant_end=assistant_end,
        reply=_without(asking, ending),
    )


def _system(render: Render, first: Mapping[str, str]) -> tuple[str, str] | None:
    try:
        before, after = _between(render([_said("system", ORDERED), first], False), ORDERED)
    except ValueError:  # there are templates that refuse a system prompt
        return None
    return before, _between(after, ASKED)[0]


def _said(role: str, words: str) -> Mapping[str, str]:
    return {"role": role, "content": words}


def _between(text: str, words: str) -> tuple[str, str]:
    before, found, after = text.partition(words)
    if not found or words in after:
        raise ValueError(f"{words!r} is not written once")
    return before, after


def _without(text: str, start: str) -> str:
    if not text.startswith(start):
        raise ValueError(f"{text!r} does not start with {start!r}")
    return text[len(start) :]


def _conversations(turns: Turns) -> list[Messages]:
    """Others than those that the strings were found with."""
    words = [("user", "One?"), ("assistant", "Two.\nThree"), ("user", "Four"), ("assistant", "5"), ("user", "a  b?")]
    plain = [[_said(*each) for each in words[:count]] for count in (1, 3, 5)]
    return [*plain, *([_said("system", "Be brief.\nBe kind."), *some] for some in plain if turns.system)]


def _filled(turns: Turns, messages: Messages) -> str:
    """What the Go template writes, ready for the reply."""
    orders = [message["content"] for message in messages if message["role"] == "system"]
    text = orders[0].join(turns.system) if orders and turns.system else turns.opening
    spoken = [message for message in messages if message["role"] != "system"]
    for number, message in enumerate(spoken):
        if message["role"] == "user":
            text += (turns.user if number else "") + message["content"] + turns.user_end
        else:
            text += turns.assistant + message["content"] + turns.assistant_end
    return text + turns.reply


def _go(turns: Turns) -> str:
    """Ollama gives the conversation as `.Messages`, and its system prompt as `.System` besides.

    Where the last turn is the assistant's, it is left open, so that it goes on with it.
    """
    opening = turns.opening
    if turns.system:
        given = "{{ .System }}".join(turns.system)
        opening = f"{{{{ if .System }}}}{given}{{{{ else }}}}{opening}{{{{ end }}}}"
    return (
        f"{opening}{{{{ $first := true }}}}{{{{ range $i, $_ := .Messages }}}}"
        "{{ $last := eq (len (slice $.Messages $i)) 1 }}"
        '{{ if eq .Role "user" }}'
        f"{{{{ if $first }}}}{{{{ $first = false }}}}{{{{ else }}}}{turns.user}{{{{ end }}}}"
        f"{{{{ .Content }}}}{turns.user_end}{{{{ if $last }}}}{turns.reply}{{{{ end }}}}"
        '{{ else if eq .Role "assistant" }}'
        f"{turns.assistant}{{{{ .Content }}}}{{{{ if not $last }}}}{turns.assistant_end}{{{{ end }}}}"
        "{{ end }}{{ end }}"
    )
