"""Loads the merged folder as a stranger would and compares it with the model that was trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ftcore.api import Loaded, PreparedData, Proof, Run, Verdict
from ftcore_plugins.common.comparison import compare, rows_to_compare
from ftcore_plugins.common.devices import precision_of
from ftcore_plugins.common.hub import model_class, processor_class
from ftcore_plugins.common.quiet import no_progress_bars

EXACT = 1e-4
"""Most mean divergence where both models calculate in float32 and the weights are written in float32 or
float16: rounding was measured at 1e-12 and 4e-6, a broken rope at 9e-3."""

ROUNDED = 5e-3
"""The same where bfloat16 or quantized weights play a part: rounding to bfloat16 was measured at 2e-5 on
Llama 3 and at up to 6e-4 on the tiny model, whose weights are ten times larger on purpose."""

PROBES = (
    "def add(a: int, b: int) -> int:\n    return a + b\n",
    "  two spaces, a\ttab, a line\n\nand another",
    "Grüße, 你好, नमस्ते, 🙂",
    "12345 + 0.678 = ?",
)


def prove(folder: Path, dtype: str, run: Run, loaded: Loaded, data: PreparedData) -> Proof:
    """Same token ids on probe texts, and next-token distributions within the gate."""
    try:
        model, processor = _load(folder, run.profile.model.trust_remote_code)
    except Exception as error:  # whatever keeps a stranger from loading it, from whichever library
        return Proof(verdict=Verdict.FAILED, note=f"it does not load: {str(error).partition(chr(10))[0]}")
    changed = changed_text(loaded.processor, processor, data)
    if changed is not None:
        return Proof(verdict=Verdict.FAILED, note=f"the tokenizer gives other tokens for {changed[:60]!r}")
    figures, limit = compare(loaded.model, model, data), gate(dtype, run, loaded)
    verdict = Verdict.PROVED if figures["kl_mean"] < limit else Verdict.FAILED
    return Proof(verdict=verdict, figures=figures, note=f"{dtype}, gate {limit:g} on kl_mean")


def gate(dtype: str, run: Run, loaded: Loaded) -> float:
    """Most mean divergence that is rounding and not a fault."""
    whole = {torch.float32} >= {parameter.dtype for parameter in loaded.model.parameters()}
    return EXACT if whole and dtype != "bfloat16" and precision_of(run) == "fp32" else ROUNDED


def _load(folder: Path, trust_remote_code: bool) -> tuple[Any, Any]:
    from transformers import AutoConfig

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    with no_progress_bars(), torch.random.fork_rng():
        config = AutoConfig.from_pretrained(folder, **options)
        processor = processor_class(config).from_pretrained(folder, **options)
        return model_class(config).from_pretrained(folder, dtype="auto", **options), processor


def changed_text(before: Any, after: Any, data: PreparedData) -> str | None:
    """A text that the two tokenizers take apart differently, or None."""
    first, second = (getattr(processor, "tokenizer", processor) for processor in (before, after))
    texts = [*PROBES, *(_text(first, example.input_ids) for example in rows_to_compare(data))]
    for text in texts:
        if _ids(first, text) != _ids(second, text):
            return text
    return None if first.chat_template == second.chat_template else "the chat template"


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False))


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
