"""The model card: what was trained, from what, on what, and with what."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import Loaded, PreparedData, Run

PACKAGES = ("ftcore", "torch", "transformers", "trl", "peft")
LEFT_OUT = {"log_steps", "save_steps", "save_limit", "eval_steps", "micro_batch_size"}
ADAPTER = ("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora", "modules_to_save", "bias")


def model_card(run: Run, loaded: Loaded, data: PreparedData, saved: Path, *, dtype: str, quantized: str = "") -> str:
    """Markdown with YAML front matter, as the hub reads it; no path of this machine is in it.

    `quantized` is the kind of quantization that the adapter was trained on, such as nf4.
    """
    base, local = _base(loaded)
    ledger = data.ledger
    lines = [
        "---",
        *([] if local else [f"base_model: {json.dumps(base)}"]),
        "library_name: transformers",
        "license: unknown",
        "tags: [ftcore]",
        "---",
        "",
        f"# {run.name}",
        "",
        f"Fine-tuned from {f'a local model, {base}' if local else f'[{base}](https://huggingface.co/{base})'} "
        f"by [ftcore](https://pypi.org/project/ftcore/){_revision(loaded)}. Weights are {dtype}.",
        *_merged_into(quantized),
        "",
        "The licence is unknown: the base model's terms apply, and those of the data.",
        "",
        "## Data",
        "",
        f"{ledger.rows} rows: {ledger.trained} trained on, {ledger.held_out} held out, {len(ledger.dropped)} dropped.",
        "",
        "## Training",
        "",
        *_table(_hyper_parameters(run, saved)),
        "",
        "## Versions",
        "",
        *_table({name: found for name in _packages(quantized) if (found := _version(name))}),
        "",
    ]
    return "\n".join(lines)


def _merged_into(quantized: str) -> Iterator[str]:
    if quantized:
        yield ""
        yield f"The adapter was trained on weights quantized to {quantized}, and is merged into those, dequantized."


def _base(loaded: Loaded) -> tuple[str, bool]:
    local = Path(loaded.base).is_dir()
    return (Path(loaded.base).name if local else loaded.base), local


def _revision(loaded: Loaded) -> str:
    return f", revision `{loaded.revision}`" if loaded.revision else ""


def _hyper_parameters(run: Run, saved: Path) -> dict[str, Any]:
    train = attrs.asdict(run.profile.train)
    left_out = LEFT_OUT | ({"epochs"} if train["max_steps"] else set())
    adapter = saved / "adapter_config.json"
    found = json.loads(adapter.read_text("utf-8")) if adapter.is_file() else {}
    return {
        "seed": run.profile.run.seed,
        **{name: value for name, value in train.items() if name not in left_out and value is not None},
        **{name: _shown(found[name]) for name in ADAPTER if found.get(name) is not None},
    }


def _shown(value: Any) -> Any:
    # PEFT writes all-linear out as the full name of every layer.
    return ", ".join(sorted({name.rpartition(".")[2] for name in value})) if isinstance(value, list) else value


def _table(values: Mapping[str, Any]) -> Iterator[str]:
    yield "| | |"
    yield "|---|---|"
    for name, value in values.items():
        yield f"| {name} | {value} |"


def _packages(quantized: str) -> tuple[str, ...]:
    return (*PACKAGES, "bitsandbytes") if quantized else PACKAGES


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
