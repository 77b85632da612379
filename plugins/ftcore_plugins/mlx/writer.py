"""From the merged model to folders for MLX, each written beside its place and renamed whole."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import Run, RunError, write_card
from ftcore_plugins.common.converters import convert_apart, last_words
from ftcore_plugins.common.staging import staged
from ftcore_plugins.mlx.checks import lacking, layers_fault, width_fault
from ftcore_plugins.mlx.formats import Format, source_is_kept
from ftcore_plugins.mlx.recognition import read_config, reads_images
from ftcore_plugins.mlx.settings import as_read

CONVERTER = "ftcore_plugins.mlx.converter"
WORK = Path(".work", "mlx")
WHOLE = "whole"
"""Of the folder below `WORK` with the weights that the others are quantized from, of the type that they have."""

OF_THE_WEIGHTS = (".safetensors", ".safetensors.index.json")
WRITTEN_HERE = ("config.json", "README.md", "verification.json")
HIDDEN = "."
UNWRITTEN = "Unable to write"
"""How MLX says that the disk is full."""


@attrs.frozen(kw_only=True)
class Order:
    """What is to be written of the merged model in the folder `merged`."""

    run: Run
    merged: Path
    formats: Sequence[Format]
    group_size: int

    @property
    def config(self) -> Mapping[str, Any]:
        """Of the merged model."""
        return read_config(self.merged)

    def place(self, format: Format, exports: Path) -> Path:
        """Where a format of it is written."""
        return exports / "mlx" / f"{self.run.name}-{format.name}"


@attrs.frozen(kw_only=True)
class Written:
    """A folder that was written, with the details of an artifact. `source` has whole weights, if `path` has not."""

    path: Path
    details: Mapping[str, str]
    source: Path | None


def write(order: Order, exports: Path) -> Iterator[Written]:
    """Every folder as it gets its name. Raises `RunError` for a model that MLX cannot hold."""
    require_convertible(order)
    work = exports / WORK
    with _told(work):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        _require_place(exports / "mlx")  # before what takes long
        _convert(order, work)
    whole = [order.place(format, exports) for format in order.formats if not format.bits]
    source = next(iter(whole), work / WHOLE)
    for format in order.formats:
        target = order.place(format, exports)
        with _told(target), staged(target) as folder:
            for path in (work / format.name).iterdir():
                path.rename(folder / path.name)
            _complete(folder, order, format.dtype)
            write_card(folder, order.run)
        yield Written(path=target, details=_details(target, order, format), source=source if format.bits else None)


def require_convertible(order: Order) -> None:
    """Raise `RunError` for what `check` could not know before the model was there."""
    for problem in lacking(order.config):
        raise RunError(f"{problem}; then: ftcore export {order.run.folder} --to mlx")
    if few := layers_fault(order.config):
        raise RunError(f"plugin.mlx: {few}")
    fault = width_fault(order.config, order.group_size)
    if fault and any(format.bits for format in order.formats):
        raise RunError(f"plugin.mlx.group_size: {fault}")


def _require_place(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=HIDDEN):
        pass


def _convert(order: Order, work: Path) -> None:
    """All folders in one process: reading the library takes longer than writing a small model."""
    targets = [attrs.asdict(format) for format in order.formats]
    if source_is_kept(order.formats):
        targets.append(attrs.asdict(Format(name=WHOLE, dtype="")))
    request = {
        "source": str(_source(order, work)),
        "images": reads_images(order.config),
        "trusted": order.run.profile.model.trust_remote_code,
        "group_size": order.group_size,
        "targets": targets,
    }
    ended = convert_apart(["-m", CONVERTER, str(work), json.dumps(request)])
    if ended.returncode:
        raise RunError(f"mlx: {_reason(ended, work)}")


def _reason(ended: subprocess.CompletedProcess[bytes], work: Path) -> str:
    """Why a converter has failed, in its own last words."""
    words = last_words(ended)
    if UNWRITTEN in words:
        return f"{work} cannot be written: {words}; make room, or name another run.output_dir"
    return f"the merged model cannot be converted: {words}"


@contextmanager
def _told(place: Path) -> Iterator[None]:
    """Turn what the disk refuses into a `RunError` of one sentence."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        fix = "make room, or name another run.output_dir"
        raise RunError(f"mlx: {error.filename or place} cannot be written: {reason}; {fix}") from error


def _source(order: Order, work: Path) -> Path:
    """The merged model as MLX reads it: itself, or links to its files beside another `config.json`."""
    config = as_read(order.config)
    if config == order.config:
        return order.merged
    folder = work / "source"
    folder.mkdir()
    for path in order.merged.iterdir():
        if path.name != "config.json" and not path.name.startswith(HIDDEN):
            (folder / path.name).symlink_to(path.absolute())
    _write_config(folder, config)
    return folder


def _complete(folder: Path, order: Order, dtype: str) -> None:
    """The tokenizer, the templates and the stop tokens as the merged model has them, and a true `config.json`.

    MLX's converters write a tokenizer anew, and leave out `added_tokens_decoder` and `tokenizer.model`.
    """
    for path in order.merged.iterdir():
        if path.name in WRITTEN_HERE or path.name.startswith(HIDDEN) or path.name.endswith(OF_THE_WEIGHTS):
            continue
        if path.is_dir():
            shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, folder / path.name)
    _write_config(folder, _with_dtype(read_config(folder), dtype))


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    (folder / "config.json").write_text(f"{json.dumps(config, indent=2, ensure_ascii=False)}\n", "utf-8")


def _with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Converters leave the type that the weights had before, under its newer name, also in the parts of a model."""
    changed = {name: _with_dtype(value, dtype) if isinstance(value, dict) else value for name, value in config.items()}
    return {**changed, **{name: dtype for name in ("dtype", "torch_dtype") if name in config}}


def _details(target: Path, order: Order, format: Format) -> Mapping[str, str]:
    quantized = {"group_size": str(order.group_size)} if format.bits else {}
    folder = shlex.quote(str(target))
    images = reads_images(order.config)
    command = f"mlx_vlm.generate --model {folder} --image IMAGE" if images else f"mlx_lm.generate --model {folder}"
    return {
        "quantization": format.name,
        **quantized,
        "dtype": format.dtype,
        "run": f"{command} --prompt 'Hello' --max-tokens 256",
    }
