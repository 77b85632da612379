"""Render conversations with a chat template, and find where each reply begins."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from ftcore.api import RunError

__all__ = ["BUILT_IN", "ChatTemplate", "Conversation", "Message", "chat_template", "token_ids"]

Message = Mapping[str, str]
Conversation = Sequence[Message]
"""Messages with `role` and `content`."""

T = TypeVar("T")

BUILT_IN: Mapping[str, str] = {
    "llama3": (
        "{{ bos_token }}"
        "{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
        "{{ message['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    )
}
"""Chat templates by name, for base models that come without one.

`llama3` is the prompt format of Meta's Llama 3 model cards without the preamble of dates. It has no
`{% generation %}` marks, which other runtimes than transformers do not know.
"""

BUILT_IN_TOKENS: Mapping[str, tuple[str, ...]] = {
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}

# Llama 3.1 and 3.2 put today's date into the prompt unless they are given one. A resumed run must see the
# tokens that it saw yesterday; this is the date that the template itself falls back to.
FIXED = {"date_string": "26 Jul 2024"}

TIME_LIMIT = 10.0
TIME_LIMIT_A_ROW = 0.1
"""Seconds that a template may take for the first, short conversation: a nested loop would hang the run."""

MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""Begins what the template's author says is trained: https://huggingface.co/docs/transformers/chat_templating."""


@attrs.frozen(kw_only=True)
class ChatTemplate:
    """A template's source and the tokenizer whose special tokens it may name.

    `marked` says that `{% generation %}` marks tell where replies begin; otherwise each is found by rendering
    the messages before it with a generation prompt.
    """

    tokenizer: Any
    source: str
    marked: bool = False

    def replies(self, conversations: Sequence[Conversation], origins: Sequence[str]) -> list[tuple[str, list[int]]]:
        """Each conversation as text, and the character at which each assistant message begins.

        Raises `RunError` that names the row when the template refuses it or a beginning cannot be found.
        """
        rendered = self._render(conversations, origins)
        if self.marked:
            found = [[start for start, _ in spans] for _, spans in rendered]
        else:
            found = self._by_prompts(conversations, origins, [text for text, _ in rendered])
        for messages, origin, starts in zip(conversations, origins, found, strict=True):
            if len(starts) != len(_assistant_turns(messages)):
                raise RunError(
                    f"{origin}: the chat template marks {len(starts)} replies of {len(_assistant_turns(messages))}; "
                    "use another template or leave the row out"
                )
        return [(text, starts) for (text, _), starts in zip(rendered, found, strict=True)]

    def prompts(self, conversations: Sequence[Conversation], origins: Sequence[str]) -> list[str]:
        """Each conversation as text that ends with the prompt for the next reply."""
        return [text for text, _ in self._render(conversations, origins, add_generation_prompt=True)]

    def marks(self, messages: Conversation) -> list[tuple[int, int]]:
        """First and last character of what the template's marks enclose, in one conversation."""
        [(_, spans)] = self._render([messages], ["chat template"])
        return spans

    def _by_prompts(
        self, conversations: Sequence[Conversation], origins: Sequence[str], texts: Sequence[str]
    ) -> list[list[int]]:
        turns = [(row, turn) for row, messages in enumerate(conversations) for turn in _assistant_turns(messages)]
        heads = [conversations[row][:turn] for row, turn in turns]
        prompts = self.prompts(heads, [origins[row] for row, _ in turns])
        starts: list[list[int]] = [[] for _ in conversations]
        for (row, _), prompt in zip(turns, prompts, strict=True):
            if not texts[row].startswith(prompt):
                raise RunError(
                    f"{origins[row]}: the prompt that the chat template makes for a reply is not the beginning of the "
                    "whole conversation, so what is trained would not be what is asked; use another template"
                )
            starts[row].append(len(prompt))
        return starts

    def _render(
        self, conversations: Sequence[Conversation], origins: Sequence[str], add_generation_prompt: bool = False
    ) -> list[tuple[str, list[tuple[int, int]]]]:
        try:
            return self._render_all(conversations, add_generation_prompt)
        except Exception:  # whatever a template raises; asked again row by row for the one at fault
            for messages, origin in zip(conversations, origins, strict=True):
                try:
                    self._render_all([messages], add_generation_prompt)
                except Exception as error:
                    raise RunError(f"{origin}: the chat template refuses the row: {error}") from error
            raise

    def _render_all(
        self, conversations: Sequence[Conversation], add_generation_prompt: bool
    ) -> list[tuple[str, list[tuple[int, int]]]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        def render() -> Any:
            return render_jinja_template(
                conversations=[[dict(message) for message in messages] for messages in conversations],
                chat_template=self.source,
                return_assistant_tokens_mask=self.marked,
                add_generation_prompt=add_generation_prompt,
                **{**self.tokenizer.special_tokens_map, **FIXED},
            )

        texts, marks = within(TIME_LIMIT + len(conversations) * TIME_LIMIT_A_ROW, render)
        return list(zip(texts, marks or [[] for _ in texts], strict=True))


def chat_template(tokenizer: Any, name: str = "") -> ChatTemplate:
    """The tokenizer's own chat template, or the built-in one called `name`.

    Raises `RunError` if there is none, if the vocabulary lacks tokens that it needs, or if it hangs.
    """
    source = _built_in(tokenizer, name) if name else _own(tokenizer)
    plain = ChatTemplate(tokenizer=tokenizer, source=source)
    question = [{"role": "user", "content": "question"}]
    prompt = plain.prompts([question], ["chat template"])[0]
    if not MARKS.search(source):
        return plain
    marked = attrs.evolve(plain, marked=True)
    spans = marked.marks([*question, {"role": "assistant", "content": "answer"}])
    # Marks around the header as well would train what is always given, and Phi 3 has two marks for one reply:
    # then the prompts are the better guide.
    return marked if len(spans) == 1 and spans[0][0] >= len(prompt) else plain


def _own(tokenizer: Any) -> str:
    try:
        return str(tokenizer.get_chat_template())
    except (ValueError, AttributeError) as error:
        names = ", ".join(BUILT_IN)
        raise RunError(
            f"model.id: {tokenizer.name_or_path or 'the model'} has no chat template; "
            f"use an instruct model or set chat_template to a built-in one ({names})"
        ) from error


def _built_in(tokenizer: Any, name: str) -> str:
    if name not in BUILT_IN:
        raise RunError(f"chat_template: no built-in chat template {name!r}; there is {', '.join(BUILT_IN)}")
    missing = [
        token
        for token, ids in zip(BUILT_IN_TOKENS[name], token_ids(tokenizer, BUILT_IN_TOKENS[name]), strict=True)
        if len(ids) != 1 or token not in tokenizer.get_added_vocab()
    ]
    if missing:
        raise RunError(
            f"chat_template: {name} needs {', '.join(missing)} in the vocabulary of "
            f"{tokenizer.name_or_path or 'the model'}, which has not; use the model's own template or another model"
        )
    return BUILT_IN[name]


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of each text as it is: no beginning-of-sequence token is put before it."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
    return list(encoded["input_ids"])


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


def _assistant_turns(messages: Conversation) -> list[int]:
    return [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
