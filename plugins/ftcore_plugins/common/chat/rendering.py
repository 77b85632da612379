"""Render conversations with a chat template, as transformers does, within a limit of time."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from ftcore.api import RowError, RunError
from ftcore_plugins.common.chat.messages import Conversation

__all__ = ["ChatTemplate", "Span", "looked_for", "within"]

T = TypeVar("T")
Span = tuple[int, int]
"""First and last character of what a template's marks enclose."""

# Llama 3.1 and 3.2 put today's date into the prompt unless they are given one. A resumed run must see the
# tokens that it saw yesterday; this is the date that the template itself falls back to.
FIXED = {"date_string": "26 Jul 2024"}

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
    """A template's source, and the special tokens that it may name, such as `bos_token`."""

    source: str
    special: Mapping[str, str]

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
                conversations=[one.messages for one in together],
                tools=list(together[0].tools) or None if alone else None,
                chat_template=self.source,
                **options,
                **{**self.special, **FIXED},
            )
            yield from zip(texts, spans or [[] for _ in texts], strict=True)


def looked_for(source: str) -> re.Pattern[str]:
    """Matches the texts that a template may look for in a message: what it writes may depend on them, and on no others.

    These are the texts that it compares parts of a text with, and any that reads like markup.
    """
    from jinja2 import Environment, TemplateError, nodes

    try:
        tree = Environment(autoescape=False, extensions=_extensions()).parse(source)  # noqa: S701  # text, no HTML
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


def _extensions() -> list[Any]:
    """Those that transformers gives to templates; the marks need only be read over."""
    from jinja2.ext import Extension, loopcontrols

    class Marks(Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return [Marks, loopcontrols]


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
