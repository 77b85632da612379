"""Instruction and code rows, as a chat model is asked: for Llama and any model with a chat template."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import Format, Prediction, Problem, Row, Run, hookimpl, option
from ftcore_plugins.common.chat import (
    Conversation,
    Variables,
    chat_format,
    conversation,
    template_option,
    template_path_option,
    template_problems,
    variables_option,
)
from ftcore_plugins.common.chat.questions import asking, with_reply
from ftcore_plugins.common.chat.rows import PRELUDE, ChatRows, asked, bounded, format_of, text_of
from ftcore_plugins.common.source import parse_python

FENCE = re.compile(r"```[^\n`]*\n(.*?)\n?```", re.DOTALL)
"""A fenced code block of Markdown: https://spec.commonmark.org/0.31.2/#fenced-code-blocks."""


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
    chat_template: str = template_option()
    chat_template_path: Path | None = template_path_option()
    chat_template_kwargs: Variables = variables_option()


class LlamaCode:
    """Trains the reply of each row, and scores answers by whether they are valid Python that does the task."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config

    @hookimpl
    def check(self) -> Sequence[Problem]:
        """No two options name the same column, and the chat template is there."""
        config = self.config
        columns = {"instruction": config.instruction, "input": config.input}
        columns |= {"output": config.output, "system": config.system}
        template, path, variables = config.chat_template, config.chat_template_path, config.chat_template_kwargs
        problems = template_problems("plugin.llama_code", template, path, variables)
        for place, (option_name, column) in enumerate(columns.items()):
            if not column.strip():
                problems.append(_problem(option_name, "the column's name is empty; name a column of the rows"))
            elif (first := list(columns.values()).index(column)) < place:
                other = list(columns)[first]
                problems.append(_problem(option_name, f"column {column!r} is {other} as well; name another column"))
        return problems

    @hookimpl
    def format_dataset(self, run: Run, processor: Any) -> Format:
        """Say how instruction and reply become a chat. Raises `RunError` for a model without a chat template."""
        config = self.config
        template, path, variables = config.chat_template, config.chat_template_path, config.chat_template_kwargs
        chat = chat_format(processor, template, path, variables=variables)
        rows = ChatRows(chat=bounded(chat, run), read=self.read, fault=self.fault)
        return asking(format_of(chat, rows, processor), rows, self.completed, self.question)

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

    def read(self, row: Row) -> Conversation:
        """The row as a question and its reply. Raises `RowError` for a column that is missing, or no text."""
        config = self.config
        given = text_of(row, config.input, required=False)
        question = text_of(row, config.instruction)
        reply = text_of(row, config.output)
        messages = asked(
            f"{question}\n\n{given}" if given else question,
            unfenced(reply) if config.strip_fences else reply,
        )
        system = text_of(row, config.system, required=False) or config.system_prompt
        return conversation(messages, row.origin, system=system)

    def completed(self, row: Row) -> Row:
        """The row with a stand-in for the reply that it lacks."""
        return with_reply(row, self.config.output)

    def question(self, prompt: str) -> Mapping[str, Any]:
        """The columns of a row that asks `prompt`."""
        return {self.config.instruction: prompt}

    def fault(self, one: Conversation) -> str:
        """Why a row is not trained, if it is not."""
        unsound = self.config.require_parse and not _parses(one.messages[-1]["content"])
        return "does not parse" if unsound else ""


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


def _without_prelude(prediction: Prediction) -> tuple[str, str]:
    """Reply and answer, each without what the template has a model say before it."""
    prelude = prediction.example.features.get(PRELUDE, "")
    return prediction.example.replies[-1].removeprefix(prelude), prediction.answer.removeprefix(prelude)


def _parses(code: str) -> bool:
    return bool(code.strip()) and parse_python(code) is not None


def _share(hits: Iterator[bool]) -> float:
    found = list(hits)
    return sum(found) / len(found)
