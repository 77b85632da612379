"""Chat templates by name, for base models that come without one, and the choice among them and the model's own."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import Factory

from ftcore.api import Problem, RunError, option
from ftcore_plugins.common.chat.rendering import RESERVED, syntax_fault
from ftcore_plugins.common.chat.tokens import begins_with_bos, token_ids

__all__ = [
    "BUILT_IN",
    "Variables",
    "chosen_template",
    "template_option",
    "template_path_option",
    "template_problems",
    "variables_option",
]

Variables = Mapping[str, bool | int | float | str | tuple[str, ...]]
"""What a template may be told besides the conversation, such as `enable_thinking`."""

PROMPT_ASKED = "{% if add_generation_prompt %}"

BUILT_IN: Mapping[str, str] = {
    "alpaca": (
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% else %}"
        "{{ 'Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.' }}"
        "{% endif %}"
        "{% for message in messages %}"
        "{% if message['role'] == 'assistant' %}{{ '\n\n### Response:\n' + message['content'] + eos_token }}"
        "{% elif message['role'] == 'user' %}{{ '\n\n### Instruction:\n' + message['content'] }}"
        "{% elif message['role'] == 'tool' %}{{ raise_exception('alpaca has no role tool') }}{% endif %}"
        "{% endfor %}" + PROMPT_ASKED + "{{ '\n\n### Response:\n' }}{% endif %}"
    ),
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
        "{% endfor %}" + PROMPT_ASKED + "{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "gemma3": (
        "{{ bos_token }}{% set first = '' %}"
        "{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
        "{% set messages = messages[1:] %}{% endif %}"
        "{% for message in messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
        "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
        "{{ (first if loop.first else '') + message['content'] | trim + '<end_of_turn>\n' }}"
        "{% endfor %}" + PROMPT_ASKED + "{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}"
        "{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
        "{{ message['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}" + PROMPT_ASKED + "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% set first = '' %}"
        "{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
        "{% set messages = messages[1:] %}{% endif %}"
        "{% for message in messages %}"
        "{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + (first if loop.first else '') + message['content'] + '[/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] | trim + eos_token }}"
        "{% else %}{{ raise_exception('mistral has no role ' + message['role']) }}{% endif %}"
        "{% endfor %}"
    ),
    "raw": (
        "{% for message in messages %}{{ message['content'] }}"
        "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    ),
}
"""Chat templates by name. `raw` writes prompt and reply as they are, and the end-of-text token.

