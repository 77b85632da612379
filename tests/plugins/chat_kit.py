"""Tokenizers trained on the spot, and chat templates of the kinds that are out there."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from typing import Any

from ftcore_plugins.common.chat import ChatFormat, Encoded, Refused, conversation

SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|im_start|>",
    "<|im_end|>",
    "<bos>",
    "<start_of_turn>",
    "<end_of_turn>",
)
TEXT = (
    "def add(a, b):\n    return a + b\n\n\nclass A:\n    def f(self):\n        pass\n\n",
    "assistant\n\nuser\n\nsystem\n model\n  the  answer   is\n\n\n\n yes \n",
    "Write the Python function `add(a, b)`. Caf\u00e9 na\u00efve \u4f60\u597d \U0001f600\U0001f600",
)

LLAMA3 = (
    "{% for message in messages %}{% if loop.index0 == 0 %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MARKED = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% generation %}{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}{% else %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MARKED_TOO_WIDELY = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ '<|im_start|>assistant\n' + message['content'] + '<|im_end|>\n' }}{% endgeneration %}{% else %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ '<bos>' }}{% set first = '' %}{% if messages[0]['role'] == 'system' %}"
    "{% set first = messages[0]['content'] + '\n\n' %}{% set messages = messages[1:] %}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') }}{{ message['content'] | trim }}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI = CHATML.removesuffix("{% endif %}") + "{% else %}{{ eos_token }}{% endif %}"
THINKING = CHATML.replace(
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content']",
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message['content']",
)
INST = (
    "{{ '<s>' }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] | trim + ' </s>' }}"
    "{% else %}{{ '[INST] ' + message['content'] | trim + ' [/INST]' }}{% endif %}{% endfor %}"
)
# The next two write other things before a reply than they ask for it with.
OPENING = CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n'")
FORGETFUL = (
    "{{ bos_token }}{% set told = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '<|im_start|>' + (told + '\n\n' if loop.last and told else '') + message['content'] + '<|im_end|>' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + '<|eot_id|>' }}{% endif %}{% endfor %}"
)
TOOLS = (
    "{% if tools %}{{ '<|im_start|>tools\n' + tools | tojson + '<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{% for call in message.tool_calls or [] %}{{ '<call>' + call.function | tojson + '</call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
REASONING = TOOLS.replace(
    "message['role'] + '\n' + message['content']",
    "message['role'] + '\n' + ('<think>' + message.reasoning_content + '</think>' "
    "if message.reasoning_content and loop.last else '') + message['content']",
)
TEMPLATES = {
    "llama3": LLAMA3,
    "marked": MARKED,
    "marked too widely": MARKED_TOO_WIDELY,
    "chatml": CHATML,
    "gemma": GEMMA,
    "phi": PHI,
    "thinking": THINKING,
}
STRIPPING = ("llama3", "marked", "gemma")
END = {"llama3": "<|eot_id|>", "marked": "<|eot_id|>", "gemma": "<end_of_turn>"}


@functools.cache
def backend(regex: bool = True, normalizer: str = "") -> Any:
    """A byte-level BPE. Without `regex` its merges cross words and line ends, as they like to at a prompt's end."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = getattr(normalizers, normalizer)()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    return tokenizer


def byte_level(template: str | None = LLAMA3, regex: bool = True, normalizer: str = "", pad: str = "") -> Any:
    """A fast tokenizer with a chat template; padding is the end of the text unless `pad` says otherwise."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend(regex, normalizer),
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
        pad_token=pad or "<|end_of_text|>",
    )
    tokenizer.chat_template = template
    return tokenizer


def sentencepiece(template: str = INST) -> Any:
    """A BPE as Llama 2 has it: a space goes before the beginning of a text, and bytes stand in for rare characters."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "\u2581")
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trained.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False))
    merges = json.loads(trained.to_str())["model"]["merges"]
    model = models.BPE(
        vocab=trained.get_vocab(),
        merges=[tuple(pair) for pair in merges],
        byte_fallback=True,
        unk_token="<unk>",
        fuse_unk=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = template
    return fast


def chat(reply: str, question: str = "question", system: str = "") -> list[dict[str, str]]:
    """Messages of one question and its reply."""
    head = [{"role": "system", "content": system}] if system else []
    return [*head, {"role": "user", "content": question}, {"role": "assistant", "content": reply}]


def trained_texts(tokenizer: Any, ids: Sequence[int], labels: Sequence[int]) -> list[str]:
    """What the trained tokens read, span by span: written apart from the code under test."""
    spans: list[list[int]] = []
    for place, label in enumerate(labels):
        if label == -100:
            continue
        assert label == ids[place]
        if place and labels[place - 1] != -100:
            spans[-1].append(label)
        else:
            spans.append([label])
    return [tokenizer.decode(span, skip_special_tokens=False, clean_up_tokenization_spaces=False) for span in spans]


def only(format_: ChatFormat, messages: Any, **options: Any) -> Encoded | Refused:
    """The answer to one conversation."""
    [encoded] = format_.encode([conversation(messages, "rows.jsonl:1", **options)])
    return encoded


def sound(format_: ChatFormat, messages: Any, **options: Any) -> Encoded:
    """One conversation that can be trained."""
    encoded = only(format_, messages, **options)
    assert isinstance(encoded, Encoded), encoded
    return encoded


def with_tokens(source: str) -> Any:
    """A tokenizer that knows every token that a template of some family writes, and has it as its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = sorted({*TOKEN.findall(source), "<bos>", "<eos>"})
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = models.BPE(vocab={letter: place for place, letter in enumerate(letters)}, merges=[])
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>")
    fast.chat_template = source
    return fast


TOKEN = re.compile(
    r"\[/?INST\]|<[|\uff5c][^<>'\" ]*?[|\uff5c]>|</?(?:start_of_turn|end_of_turn|end_of_utterance|s|think)>"
    r"|<\|[a-z_]+>|<[a-z_]+\|>"
)
