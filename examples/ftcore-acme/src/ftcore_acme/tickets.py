"""A formatter: support tickets with a question and an answer become tokenized examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from ftcore.api import (
    MASKED,
    Drop,
    Example,
    Ledger,
    PreparedData,
    Row,
    Rows,
    Run,
    RunError,
    hookimpl,
    option,
)

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
    def format_dataset(self, run: Run, rows: Rows, processor: Any) -> PreparedData:
        """Tokenize each ticket as one chat turn. Raises `RunError` for a row without the two columns."""
        tokenizer = getattr(processor, "tokenizer", processor)
        ending = end_of_turn(tokenizer)
        train, dropped = self._examples(run, rows.train, tokenizer, ending)
        held_out, also_dropped = self._examples(run, rows.validation, tokenizer, ending)
        ledger = Ledger(
            rows=len(rows.train) + len(rows.validation),
            trained=len(train),
            held_out=len(held_out),
            dropped=(*dropped, *also_dropped),
        )
        pad = tokenizer.pad_token_id
        collate = Collate(pad=ending if pad is None else pad)
        return PreparedData(train=train, validation=held_out, collate=collate, ledger=ledger, end_of_turn=ending)

    def _examples(self, run: Run, rows: Iterable[Row], tokenizer: Any, ending: int) -> tuple[list[Example], list[Drop]]:
        examples, dropped = [], []
        for row in rows:
            example = self._example(row, tokenizer, ending)
            reason = _reason_to_drop(run, example, tokenizer)
            if reason:
                dropped.append(Drop(origin=row.origin, reason=reason))
            else:
                examples.append(example)
        return examples, dropped

    def _example(self, row: Row, tokenizer: Any, ending: int) -> Example:
        question, answer = _text(row, self.config.question), _text(row, self.config.answer)
        reply = f"{answer}\n{self.config.signature}" if answer and self.config.signature else answer
        prompt = _ids(tokenizer, _prompt(tokenizer, question))
        trained = [*_ids(tokenizer, reply), ending]
        return Example(
            input_ids=[*prompt, *trained],
            labels=[*[MASKED] * len(prompt), *trained],
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
        raise RunError(f"{row.origin}: column {column!r} holds no text; the row has {', '.join(row.values) or 'none'}")
    return value.strip()


def _reason_to_drop(run: Run, example: Example, tokenizer: Any) -> str:
    (reply,) = example.replies
    if not reply:
        return "no answer"
    trained = [label for label in example.labels if label != MASKED]
    if tokenizer.decode(trained[:-1], clean_up_tokenization_spaces=False) != reply:
        return "answer changes when it is tokenized"
    limit, length = run.profile.train.max_length, len(example.input_ids)
    if length > limit and run.profile.data.long_rows == "error":
        raise RunError(f"{example.origin}: {length} tokens, over train.max_length ({limit}); shorten it or raise that")
    return "longer than train.max_length" if length > limit else ""
