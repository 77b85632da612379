"""How fast chat rows are prepared, next to the bare tokenizer and to TRL's `SFTTrainer`, and in how much memory.

Every figure is of a process of its own on the same rows: two turns of question and reply after a system message,
about 200 tokens, from the words of the standard library. The bare tokenizer gets the rendered text; TRL
renders, tokenizes and masks with the same template and its marks; ftcore reads the file, splits, renders,
tokenizes, masks, checks every reply by decoding it, writes Arrow files and proves a sample. Memory is that of the
whole process tree, at its highest; what its processes share counts once.

Run: python benchmarks/prepare.py [--rows 200000] [--trl-rows 20000] [--many 0]
Exit code 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1")

GOAL_TRL, GOAL_BARE, GOAL_MEMORY, GOAL_WARM = 5.0, 2.0, 1.5e9, 2.0

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
# The regular expression by which Llama 3's tokenizer cuts a text into words.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def sources() -> list[str]:
    """Files of the standard library."""
    folder = Path(sysconfig.get_path("stdlib"))
    return [path.read_text("utf-8", "ignore") for path in sorted(folder.glob("*.py"))]


def write_model(folder: Path) -> None:
    """A tokenizer of 32,000 tokens like Llama 3's, and a model around it that is never run."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=32_000, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(sources(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[4],
        pad_token=SPECIAL[1],
        extra_special_tokens=SPECIAL[2:4],
        chat_template=TEMPLATE,
    )
    fast.save_pretrained(folder)
    shape: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(fast), **shape, **heads)).save_pretrained(folder)


def file_of(rows: int) -> str:
    """The name of the file with so many rows."""
    return f"rows-{rows}.jsonl"


def write_rows(path: Path, count: int) -> None:
    """Conversations of about 200 tokens; no two are alike."""
    draw, words = random.Random(0), [word for text in sources() for word in text.split()]

    def said(least: int, most: int) -> str:
        length = draw.randint(least, most)
        start = draw.randrange(len(words) - length)
        return " ".join(words[start : start + length])

    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            messages = [{"role": "system", "content": "You are a helpful assistant."}]
            for _ in range(2):
                messages.append({"role": "user", "content": said(5, 25)})
                messages.append({"role": "assistant", "content": said(15, 40)})
            file.write(json.dumps({"messages": messages}) + "\n")


# What is measured, each in a process of its own; prints seconds, rows and tokens


