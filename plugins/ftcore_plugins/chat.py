"""Conversations, instructions, questions and plain text, in the forms of OpenAI, ShareGPT, Alpaca and TRL."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import attrs

from ftcore.api import Format, Problem, Row, RowError, Rows, Run, RunError, hookimpl, option
from ftcore_plugins.common.chat import (
    Conversation,
    Train,
    Variables,
    chat_format,
    conversation,
    template_option,
    template_path_option,
    template_problems,
    variables_option,
)
from ftcore_plugins.common.chat.messages import kind_of
from ftcore_plugins.common.chat.plain import plain_format
from ftcore_plugins.common.chat.questions import asking, listed, with_reply, with_turn
from ftcore_plugins.common.chat.rows import (
    ChatRows,
    asked,
    bounded,
    format_of,
    history_of,
    text_of,
    tokenizer_of,
)

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "instruction": ("instruction", "output"),
    "question": ("question", "answer"),
    "completion": ("prompt", "completion"),
    "text": ("text",),
}
"""The columns that tell a format; the first format of which a row has all is the row's."""

MEDIA = ("image", "images", "videos", "audios")
"""Columns of what the texts of a conversation refer to, and no text can tell."""

LOOKED_AT = 100
"""Most rows whose columns are looked at to say how rows are read."""

FormatName = Literal["auto", "messages", "sharegpt", "instruction", "question", "completion", "text"]

INNER = (
    "the chat template ends all replies of a row but the last with %s, at which no answer stops; "
    'where rows have several replies, train_on = "last" is safer'
)

_log = logging.getLogger("ftcore.plugins.chat")


@attrs.frozen(kw_only=True)
class Options:
    """`[plugin.chat]`."""

    format: FormatName = option("auto", help="form of the rows; auto tells it from the columns of each row")
    system_prompt: str = option("", help="system prompt of rows without one; none if empty")
    train_on: Train = option(
        "all", help="what is trained: all replies, the last reply of each row, or everything, prompts included"
    )
    chat_template: str = template_option()
    chat_template_path: Path | None = template_path_option()
    chat_template_kwargs: Variables = variables_option()


class Chat:
    """Trains the replies of conversations, or plain text.

    Rows may mix these forms, each told by its columns: `messages` (OpenAI: role and content, tool calls, a column
    `tools`), `conversations` (ShareGPT: from and value), `instruction`, `input` and `output` (Alpaca), `question` and
    `answer`, `prompt` and `completion` (texts, or lists of messages as TRL has them); a column `system` is the
    system prompt, and `history` the questions and replies before the question. Rows with a `text` alone are trained
    whole. What follows the last reply of a conversation is cut off, since nothing in it is trained.
    """

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config

    @hookimpl
    def check(self) -> Sequence[Problem]:
        """The chat template is a built-in one, a template, or a file, and plain text has no options for chats."""
        config = self.config
        if config.format == "text":
            message = 'has no effect with format = "text"; leave it out'
            return [Problem(key=f"plugin.chat.{name}", message=message) for name in _for_chats(config)]
        template, path, variables = config.chat_template, config.chat_template_path, config.chat_template_kwargs
        return template_problems("plugin.chat", template, path, variables)

    @hookimpl
    def format_dataset(self, run: Run, rows: Rows, processor: Any) -> Format:
        """Say how a row becomes tokens. Raises `RunError` when no form fits the rows, or no chat template."""
        config = self.config
        form = _told(rows) if config.format == "auto" else config.format
        if form == "text":
            for name in _for_chats(config):
                raise RunError(f"plugin.chat.{name}: has no effect on rows of plain text; leave it out")
            return plain_format(run, processor, *COLUMNS["text"])
        template, path, variables = config.chat_template, config.chat_template_path, config.chat_template_kwargs
        chat = chat_format(processor, template, path, config.train_on, variables)
        if chat.inner_ends and config.train_on != "last":
            names = " or ".join(tokenizer_of(processor).convert_ids_to_tokens(sorted(chat.inner_ends)))
            _log.warning(INNER, names)
        reader = Reader(form="" if config.format == "auto" else form, system_prompt=config.system_prompt)
        encode = ChatRows(chat=bounded(chat, run), read=reader)
        return asking(format_of(chat, encode, processor), encode, reader.completed, reader.question)


@attrs.frozen(kw_only=True)
class Reader:
    """Makes a conversation of a row. Without a `form`, each row's columns tell its own."""

    form: str
    system_prompt: str

    def __call__(self, row: Row) -> Conversation:
        """Raises `RowError` for a row that is none."""
        system = text_of(row, "system", required=False) or self.system_prompt
        return READ[self.form or _form_of(row)](row, system)

    def completed(self, row: Row) -> Row:
        """The row with a stand-in for the reply that it lacks, or as it is if it is of no form that is asked."""
        form = self.form or _asked_form(row.values)
        if form in ("messages", "sharegpt"):
            column = COLUMNS[form][0]
            messages = with_turn(listed(row.values.get(column)))
            return attrs.evolve(row, values={**row.values, column: messages}) if messages else row
        if form == "completion" and isinstance(row.values.get("prompt"), list):
            return with_reply(row, COLUMNS[form][1], with_turn([{"role": "user"}])[1:])
        return with_reply(row, COLUMNS[form][1]) if form in READ else row

    def question(self, prompt: str) -> Mapping[str, Any]:
        """The columns of a row that asks `prompt`, in the form of the run's rows."""
        form = self.form or "messages"
        turns = [{"role": "user", "content": prompt}]
        return {COLUMNS[form][0]: turns if form in ("messages", "sharegpt") else prompt}


