"""Writes the files of one export: from the merged folder to one GGUF of whole weights, and from that to all others."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import attrs

from ftcore.api import Artifact, Loaded, PreparedData, Proof, Run, RunError, Verdict
from ftcore_plugins.common.merging import Merged, merged_folder
from ftcore_plugins.gguf import KIND, Options
from ftcore_plugins.gguf.checks import require_context
from ftcore_plugins.gguf.conversion.convert import Dtype, convert, convert_vision, supports
from ftcore_plugins.gguf.conversion.external import convert_with_llama_cpp
from ftcore_plugins.gguf.conversion.settings import read_config
from ftcore_plugins.gguf.conversion.weights import BeyondFloat16Error
from ftcore_plugins.gguf.modelfile import modelfile_of, write_modelfile
from ftcore_plugins.gguf.places import BASE, WORK, Places, file_name
from ftcore_plugins.gguf.quantization.mixture import MOST, WEIGHED
from ftcore_plugins.gguf.quantization.quantize import Importance, quantize


def export(
    config: Options, *, run: Run, loaded: Loaded, data: PreparedData, saved: Path, exports: Path
) -> Iterator[Artifact]:
    """Every artifact once it is written: text models in the order of the options, then the mmproj, then the adapter.

    An adapter that cannot be written alone is refused last, when the others are there.
    """
    places = Places(folder=exports / "gguf", work=exports / WORK, name=file_name(run.name))
    merged = merged_folder(run, loaded, data, saved, exports)
    require_context(read_config(merged.folder), config.context)
    writer = Writer(config=config, merged=merged, places=places)
    seeing = writer.vision()
    source = writer.source()
    importance = _importance(config, source, loaded, data)
    rows = min(config.imatrix, len(data.train)) if importance else 0
    for name in config.quantizations:
        path = writer.text(name, source, importance)
        if config.modelfile:
            write_modelfile(path, seeing, config=config, processor=loaded.processor, data=data)
        else:
            modelfile_of(path).unlink(missing_ok=True)  # an older one is of another model
        yield _text(path, name, merged, seeing, config, rows=rows)
    if seeing:
        yield Artifact(kind=KIND, path=seeing, details={"quantization": "f16", "part": "images"})
    if config.lora:
        yield _adapter(places, loaded, run, saved)


@attrs.frozen(kw_only=True)
class Writer:
    """Writes the parts of one merged model."""

    config: Options
    merged: Merged
    places: Places

    def source(self) -> Path:
        """The GGUF of whole weights that all others are quantized from: f16, or a wider type where that is too narrow.

        It is one that is shipped itself if there is such a one, and if not, it lies where the work is.
        """
        whole = [name for name in self.config.quantizations if name not in MOST]
        if "f16" in whole or len(whole) == len(self.config.quantizations):
            name = "f16" if "f16" in whole else whole[0]
            return self._model(self.places.shipped(name), name)
        try:
            return self._model(self.places.made_from("f16"), "f16")
        except BeyondFloat16Error:
            wider = "bf16" if self.merged.dtype == "bfloat16" else "f32"
            return self._model(self.places.made_from(wider), wider)

    def text(self, name: str, source: Path, importance: Importance | None) -> Path:
        """The text model in one type."""
        target = self.places.shipped(name)
        if name in MOST:
            quantize(source, target, name, importance)
        elif target != source:
            self._model(target, name)
        return target

    def vision(self) -> Path | None:
        """What sees images, or None for a model that does not."""
        target, folder = self.places.vision, self.merged.folder
        if self._is_known:
            return target if convert_vision(folder, target, "f16") else None
        if "vision_config" not in self._settings:
            return None
        convert_with_llama_cpp(folder, target, "f16", self._converter, vision=True)
        return target

    def _model(self, target: Path, dtype: str) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        if self._is_known:
            convert(self.merged.folder, target, cast("Dtype", dtype))
        else:
            convert_with_llama_cpp(self.merged.folder, target, dtype, self._converter)
        return target

    @property
    def _settings(self) -> Mapping[str, Any]:
        return read_config(self.merged.folder)

    @property
    def _is_known(self) -> bool:
        return supports(self._settings)

    @property
    def _converter(self) -> str:
        return str(self.config.converter or "")


def _importance(config: Options, source: Path, loaded: Loaded, data: PreparedData) -> Importance | None:
    if not config.imatrix or not MOST.keys() & set(config.quantizations):
        return None
    from ftcore_plugins.gguf.quantization.imatrix import importance

    return importance(source, loaded.model, data, rows=config.imatrix)


def _text(path: Path, name: str, merged: Merged, seeing: Path | None, config: Options, *, rows: int) -> Artifact:
    told = {key: value for key, value in merged.details.items() if key != "dtype"}
    lines = run_lines(path, seeing, modelfile=config.modelfile)
    weighed = {"importance matrix": f"{rows} rows"} if rows and name in WEIGHED else {}
    return Artifact(kind=KIND, path=path, details={**told, "quantization": name, **weighed, "run": "\n".join(lines)})


def run_lines(path: Path, vision: Path | None, *, modelfile: bool) -> Iterator[str]:
    """How the file is run by the programs that most people have."""
    file = shlex.quote(str(path))
    if vision:
        yield f"llama-mtmd-cli -m {file} --mmproj {shlex.quote(str(vision))} --image IMAGE -p PROMPT  # llama.cpp"
    else:
        yield f"llama-cli -m {file}  # llama.cpp"
    if modelfile:
        name = path.stem.lower()
        yield f"ollama create {name} -f {shlex.quote(str(modelfile_of(path)))} && ollama run {name}  # Ollama"
    yield f"lms import {file}  # LM Studio"


def _adapter(places: Places, loaded: Loaded, run: Run, saved: Path) -> Artifact:
    from ftcore_plugins.common.adapters.quantized import kind_of
    from ftcore_plugins.gguf.conversion.base import base_folder
    from ftcore_plugins.gguf.conversion.lora import convert_lora

    if not loaded.adapter:
        raise RunError("plugin.gguf.lora: there is no adapter, since all weights were trained; switch it off")
    base = base_folder(loaded.base, loaded.revision)
    convert_lora(saved, base, places.adapter, "f16")
    line = f"llama-cli -m BASE.gguf --lora {shlex.quote(str(places.adapter))}  # llama.cpp"
    details = {"quantization": "f16", "part": "adapter", "trained on": kind_of(loaded.model), "run": line}
    why = _write_base(base, places) if run.profile.export.verify else ""
    proof = Proof(verdict=Verdict.NOT_PROVED, note=why)
    return Artifact(kind=KIND, path=places.adapter, details=details, proof=proof)


def _write_base(base: Path, places: Places) -> str:
    """The base model as a GGUF, to prove the adapter with; else why it cannot be."""
    target = places.work / BASE / f"{places.name}.gguf"
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        convert(base, target, "f16")
    except RunError as error:
        return f"its base model cannot be written: {error}"
    return ""
