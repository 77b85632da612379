"""Instruction and code rows, as a chat model is asked: for Llama and any model with a chat template."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import attrs

from ftcore.api import (
    Drop,
    Example,
    Ledger,
    Prediction,
    PreparedData,
    Problem,
    Row,
    Rows,
    Run,
    RunError,
    hookimpl,
    option,
)
from ftcore_plugins.common.chat import ChatFormat, Encoded, Refused, chat_format
from ftcore_plugins.common.collate import PadRight, pad_id_of
from ftcore_plugins.common.source import parse_python

FENCE = re.compile(r"```[^\n`]*\n(.*?)\n?```", re.DOTALL)
"""A fenced code block of Markdown: https://spec.commonmark.org/0.31.2/#fenced-code-blocks."""

PRELUDE = "prelude"
"""Feature of an example: what comes before the code in reply and answer, such as the empty thoughts of Qwen 3."""


@attrs.frozen(kw_only=True)
class Options:
    """`[plugin.llama_code]`."""

    instruction: str = option("instruction", help="column with the task")
    input: str = option("input", help="column with what the task is about; rows may lack it")
    output: str = option("output", help="column with the reply to train")
    system: str = option("system", help="column with the system prompt; rows may lack it")
    system_prompt: str = option("", help="system prompt of rows without one; none if empty")
    strip_fences: bool = option(False, help="train the code inside a ```python fence instead of the whole reply")
    require_parse: bool = option(False, help="drop rows whose reply is not valid Python")
    chat_template: Literal["", "llama3"] = option(
        "", help="built-in chat template for a base model without one; the model's own if empty"
    )


class LlamaCode:
    """Trains the reply of each row, and scores answers by whether they are valid Python that does the task."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config

    @hookimpl
    def check(self) -> Sequence[Problem]:
        """No two options name the same column."""
        config = self.config
        columns = {"instruction": config.instruction, "input": config.input}
        columns |= {"output": config.output, "system": config.system}
        problems = []
        for place, (option_name, column) in enumerate(columns.items()):
            if not column.strip():
                problems.append(_problem(option_name, "the column's name is empty; name a column of the rows"))
            elif (first := list(columns.values()).index(column)) < place:
                other = list(columns)[first]
                problems.append(_problem(option_name, f"column {column!r} is {other} as well; name another column"))
        return problems

    @hookimpl
    def format_dataset(self, run: Run, rows: Rows, processor: Any) -> PreparedData:
        """Tokenize instruction and reply as a chat. Raises `RunError` for a wrong row, or when none is left."""
        tokenizer = getattr(processor, "tokenizer", processor)
        chat = chat_format(tokenizer, self.config.chat_template)
        if self.config.chat_template:
            tokenizer.chat_template = chat.template.source  # the tuned model is asked in the words it was trained in
        train, dropped = self._examples(run, rows.train, chat)
        validation, also_dropped = self._examples(run, rows.validation, chat)
        ledger = Ledger(
            rows=len(rows.train) + len(rows.validation),
            trained=len(train),
            held_out=len(validation),
            dropped=(*dropped, *also_dropped),
        )
        if not train:
            counts = ", ".join(f"{reason}: {count}" for reason, count in ledger.reasons.items())
            raise RunError(
                f"nothing left to train: all {len(rows.train)} training rows were dropped ({counts}); mend them"
            )
        return PreparedData(
            train=train,
            validation=validation,
            collate=PadRight(pad_id=pad_id_of(tokenizer)),
            ledger=ledger,
            end_of_turn=chat.end_of_turn,
        )

    @hookimpl
    def score(self, predictions: Sequence[Prediction]) -> Mapping[str, float] | None:
        """Shares of the answers: `parses` as Python, `defines_name` that the reply defines, `exact` the reply.

        `defines_name` is over the replies that define something, and is left out if none does.
        """
        if not predictions:
            return None
        pairs = [_without_prelude(prediction) for prediction in predictions]
        named = [(wanted, defined_names(answer)) for reply, answer in pairs if (wanted := defined_names(reply))]
        scores = {
            "parses": _share(_parses(unfenced(answer)) for _, answer in pairs),
            "exact": _share(answer == reply for reply, answer in pairs),
        }
        if named:
            scores["defines_name"] = _share(wanted[0] in names for wanted, names in named)
        return scores

    def _examples(self, run: Run, rows: Sequence[Row], chat: ChatFormat) -> tuple[list[Example], list[Drop]]:
        conversations = [self._messages(row) for row in rows]
        encoded = chat.encode(conversations, [row.origin for row in rows])
        examples: list[Example] = []
        dropped: list[Drop] = []
        for row, messages, tokens in zip(rows, conversations, encoded, strict=True):
            reason = self._fault(run, row, messages[-1]["content"], tokens)
            if reason or isinstance(tokens, Refused):
                dropped.append(Drop(origin=row.origin, reason=reason))
                continue
            examples.append(
                Example(
                    input_ids=tokens.input_ids,
                    labels=tokens.labels,
                    replies=tokens.replies,
                    origin=row.origin,
                    features={PRELUDE: chat.prelude} if chat.prelude else {},
                )
            )
        return examples, dropped

    def _messages(self, row: Row) -> list[dict[str, str]]:
        config = self.config
        system = _text(row, config.system, required=False) or config.system_prompt
        given = _text(row, config.input, required=False)
        question = _text(row, config.instruction)
        reply = _text(row, config.output)
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": f"{question}\n\n{given}" if given else question})
        messages.append({"role": "assistant", "content": unfenced(reply) if config.strip_fences else reply})
        return messages

    def _fault(self, run: Run, row: Row, reply: str, tokens: Encoded | Refused) -> str:
        if isinstance(tokens, Refused):
            return tokens.reason
        if self.config.require_parse and not _parses(reply):
            return "does not parse"
        limit, length = run.profile.train.max_length, len(tokens.input_ids)
        if length <= limit:
            return ""
        if run.profile.data.long_rows == "error":
            raise RunError(
                f"{row.origin}: the row has {length} tokens, over train.max_length ({limit}); "
                'raise it, shorten the row or set data.long_rows = "drop"'
            )
        return "longer than train.max_length"


def unfenced(text: str) -> str:
    """The code in the first Markdown fence of `text`, or all of it if there is no fence."""
    match = FENCE.search(text)
    return match.group(1) if match else text


def defined_names(text: str) -> list[str]:
    """Names of functions and classes that the Python code defines at its top, in order."""
    tree = parse_python(unfenced(text))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node.name for node in tree.body if isinstance(node, kinds)] if tree else []


def _problem(key: str, message: str) -> Problem:
    return Problem(message=message, key=f"plugin.llama_code.{key}")


def _text(row: Row, column: str, required: bool = True) -> str:
    value = row.values.get(column)
    if isinstance(value, str):
        return value
    if value is None and not required:
        return ""
    if column not in row.values:
        raise RunError(f"{row.origin}: no column {column!r}; the row has {', '.join(row.values) or 'none'}")
    raise RunError(f"{row.origin}: column {column!r} must be a text, not {type(value).__name__}")


def _without_prelude(prediction: Prediction) -> tuple[str, str]:
    """Reply and answer, each without what the template has a model say before it."""
    prelude = prediction.example.features.get(PRELUDE, "")
    return prediction.example.replies[-1].removeprefix(prelude), prediction.answer.removeprefix(prelude)


def _parses(code: str) -> bool:
    return bool(code.strip()) and parse_python(code) is not None


def _share(hits: Iterator[bool]) -> float:
    found = list(hits)
    return sum(found) / len(found)