`llama3` is the prompt format of Meta's Llama 3 model cards without the preamble of dates; `gemma3` and `mistral`
are what the families' own templates make of text; `chatml` is OpenAI's, as Qwen has it; `alpaca` is Stanford's
(https://github.com/tatsu-lab/stanford_alpaca). None has `{% generation %}` marks, which other runtimes than
transformers do not know.
"""

BUILT_IN_TOKENS: Mapping[str, tuple[str, ...]] = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "gemma3": ("<start_of_turn>", "<end_of_turn>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "mistral": ("[INST]", "[/INST]"),
}

WITH_EOS = ("alpaca", "mistral", "raw")
"""Templates that end a reply with the end-of-text token."""

WITHOUT_BOS = ("alpaca", "chatml", "raw")
"""Templates that begin with the beginning-of-text token only where the tokenizer puts it before other texts."""

MAX_FILE = 2**20
"""Bytes of the largest template file; templates have a few thousand."""

NAMES = ", ".join(BUILT_IN)


def template_option() -> Any:
    """The option `chat_template` of a formatter's table."""
    return option("", help=f"chat template: {NAMES}, or the text of one in Jinja; the model's own if empty")


def template_path_option() -> Any:
    """The option `chat_template_path` of a formatter's table."""
    return option(None, help="file with a chat template in Jinja, in place of chat_template")


def variables_option() -> Any:
    """The option `chat_template_kwargs` of a formatter's table."""
    return option(
        Factory(dict), help="variables for the chat template, such as { enable_thinking = false }, in training and use"
    )


def template_problems(key: str, template: str, path: Path | None, variables: Variables) -> list[Problem]:
    """What is wrong with these options of the table `key`, such as `plugin.chat`; imports nothing heavy."""
    reserved = (name for name in variables if name in RESERVED)
    problems = [
        Problem(key=f"{key}.chat_template_kwargs.{name}", message=f"{name} comes from the rows; leave it out")
        for name in reserved
    ]
    if template and not _is_jinja(template) and template not in BUILT_IN:
        problems.append(Problem(key=f"{key}.chat_template", message=_unknown(template)))
    if path and template:
        message = "chat_template is set as well; keep one of the two"
        problems.append(Problem(key=f"{key}.chat_template_path", message=message))
    elif path and not path.is_file():
        problems.append(Problem(key=f"{key}.chat_template_path", message=f"no such file: {path}"))
    elif path:
        problems += _file_problems(f"{key}.chat_template_path", path)
    elif _is_jinja(template) and (fault := syntax_fault(template)):
        problems.append(Problem(key=f"{key}.chat_template", message=f"no chat template in Jinja: {fault}"))
    return problems


def _file_problems(key: str, path: Path) -> list[Problem]:
    try:
        fault = syntax_fault(_read(path))
    except RunError as error:
        return [Problem(key=key, message=str(error).removeprefix("chat_template_path: "))]
    return [Problem(key=key, message=f"{path} is no chat template in Jinja: {fault}")] if fault else []


def chosen_template(processor: Any, template: str = "", path: Path | None = None) -> str:
    """The source of the template that the options choose. Raises `RunError` if there is none, or if it lacks tokens."""
    tokenizer = getattr(processor, "tokenizer", processor)
    if path:
        return _read(path)
    if not template:
        own = getattr(processor, "chat_template", None)
        return own if isinstance(own, str) and not tokenizer.chat_template else _own(tokenizer)
    return template if _is_jinja(template) else _built_in(tokenizer, template)


def _is_jinja(template: str) -> bool:
    return "{{" in template or "{%" in template


def _unknown(name: str) -> str:
    if name.endswith((".jinja", ".jinja2", ".j2")):
        return f"{name!r} is a file; name it by chat_template_path"
    close = difflib.get_close_matches(name, BUILT_IN, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there is {NAMES}"
    return f"no built-in chat template {name!r}; {hint}"


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE:
            raise RunError(f"chat_template_path: {path} is over {MAX_FILE >> 20} MB, so it is no chat template")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"chat_template_path: {path} cannot be read: {error}") from error


def _own(tokenizer: Any) -> str:
    try:
        return str(tokenizer.get_chat_template())
    except (ValueError, AttributeError) as error:
        raise RunError(
            f"model.id: {_name(tokenizer)} has no chat template; "
            f"use an instruct model or set chat_template to a built-in one ({NAMES})"
        ) from error


def _built_in(tokenizer: Any, name: str) -> str:
    if name not in BUILT_IN:
        raise RunError(f"chat_template: {_unknown(name)}")
    wanted = BUILT_IN_TOKENS.get(name, ())
    known = tokenizer.get_added_vocab()
    ids = token_ids(tokenizer, wanted)
    missing = [token for token, split in zip(wanted, ids, strict=True) if len(split) != 1 or token not in known]
    if name in WITH_EOS and not tokenizer.eos_token:
        missing.append("an end-of-text token")
    if missing:
        raise RunError(
            f"chat_template: {name} needs {', '.join(missing)} in the vocabulary of {_name(tokenizer)}, "
            "which has not; use the model's own template, alpaca, or another model"
        )
    bos = "{{ bos_token }}" if name in WITHOUT_BOS and begins_with_bos(tokenizer) else ""
    return bos + BUILT_IN[name]


def _name(tokenizer: Any) -> str:
    return tokenizer.name_or_path or "the model"
