"""Writes the weights of the tuned model, streaming or through PEFT. Imports torch and transformers."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import torch
from transformers import AutoConfig, GenerationConfig

from ftcore.api import RunError
from ftcore_plugins.common.adapters.quantized import weights_trained_on
from ftcore_plugins.common.generation import stop_at
from ftcore_plugins.common.hub import model_class
from ftcore_plugins.common.merging.adapter import read_adapter, refusals
from ftcore_plugins.common.merging.changes import changes_of
from ftcore_plugins.common.merging.refused import RefusedError
from ftcore_plugins.common.merging.shards import Planned, write_shards
from ftcore_plugins.common.merging.source import Source
from ftcore_plugins.common.merging.stored import WHOLE, stored_in
from ftcore_plugins.common.merging.streaming import Whole, plan_copy, plan_merge
from ftcore_plugins.common.quiet import no_deprecations, no_progress_bars
from ftcore_plugins.common.sketch import sketch

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in WHOLE}
_log = logging.getLogger("ftcore.plugins.merge")


@attrs.frozen(kw_only=True)
class Settings:
    """How weights are written: `dtype` is a name of torch's, or auto for the type that the base is saved in."""

    dtype: str = "auto"
    max_shard_size: str = "4GB"


def write_weights(folder: Path, source: Source, settings: Settings) -> dict[str, str]:
    """Write weights, `config.json` and `generation_config.json`; return what is to be said of them.

    Raises `RunError` for an adapter that is damaged or not for this base, for weights that are no numbers, and for
    files that are missing.
    """
    dtype = dtype_of(settings.dtype, source)
    said = {"dtype": name_of(dtype)}
    if not source.loaded.adapter:
        _copy(folder, source, dtype, settings)
        return {**said, "merge": "none, since all weights were trained"}
    kind = source.quantized if source.is_dequantized else ""
    said["merged into"] = f"{kind} weights, dequantized" if kind else "the original weights"
    try:
        _stream(folder, source, dtype, settings)
        return {**said, "merge": "streaming"}
    except RefusedError as reason:
        _log.warning("the adapter is merged by PEFT, with the whole model in memory, because %s", reason)
        _through_peft(folder, source, dtype, settings)
        return {**said, "merge": f"PEFT, because {reason}"}


def dtype_of(name: str, source: Source) -> torch.dtype:
    """The type that is meant. Raises `RunError` for one that no weights are written in."""
    if name == "auto":
        name = name_of(source.base_config.dtype or _first_type(source))
    if name not in DTYPES:
        fix = "set plugin.merge.dtype to float32, bfloat16 or float16"
        raise RunError(f"merge: no weights are written in {name!r}; {fix}")
    return DTYPES[name]


def name_of(dtype: Any) -> str:
    """`bfloat16` and the like."""
    return str(dtype).removeprefix("torch.")


def _first_type(source: Source) -> torch.dtype:
    types = (stored.dtype for stored in stored_in(source.base_files).values())
    return next((dtype for dtype in types if dtype in WHOLE), torch.float32)


def _copy(folder: Path, source: Source, dtype: torch.dtype, settings: Settings) -> None:
    trusted = source.run.profile.model.trust_remote_code
    options = {"local_files_only": True, "trust_remote_code": trusted}
    try:
        config = AutoConfig.from_pretrained(source.saved, **options)
        generation = GenerationConfig.from_pretrained(source.saved, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise RunError(f"merge: {source.saved} cannot be read: {reason}; export from a checkpoint") from error
    with no_deprecations():
        model = sketch(config, name_of(dtype), trust_remote_code=trusted)
    model.generation_config = generation
    _write(folder, model, plan_copy(stored_in(source.saved_files), dtype), source, settings)
    for code in source.saved.glob("*.py"):  # of a model that brings its own
        shutil.copyfile(code, folder / code.name)


def _stream(folder: Path, source: Source, dtype: torch.dtype, settings: Settings) -> None:
    adapter = read_adapter(source.saved, source.loaded)
    for reason in (*_refused_bases(source), *refusals(adapter.config)):
        raise RefusedError(reason)
    with no_deprecations():
        model = sketch(source.base_config, name_of(dtype))
    model.generation_config = source.generation() or model.generation_config
    changes = changes_of(adapter, model, source.loaded.base)
    planned = plan_merge(stored_in(source.base_files), model, changes, _trained_on(source, ".weight"), dtype)
    _write(folder, model, planned, source, settings)


def _write(folder: Path, model: Any, planned: dict[str, Planned], source: Source, settings: Settings) -> None:
    with torch.no_grad():
        write_shards(folder, planned, settings.max_shard_size)
    stop_at(model, source.data.stops)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)


def _refused_bases(source: Source) -> Iterator[str]:
    if source.is_saved_quantized:
        yield "the base model is saved quantized"
    if source.run.profile.model.trust_remote_code and getattr(source.base_config, "auto_map", None):
        yield "the model brings its own code"


def _trained_on(source: Source, end: str = "") -> Whole:
    if not source.is_dequantized:
        return {}
    return {f"{name}{end}": weight for name, weight in weights_trained_on(source.loaded.model).items()}


def _through_peft(folder: Path, source: Source, dtype: torch.dtype, settings: Settings) -> None:
    from ftcore_plugins.common.merging.through_peft import merge, merging_errors

    kind = model_class(source.base_config)
    with merging_errors(), no_progress_bars(), no_deprecations(), torch.random.fork_rng():
        model = merge(kind, source, dtype, _trained_on(source))
        stop_at(model, source.data.stops)
        model.save_pretrained(folder, max_shard_size=settings.max_shard_size)
