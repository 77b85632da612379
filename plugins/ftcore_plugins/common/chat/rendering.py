"""Render conversations with a chat template, as transformers does, within a limit of time."""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any, TypeVar

import attrs

from ftcore.api import RowError, RunError
from ftcore_plugins.common.chat.messages import Conversation, Message

__all__ = ["RESERVED", "ChatTemplate", "Span", "looked_for", "syntax_fault", "within"]

T = TypeVar("T")
Span = tuple[int, int]
"""First and last character of what a template's marks enclose."""

# Llama 3.1 and 3.2 and gpt-oss put today's date into the prompt; the first two unless they are given one. A resumed
# run must see the tokens that it saw yesterday; this is the date that Llama's template itself falls back to.
DAY = date(2024, 7, 26)
FIXED = {"date_string": DAY.strftime("%d %b %Y")}

NOW = re.compile(r"\bstrftime_now\(\s*(['\"])(.*?)\1\s*\)")

RESERVED = frozenset(
    {"add_generation_prompt", "chat_template", "continue_final_message", "conversations", "documents", "messages"}
    | {"return_assistant_tokens_mask", "tools"}
)
"""Variables that are the row's, or the renderer's."""

TIME_LIMIT = 10.0
TIME_LIMIT_A_ROW = 0.1
"""Seconds that a template may take for the first, short conversation: a nested loop would hang the run."""

MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""Begins what the template's author says is trained: https://huggingface.co/docs/transformers/chat_templating."""

SEEKING = ("count", "endswith", "find", "index", "partition", "replace", "rfind", "rsplit", "split", "startswith")
"""Methods of a text, and filters, that look for another text in it."""

MARKUP = re.compile(r"(?=.*[<>\[\]|`#])\S.*\S.*\S", re.DOTALL)
"""Three letters and more, brackets or their like among them."""


@attrs.frozen(kw_only=True)
class ChatTemplate:
    """A template's source, the special tokens that it may name, such as `bos_token`, and further `variables`.

    The rest is how it takes messages: with `parts`, their text as a list of one part; with `text_arguments`, the
    arguments of calls as JSON text; with `null_content`, null as the content of a message that only calls.
    """

    source: str
    special: Mapping[str, str]
    variables: Mapping[str, Any] = attrs.field(factory=dict)
    parts: bool = False
    text_arguments: bool = False
    null_content: bool = False

    @property
    def has_marks(self) -> bool:
        """Whether the source has `{% generation %}` marks."""
        return bool(MARKS.search(self.source))

    def texts(self, conversations: Sequence[Conversation]) -> list[str]:
        """Each conversation as text. Raises `RowError` that names the row which the template refuses."""
        return [text for text, _ in self._render(conversations)]

    def prompts(self, conversations: Sequence[Conversation]) -> list[str]:
        """Each conversation as text that ends with the prompt for the next reply."""
        return [text for text, _ in self._render(conversations, add_generation_prompt=True)]

    def marked(self, conversations: Sequence[Conversation]) -> list[tuple[str, list[Span]]]:
        """Each conversation as text, with what the marks enclose in it."""
        return self._render(conversations, return_assistant_tokens_mask=True)

    def _render(self, conversations: Sequence[Conversation], **options: bool) -> list[tuple[str, list[Span]]]:
        try:
            limit = TIME_LIMIT + len(conversations) * TIME_LIMIT_A_ROW
            return within(limit, lambda: list(self._rendered(conversations, options)))
        except RunError:
            raise
        except Exception as error:  # whatever a template raises; asked again row by row for the one at fault
            if len(conversations) == 1:
                reason = f"the chat template refuses the row: {error}"
                raise RowError(reason, origin=conversations[0].origin) from error
        return [answer for one in conversations for answer in self._render([one], **options)]

    def _rendered(
        self, conversations: Sequence[Conversation], options: Mapping[str, bool]
    ) -> Iterator[tuple[str, list[Span]]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        # The tools are those of all conversations of a call; most sets have none.
        alone = any(one.tools for one in conversations)
        for together in [[one] for one in conversations] if alone else [conversations]:
            texts, spans = render_jinja_template(
                conversations=[self._messages(one) for one in together],
                tools=list(together[0].tools) or None if alone else None,
                chat_template=_undated(self.source),
                **options,
                **{**self.special, **FIXED, **self.variables},
            )
            yield from zip(texts, spans or [[] for _ in texts], strict=True)

    def _messages(self, one: Conversation) -> Sequence[Message]:
        return one.messages if one.plain and not self.parts else [self._message(message) for message in one.messages]

    def _message(self, message: Message) -> Message:
        calls, content = message.get("tool_calls"), message["content"]
        if calls and self.text_arguments:
            message = {**message, "tool_calls": [_with_text(call) for call in calls]}
        if calls and self.null_content and not content:
            return {**message, "content": None}
        return {**message, "content": [{"type": "text", "text": content}]} if self.parts else message


@functools.lru_cache(maxsize=16)
def _undated(source: str) -> str:
    return NOW.sub(lambda call: repr(DAY.strftime(call[2])), source)


def _with_text(call: Mapping[str, Any]) -> dict[str, Any]:
    arguments = call["function"]["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**call["function"], "arguments": text}}


def syntax_fault(source: str) -> str:
    """What keeps a template from being read, with the line; empty if nothing does, or jinja2 is not there to ask."""
    try:
        from jinja2 import TemplateSyntaxError
    except ImportError:  # told by whoever renders
        return ""
    try:
        _environment().compile(source)
    except TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    except (SyntaxError, RecursionError, MemoryError) as error:  # of the Python that Jinja makes of it
        return str(getattr(error, "msg", "") or "it is nested too deeply")
    return ""


def looked_for(source: str) -> re.Pattern[str]:
    """Matches the texts that a template may look for in a message: what it writes may depend on them, and on no others.

    These are the texts that it compares parts of a text with, and any that reads like markup.
    """
    from jinja2 import TemplateError, nodes

    try:
        tree = _environment().parse(source)
    except TemplateError:
        return re.compile("")
    found = {const.value for const in tree.find_all(nodes.Const) if MARKUP.search(str(const.value))}
    for node in tree.find_all((nodes.Compare, nodes.Call, nodes.Filter)):
        found.update(_sought(node))
    texts = sorted(text for text in found if isinstance(text, str) and text.strip())
    return re.compile("|".join(map(re.escape, texts)) or r"(?!)")


def _sought(node: Any) -> Iterator[Any]:
    from jinja2 import nodes

    if isinstance(node, nodes.Compare):
        searched = any(operand.op in ("in", "notin") for operand in node.ops)
        parts = [node.expr] if searched else []
    elif isinstance(node, nodes.Call):
        parts = list(node.args) if isinstance(node.node, nodes.Getattr) and node.node.attr in SEEKING else []
    else:
        parts = list(node.args) if node.name in SEEKING else []
    return (part.value for part in parts if isinstance(part, nodes.Const))


def _environment() -> Any:
    """With the extensions that transformers gives to templates; the marks need only be read over."""
    from jinja2 import Environment
    from jinja2.ext import Extension, loopcontrols

    class Marks(Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return Environment(autoescape=False, extensions=[Marks, loopcontrols])  # noqa: S701  # text, no HTML


def within(seconds: float, work: Callable[[], T]) -> T:
    """The result of `work`, or `RunError` if it takes longer. The thread of an endless loop dies with the process."""
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        raise RunError(f"chat template: it took over {seconds:g} s to render a few messages; use another template")
    return done[0]
