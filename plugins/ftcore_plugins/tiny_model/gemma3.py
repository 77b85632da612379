"""A real Gemma 3 with its SigLIP vision tower and its processor, tiny (https://arxiv.org/abs/2503.19786)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import Problem, Rows
from ftcore_plugins.common.requirements import missing
from ftcore_plugins.tiny_model.corpus import texts_and_objects
from ftcore_plugins.tiny_model.gemma3_tokenizer import END_OF_TURN, RESERVED, train_tokenizer
from ftcore_plugins.tiny_model.options import Fault, Options, language_shape, vision_faults

# torchvision, where there is one, scales images a little differently; Pillow does it alike on every machine.
BACKEND = "pil"
IMAGE_FILES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")

# LoRA alone cannot lower the loss of a model at the usual 0.02: its logits stay too small to tell tokens apart.
INITIALIZER_RANGE = 0.2

# transformers leaves the projection of image tokens at zero, and LoRA never reaches it, as it is no linear layer:
# such a model is blind. With this, an image token has about the length of a word's embedding.
PROJECTION_RANGE = 0.125

WINDOW = 1024
"""Tokens that a layer of sliding attention looks back, as in the 4B model; every sixth layer sees everything."""


@attrs.frozen
class Gemma3:
    """Makes a processor and a Gemma 3 of the wanted shape, and reads them again."""

    config: Options

    def missing(self) -> list[Problem]:
        """Which libraries are not installed."""
        libraries = missing("tiny_model", "train", "torch", "transformers", "tokenizers")
        return [*libraries, *missing("tiny_model", "vision", "PIL")]

    def faults(self) -> Iterator[Fault]:
        """What only this family says about the options."""
        if self.config.vocabulary_size <= len(RESERVED):
            fault = (
                f"{self.config.vocabulary_size} leave no room beside the {len(RESERVED)} marks and bytes of a gemma3"
            )
            yield "vocabulary_size", f"{fault}; raise it"
        yield from vision_faults(self.config)

    def make_processor(self, rows: Rows) -> Any:
        """A processor that scales images to `image_size`; its tokenizer learns texts and objects, not file names."""
        from transformers import Gemma3Processor
        from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

        config = self.config
        words = (text for text in texts_and_objects(rows) if not text.lower().endswith(IMAGE_FILES))
        tokenizer = train_tokenizer(words, config.vocabulary_size, config.positions)
        images = Gemma3ImageProcessorPil(size={"height": config.image_size, "width": config.image_size})
        template = tokenizer.chat_template
        return Gemma3Processor(images, tokenizer, chat_template=template, image_seq_length=config.image_tokens)

    def read_processor(self, base: Path) -> Any:
        """The processor that a run saved."""
        from transformers import Gemma3Processor

        return Gemma3Processor.from_pretrained(base, local_files_only=True, backend=BACKEND)

    def make_model(self, processor: Any) -> Any:
        """A model that sees, its weights drawn from torch's global stream."""
        import torch
        from transformers import Gemma3ForConditionalGeneration, GenerationConfig
        from transformers.conversion_mapping import get_model_conversion_mapping

        tokenizer = processor.tokenizer
        tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        # An answer ends with its turn; a text, with the text. As in Gemma's own configuration.
        ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TURN)]
        images = {f"{name}_token_index": getattr(tokenizer, f"{name}_token_id") for name in ("boi", "eoi", "image")}
        config = self._model_config(len(tokenizer), tokens, {**images, "eos_token_id": ends})
        model = Gemma3ForConditionalGeneration(config)
        torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=PROJECTION_RANGE)
        model.generation_config = GenerationConfig(**{**tokens, "eos_token_id": ends})
        # Names on disk as the hub has them; of a model that it has not loaded, transformers shortens some.
        model._weight_conversions = get_model_conversion_mapping(model, add_legacy=False)
        return model

    def read_model(self, base: Path, options: dict[str, Any]) -> Any:
        """The model that a run saved."""
        from transformers import AutoModelForImageTextToText

        return AutoModelForImageTextToText.from_pretrained(base, local_files_only=True, **options)

    def sketch_config(self) -> Any:
        """The configuration without a tokenizer, whose vocabulary may turn out smaller."""
        return self._model_config(self.config.vocabulary_size, {}, {})

    def _model_config(self, vocabulary_size: int, tokens: dict[str, Any], marks: dict[str, Any]) -> Any:
        from transformers import Gemma3Config

        return Gemma3Config(
            text_config=self._text_config(vocabulary_size, tokens),
            vision_config=self._vision_config(),
            mm_tokens_per_image=self.config.image_tokens,
            initializer_range=INITIALIZER_RANGE,
            **marks,
        )

    def _text_config(self, vocabulary_size: int, tokens: dict[str, Any]) -> Any:
        from transformers import Gemma3TextConfig

        head = self.config.hidden_size // self.config.heads
        return Gemma3TextConfig(
            **language_shape(self.config),
            vocab_size=vocabulary_size,
            head_dim=head,
            query_pre_attn_scalar=head,
            sliding_window=min(WINDOW, self.config.positions),
            initializer_range=INITIALIZER_RANGE,
            **tokens,
        )

    def _vision_config(self) -> Any:
        from transformers import SiglipVisionConfig

        config = self.config
        return SiglipVisionConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.vision_layers,
            num_attention_heads=config.heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
            vision_use_head=False,
        )
