"""From options and a processor to a `Format`. Imports Pillow and tokenizers."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import Tokenizer

from ftcore.api import Format, RowError, Rows, Run, RunError
from ftcore_plugins.common.collate import PadRight, pad_id_of
from ftcore_plugins.common.images import ImageError, Limits
from ftcore_plugins.gemma_grid.collate import GridCollator
from ftcore_plugins.gemma_grid.columns import Columns
from ftcore_plugins.gemma_grid.crops import PanAndScan
from ftcore_plugins.gemma_grid.encode import GridEncoder, Pictures
from ftcore_plugins.gemma_grid.layout import LayoutError
from ftcore_plugins.gemma_grid.options import Options, layout_of, pan_and_scan_of
from ftcore_plugins.gemma_grid.prompt import chat_turn, control_tokens
from ftcore_plugins.gemma_grid.questions import GridQuestions

__all__ = ["make_format"]

NEEDED = ("image_processor", "tokenizer", "boi_token", "image_seq_length", "replace_image_token")
LOOKED_AT = 16
"""Rows whose grids are measured before all others, to say what they cost."""

LOG = logging.getLogger("ftcore.plugins.gemma_grid")


def make_format(config: Options, run: Run, rows: Rows, processor: Any) -> Format:
    """How a row becomes tokens and pixels. Raises `RunError` for a processor that is no Gemma 3's."""
    _require_gemma3(processor)
    encoder, pan = _encoder(config, run, processor), pan_and_scan_of(config)
    _say_cost(encoder, run, rows, processor.image_seq_length)
    tokenizer, questions = processor.tokenizer, GridQuestions(encoder=encoder)
    collator = GridCollator(
        pad=PadRight(pad_id=pad_id_of(tokenizer)),
        pictures=encoder.pictures,
        image_processor=processor.image_processor,
        image_arguments={**_image_defaults(processor), **pan.arguments},
        image_token=tokenizer.image_token_id,
    )
    return Format(
        encode=encoder,
        collate=collator,
        processor=_with_pan_and_scan(processor, pan),
        end_of_turn=encoder.chat.end_of_turn,
        never_trained=frozenset({tokenizer.image_token_id, tokenizer.boi_token_id, tokenizer.eoi_token_id}),
        packable=False,
        ask=questions,
        question=questions.question,
    )


def _require_gemma3(processor: Any) -> None:
    if not all(hasattr(processor, name) for name in NEEDED):
        raise RunError(
            "model.id: gemma_grid takes a Gemma 3 that reads images, such as google/gemma-3-4b-it; "
            f"this model has a {type(processor).__name__}"
        )


def _encoder(config: Options, run: Run, processor: Any) -> GridEncoder:
    limits = Limits(file_bytes=round(config.max_megabytes * 1e6), pixels=round(config.max_megapixels * 1e6))
    crops = range(config.max_crops + 1)
    return GridEncoder(
        columns=Columns(
            frames=config.frames,
            image=config.image,
            context=config.context,
            question=config.question,
            action=config.action,
            action_key=config.action_key,
            keys=config.keys,
            needs_context="{context}" in config.prompt,
        ),
        prompt=config.prompt,
        pictures=Pictures(layout=layout_of(config), limits=limits),
        pan_and_scan=pan_and_scan_of(config),
        tokenizer=_without_python(processor.tokenizer),
        chat=chat_turn(processor),
        image_texts=tuple(processor.replace_image_token({"num_crops": [count]}, 0) for count in crops),
        control=control_tokens(processor),
        most=run.profile.train.max_length,
    )


def _without_python(tokenizer: Any) -> Tokenizer:
    """The Rust side of a tokenizer, as a copy: transformers switches padding and truncation on the original."""
    bare = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    bare.no_padding()
    bare.no_truncation()
    return bare


def _with_pan_and_scan(processor: Any, pan: PanAndScan) -> Any:
    """A copy of the processor that pans and scans; the processor itself if that is off.

    `images_kwargs` are what works, but are not saved. The image processor's attributes have no effect there, but
    are saved, and tell whoever loads the model how it was trained.
    """
    if not pan.on:
        return processor
    ready = copy.copy(processor)
    ready.image_processor = copy.copy(processor.image_processor)
    ready.images_kwargs = {**_image_defaults(processor), **pan.arguments}
    for name, value in pan.arguments.items():
        setattr(ready.image_processor, name, value)
    return ready


def _image_defaults(processor: Any) -> Mapping[str, Any]:
    """What the processor passes to its image processor; transformers 5.20 keeps it elsewhere."""
    return getattr(processor, "images_kwargs", {})


def _say_cost(encoder: GridEncoder, run: Run, rows: Rows, tokens: int) -> None:
    """Tell what Pan & Scan costs, or that it does nothing. Raises `RunError` when no grid fits into a row."""
    pan, limit = encoder.pan_and_scan, run.profile.train.max_length
    grids = {size: pan.crops(*size) for size in _sizes(encoder, rows)}
    cost = tokens * (1 + min(grids.values(), default=0))
    if cost >= limit:
        raise RunError(f"train.max_length: a grid alone takes {cost} tokens of {limit}; raise it, or lower max_crops")
    if not pan.on or not grids:
        return
    (width, height), crops = max(grids.items(), key=lambda item: item[1])
    if crops:
        LOG.info("a grid of %dx%d gets %d crops: %d image tokens", width, height, crops, tokens * (1 + crops))
    else:
        reason = pan.why_none(width, height)
        LOG.warning("plugin.gemma_grid.pan_and_scan: a grid of %dx%d gets no crops: %s", width, height, reason)


def _sizes(encoder: GridEncoder, rows: Rows) -> Iterator[tuple[int, int]]:
    """Sizes of the first grids; a broken row is told of when all are read."""
    for place in range(min(LOOKED_AT, len(rows.train))):
        try:
            row = rows.train[place]
            yield encoder.pictures.size(encoder.pictures.open(row.folder, encoder.columns.turn(row).images))
        except (RowError, ImageError, LayoutError):
            continue
