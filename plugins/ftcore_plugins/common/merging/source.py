"""What is merged, and where its files are. Imports transformers."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
from transformers import AutoConfig, GenerationConfig
from transformers.utils import cached_file

from ftcore.api import Loaded, PreparedData, Run, RunError
from ftcore_plugins.common.adapters.quantized import kind_of
from ftcore_plugins.common.hub import base_place, hub_errors
from ftcore_plugins.common.quiet import no_deprecations, no_progress_bars

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
PIECES = "tokenizer.model"
BESIDE = ("config.json", "generation_config.json", PIECES)


@attrs.frozen(kw_only=True)
class Source:
    """A base model in its files, the tuned one in memory, and what was saved of that in the folder `saved`."""

    run: Run
    loaded: Loaded
    data: PreparedData
    saved: Path

    @property
    def place(self) -> dict[str, Any]:
        """How `from_pretrained` finds the base."""
        return base_place(self.loaded, trusted=self.run.profile.model.trust_remote_code)

    @property
    def quantized(self) -> str:
        """`nf4`, `fp4` or `int8`, as the weights are that the adapter was trained on; empty for whole ones."""
        return kind_of(self.loaded.model)

    @property
    def is_saved_quantized(self) -> bool:
        """Whether the base has no other weights than quantized ones."""
        return getattr(self.base_config, "quantization_config", None) is not None

    @property
    def is_dequantized(self) -> bool:
        """Whether the adapter is merged into quantized weights that are made whole, and not into the base's own."""
        wanted = self.run.profile.export.base == "dequantized" or self.is_saved_quantized
        return bool(self.quantized) and wanted

    @cached_property
    def base_config(self) -> Any:
        """The base model's configuration. Raises `RunError` if it cannot be read."""
        with hub_errors(self.loaded.base, self.loaded.revision), no_deprecations():
            return AutoConfig.from_pretrained(self.loaded.base, **self.place)

    @cached_property
    def base_files(self) -> tuple[Path, ...]:
        """The base model's weights. Raises `RunError` if a file is not there."""
        with hub_errors(self.loaded.base, self.loaded.revision), no_progress_bars():
            whole = self.find(FILE)
            return (whole,) if whole else self._shards()

    @cached_property
    def saved_files(self) -> tuple[Path, ...]:
        """The weights that were saved after training, if all were trained. Raises `RunError` if one is not there."""
        if (self.saved / FILE).is_file():
            return (self.saved / FILE,)
        return tuple(self.saved / name for name in _shard_names(self.saved / INDEX))

    def find(self, name: str) -> Path | None:
        """A file of the base: in its folder, or of its revision in the cache of the hub; None if it has none."""
        found = cached_file(
            self.loaded.base,
            name,
            **self._address,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return None if found is None else Path(found)

    @property
    def beside(self) -> tuple[Path, ...]:
        """What is read of the base beside its weights."""
        return tuple(path for path in map(self.find, BESIDE) if path)

    def generation(self) -> Any:
        """The base's settings for generation, or None where it has no file with them."""
        try:
            return GenerationConfig.from_pretrained(self.loaded.base, **self._address)
        except OSError:
            return None

    @property
    def _address(self) -> dict[str, Any]:
        return {key: value for key, value in self.place.items() if key != "trust_remote_code"}

    def _shards(self) -> tuple[Path, ...]:
        index = self.find(INDEX)
        if index is None:
            raise self._lacks(f"neither {FILE} nor {INDEX}")
        found = {name: self.find(name) for name in _shard_names(index)}
        for name, path in found.items():
            if path is None:
                raise self._lacks(f"no {name}, which its {INDEX} names")
        return tuple(path for path in found.values() if path)

    def _lacks(self, what: str) -> RunError:
        base = self.loaded.base
        if Path(base).is_dir():
            return RunError(f"model.id: {base} has {what}; put it back")
        return RunError(
            f"model.id: {base} has {what} in the cache, or the hub is out of reach; run: hf download {base}"
        )


def _shard_names(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except FileNotFoundError:
        raise RunError(f"{index.parent} has neither {FILE} nor {INDEX}; put the weights back") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{index} is damaged: {error}; take a whole copy of it") from None
