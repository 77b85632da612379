"""Writes the merged model, its tokenizer and its card. Imports PEFT and transformers."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig
from transformers.utils import cached_file

from ftcore.api import Loaded, PreparedData, Run, RunError
from ftcore_plugins.common.adapters.quantized import kind_of, weights_trained_on
from ftcore_plugins.common.generation import stop_at
from ftcore_plugins.common.hub import base_place, hub_errors, model_class
from ftcore_plugins.common.quiet import no_deprecations, no_progress_bars, quiet_logger
from ftcore_plugins.merge import Options
from ftcore_plugins.merge.card import model_card

FROM_HERE = ("_name_or_path", "name_or_path", "vocab_file", "tokenizer_file")


def write(folder: Path, *, config: Options, run: Run, loaded: Loaded, data: PreparedData, saved: Path) -> str:
    """Write everything below `folder`; return the name of the type that the weights have."""
    place = base_place(loaded, trusted=run.profile.model.trust_remote_code)
    with hub_errors(loaded.base, loaded.revision), no_progress_bars(), no_deprecations(), torch.random.fork_rng():
        base_config = AutoConfig.from_pretrained(loaded.base, **place)
        dtype = str(base_config.dtype).removeprefix("torch.") if config.dtype == "auto" else config.dtype
        dtype = "float32" if dtype == "None" else dtype
        model = _merged(model_class(base_config), loaded, saved, dtype, place)
    stop_at(model, data.end_of_turn)
    with no_progress_bars():
        model.save_pretrained(folder, max_shard_size=config.max_shard_size)
        loaded.processor.save_pretrained(folder)
    _restore_for_other_tools(folder, loaded, place)
    for path in folder.glob("*config*.json"):
        _write(path, _without_places(json.loads(path.read_text("utf-8"))))
    card = model_card(run, loaded, data, saved, dtype=dtype, quantized=kind_of(loaded.model))
    (folder / "README.md").write_text(card, "utf-8")
    return dtype


def _merged(kind: Any, loaded: Loaded, saved: Path, dtype: str, place: dict[str, Any]) -> Any:
    from peft import PeftModel

    options = {"dtype": dtype, "use_safetensors": True}
    if not loaded.adapter:
        return kind.from_pretrained(saved, **options, local_files_only=True)
    base = kind.from_pretrained(loaded.base, **options, **place)
    base = _whole(kind, base) if kind_of(base) else base
    _put_weights_trained_on(base, loaded.model)
    tuned = PeftModel.from_pretrained(base, saved)
    try:
        merged = tuned.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise RunError(f"merge: the adapter cannot be merged: {str(error).partition(chr(10))[0]}") from error
    return merged.to(getattr(torch, dtype))  # what the adapter trained whole is float32


def _whole(kind: Any, saved_quantized: Any) -> Any:
    """The same model with whole weights, built anew: transformers cannot save one that it has dequantized itself."""
    config = copy.deepcopy(saved_quantized.config)
    del config.quantization_config
    model = kind.from_config(config, dtype=config.dtype)
    model.generation_config = saved_quantized.generation_config
    with quiet_logger("transformers.integrations.bitsandbytes"):
        model.load_state_dict(saved_quantized.dequantize().state_dict())
    return model


def _put_weights_trained_on(base: Any, tuned: Any) -> None:
    """Into the quantized weights, made whole again, rather than into those of the base model.

    The adapter was trained on them: the merged model then answers 12 times nearer to the trained one, measured
    by the mean divergence.
    """
    for name, weight in weights_trained_on(tuned):
        base.get_submodule(name).weight.data.copy_(weight)


def _restore_for_other_tools(folder: Path, loaded: Loaded, place: dict[str, Any]) -> None:
    """Put back what transformers 5 no longer writes, and converters and other runtimes still read.

    Without `tokenizer.model` and `added_tokens_decoder` llama.cpp's converter splits control tokens of
    SentencePiece models; without the older names of the rope settings, other runtimes run with the wrong ones.
    """
    tokenizer = getattr(loaded.processor, "tokenizer", loaded.processor)
    added = {str(index): _token(token) for index, token in sorted(tokenizer.added_tokens_decoder.items())}
    _update(folder / "tokenizer_config.json", {"added_tokens_decoder": added})
    options = {key: value for key, value in place.items() if key != "trust_remote_code"}
    pieces = cached_file(
        loaded.base,
        "tokenizer.model",
        **options,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if pieces is not None:
        shutil.copyfile(pieces, folder / "tokenizer.model")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    _update(folder / "config.json", dict(_old_rope(config.get("rope_parameters"))))


def _token(token: Any) -> dict[str, Any]:
    names = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return {name: getattr(token, name) for name in names}


def _old_rope(rope: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(rope, dict) or "rope_theta" not in rope:
        return
    yield "rope_theta", rope["rope_theta"]
    if rope.get("rope_type", "default") != "default":
        yield "rope_scaling", {key: value for key, value in rope.items() if key != "rope_theta"}


def _without_places(value: Any) -> Any:
    """Leave out, at any depth, where on this machine a thing came from; a reader has other folders."""
    if isinstance(value, dict):
        return {key: _without_places(inner) for key, inner in value.items() if key not in FROM_HERE}
    return value


def _update(path: Path, values: dict[str, Any]) -> None:
    if path.is_file():
        _write(path, {**json.loads(path.read_text("utf-8")), **values})


def _write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
