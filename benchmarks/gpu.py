"""Tokens per second and peak memory of LoRA and QLoRA on a GPU, next to a bare TRL script, and the planner's error.

Models have the shapes of Llama 3.2-1B and of the language model of Gemma 3 4B, and random weights. Both trainers see
the same rows (half prompt, half reply), in micro-batches of the same size, with bfloat16 arithmetic and activation
checkpointing. Every case runs in processes of its own. Results are added to benchmarks/results/.
Run: python benchmarks/gpu.py [--model llama] [--steps 30]
Without a GPU, `--small` runs the same on the CPU with a model of a few megabytes, to see that it works.
Exit code 1 when ftcore is slower than TRL, takes more memory, or the planner errs by over 10%.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console
from rich.table import Table

SKIPPED = 5
WORDS = 230
"""Words of a prompt and of a reply: about 500 tokens a row."""

PLAN_ERROR = 0.10
RESULTS = Path(__file__).parent / "results"
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 4096}
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "llama": {
        "architecture": "llama",
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "gemma": {
        "architecture": "gemma3_text",
        "vocab_size": 262208,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "tie_word_embeddings": True,
    },
}
PROFILE = """
[run]
name = "gpu"
output_dir = "runs"
samples = 0
[hardware]
profile = "{hardware}"
[model]
id = "./model"
[data]
path = "rows/train.jsonl"
validation = 0
[train]
learning_rate = 1e-4
max_steps = {steps}
batch_size = {micro}
micro_batch_size = {micro}
max_length = 1024
activation_checkpointing = true
save_steps = 0
[plugin.chat]
chat_template = "raw"
[plugin.sft]
group_steps = 1
[plugin.{adapter}]
r = 16
"""


@attrs.frozen(kw_only=True)
class Figures:
    """Seconds of a step (median), and the most GiB that the device held."""

    seconds: float
    memory: float


def make_model(folder: Path, shape: Mapping[str, Any], small: bool) -> None:
    """Write a model with random weights, and a tokenizer of a few thousand tokens."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from ftcore_plugins.tiny_model import train_tokenizer

    values = {**shape, **(SMALL if small else {})}
    config = AutoConfig.for_model(values.pop("architecture"), **values)
    torch.manual_seed(0)
    with torch.device("cpu" if small else "cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32 if small else torch.bfloat16)
    model.save_pretrained(folder / "model")
    train_tokenizer((row["prompt"] for row in rows(400)), 4096, 8192).save_pretrained(folder / "model")


def rows(count: int) -> list[dict[str, str]]:
    """Prompts and replies of made-up words."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(3000)]
    return [{key: " ".join(draw.choices(words, k=WORDS)) for key in ("prompt", "completion")} for _ in range(count)]


def ours(folder: Path, adapter: str, options: argparse.Namespace) -> tuple[Figures, float]:
    """`ftcore run`, and the GiB of tensors that `ftcore plan` foresees."""
    profile = folder / f"{adapter}.toml"
    steps, hardware = SKIPPED + options.steps, "cpu" if options.small else "auto"
    profile.write_text(PROFILE.format(hardware=hardware, steps=steps, micro=options.micro, adapter=adapter), "utf-8")
    command = [sys.executable, "-m", "ftcore.cli", "plan", profile.name, "--prepare", "--json"]
    plan = json.loads(_output(command, folder, fine=(0, 1)))  # 1: it will not fit, which is for `run` to say
    _output([sys.executable, "-m", "ftcore.cli", "run", profile.name, "--quiet"], folder)
    newest = max((folder / "runs").glob("*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
    lines = [json.loads(line) for line in newest.read_text("utf-8").splitlines()][SKIPPED:]
    seconds = statistics.median(line["tokens"] / line["tokens_per_second"] for line in lines)
    return Figures(seconds=seconds, memory=lines[-1]["memory"]), float(plan["memory"]["tensors_gib"])


def theirs(folder: Path, adapter: str, options: argparse.Namespace) -> Figures:
    """The script below, in a process of its own."""
    told = [str(folder), adapter, str(options.steps), str(options.micro)]
    answer = _output([sys.executable, __file__, "--bare", *told, *(["--small"] if options.small else [])], folder)
    return Figures(**json.loads(answer.splitlines()[-1]))


def bare(folder: Path, adapter: str, steps: int, micro: int, small: bool) -> None:
    """TRL as its documentation uses it; prints its figures."""
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    times: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    dtype = torch.float32 if small else torch.bfloat16
    quantized = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    options = {"quantization_config": quantized} if adapter == "qlora" else {}
    model = AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=dtype, device_map={"": "cpu" if small else 0}, **options
    )
    arguments = SFTConfig(
        output_dir=str(folder / "trl"),
        max_steps=SKIPPED + steps,
        per_device_train_batch_size=micro,
        learning_rate=1e-4,
        max_length=1024,
        bf16=not small,
        use_cpu=small,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )
    data = load_dataset(str(folder / "rows"))["train"]
    lora = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear")
    SFTTrainer(model=model, args=arguments, train_dataset=data, peft_config=lora, callbacks=[Watch()]).train()
    seconds = statistics.median(after - before for before, after in pairwise(times[SKIPPED:]))
    memory = 0.0 if small else torch.cuda.max_memory_allocated() / 2**30
    print(json.dumps({"seconds": seconds, "memory": memory}))


def _output(command: Sequence[str], folder: Path, fine: Sequence[int] = (0,)) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode not in fine:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def measure(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One record for each adapter."""
    records = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_model(folder, SHAPES[name], options.small)
        (folder / "rows").mkdir()
        made = rows(options.micro * (SKIPPED + options.steps))
        (folder / "rows" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made), "utf-8")
        for adapter in ("lora", "qlora"):
            (mine, planned), other = ours(folder, adapter, options), theirs(folder, adapter, options)
            records.append({"model": name, "adapter": adapter, "planned": planned, **_both(mine, other)})
    return records


