"""Modelfiles: Ollama's template writes what transformers' does, and what cannot be translated is left out and said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from gguf import GGUFWriter
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ftcore.api import PreparedData
from ftcore_plugins.gguf import Options
from ftcore_plugins.gguf.go_template import translated
from ftcore_plugins.gguf.modelfile import write_modelfile
from go_kit import execute
from tiny_kit import Tiny

LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + "
    "message['content'] | trim + '<|eot_id|>' %}{% if loop.first %}{{ bos_token }}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{% endif %}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set first = '' %}{% endif %}{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' + "
    "(first if loop.first else '') + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
DATED = "{{ strftime_now('%d %b %Y') }}" + CHATML
WRONG = CHATML + "{% if messages | length > 1 %}{{ messages[0]['content'] + 1 }}{% endif %}"
COUNTED = "{% for message in messages %}{{ loop.index }}{{ message['content'] }}|{% endfor %}"

FIRST, ANSWER, SECOND = (
    {"role": "user", "content": "What?"},
    {"role": "assistant", "content": "That.\n\nYes."},
    {"role": "user", "content": "Why is it {so}?"},
)
SYSTEM = {"role": "system", "content": "Be kind."}


class Tokenizer:
    """As much of a tokenizer as a Modelfile asks for."""

    eos_token_id = 1

    def __init__(self, template: str) -> None:
        self.chat_template = template
        self._environment = environment = ImmutableSandboxedEnvironment()
        environment.globals["raise_exception"] = self._raise
        self._template = environment.from_string(template)

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], chat_template: str = "", **variables: Any
    ) -> str:
        template = self._environment.from_string(chat_template) if chat_template else self._template
        now = {"strftime_now": lambda _: "21 Nov 2026"}
        return template.render(messages=messages, bos_token="<s>", eos_token="</s>", **{**now, **variables})

    def convert_ids_to_tokens(self, token: int) -> str:
        return {1: "</s>", 2: "<end>"}[token]

    @staticmethod
    def _raise(message: str) -> None:
        raise TemplateError(message)


def gguf(path: Path, *, adds: bool = True, context: int = 4096) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(context)
    writer.add_token_list(["<s>", "</s>", "<end>"])
    writer.add_bos_token_id(0)
    writer.add_add_bos_token(adds)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.fixture
def data(tiny: Tiny) -> PreparedData:
    return attrs.evolve(tiny.data, end_of_turn=2)


def template_of(text: str) -> str:
    return text.partition('TEMPLATE """')[2].partition('"""')[0]


@pytest.mark.parametrize(
    ("template", "with_system"),
    [(LLAMA3, True), (CHATML, True), (GEMMA, True), (MISTRAL, False)],
    ids=["llama 3", "chatml", "gemma", "mistral"],
)
def test_ollama_writes_what_transformers_does(
    tmp_path: Path, data: PreparedData, template: str, with_system: bool
) -> None:
    tokenizer = Tokenizer(template)
    path = gguf(tmp_path / "a-q8_0.gguf")
    made = template_of(write_modelfile(path, None, config=Options(), processor=tokenizer, data=data).read_text())
    for messages in ([FIRST], [FIRST, ANSWER, SECOND], [SYSTEM, FIRST], [SYSTEM, FIRST, ANSWER, SECOND]):
        if SYSTEM in messages and not with_system:
            continue
        wanted = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        assert execute(made, messages) == wanted.removeprefix("<s>")


def test_an_answer_that_was_begun_goes_on(tmp_path: Path, data: PreparedData) -> None:
    tokenizer = Tokenizer(CHATML)
    path = gguf(tmp_path / "a-q8_0.gguf")
    made = template_of(write_modelfile(path, None, config=Options(), processor=tokenizer, data=data).read_text())
    assert execute(made, [FIRST, ANSWER]).endswith("<|im_start|>assistant\nThat.\n\nYes.")


def test_the_first_token_is_written_where_llama_cpp_does_not(tmp_path: Path, data: PreparedData) -> None:
    for adds, start in ((True, "<|start_header_id|>user"), (False, "<s><|start_header_id|>user")):
        path = gguf(tmp_path / "a-q8_0.gguf", adds=adds)
        target = write_modelfile(path, None, config=Options(), processor=Tokenizer(LLAMA3), data=data)
        assert execute(template_of(target.read_text()), [FIRST]).startswith(start)


@pytest.mark.parametrize("template", [DATED, COUNTED, WRONG, ""], ids=["the date", "numbers", "faulty", "none"])
def test_what_has_no_translation_is_left_out_and_said(tmp_path: Path, data: PreparedData, template: str) -> None:
    path = gguf(tmp_path / "a-q8_0.gguf")
    text = write_modelfile(path, None, config=Options(), processor=Tokenizer(template), data=data).read_text()
    assert "TEMPLATE" not in [line.split(" ")[0] for line in text.splitlines()]
    assert "has no translation into Ollama's language" in text


def test_a_template_that_ends_a_text_of_the_modelfile_is_left_out() -> None:
    assert translated(lambda messages, reply: "".join(f'"""{message["content"]}|' for message in messages)) is None


def test_names_stops_context_and_system_prompt(tmp_path: Path, data: PreparedData) -> None:
    path, vision = gguf(tmp_path / "a-q8_0.gguf", context=131072), tmp_path / "mmproj-a-f16.gguf"
    processor = SimpleNamespace(tokenizer=Tokenizer(CHATML))
    target = write_modelfile(path, vision, config=Options(system="Be kind.\nAlways."), processor=processor, data=data)
    assert target == tmp_path / "Modelfile-q8_0"
    lines = target.read_text().splitlines()
    assert lines[:3] == [
        "# ollama create a-q8_0 -f Modelfile-q8_0",
        "FROM ./a-q8_0.gguf",
        "FROM ./mmproj-a-f16.gguf",
    ]
    assert lines[-5:] == [
        'PARAMETER stop "</s>"',
        'PARAMETER stop "<end>"',
        "PARAMETER num_ctx 8192",
        'SYSTEM """Be kind.',
        'Always."""',
    ]


@pytest.mark.parametrize(("asked", "own", "written"), [(0, 2048, 2048), (0, 131072, 8192), (32768, 131072, 32768)])
def test_context_is_the_models_up_to_a_limit(
    tmp_path: Path, data: PreparedData, asked: int, own: int, written: int
) -> None:
    path = gguf(tmp_path / "a-q8_0.gguf", context=own)
    target = write_modelfile(path, None, config=Options(context=asked), processor=Tokenizer(CHATML), data=data)
    assert f"PARAMETER num_ctx {written}\n" in target.read_text()


def test_a_system_prompt_stands_as_it_is(tmp_path: Path, data: PreparedData) -> None:
    path, words = gguf(tmp_path / "a-q8_0.gguf"), '"He" said \\n ""{{ .System }} $HOME""'
    target = write_modelfile(path, None, config=Options(system=words), processor=Tokenizer(CHATML), data=data)
    assert target.read_text().endswith(f'SYSTEM """{words}"""\n')


def test_the_plain_one_of_several_templates_is_taken(tmp_path: Path, data: PreparedData) -> None:
    path, several, own = gguf(tmp_path / "a-q8_0.gguf"), Tokenizer(CHATML), Tokenizer("")
    several.chat_template = {"default": CHATML, "tool_use": COUNTED}  # type: ignore[assignment]
    processors = (several, SimpleNamespace(tokenizer=own, chat_template=CHATML))
    texts = [
        write_modelfile(path, None, config=Options(), processor=processor, data=data).read_text()
        for processor in processors
    ]
    assert all("<|im_start|>" in template_of(text) for text in texts)
