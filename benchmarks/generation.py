"""How much faster held-out rows are answered in batches than one by one, and whether the answers stay the same.

The prompts are functions of the standard library, as `[plugin.python_functions]` finds them, of lengths between a few
tokens and some hundreds; the model is the tiny one, in fp32, greedy. Both ways take turns in one process, so that a
change of the machine's speed hits both; the time is CPU time, on one thread.
Run: python benchmarks/generation.py [--rows 64] [--batch 16] [--tokens 64] [--rounds 3]
Exit code 1 when a batch is less than three times as fast, or when an answer differs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

from ftcore.api import Example, Rows, Trainer
from ftcore.testing import formatted, make_run
from ftcore_plugins.llama_code import LlamaCode
from ftcore_plugins.llama_code import Options as CodeOptions
from ftcore_plugins.python_functions import Options as FunctionOptions
from ftcore_plugins.python_functions import PythonFunctions
from ftcore_plugins.sft import Options, Sft
from ftcore_plugins.tiny_model import Options as TinyOptions
from ftcore_plugins.tiny_model import TinyModel

AT_LEAST = 3.0


def trainers(folder: Path, rows: int, sizes: Sequence[int]) -> tuple[list[Trainer], Sequence[Example]]:
    """One trainer for each size of a batch, all of the same weights, and the rows to answer."""
    run = make_run(folder, data={"validation": 0}, train={"max_length": 512})
    found = PythonFunctions(FunctionOptions(limit=4 * rows, max_lines=20)).load_rows(run)
    plugin = TinyModel(TinyOptions(vocabulary_size=512))
    tokenizer = plugin.load_processor(run, Rows(train=found, validation=[], fingerprint=""))
    data = formatted(run, LlamaCode(CodeOptions()).format_dataset(run, tokenizer), found)
    made = []
    for size in sizes:
        one = make_run(folder, train={"eval_batch_size": size, "max_steps": 1}, hardware={"device": "cpu"})
        made.append(Sft(Options()).make_trainer(one, plugin.load_model(one, tokenizer, None), data, {}))
    return made, data.train[:rows]


def timed(trainer: Trainer, rows: Sequence[Example], tokens: int) -> tuple[float, Sequence[str]]:
    """CPU seconds, and the answers."""
    began = time.process_time()
    answers = trainer.generate(rows, tokens)
    return time.process_time() - began, answers


def main() -> int:
    """Measure, print, and judge by the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ratios, different = [], 0
    with tempfile.TemporaryDirectory() as name:
        (single, batched), rows = trainers(Path(name), options.rows, (1, options.batch))
        lengths = sorted(len(row.prompt_ids) for row in rows)
        for _ in range(options.rounds):
            alone, wanted = timed(single, rows, options.tokens)
            together, answers = timed(batched, rows, options.tokens)
            ratios.append(alone / together)
            different += sum(one != other for one, other in zip(wanted, answers, strict=True))
            print(f"{len(rows)} rows: {alone:.2f} s one by one, {together:.2f} s in batches of {options.batch}")
    ratio = statistics.median(ratios)
    print(f"prompts of {lengths[0]} to {lengths[-1]} tokens; {ratio:.2f} times as fast; {different} answers differ")
    return 0 if ratio >= AT_LEAST and not different else 1


if __name__ == "__main__":
    raise SystemExit(main())
