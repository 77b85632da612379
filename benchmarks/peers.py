"""CPU time a training step and peak memory, next to a bare `transformers.Trainer` script and `trl sft` with defaults.

The job of all three: a Llama of 3.6M parameters with a vocabulary of 32,000, LoRA r=16 on all linear layers, rows that
are half prompt and half reply of which only the reply is trained, eight rows a step in two micro-batches. Each command
is run whole, for few steps and for many; the difference, divided by the steps between, is the time of a step. The
commands take turns, so that a change of the machine's speed hits all of them. The bare script and ftcore calculate in
float32; TRL's defaults are bfloat16 with activation checkpointing.
Run: python benchmarks/peers.py [--steps 40] [--rounds 3]
Exit code 1 when ftcore takes over 0.85 of the bare script's time or over 0.5 of TRL's, or more memory than either.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console
from rich.table import Table

FEW = 5
ROWS = 2000
VOCABULARY = 32000
BATCH, MICRO, RATE = 8, 4, 1e-3
GOALS = {"bare Trainer": 0.85, "trl sft": 0.5}
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

PROFILE = """
[run]
name = "peers"
output_dir = "runs"
samples = 0
[hardware]
profile = "cpu"
[model]
id = "./model"
[data]
path = "rows/train.jsonl"
validation = 0
[train]
learning_rate = {rate}
max_steps = {steps}
batch_size = {batch}
micro_batch_size = {micro}
scheduler = "linear"
warmup = 0
save_steps = 0
[plugin.chat]
chat_template = "raw"
[plugin.lora]
r = 16
"""


@attrs.frozen(kw_only=True)
class Cost:
    """What a command took: CPU seconds of all its processes, and the most memory of one in MiB."""

    seconds: float
    memory: float


def functions() -> Iterator[tuple[str, str]]:
    """Prompts and replies of like length: the two halves of functions of the standard library."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        source = path.read_text("utf-8", errors="ignore")
        for node in ast.walk(ast.parse(source)):
            text = (ast.get_source_segment(source, node) or "") if isinstance(node, ast.FunctionDef) else ""
            lines = text.splitlines(keepends=True)
            if 6 <= len(lines) <= 40:
                yield "".join(lines[: len(lines) // 2]), "".join(lines[len(lines) // 2 :])


def make_job(folder: Path) -> None:
    """Write the model and the rows."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from ftcore_plugins.tiny_model import train_tokenizer

    pairs = random.Random(0).sample(list(functions()), ROWS)
    lines = [json.dumps({"prompt": prompt, "completion": reply}) + "\n" for prompt, reply in pairs]
    (folder / "rows").mkdir()
    (folder / "rows" / "train.jsonl").write_text("".join(lines), "utf-8")
    sources = (path.read_text("utf-8", errors="ignore") for path in Path(sysconfig.get_path("stdlib")).rglob("*.py"))
    tokenizer = train_tokenizer(sources, VOCABULARY, 2048)
    shape = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = LlamaConfig(vocab_size=len(tokenizer), **shape, tie_word_embeddings=True, initializer_range=0.05, **ids)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


def bare(folder: Path, steps: int) -> None:
    """A script as one finds it in tutorials."""
    from peft import LoraConfig, get_peft_model
    from torch.utils.data import Dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainingArguments,
    )

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"))

    class Tokenized(Dataset[Any]):
        def __init__(self) -> None:
            lines = (folder / "rows" / "train.jsonl").read_text("utf-8").splitlines()
            self.rows = [self.encode(**json.loads(line)) for line in lines]

        def encode(self, prompt: str, completion: str) -> Mapping[str, Any]:
            before = tokenizer(prompt)["input_ids"]
            after = [*tokenizer(completion)["input_ids"], tokenizer.eos_token_id]
            return {"input_ids": before + after, "labels": [-100] * len(before) + after}

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> Mapping[str, Any]:
            return self.rows[index]

    arguments = TrainingArguments(
        output_dir=str(folder / "bare"),
        max_steps=steps,
        per_device_train_batch_size=MICRO,
        gradient_accumulation_steps=BATCH // MICRO,
        learning_rate=RATE,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    collate = DataCollatorForSeq2Seq(tokenizer)
    Trainer(model=model, args=arguments, train_dataset=Tokenized(), data_collator=collate).train()


def commands(folder: Path, steps: int) -> dict[str, Sequence[str]]:
    """The three commands, by name."""
    profile = folder / f"profile-{steps}.toml"
    profile.write_text(PROFILE.format(rate=RATE, steps=steps, batch=BATCH, micro=MICRO), "utf-8")
    accumulation = ["--per_device_train_batch_size", str(MICRO), "--gradient_accumulation_steps", str(BATCH // MICRO)]
    rates = ["--learning_rate", str(RATE), "--max_steps", str(steps), "--save_strategy", "no", "--report_to", "none"]
    adapter = ["--use_peft", "--lora_r", "16", "--lora_target_modules", "all-linear", "--use_cpu", "true"]
    data = ["--model_name_or_path", "model", "--dataset_name", "rows", "--output_dir", "trl"]
    return {
        "ftcore": [sys.executable, "-m", "ftcore.cli", "run", profile.name, "--quiet"],
        "bare Trainer": [sys.executable, __file__, "--bare", str(folder), str(steps)],
        "trl sft": [sys.executable, "-m", "trl.scripts.sft", *data, *accumulation, *rates, *adapter],
    }


def cost(command: Sequence[str], folder: Path) -> Cost:
    """Run a command and count it. Raises `SystemExit` with its last words when it fails."""
    log = folder / "log.txt"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **ENVIRONMENT}, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text('utf-8')[-2000:]}")
    return Cost(seconds=used.ru_utime + used.ru_stime, memory=used.ru_maxrss / 1024)


def measure(folder: Path, steps: int, rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """CPU seconds of a step for every round, and the most memory, of each command."""
    few, many = commands(folder, FEW), commands(folder, FEW + steps)
    seconds: dict[str, list[float]] = {name: [] for name in few}
    memory = dict.fromkeys(few, 0.0)
    for _ in range(rounds):
        for name in few:
            short, long = cost(few[name], folder), cost(many[name], folder)
            seconds[name].append((long.seconds - short.seconds) / steps)
            memory[name] = max(memory[name], long.memory)
    return seconds, memory


def report(seconds: Mapping[str, Sequence[float]], memory: Mapping[str, float]) -> bool:
    """Print the table; answer whether the goals are reached."""
    table = Table("command", "CPU ms a step", "ftcore's share", "goal", "MiB")
    reached = True
    for name, times in seconds.items():
        share = statistics.median(a / b for a, b in zip(seconds["ftcore"], times, strict=True))
        reached &= share <= GOALS.get(name, 1.0) and memory["ftcore"] <= memory[name]
        goal = f"at most {GOALS[name]}" if name in GOALS else ""
        table.add_row(name, f"{1000 * statistics.median(times):.0f}", f"{share:.2f}", goal, f"{memory[name]:.0f}")
    Console().print(table)
    return reached


def main() -> int:
    """Make the job, run the three in turn, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare", nargs=2, metavar=("FOLDER", "STEPS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        bare(Path(options.bare[0]), int(options.bare[1]))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_job(folder)
        return 0 if report(*measure(folder, options.steps, options.rounds)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
