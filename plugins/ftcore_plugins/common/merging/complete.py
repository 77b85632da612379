"""All that belongs to a model beside its weights, as each of its consumers reads it. Imports transformers.

transformers 5 has new names for old things, and writes the new ones alone. llama.cpp's converter and mlx-lm read the
older ones, and older transformers do: each is written in both ways.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftcore.api import write_card
from ftcore_plugins.common.merging.source import PIECES, Source
from ftcore_plugins.common.quiet import no_progress_bars

FROM_HERE = ("_name_or_path", "name_or_path", "vocab_file", "tokenizer_file")
TWO_ROPES = ("gemma3_text", "gemma3n_text")
"""Families that knew two frequencies before transformers 5 had one set of rope settings for each type of layer."""


def complete(folder: Path, source: Source) -> None:
    """Put tokenizer or processor and card beside the weights, and restore what other tools read."""
    processor = source.loaded.processor
    with no_progress_bars():
        processor.save_pretrained(folder)
        if hasattr(processor, "image_processor"):  # llama.cpp looks for it in a file of its own
            processor.image_processor.save_pretrained(folder)
    restore_tokenizer(folder, processor, source.find(PIECES))
    update(folder / "config.json", older_names)
    for path in folder.glob("*config*.json"):
        update(path, without_places)
    write_card(folder, source.run)


def restore_tokenizer(folder: Path, processor: Any, pieces: Path | None) -> None:
    """Add what transformers 5 leaves out: the control tokens, the chat template and SentencePiece's own file.

    Without the first and the last llama.cpp's converter splits control tokens of SentencePiece models, or refuses.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    added = {str(index): _token(token) for index, token in sorted(tokenizer.added_tokens_decoder.items())}
    template = getattr(processor, "chat_template", None) or tokenizer.chat_template
    more = {"added_tokens_decoder": added, **({"chat_template": template} if template else {})}
    update(folder / "tokenizer_config.json", lambda config: {**older_tokenizer(config), **more})
    if pieces is not None:
        shutil.copyfile(pieces, folder / PIECES)


def older_tokenizer(config: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer's settings as transformers 4 can read them; 5 reads both."""
    found = dict(config)
    if isinstance(found.get("extra_special_tokens"), list):
        found["additional_special_tokens"] = found.pop("extra_special_tokens")
    if found.get("tokenizer_class") == "TokenizersBackend":
        found["tokenizer_class"] = "PreTrainedTokenizerFast"
    return found


def older_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the rope settings under their older names, too, also those of a part of the model."""
    parts = {key: older_names(value) for key, value in config.items() if key.endswith("_config") and _is_table(value)}
    return {**config, **parts, **dict(_older_rope(config))}


def _older_rope(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    rope: Any = config.get("rope_parameters")
    if not _is_table(rope):
        return
    everywhere = rope
    if config.get("model_type") in TWO_ROPES and "sliding_attention" in rope:
        everywhere = rope.get("full_attention", {})
        yield "rope_local_base_freq", rope["sliding_attention"]["rope_theta"]
        if "_sliding_window_pattern" in config:
            yield "sliding_window_pattern", config["_sliding_window_pattern"]
    if "rope_theta" in everywhere:
        yield "rope_theta", everywhere["rope_theta"]
        if everywhere.get("rope_type", "default") != "default":
            yield "rope_scaling", {key: value for key, value in everywhere.items() if key != "rope_theta"}


def without_places(value: Any) -> Any:
    """Leave out, at any depth, where on this machine a thing came from; a reader has other folders."""
    if isinstance(value, dict):
        return {key: without_places(inner) for key, inner in value.items() if key not in FROM_HERE}
    return value


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _token(token: Any) -> dict[str, Any]:
    names = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return {name: getattr(token, name) for name in names}


def update(path: Path, change: Any) -> None:
    """Change a JSON file, if it is there."""
    if path.is_file():
        document = change(json.loads(path.read_text("utf-8")))
        path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
