"""A real Llama, small enough to train on two CPU cores in seconds: for tests, CI and a first try.

Its tokenizer is trained on the run's own rows and its weights are random, so nothing is downloaded. Both
are saved in the run's folder as `base`, where any tool finds them as it finds a model from a hub.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import Loaded, Problem, Quantization, Rows, Run, RunError, hookimpl, option
from ftcore_plugins.common.devices import dtype_of
from ftcore_plugins.common.quiet import no_progress_bars
from ftcore_plugins.common.requirements import missing
from ftcore_plugins.common.staging import staged

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

LONGEST_TEXT = 10_000
"""Characters of one text that the tokenizer learns from: a word of millions of letters would keep it for minutes."""

# LoRA alone cannot lower the loss of a model at the usual 0.02: its logits stay too small to tell tokens apart.
INITIALIZER_RANGE = 0.2


@attrs.frozen(kw_only=True)
class Options:
    """Options of `[plugin.tiny_model]`."""

    hidden_size: int = option(64, at_least=4, help="width of the model; a multiple of 2 x heads")
    layers: int = option(2, at_least=1, help="transformer layers")
    heads: int = option(4, at_least=1, help="attention heads")
    kv_heads: int = option(2, at_least=1, help="key and value heads; divides heads")
    intermediate_size: int = option(128, at_least=1, help="width of the feed-forward layers")
    vocabulary_size: int = option(384, at_least=261, help="most tokens of the vocabulary: 256 bytes, 5 marks, merges")
    positions: int = option(2048, at_least=8, help="most tokens of one row that the model can read")


class TinyModel:
    """Trains a tokenizer on the rows and makes a Llama with random weights."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config

    @hookimpl
    def check(self, run: Run) -> Sequence[Problem]:
        """The shape must be one that a Llama can have, and its rows must fit."""
        config, problems = self.config, missing("tiny_model", "train", "torch", "transformers", "tokenizers")
        if config.hidden_size % (2 * config.heads):
            fix = f"{config.hidden_size} is not a multiple of 2 x heads ({2 * config.heads})"
            problems.append(Problem(key="plugin.tiny_model.hidden_size", message=fix))
        if config.heads % config.kv_heads:
            fix = f"{config.kv_heads} does not divide heads ({config.heads})"
            problems.append(Problem(key="plugin.tiny_model.kv_heads", message=fix))
        if config.positions < run.profile.train.max_length:
            fix = f"{config.positions} is less than train.max_length ({run.profile.train.max_length}); raise it"
            problems.append(Problem(key="plugin.tiny_model.positions", message=fix))
        return problems

    @hookimpl
    def load_processor(self, run: Run, rows: Rows) -> Any:
        """The saved tokenizer of a run that goes on, else one trained on the training rows."""
        base = run.folder / "base"
        if base.is_dir():
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast.from_pretrained(base, local_files_only=True)
        return train_tokenizer(texts(rows), self.config.vocabulary_size, self.config.positions)

    @hookimpl
    def load_model(self, run: Run, processor: Any, quantization: Quantization | None) -> Loaded:
        """Make the weights once, then read them from the run's folder as from any other."""
        import torch
        from transformers import AutoModelForCausalLM

        base = run.folder / "base"
        if not base.is_dir():
            self._save(base, processor, run.profile.run.seed)
        options: dict[str, Any] = {"dtype": dtype_of(run), **(quantization.options if quantization else {})}
        if run.profile.model.attention != "auto":
            options["attn_implementation"] = run.profile.model.attention
        with no_progress_bars(), torch.random.fork_rng():
            model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True, **options)
        return Loaded(model=model, processor=processor, base=str(base))

    def _save(self, base: Path, tokenizer: Any, seed: int) -> None:
        import torch
        from transformers import GenerationConfig, LlamaForCausalLM

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = LlamaForCausalLM(self._llama_config(tokenizer))
        tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        model.generation_config = GenerationConfig(**tokens)
        with staged(base) as folder, no_progress_bars():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

    def _llama_config(self, tokenizer: Any) -> Any:
        from transformers import LlamaConfig

        config = self.config
        return LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            max_position_embeddings=config.positions,
            initializer_range=INITIALIZER_RANGE,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=False,
        )


def train_tokenizer(texts: Iterable[str], vocabulary_size: int, positions: int) -> Any:
    """A byte-level BPE tokenizer with Llama 3's marks; the same texts give the same tokenizer.

    Raises `RunError` when there is no text at all.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    lines = [text[:LONGEST_TEXT] for text in texts]
    if not lines:
        raise RunError("tiny_model: the training rows hold no text to train a tokenizer on; look at data.path")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
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


def texts(rows: Rows) -> Iterator[str]:
    """Every string of the training rows, however deep; held-out rows stay unseen."""
    for row in rows.train:
        yield from _strings(row.values)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for inner in value:
            yield from _strings(inner)
