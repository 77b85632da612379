"""A real Llama, tiny, with a tokenizer like Llama 3's (https://arxiv.org/abs/2407.21783)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import Problem, Rows
from ftcore_plugins.common.requirements import missing
from ftcore_plugins.tiny_model.corpus import lessons, texts
from ftcore_plugins.tiny_model.options import Fault, Options, language_shape, unread_options

BOS, END, PAD = "<|begin_of_text|>", "<|eot_id|>", "<|pad|>"
HEADER, END_HEADER = "<|start_header_id|>", "<|end_header_id|>"
SPECIAL_TOKENS = [BOS, END, PAD, HEADER, END_HEADER]

# As Llama 3's own, with the marks by which `return_assistant_tokens_mask` finds what is trained.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|eot_id|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|eot_id|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

# LoRA alone cannot lower the loss of a model at the usual 0.02: its logits stay too small to tell tokens apart.
INITIALIZER_RANGE = 0.2


@attrs.frozen
class Llama:
    """Makes a tokenizer and a Llama of the wanted shape, and reads them again."""

    config: Options

    def missing(self) -> list[Problem]:
        """Which libraries are not installed."""
        return missing("tiny_model", "train", "torch", "transformers", "tokenizers")

    def faults(self) -> Iterator[Fault]:
        """What only this family says about the options."""
        return unread_options(self.config)

    def make_processor(self, rows: Rows) -> Any:
        """A tokenizer that is trained on the rows' texts."""
        return train_tokenizer(texts(rows), self.config.vocabulary_size, self.config.positions)

    def read_processor(self, base: Path) -> Any:
        """The tokenizer that a run saved."""
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(base, local_files_only=True)

    def make_model(self, processor: Any) -> Any:
        """A model whose weights are drawn from torch's global stream."""
        from transformers import GenerationConfig, LlamaForCausalLM

        tokens = {name: getattr(processor, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        model = LlamaForCausalLM(self._model_config(len(processor), tokens))
        model.generation_config = GenerationConfig(**tokens)
        return model

    def read_model(self, base: Path, options: dict[str, Any]) -> Any:
        """The model that a run saved."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(base, local_files_only=True, **options)

    def sketch_config(self) -> Any:
        """The configuration without a tokenizer, whose vocabulary may turn out smaller."""
        return self._model_config(self.config.vocabulary_size, {})

    def _model_config(self, vocabulary_size: int, tokens: dict[str, Any]) -> Any:
        from transformers import LlamaConfig

        return LlamaConfig(
            **language_shape(self.config),
            vocab_size=vocabulary_size,
            initializer_range=INITIALIZER_RANGE,
            tie_word_embeddings=False,
            **tokens,
        )


def train_tokenizer(texts: Iterable[str], vocabulary_size: int, positions: int) -> Any:
    """A byte-level BPE tokenizer with Llama 3's marks; the same texts give the same tokenizer.

    Raises `RunError` when there is no text at all.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lessons(texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[HEADER, END_HEADER],
        chat_template=CHAT_TEMPLATE,
        model_max_length=positions,
        clean_up_tokenization_spaces=False,
    )
