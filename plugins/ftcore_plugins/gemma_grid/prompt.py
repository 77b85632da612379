"""The text around a picture and a question: what the profile's prompt and the model's chat template write."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import attrs

from ftcore.api import RunError

__all__ = ["DEFAULT_PROMPT", "PLACES", "ChatTurn", "chat_turn", "control_tokens", "question_of", "unknown_places"]

DEFAULT_PROMPT = """\
The image is a grid of four frames of a game in the order of time: 1 top left (the oldest), 2 top right, \
3 bottom left, 4 bottom right (now).
{context}
{question}
Answer with the next action as JSON only."""

PLACES = ("context", "question")
PLACE = re.compile(r"\{(\w+)\}")

# Texts that no template writes by itself; two, to see that the template writes around any text the same.
PROBES = ("ftcoreprobe", "another {probe}\nof ftcore")
TIME_LIMIT = 10.0


@attrs.frozen(kw_only=True)
class ChatTurn:
    """What the chat template writes before the image, from there to the text, and from there to the reply."""

    before: str
    between: str
    after: str
    end_of_turn: int

    def prompt(self, image: str, text: str) -> str:
        """The whole prompt; `image` is the text that stands for the image and its crops."""
        return f"{self.before}{image}{self.between}{text}{self.after}"


def question_of(prompt: str, context: str, question: str) -> str:
    """The user's text: `prompt` with its places filled in. A line whose places all come out empty is left out."""
    values = {"context": context.strip(), "question": question.strip()}

    def lines() -> Iterable[str]:
        for line in prompt.splitlines():
            places = [name for name in PLACE.findall(line) if name in values]
            if not places or any(values[name] for name in places):
                yield PLACE.sub(lambda match: values.get(match[1], match[0]), line)

    return "\n".join(lines()).strip()


def unknown_places(prompt: str) -> list[str]:
    """Names in braces that nothing is put in the place of. JSON in a prompt has quotes, and so is none."""
    return [name for name in PLACE.findall(prompt) if name not in PLACES]


def chat_turn(processor: Any) -> ChatTurn:
    """Try the processor's chat template out. Raises `RunError` if it has none, or one that changes what it is given.

    The template is rendered for this only: what it writes around image and text is the same for every row.
    """
    first, second = (_rendered(processor, probe) for probe in PROBES)
    head, _, after = first.partition(PROBES[0])
    if first.count(PROBES[0]) != 1 or head.count(processor.boi_token) != 1 or second != head + PROBES[1] + after:
        raise RunError("model.id: the chat template does not write an image and a text as they are; use another model")
    before, _, between = head.partition(processor.boi_token)
    return ChatTurn(before=before, between=between, after=after, end_of_turn=_end_of_turn(processor, first))


def control_tokens(processor: Any) -> re.Pattern[str]:
    """Matches any token that no row may spell: the special ones, and added ones that the chat template writes."""
    tokenizer, source = processor.tokenizer, str(processor.chat_template or processor.tokenizer.chat_template)
    added = tokenizer.added_tokens_decoder.values()
    named = {token.content for token in added if token.special or (token.content in source and token.content.strip())}
    tokens = {*named, *tokenizer.all_special_tokens, processor.boi_token, tokenizer.image_token, tokenizer.eoi_token}
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))


def _rendered(processor: Any, question: str, reply: str = "") -> str:
    from ftcore_plugins.common.chat.rendering import within

    parts = [{"type": "image"}, {"type": "text", "text": question}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": parts}]
    if reply:
        messages.append({"role": "assistant", "content": [{"type": "text", "text": reply}]})

    def render() -> Any:
        return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=not reply)

    try:
        return str(within(TIME_LIMIT, render))
    except RunError:
        raise
    except Exception as error:  # whatever a template raises
        raise RunError(f"model.id: the chat template does not take an image and a text: {error}") from error


def _end_of_turn(processor: Any, prompt: str) -> int:
    """The token after a reply."""
    reply = '{"probe": 1}'
    text, tokenizer = _rendered(processor, PROBES[0], reply), processor.tokenizer
    if not text.startswith(prompt + reply):
        raise RunError("model.id: the chat template does not ask for the reply that it is given; use another model")
    tokens = tokenizer(text[len(prompt + reply) :], add_special_tokens=False)["input_ids"]
    if not tokens or tokens[0] not in tokenizer.added_tokens_decoder:
        raise RunError("model.id: the chat template ends a reply with no special token; use another model")
    return int(tokens[0])
