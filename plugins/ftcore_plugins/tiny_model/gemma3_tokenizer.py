"""A tokenizer as Gemma 3's: byte-pair encoding of the whole text, spaces kept as `▁`, rare characters as bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ftcore_plugins.tiny_model.corpus import lessons

START_OF_TURN, END_OF_TURN = "<start_of_turn>", "<end_of_turn>"
START_OF_IMAGE, END_OF_IMAGE, IMAGE = "<start_of_image>", "<end_of_image>", "<image_soft_token>"
SPECIAL_TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
MARKS = [START_OF_TURN, END_OF_TURN, START_OF_IMAGE, END_OF_IMAGE, IMAGE]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
RESERVED = [*SPECIAL_TOKENS, *MARKS, *BYTES]

# Says what Gemma 3's own says, https://ai.google.dev/gemma/docs/core/prompt-structure: there is no system role,
# so that text opens the first question; the assistant is called model; an image is a mark in its place.
CHAT_TEMPLATE = """\
{{ bos_token }}
{%- macro said(content) -%}
    {%- if content is string -%}
        {{ content | trim }}
    {%- else -%}
        {%- for part in content -%}
            {%- if part['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif part['type'] == 'text' -%}
                {{ part['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- set system = messages[0]['role'] == 'system' -%}
{%- for message in (messages[1:] if system else messages) -%}
    {%- if message['role'] != ['user', 'assistant'][loop.index0 % 2] -%}
        {{ raise_exception('user and assistant must take turns, and the user begins') }}
    {%- endif -%}
    {{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\\n' }}
    {%- if system and loop.first -%}
        {{ said(messages[0]['content']) + '\\n\\n' }}
    {%- endif -%}
    {{ said(message['content']) + '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\\n' }}
{%- endif -%}
"""


def train_tokenizer(texts: Iterable[str], vocabulary_size: int, positions: int) -> Any:
    """A `GemmaTokenizer` that is trained on the texts; the same texts give the same tokenizer.

    Raises `RunError` when there is no text at all.
    """
    from transformers import GemmaTokenizer

    pieces, merges = _learn(lessons(texts), vocabulary_size - len(RESERVED))
    tokenizer = GemmaTokenizer(
        vocab={piece: index for index, piece in enumerate(dict.fromkeys([*RESERVED, *pieces]))},
        merges=merges,
        add_bos_token=True,
        extra_special_tokens={"boi_token": START_OF_IMAGE, "eoi_token": END_OF_IMAGE, "image_token": IMAGE},
        chat_template=CHAT_TEMPLATE,
        model_max_length=positions,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([START_OF_TURN, END_OF_TURN], special_tokens=True)
    return tokenizer


def _learn(texts: Iterable[str], room: int) -> tuple[list[str], list[tuple[str, str]]]:
    """At most `room` pieces, in the order in which they were learned, and the merges that make them.

    No more than half of the room goes to single characters: the rarer ones are written as bytes.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    # Pieces span neither words nor lines, and digits stand alone: as in Gemma's own vocabulary.
    alone = pre_tokenizers.Split(Regex(r"\n+|\d"), "isolated")
    learner.pre_tokenizer = pre_tokenizers.Sequence([alone, pre_tokenizers.Split("▁", "merged_with_next")])
    trainer = trainers.BpeTrainer(vocab_size=room, limit_alphabet=max(room // 2, 1), show_progress=False)
    learner.train_from_iterator(texts, trainer)
    made = json.loads(learner.to_str())["model"]
    # A text may spell `<0x41>`, but the token of this name is a byte.
    merges = [(a, b) for a, b in made["merges"] if not {a, b, a + b} & set(RESERVED)]
    return sorted(made["vocab"], key=made["vocab"].__getitem__), merges
