"""A formatter: support tickets with a question and an answer become tokenized examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from ftcore.api import MASKED, Drop, Example, Format, Row, RowError, RunError, hookimpl, option

PROBE_QUESTION, PROBE_ANSWER = "Does it work?", "It does."


@attrs.frozen(kw_only=True)
class Options:
    """Options of `[plugin.acme_tickets]`."""

    question: str = option("question", help="column with the customer's question")
    answer: str = option("answer", help="column with the reply to train")
    signature: str = option("", help="text put at the end of every reply, such as a team's name; none if empty")


class Tickets:
    """Trains the answer of each support ticket; the question is the prompt."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config

    @hookimpl
    def format_dataset(self, processor: Any) -> Format:
        """Each ticket is one chat turn. Reading, counting, length and the split are the engine's work."""
        tokenizer = getattr(processor, "tokenizer", processor)
        ending, pad = end_of_turn(tokenizer), tokenizer.pad_token_id
        return Format(
            encode=Encode(options=self.config, tokenizer=tokenizer, ending=ending),
            collate=Collate(pad=ending if pad is None else pad),
            processor=processor,
            end_of_turn=ending,
        )


@attrs.frozen(kw_only=True)
class Encode:
    """Tickets to tokens. A frozen object, so that it can travel to other processes."""

    options: Options
    tokenizer: Any
    ending: int

    def __call__(self, rows: Sequence[Row]) -> list[Example | Drop]:
        """One answer a row, in order. Raises `RowError` for a row without the two columns."""
        return [self._one(row) for row in rows]

    def _one(self, row: Row) -> Example | Drop:
        question, answer = _text(row, self.options.question), _text(row, self.options.answer)
        if not answer:
            return Drop(origin=row.origin, reason="no answer")
        reply = f"{answer}\n{self.options.signature}" if self.options.signature else answer
        prompt, trained = _ids(self.tokenizer, _prompt(self.tokenizer, question)), _ids(self.tokenizer, reply)
        if self.tokenizer.decode(trained, clean_up_tokenization_spaces=False) != reply:
            return Drop(origin=row.origin, reason="answer changes when it is tokenized")
        return Example(
            input_ids=[*prompt, *trained, self.ending],
            labels=[*[MASKED] * len(prompt), *trained, self.ending],
            replies=(reply,),
            origin=row.origin,
        )


@attrs.frozen(kw_only=True)
class Collate:
    """Pads a batch on the right: tensors of shape (rows, tokens). Padding is neither attended to nor trained."""

    pad: int

    def __call__(self, examples: Sequence[Example]) -> Mapping[str, Any]:
        """Collate."""
        import torch

        width = max(len(example.input_ids) for example in examples)

        def padded(lists: Iterable[Sequence[int]], filler: int) -> Any:
            return torch.tensor([[*values, *[filler] * (width - len(values))] for values in lists])

        return {
            "input_ids": padded((example.input_ids for example in examples), self.pad),
            "attention_mask": padded(([1] * len(example.input_ids) for example in examples), 0),
            "labels": padded((example.labels for example in examples), MASKED),
        }


def end_of_turn(tokenizer: Any) -> int:
    """The token that the chat template puts after a reply. Raises `RunError` when it puts none there."""
    if not tokenizer.chat_template:
        raise RunError("acme_tickets: the tokenizer has no chat template; choose a chat model")
    messages = [{"role": "user", "content": PROBE_QUESTION}, {"role": "assistant", "content": PROBE_ANSWER}]
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    _, found, rest = whole.partition(_prompt(tokenizer, PROBE_QUESTION) + PROBE_ANSWER)
    if not found or not rest:
        raise RunError("acme_tickets: the chat template does not render a reply as it is, then end it with a token")
    return _ids(tokenizer, rest)[0]


def _prompt(tokenizer: Any, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _text(row: Row, column: str) -> str:
    value = row.values.get(column)
    if not isinstance(value, str):
        names = ", ".join(row.values) or "none"
        raise RowError(f"column {column!r} holds no text; the row has {names}", origin=row.origin)
    return value.strip()