def _for_chats(config: Options) -> list[str]:
    """The options that are set and say nothing of plain text."""
    names = (field.name for field in attrs.fields(Options) if field.name != "format")
    return [name for name in names if getattr(config, name) != getattr(Options(), name)]


def _form_of(row: Row) -> str:
    form = _form(row.values)
    if form == "text":
        reason = 'plain text among conversations: its column text is all it has; set plugin.chat.format = "text"'
        raise RowError(f"{reason}, or train it in a run of its own", origin=row.origin)
    if form:
        return form
    there = next((names for names in COLUMNS.values() if all(name in row.values for name in names)), ())
    null = next((f"column {name!r} is null" for name in there if row.values[name] is None), None)
    raise RowError(null or _formless(row.values), origin=row.origin)


def _form(values: Mapping[str, Any]) -> str:
    for form, columns in COLUMNS.items():
        if all(values.get(name) is not None for name in columns):
            return form
    return ""


def _asked_form(values: Mapping[str, Any]) -> str:
    """The form of a row that may lack its reply, whose column comes last in each form."""
    return next((form for form, names in COLUMNS.items() if values.get(names[0]) is not None), "")


def _formless(columns: Mapping[str, Any]) -> str:
    known = "; ".join(" and ".join(names) for names in COLUMNS.values())
    there = ", ".join(columns) or "none"
    return f"the columns ({there}) are of no known form ({known}); give them such names by data.columns"


def _told(rows: Rows) -> str:
    """The form of the first row that has one; the others are said, too."""
    found: dict[str, int] = {}
    columns: Mapping[str, Any] = {}
    for row in _some(rows.train):
        columns = columns or row.values
        form = _form(row.values)
        found |= {form: found.get(form, 0) + 1} if form else {}
    if not found:
        raise RunError(f"plugin.chat.format: {_formless(columns)}, or set the format")
    forms = ", ".join(f"{form} ({', '.join(COLUMNS[form])})" for form in found)
    _log.info("rows are read as %s, by their columns; plugin.chat.format overrides it", forms)
    return next(iter(found))


def _some(rows: Sequence[Row]) -> Iterator[Row]:
    """The first row, and others from all over: sources of different forms lie one after the other."""
    for place in range(0, len(rows), -(-len(rows) // LOOKED_AT) or 1):
        try:
            yield rows[place]
        except RowError:  # broken rows are counted when they are formatted
            continue


def _list(row: Row, system: str, column: str) -> Conversation:
    if column not in row.values:
        raise RowError(f"no column {column!r}; the row has {', '.join(row.values) or 'none'}", origin=row.origin)
    media = next((name for name in MEDIA if row.values.get(name)), "")
    if media:
        reason = f"column {media!r}: chat trains texts alone; use a plugin for it, or name it otherwise by data.columns"
        raise RowError(reason, origin=row.origin)
    return conversation(row.values[column], row.origin, system=system, tools=row.values.get("tools"), name=column)


def _instruction(row: Row, system: str) -> Conversation:
    task, given = text_of(row, "instruction"), text_of(row, "input", required=False)
    return _answered(row, system, f"{task}\n\n{given}" if given else task, text_of(row, "output"))


def _question(row: Row, system: str) -> Conversation:
    return _answered(row, system, text_of(row, "question"), text_of(row, "answer"))


def _answered(row: Row, system: str, question: str, reply: str) -> Conversation:
    return conversation([*history_of(row), *asked(question, reply)], row.origin, system=system)


def _completion(row: Row, system: str) -> Conversation:
    prompt, completion = row.values.get("prompt"), row.values.get("completion")
    if not isinstance(prompt, list) and not isinstance(completion, list):
        return _answered(row, system, text_of(row, "prompt"), text_of(row, "completion"))
    if not isinstance(prompt, list) or not isinstance(completion, list):
        kinds = f"{kind_of(prompt)} and {kind_of(completion)}"
        raise RowError(
            f"prompt and completion are {kinds}; both must be texts, or lists of messages", origin=row.origin
        )
    tools = row.values.get("tools")
    return conversation(
        [*prompt, *completion], row.origin, system=system, tools=tools, given=len(prompt), name="prompt"
    )


READ: Mapping[str, Callable[[Row, str], Conversation]] = {
    "messages": partial(_list, column="messages"),
    "sharegpt": partial(_list, column="conversations"),
    "instruction": _instruction,
    "question": _question,
    "completion": _completion,
}
