"""The merged model as a complete folder, written once and shared. Imports torch and transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs

from ftcore.api import Loaded, PreparedData, Run
from ftcore_plugins.common.merging.complete import complete
from ftcore_plugins.common.merging.digest import digest_of, sign, signed
from ftcore_plugins.common.merging.source import Source
from ftcore_plugins.common.merging.weights import Settings, dtype_of, name_of, write_weights
from ftcore_plugins.common.staging import staged

MERGED, SHARED = "merged", ".work/merged"
PRECISE = "float32"
CARD = "README.md"
"""Written anew when the proofs are there."""


@attrs.frozen(kw_only=True)
class Merged:
    """A complete folder of Hugging Face's layout: weights of the type `dtype`, tokenizer or processor, card.

    `details` are those of an artifact: `merge` says how, and `merged into` into which weights.
    """

    folder: Path
    dtype: str
    details: Mapping[str, str]


def merged_folder(run: Run, loaded: Loaded, data: PreparedData, saved: Path, exports: Path) -> Merged:
    """The merged model in the base model's type, for an exporter that converts it; written unless it is there.

    It may be what the merge plugin has written from the same weights, where that is precise enough; else it lies in
    `exports / ".work"`, for all that ask in the same pass. Do not change it. Raises `RunError`.
    """
    source = Source(run=run, loaded=loaded, data=data, saved=saved)
    dtype = name_of(dtype_of("auto", source))
    digest = _digest(source)
    for folder in (exports / MERGED, exports / SHARED):
        details = signed(folder, digest)
        if details is not None and details["dtype"] in {dtype, PRECISE}:
            return Merged(folder=folder, dtype=details["dtype"], details=details)
    return _write(exports / SHARED, source, Settings(), digest)


def write_merged(
    target: Path, run: Run, loaded: Loaded, data: PreparedData, saved: Path, *, settings: Settings
) -> Merged:
    """Write the merged model to `target`, in place of whatever is there, whole or not at all. Raises `RunError`."""
    source = Source(run=run, loaded=loaded, data=data, saved=saved)
    return _write(target, source, settings, _digest(source))


def _write(target: Path, source: Source, settings: Settings, digest: str) -> Merged:
    with staged(target) as folder:
        details = write_weights(folder, source, settings)
        complete(folder, source)
        sign(folder, digest, details)
    return Merged(folder=target, dtype=details["dtype"], details=details)


def _digest(source: Source) -> str:
    """Everything that the folder is made from, but for the type of the weights and the size of a file."""
    saved = sorted(path for path in source.saved.rglob("*") if path.is_file() and path.name != CARD)
    base = (*source.base_files, *source.beside) if source.loaded.adapter else source.beside
    into = source.quantized if source.is_dequantized else ""
    return digest_of([*saved, *base], source.loaded.base, source.loaded.revision, into, str(source.data.stops))
