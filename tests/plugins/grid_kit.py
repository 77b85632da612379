"""A tiny Gemma 3 of the real classes with the real chat template, and rows with pictures, for the tests of grids."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from ftcore.api import Format, Row, Rows, Run
from ftcore.testing import make_config
from ftcore_plugins.gemma_grid import GemmaGrid, Options

SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
MARKS = ["<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"]
TEXTS = [
    "the mission of the game is to go to the red ball",
    '{"button": "left", "hold": 1}',
    "model\n\n user\n",
    "0123456789",
]
IMAGE_SIZE, IMAGE_TOKENS = 28, 4
COLOURS = ["red", "green", "blue", "white"]

WIDE = {"pan_and_scan": True, "min_crop_size": 32, "min_ratio": 1.2}
"""Pan & Scan that takes two crops of a grid of 96x64."""


def gemma3_template() -> str:
    """Gemma 3's own chat template, as TRL keeps it."""
    spec = find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "chat_templates" / "gemma3.jinja").read_text("utf-8")


def make_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, normalizers, trainers
    from transformers import GemmaTokenizer

    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=120, show_progress=False))
    model = json.loads(learner.to_str())["model"]
    known = [*SPECIAL, *MARKS, *(f"<0x{byte:02X}>" for byte in range(256))]
    learned = sorted(model["vocab"], key=model["vocab"].get)
    tokenizer = GemmaTokenizer(
        vocab={piece: place for place, piece in enumerate(dict.fromkeys([*known, *learned]))},
        merges=[tuple(merge) for merge in model["merges"]],
        add_bos_token=True,
        extra_special_tokens={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
        chat_template=gemma3_template(),
    )
    tokenizer.add_tokens(["<start_of_turn>", "<end_of_turn>"], special_tokens=True)
    return tokenizer


def make_processor() -> Any:
    from transformers import Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    tokenizer = make_tokenizer()
    images = Gemma3ImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    return Gemma3Processor(images, tokenizer, chat_template=tokenizer.chat_template, image_seq_length=IMAGE_TOKENS)


def make_model(processor: Any) -> Any:
    """Random weights that see: transformers starts the projection of the image at zero."""
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    tokenizer, shape = processor.tokenizer, {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    text = {"vocab_size": len(tokenizer), "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512}
    config = Gemma3Config(
        text_config={**shape, **text, "num_attention_heads": 2, "pad_token_id": tokenizer.pad_token_id},
        vision_config={**shape, "num_attention_heads": 2, "image_size": IMAGE_SIZE, "patch_size": 7},
        mm_tokens_per_image=IMAGE_TOKENS,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.125)
    return model


def save(folder: Path, name: str, colour: str = "red", size: tuple[int, int] = (48, 32)) -> str:
    """A picture of one colour; returns its name."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return name


def make_row(folder: Path, number: int = 1, **values: Any) -> Row:
    """Four frames, a context and an action; `values` go over them, and None takes a column away."""
    frames = [save(folder, f"frames/{number}-{place}.png", colour) for place, colour in enumerate(COLOURS)]
    base = {"frames": frames, "context": f"go to the red ball {number}", "action": {"button": "left"}}
    columns = {name: value for name, value in {**base, **values}.items() if value is not None}
    return Row(values=columns, origin=f"rows.jsonl:{number}", folder=folder)


def make_plugin(**options: Any) -> GemmaGrid:
    return GemmaGrid(make_config(Options, options))


def make_format(run: Run, rows: Sequence[Row], processor: Any, options: Mapping[str, Any] | None = None) -> Format:
    all_rows = Rows(train=rows, validation=(), fingerprint="f" * 64)
    return make_plugin(**(options or {})).format_dataset(run, all_rows, processor)