def bare(folder: Path, rows: int) -> dict[str, float]:
    """`encode_batch` of the text that the template makes; rendering is not counted, and nothing is kept."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "model")
    seconds = tokens = 0.0
    for batch in _batches(folder / file_of(rows), rows, 4096):
        texts = tokenizer.apply_chat_template([row["messages"] for row in batch], tokenize=False)
        start = time.perf_counter()
        encoded = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        seconds += time.perf_counter() - start
        tokens += sum(len(each.ids) for each in encoded)
    return {"seconds": seconds, "rows": rows, "tokens": tokens}


def trl(folder: Path, rows: int, processes: int | None = None) -> dict[str, float]:
    """What the constructor of `SFTTrainer` does with the rows, as it does by default: in one process."""
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    data = datasets.Dataset.from_list([row for batch in _batches(folder / file_of(rows), rows, 4096) for row in batch])
    config = SFTConfig(
        output_dir=str(folder / "trl"),
        assistant_only_loss=True,
        max_length=2048,
        dataset_num_proc=processes,
        use_cpu=True,
        bf16=False,
        report_to="none",
    )
    start = time.perf_counter()
    trainer = SFTTrainer(model, args=config, train_dataset=data, processing_class=tokenizer)
    seconds = time.perf_counter() - start
    tokens = sum(len(row["input_ids"]) for row in trainer.train_dataset.take(1000)) / 1000 * rows
    return {"seconds": seconds, "rows": len(trainer.train_dataset), "tokens": tokens}


def trl_parallel(folder: Path, rows: int) -> dict[str, float]:
    """The same with a process for each core, which a user has to ask for."""
    return trl(folder, rows, len(os.sched_getaffinity(0)))


def ftcore(folder: Path, rows: int) -> dict[str, float]:
    """From the profile to proved rows: all that `ftcore run` does before it loads the weights, imports aside."""
    from transformers import AutoConfig

    AutoConfig.from_pretrained(folder / "model")  # imports what is imported for the others before they are timed
    from ftcore.data.prepare import prepare
    from ftcore.engine import planned
    from ftcore.preflight import check_profile, load_profile

    loaded = load_profile(folder / "chat.toml", sets=[f"data.path='{folder.resolve() / file_of(rows)}'"])
    run = planned(loaded)
    plugins, _ = check_profile(loaded, run, report=print)
    start = time.perf_counter()
    prepared = prepare(plugins, run, str)
    seconds = time.perf_counter() - start
    ledger, lengths = prepared.data.ledger, prepared.data.lengths
    return {"seconds": seconds, "rows": ledger.trained + ledger.held_out, "tokens": sum(lengths)}


MEASURED = {"bare": bare, "trl": trl, "trl_parallel": trl_parallel, "ftcore": ftcore}

PROFILE = """
[run]
cache_dir = "cache"
[model]
id = "./model"
[plugin.chat]
"""


def _batches(path: Path, rows: int, size: int) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    with path.open(encoding="utf-8") as file:
        for _, line in zip(range(rows), file, strict=False):
            batch.append(json.loads(line))
            if len(batch) == size:
                yield batch
                batch = []
    if batch:
        yield batch


def measure(what: str, folder: Path, rows: int) -> dict[str, float]:
    """Run one measurement in a process of its own; adds its highest memory in bytes."""
    command = [sys.executable, __file__, "--measure", what, "--folder", str(folder), "--rows", str(rows)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        highest = [0]
        watcher = threading.Thread(target=_watch, args=(process, highest))
        watcher.start()
        out, _ = process.communicate()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{what} failed")
    return {**json.loads(out.splitlines()[-1]), "memory": highest[0]}


def _watch(process: subprocess.Popen[str], highest: list[int]) -> None:
    import psutil

    while process.poll() is None:
        try:
            root = psutil.Process(process.pid)
            tree = [root, *root.children(recursive=True)]
            # Proportional: what processes share, such as mapped libraries, counts once.
            highest[0] = max(highest[0], sum(each.memory_full_info().pss for each in tree))
        except (psutil.Error, OSError):
            continue
        time.sleep(0.1)


def report(name: str, found: dict[str, float]) -> None:
    """One line of the table."""
    per_second = found["rows"] / found["seconds"]
    print(
        f"{name:<28} {found['rows']:>9,.0f} rows {found['seconds']:>8.1f} s {per_second:>9,.0f} rows/s "
        f"{found['tokens'] / found['rows']:>6.0f} tokens a row {found['memory'] / 2**30:>6.2f} GiB"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all of it, or one thing for the parent."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=200_000, help="rows that ftcore and the bare tokenizer prepare")
    parser.add_argument("--trl-rows", type=int, default=20_000, help="rows that TRL prepares")
    parser.add_argument("--many", type=int, default=0, help="rows of another run of ftcore, for its memory")
    parser.add_argument("--folder", type=Path, help="work here and keep the rows")
    parser.add_argument("--measure", choices=MEASURED, help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if parsed.measure:
        print(json.dumps(MEASURED[parsed.measure](parsed.folder, parsed.rows)))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = parsed.folder or Path(scratch)
        folder.mkdir(exist_ok=True, parents=True)
        return compare(folder, parsed.rows, parsed.trl_rows, parsed.many)


def compare(folder: Path, rows: int, trl_rows: int, many: int) -> int:
    """The table, and whether the goals are reached."""
    if not (folder / "model").is_dir():
        write_model(folder / "model")
    for count in {rows, trl_rows, many} - {0}:
        if not (folder / file_of(count)).is_file():
            write_rows(folder / file_of(count), count)
    (folder / "chat.toml").write_text(PROFILE, encoding="utf-8")
    found = {}
    for name, what, count in (
        ("bare encode_batch", "bare", rows),
        ("ftcore", "ftcore", rows),
        ("ftcore, second run", "ftcore", rows),
        ("TRL SFTTrainer", "trl", trl_rows),
        ("TRL, a process a core", "trl_parallel", trl_rows),
        *([("ftcore, many rows", "ftcore", many)] if many else []),
    ):
        found[name] = measure(what, folder, count)
        report(name, found[name])
    return judged(found)


def judged(found: dict[str, dict[str, float]]) -> int:
    """Print each ratio beside its goal."""
    speed = {name: each["rows"] / each["seconds"] for name, each in found.items()}
    memory = max(each["memory"] for name, each in found.items() if name.startswith("ftcore"))
    figures = [
        ("rows per second, in those of TRL", speed["ftcore"] / speed["TRL SFTTrainer"], GOAL_TRL, 1),
        ("time, in that of the bare tokenizer", speed["bare encode_batch"] / speed["ftcore"], GOAL_BARE, -1),
        ("second run, seconds", found["ftcore, second run"]["seconds"], GOAL_WARM, -1),
        ("highest memory, GB", memory / 1e9, GOAL_MEMORY / 1e9, -1),
    ]
    missed = 0
    for title, value, goal, sign in figures:
        reached = sign * (value - goal) >= 0
        missed += not reached
        limit = f"{'at least' if sign > 0 else 'at most'} {goal:g}"
        print(f"{title:<40} {value:6.2f}  goal: {limit}{'' if reached else '  MISSED'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
