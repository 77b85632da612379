"""Memory and time of merging an adapter into a Llama of 1.24 billion parameters: ours and PEFT's, side by side.

The base has the shape of Llama 3.2-1B and random weights in bfloat16, in files of 500 MB; the adapter is of rank 16 on
all linear layers. Each merge runs in a process of its own, ours and PEFT's by turns, from the first look at the base to
the last file; imports are before that. PEFT's is `from_pretrained`, `merge_and_unload` and `save_pretrained`. Their
files are compared byte by byte.
Run: python benchmarks/merge.py [--rounds 3]
Exit code 1 when ours takes over 1.2 GB at its peak, is slower, or differs.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import torch

from ftcore.api import process_peak

MOST, GIB = 1.2e9, 2**30
SHAPE: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
}
RANK, SHARD = 16, "500MB"


def build(folder: Path) -> None:
    """The base, the adapter and a small tokenizer."""
    from peft import LoraConfig
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    from ftcore.api import Row, Rows
    from ftcore.testing import make_run
    from ftcore_plugins.common.merging.shards import Planned, write_shards
    from ftcore_plugins.common.sketch import sketch
    from ftcore_plugins.tiny_model import Options, TinyModel

    base, adapter = folder / "base", folder / "adapter"
    for path in (base, adapter):
        path.mkdir(parents=True)
    config = LlamaConfig(**SHAPE, architectures=["LlamaForCausalLM"], dtype="bfloat16")
    config.save_pretrained(base)
    rows = Rows(train=[Row(values={"text": "a text for its tokenizer"}, origin="")], validation=[], fingerprint="")
    TinyModel(Options()).load_processor(make_run(folder / "run"), rows).save_pretrained(base)
    model = sketch(config, "bfloat16")
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    write_shards(
        base, {name: Planned(shape=s, dtype=torch.bfloat16, pieces=_drawn(s)) for name, s in shapes.items()}, SHARD
    )
    linear = {name: shape for name, shape in shapes.items() if "_proj" in name}
    tensors = {}
    for name, (outputs, inputs) in linear.items():
        start = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{start}.lora_A.weight"] = 0.02 * torch.randn(RANK, inputs)
        tensors[f"{start}.lora_B.weight"] = 0.02 * torch.randn(outputs, RANK)
    save_file(tensors, adapter / "adapter_model.safetensors", {"format": "pt"})
    targets = sorted({name.split(".")[-2] for name in linear})
    LoraConfig(r=RANK, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM").save_pretrained(adapter)


def _drawn(shape: tuple[int, ...]) -> Callable[[], Iterator[torch.Tensor]]:
    def pieces() -> Iterator[torch.Tensor]:
        yield 0.02 * torch.randn(shape, dtype=torch.bfloat16)

    return pieces


def merge_ours(folder: Path, target: Path) -> Callable[[], None]:
    """What the exporters call; the model in memory, which training has, is a sketch."""
    from peft import LoraConfig  # noqa: F401 - imports are not measured
    from transformers import AutoConfig, AutoTokenizer

    from ftcore.api import Ledger, Loaded, PreparedData
    from ftcore.testing import make_run
    from ftcore_plugins.common.merging import Settings, write_merged
    from ftcore_plugins.common.sketch import sketch

    def merge() -> None:
        base = folder / "base"
        model = sketch(AutoConfig.from_pretrained(base), "bfloat16")
        loaded = Loaded(model=model, processor=AutoTokenizer.from_pretrained(base), base=str(base), adapter="lora")
        ledger = Ledger(rows=0, trained=0, held_out=0)
        data = PreparedData(train=[], validation=[], lengths=[], collate=dict, ledger=ledger, end_of_turn=1)
        settings = Settings(max_shard_size=SHARD)
        write_merged(target, make_run(folder), loaded, data, folder / "adapter", settings=settings)

    return merge


def merge_peft(folder: Path, target: Path) -> Callable[[], None]:
    """As PEFT's documentation does it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def merge() -> None:
        base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16)
        model = PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload()
        model.save_pretrained(target, max_shard_size=SHARD)
        AutoTokenizer.from_pretrained(folder / "base").save_pretrained(target)

    return merge


WAYS = {"ours": merge_ours, "PEFT": merge_peft}


def measure(way: str, folder: Path, target: Path) -> dict[str, float]:
    """One merge in a process of its own: seconds, CPU seconds and the highest resident memory in bytes."""
    shutil.rmtree(target, ignore_errors=True)
    os.sync()  # what the one before wrote must not be this one's work
    command = [sys.executable, __file__, "--child", way, "--folder", str(folder), "--target", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{way} failed: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run_child(way: str, folder: Path, target: Path) -> None:
    """Print the figures of one merge as JSON."""
    merge = WAYS[way](folder, target)
    before, used = time.perf_counter(), time.process_time()
    imports = GIB * process_peak()
    merge()
    figures = {"seconds": time.perf_counter() - before, "cpu": time.process_time() - used}
    print(json.dumps({**figures, "peak": GIB * process_peak(), "imports": imports}))


def main() -> int:
    """Print both, and say whether the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", choices=WAYS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--target", type=Path)
    asked = parser.parse_args()
    if asked.child:
        run_child(asked.child, asked.folder, asked.target)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        build(folder)
        rounds = [{way: measure(way, folder, folder / way) for way in WAYS} for _ in range(asked.rounds)]
        shards = sorted(path.name for path in (folder / "PEFT").glob("*.safetensors"))
        same = all(filecmp.cmp(folder / "ours" / name, folder / "PEFT" / name, shallow=False) for name in shards)
    found = {
        way: {name: statistics.median(each[way][name] for each in rounds) for name in rounds[0][way]} for way in WAYS
    }
    for way, figures in found.items():
        memory = f"{figures['peak'] / 1e6:.0f} MB at the peak ({figures['imports'] / 1e6:.0f} after imports)"
        print(f"{way}: {figures['seconds']:.1f} s, {figures['cpu']:.1f} s of CPU, {memory}")
    print(f"{len(shards)} files, {'equal byte by byte' if same else 'NOT equal'}; medians of {asked.rounds}")
    ours, theirs = found["ours"], found["PEFT"]
    return int(not same or ours["peak"] > MOST or ours["seconds"] > theirs["seconds"])


if __name__ == "__main__":
    sys.exit(main())
