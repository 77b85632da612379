"""Cut rendered conversations into what the model is given and what it says, by the prompt for each reply."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import attrs

from ftcore.api import RowError
from ftcore_plugins.common.chat.messages import Conversation, Message, texts_of
from ftcore_plugins.common.chat.rendering import ChatTemplate

__all__ = ["CLOSED", "OPENED", "Exact", "Pieces", "Turns"]

Pieces = list[str]
"""A conversation as text, in turn what the model is given and what it says; it begins and ends with the given.

What follows a reply begins with the token that ends it.
"""

THOUGHT = re.compile(r"^\s*<think>.*?</think>\s*", re.DOTALL)
"""Thoughts, or the place of such, that a template writes before a reply."""

Turns = tuple[int, ...]
"""The replies that are trained, by their place among the messages."""

OPENED = re.compile(r"<think>\s*$")
"""A prompt that begins the model's thoughts for it, as DeepSeek R1's does."""

CLOSED = "\n</think>\n\n"
"""What ends them, if a template writes no empty ones of its own."""


@attrs.frozen(kw_only=True)
class Exact:
    """How a template writes replies. Each is found by rendering the messages before it with a generation prompt.

    `marked` says that `{% generation %}` marks tell where replies begin instead. `prelude` is what the template
    has a model say before the reply proper, such as the empty thoughts of Qwen 3. `end` is the token that ends a
    reply, `tail` what follows the last reply, from there on or from shortly before, and `ends` are `end` and the
    tokens that end replies of another kind, such as calls of tools.
    """

    template: ChatTemplate
    control: re.Pattern[str]
    marked: bool = False
    prelude: str = ""
    end: str = ""
    tail: str = ""
    ends: frozenset[str] = frozenset()

    def pieces(self, conversations: Sequence[Conversation], turns: Sequence[Turns]) -> list[Pieces]:
        """Cut each conversation at the replies of `turns`.

        Raises `RowError` when the template does not write a reply, or another message, as it is, and when the
        prompt for a reply is not what stands before it.
        """
        if self.marked:
            texts, starts = self._by_marks(conversations, turns)
            prompts = [[text[:start] for start in row] for text, row in zip(texts, starts, strict=True)]
        else:
            texts, prompts = self.template.texts(conversations), self._prompts(conversations, turns)
        return [
            self._cut(one, text, row, replies)
            for one, text, row, replies in zip(conversations, texts, prompts, turns, strict=True)
        ]

    def _by_marks(
        self, conversations: Sequence[Conversation], turns: Sequence[Turns]
    ) -> tuple[list[str], list[list[int]]]:
        rendered = self.template.marked(conversations)
        starts = []
        for one, (_, spans), trained in zip(conversations, rendered, turns, strict=True):
            replies = [place for place, role in enumerate(one.roles) if role == "assistant"]
            if len(spans) != len(replies):
                reason = f"the chat template marks {len(spans)} replies of {len(replies)}; use another template"
                raise RowError(reason, origin=one.origin)
            begins = {place: start for place, (start, _) in zip(replies, spans, strict=True)}
            starts.append([begins[turn] for turn in trained])
        return [text for text, _ in rendered], starts

    def _prompts(self, conversations: Sequence[Conversation], turns: Sequence[Turns]) -> list[list[str]]:
        heads = [_head(one, turn) for one, row in zip(conversations, turns, strict=True) for turn in row]
        prompts = iter(self.template.prompts(heads) if heads else [])
        return [[next(prompts) for _ in row] for row in turns]

    def _cut(self, one: Conversation, text: str, prompts: Sequence[str], turns: Turns) -> Pieces:
        if one.tools:
            self._require_tools(one, text)
        if not all(text.startswith(prompt) for prompt in prompts):
            return self._composed(one, text, prompts, turns)
        pieces, done = [], 0
        for turn, prompt in zip(turns, prompts, strict=True):
            start = len(prompt)
            stop = self._stop(one, turn, text, start)
            self._require_end(one, turn, text, stop)
            pieces += [text[done:start], text[start:stop]]
            done = stop
        _require_written(one, text)
        return [*pieces, text[done:]]

    def _require_end(self, one: Conversation, turn: int, text: str, stop: int) -> None:
        found = self.control.match(text, stop)
        if not found or found.group() not in self.ends:
            with_what = f"with {found.group()!r}, which is no end of a turn" if found else "with no token"
            mend = "" if turn == len(one.messages) - 1 else 'set train_on = "last", or '
            raise RowError(f"the chat template ends a reply {with_what}; {mend}use another template", origin=one.origin)

    def ending(self, text: str) -> re.Match[str] | None:
        """The token that ends the reply which a text ends with; None if no token does."""
        after = self.tail.partition(self.end)[2]
        reply = text.removesuffix(after).rstrip()
        found = None
        for found in self.control.finditer(reply):  # noqa: B007  # the last one
            pass
        return found if found and found.end() == len(reply) else None

    def _stop(self, one: Conversation, turn: int, text: str, start: int) -> int:
        """Where the token begins that ends the reply which begins at `start`; the end of the text if none does."""
        message = one.messages[turn]
        if len(message) > 2:  # noqa: PLR2004  # tool calls or thoughts: only the template knows how they are written
            return self._rich_stop(one, turn, text, start)
        reply = message["content"]
        heads = (self.prelude, "")  # many templates leave the prelude out of all but the last reply
        head = next((head for head in heads if text.startswith(head + reply, start)), None)
        if head is None:
            raise _changed(reply, one.origin)
        found = self.control.search(text, start + len(head + reply))
        return found.start() if found else len(text)

    def _rich_stop(self, one: Conversation, turn: int, text: str, start: int) -> int:
        # As the last message, the reply is all that follows its prompt: what ends it is its own.
        [alone] = self.template.texts([_head(one, turn + 1)])
        ending = self.ending(alone)
        own = alone[start : ending.start() if ending else None]
        stop = start + len(own)
        if ending and not text.startswith(own, start):  # without its prelude, where messages follow it
            stop = text.find(ending.group(), start)
        span = text[start : max(start, stop)]
        if stop < start or not own.endswith(span):
            raise RowError(
                "the chat template writes a reply with thoughts or calls in another way where messages follow it; "
                'set train_on = "last", or use another template',
                origin=one.origin,
            )
        _require_all_of(one.messages[turn], span, one.origin)
        return stop

    def _require_tools(self, one: Conversation, text: str) -> None:
        [without] = self.template.texts([attrs.evolve(one, tools=())])
        for tool in one.tools:
            name = (tool.get("function") or tool).get("name")
            if not isinstance(name, str) or name not in text or text == without:
                reason = f"the chat template does not write the tool {name!r}; use a template for tools"
                raise RowError(reason, origin=one.origin)

    def _composed(self, one: Conversation, text: str, prompts: Sequence[str], turns: Turns) -> Pieces:
        """The prompt for the last reply and the reply, where a template would write other things before the latter.

        This is what a model answers from in use. For earlier replies there is no such text: each has its own.
        """
        last = len(one.messages) - 1
        if turns != (last,):
            raise RowError(
                "the chat template writes a reply in the midst of a conversation in another way than it asks for it, "
                'so only the last one can be trained; set train_on = "last", or use another template',
                origin=one.origin,
            )
        message = one.messages[last]
        opened = OPENED.search(prompts[0])
        ending = self.ending(text)
        written = self._written(message, text[: ending.start()], prompts[0], opened) if ending else None
        if not ending or written is None:
            raise _changed(message["content"], one.origin) if len(message) == 2 else _unasked(one.origin)  # noqa: PLR2004
        self._require_end(one, last, text, ending.start())
        said = self._thought(message, written) if opened else written
        _require_all_of(message, said, one.origin)
        _require_written(one, prompts[0])
        return [prompts[0], said, text[ending.start() :]]

    def _written(self, message: Message, text: str, prompt: str, opened: re.Match[str] | None) -> str | None:
        """The reply that ends a text, without thoughts that the prompt opens; None if the template changed it."""
        if opened and "tool_calls" in message:
            head = prompt[: opened.start()]
            return THOUGHT.sub("", text[len(head) :]) if text.startswith(head) else None
        reply = str(message["content"]) + self.tail.partition(self.end)[0] if opened else self._alone(message)
        return reply if reply and text.endswith(reply) else None

    def _alone(self, message: Message) -> str:
        """The reply as the template writes it to a bare question; nothing if it is not what it asks for."""
        question = {"role": "user", "content": "question"}
        chat = Conversation(messages=[question, message], roles=("user", "assistant"), origin="", plain=False)
        [prompt], [text] = self.template.prompts([_head(chat, 1)]), self.template.texts([chat])
        ending = self.ending(text)
        return text[len(prompt) : ending.start()] if ending and text.startswith(prompt) else ""

    def _thought(self, message: Message, reply: str) -> str:
        """What the model says after a prompt that opens its thoughts: these or none, their end, and the reply."""
        thoughts = message.get("reasoning_content", "").strip()
        closed = self.prelude if "</think>" in self.prelude else CLOSED
        return f"{thoughts}\n{closed.lstrip()}{reply}" if thoughts else closed + reply


def _head(one: Conversation, turn: int) -> Conversation:
    return attrs.evolve(one, messages=one.messages[:turn], roles=one.roles[:turn])


def _changed(reply: str, origin: str) -> RowError:
    return RowError(f"the chat template changes the reply {reply[:60]!r}; mend the row or leave it out", origin=origin)


def _unasked(origin: str) -> RowError:
    reason = "the chat template writes a reply with thoughts or calls in another way than it asks for it"
    return RowError(f"{reason}; use another template, or chat_template_kwargs that ask for it", origin=origin)


def _require_written(one: Conversation, text: str) -> None:
    """Raise `RowError` unless what the model is told stands in the text: some templates pass a role over."""
    for number, message in enumerate(one.messages, start=1):
        if message["role"] in ("system", "user") and message["content"].strip() not in text:
            raise RowError(
                f"the chat template leaves out or changes message {number} ({message['role']}); "
                "use another template, or leave it out of the row",
                origin=one.origin,
            )


def _require_all_of(message: Message, span: str, origin: str) -> None:
    """Raise `RowError` unless the text that the template wrote for a reply has its thoughts and calls in it."""
    if message.get("reasoning_content", "").strip() not in span:
        reason = 'the chat template leaves out the thoughts of a reply; set train_on = "last", or use another template'
        raise RowError(reason, origin=origin)
    missing = any(span.count(text) < count for text, count in Counter(_told(message)).items())
    if missing or message["content"].strip() not in span:
        raise RowError("the chat template leaves out a tool call; use a template for tools", origin=origin)


def _told(message: Message) -> Iterator[str]:
    """What a template must write of the calls of a message: their names, and those arguments that it cannot change."""
    for call in message.get("tool_calls", ()):
        yield call["function"]["name"]
        yield from (text for text in texts_of(call["function"]["arguments"]) if text.isalnum() and text.isascii())