def _both(mine: Figures, other: Figures) -> dict[str, float]:
    return {
        "seconds": mine.seconds,
        "memory": mine.memory,
        "trl_seconds": other.seconds,
        "trl_memory": other.memory,
    }


def report(records: Sequence[Mapping[str, Any]], micro: int) -> bool:
    """Print the table; answer whether the goals are reached."""
    table = Table("model", "adapter", "rows/s", "in TRL's", "GiB", "TRL's GiB", "planned", "error")
    reached = True
    for record in records:
        speed, error = record["trl_seconds"] / record["seconds"], record["planned"] / record["memory"] - 1
        reached &= speed >= 1 and abs(error) <= PLAN_ERROR and record["memory"] <= record["trl_memory"]
        figures = [f"{micro / record['seconds']:.2f}", f"{speed:.2f}", f"{record['memory']:.2f}"]
        table.add_row(
            record["model"],
            record["adapter"],
            *figures,
            f"{record['trl_memory']:.2f}",
            f"{record['planned']:.2f}",
            f"{error:+.0%}",
        )
    Console().print(table)
    return reached


def keep(records: Sequence[Mapping[str, Any]]) -> None:
    """Add the records, with the card and the versions they are of."""
    import torch
    import transformers

    RESULTS.mkdir(exist_ok=True)
    about = {"card": torch.cuda.get_device_name(), "torch": torch.__version__, "transformers": transformers.__version__}
    with (RESULTS / "gpu.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps({"date": time.strftime("%Y-%m-%d"), **about, **record}) + "\n" for record in records)


def main() -> int:
    """Measure, print, keep, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, help="one model only")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--micro", type=int, default=4, help="rows of a step")
    parser.add_argument("--small", action="store_true", help="a small model, on the CPU")
    parser.add_argument("--bare", nargs=4, metavar=("FOLDER", "ADAPTER", "STEPS", "MICRO"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        folder, adapter, steps, micro = options.bare
        bare(Path(folder), adapter, int(steps), int(micro), options.small)
        return 0
    records = [record for name in ([options.model] if options.model else SHAPES) for record in measure(name, options)]
    reached = report(records, options.micro)
    if options.small:
        return 0
    keep(records)
    return 0 if reached else 1


if __name__ == "__main__":
    raise SystemExit(main())
