"""How far `ftcore plan` and `ftcore inspect` are from the truth.

    python benchmarks/planner.py [--only counts|bytes|peak|cost]

- counts: parameters and adapters of Llama 3.2-1B and Gemma 3 4B against the published figures, to the last digit;
- bytes: the weights of a layer stack that bitsandbytes has quantized, against the plan's, within 0.5%;
- peak: growth of the resident memory of short real runs on the CPU (three sizes of Llama with random weights, adapter
  and full training) against the plan's, within 15%;
- cost: `ftcore plan` on Gemma 3 4B in under 5 CPU seconds and 600 MB.

Every case runs in a process of its own. Exit code 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "plugins"))

from model_configs import (
    GEMMA_3_4B,
    GEMMA_LORA_64,
    GEMMA_PARAMETERS,
    LLAMA_3_2_1B,
    LLAMA_LORA_16,
    LLAMA_PARAMETERS,
    write_config,
)

BYTES_ERROR, PEAK_ERROR = 0.005, 0.15
MOST_SECONDS, MOST_MEGABYTES = 5.0, 600.0
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

GEMMA = '[model]\nid = "gemma"\n[plugin.lora]\nr = 64\nvision = true\n[plugin.gemma_grid]\n'
LLAMA = '[model]\nid = "llama"\n[plugin.lora]\nr = 16\n[plugin.chat]\n'

# Hidden width, layers, rows at once: about 20, 60 and 150 million parameters with a vocabulary of 16,000.
SIZES: Mapping[str, tuple[int, int, int]] = {"20M": (384, 5, 4), "60M": (640, 7, 4), "150M": (896, 11, 2)}
VOCABULARY, TOKENS = 16000, 512
PEAK = """
[run]
samples = 0
[hardware]
profile = "cpu"
[model]
id = "{model}"
[data]
path = "rows.jsonl"
validation = 0.1
[train]
max_steps = 3
batch_size = {rows}
micro_batch_size = {rows}
max_length = 1024
save_steps = 0
[plugin.chat]
{more}
"""


def main() -> int:
    """Measure, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES, help="measure one thing")
    parser.add_argument("--child", nargs=2, metavar=("CASE", "FOLDER"), help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.child:
        CHILDREN[parsed.child[0]](Path(parsed.child[1]))
        return 0
    missed = 0
    for name, case in CASES.items():
        if parsed.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                missed += case(Path(folder))
    print(f"{missed} goals missed")
    return 1 if missed else 0


def _counts(folder: Path) -> int:
    """Counts by `ftcore inspect --json`."""
    cases = {
        "llama": (LLAMA, LLAMA_3_2_1B, LLAMA_PARAMETERS, LLAMA_LORA_16),
        "gemma": (GEMMA, GEMMA_3_4B, GEMMA_PARAMETERS, GEMMA_LORA_64),
    }
    missed = 0
    for name, (profile, config, total, adapter) in cases.items():
        write_config(folder / name, config)
        (folder / f"{name}.toml").write_text(profile, "utf-8")
        counts = json.loads(_ftcore(folder, "inspect", f"{name}.toml", "--json"))["parameters"]
        print(
            f"counts  {name}: {counts['base']:,} parameters ({total:,}), {counts['trainable']:,} trained ({adapter:,})"
        )
        missed += (counts["base"], counts["trainable"]) != (total, adapter)
    return missed


def _bytes(folder: Path) -> int:
    """Storage of 4-bit weights, with their scales, as they lie in memory."""
    found = json.loads(_child("bytes", folder).splitlines()[-1])
    real, planned = found["real"], found["planned"]
    print(f"bytes   nf4: {planned:,.0f} planned, {real:,} real, {planned / real - 1:+.2%}")
    return int(abs(planned / real - 1) > BYTES_ERROR)


def _quantized(folder: Path) -> None:
    """Quantize two layers of the shape of Llama 3.2-1B's, by the qlora plugin and transformers."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    from ftcore.planning.source import Source, plugins_of, sketch_of

    config = {**LLAMA_3_2_1B, "num_hidden_layers": 2, "vocab_size": 512}
    del config["architectures"], config["model_type"], config["dtype"]
    LlamaForCausalLM(LlamaConfig(**config)).to(torch.bfloat16).save_pretrained(folder / "model")
    profile = folder / "p.toml"
    profile.write_text('[hardware]\nprofile = "cpu"\n[model]\nid = "model"\n[plugin.qlora]\n[plugin.chat]\n', "utf-8")
    loaded = Source(path=profile).load()
    known = sketch_of(loaded, print)
    from ftcore.engine import planned as run_of
    from ftcore.planning.memory import quantized_weights
    from ftcore.planning.plan import make_plan

    quantization = plugins_of(loaded, print).quantize(run_of(loaded))
    assert quantization is not None
    model = AutoModelForCausalLM.from_pretrained(folder / "model", **quantization.options)
    real = sum(_held(weight) for weight in model.parameters())
    planned, _ = quantized_weights(known.facts, make_plan(loaded.profile, known).setting)
    print(json.dumps({"real": real, "planned": planned}))


def _held(weight: Any) -> int:
    """Bytes of a quantized weight with its scales, and 0 for one that is not."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return 0
    held = [weight, state.absmax, state.code]
    if state.nested:
        held += [state.state2.absmax, state.state2.code, state.offset]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)


def _peak(folder: Path) -> int:
    """Short runs, and what was foreseen of them."""
    missed = 0
    for name, size in SIZES.items():
        place = folder / name
        place.mkdir()
        _write_model(place, size)
        for kind, more in (("adapter", "[plugin.lora]\n"), ("full", "")):
            profile = PEAK.format(model="model", rows=size[2], more=more)
            (place / "p.toml").write_text(profile, "utf-8")
            real = json.loads(_child("peak", place).splitlines()[-1])["grown"]
            plan = json.loads(_ftcore(place, "plan", "p.toml", "--prepare", "--json"))["memory"]
            planned = (plan["peak_gib"] - plan["parts"]["context"]) * 2**30
            error = planned / real - 1
            print(f"peak    {name} {kind}: {planned / 2**20:,.0f} MiB planned, {real / 2**20:,.0f} real, {error:+.1%}")
            missed += abs(error) > PEAK_ERROR
    return missed


def _write_model(place: Path, size: tuple[int, int, int]) -> None:
    (place / "size.json").write_text(json.dumps(size), "utf-8")
    text = " ".join(f"word{n % 97} counts {n % 31}" for n in range(60))
    rows = [{"instruction": f"{text} row {n}", "output": f"{text} answer {n}"} for n in range(40)]
    (place / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    _child("model", place)


def _save_model(place: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from ftcore_plugins.tiny_model import train_tokenizer

    width, layers, _ = json.loads((place / "size.json").read_text("utf-8"))
    texts = [json.loads(line)["output"] for line in (place / "rows.jsonl").read_text("utf-8").splitlines()]
    tokenizer = train_tokenizer(texts, 512, 2048)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 128,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")


def _measured_run(place: Path) -> None:
    """Run once; what the process holds with its libraries is subtracted."""
    import peft  # noqa: F401
    import trl
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    from ftcore.engine import run
    from ftcore.preflight import load_profile

    _ = trl.SFTTrainer
    _warm_up()
    before = _status("VmRSS")
    run(load_profile(place / "p.toml"))
    print(json.dumps({"grown": _status("VmHWM") - before, "before": before}))


def _warm_up() -> None:
    """One step of a model of nothing: the libraries load their kernels at the first one."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128}
    model = LlamaForCausalLM(LlamaConfig(**shape, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1))
    ids = torch.randint(0, 500, (2, 64))
    model(input_ids=ids, labels=ids).loss.backward()
    torch.optim.AdamW(model.parameters(), fused=True).step()


def _cost(folder: Path) -> int:
    """`ftcore plan` on Gemma 3 4B, from its config alone."""
    write_config(folder / "gemma", GEMMA_3_4B)
    profile = GEMMA.replace("vision = true", "") + "[train]\nmicro_batch_size = 1\n"
    (folder / "p.toml").write_text(profile, "utf-8")
    _child("cost", folder)  # once to read everything from disk
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = json.loads(_child("cost", folder).splitlines()[-1])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"cost    plan on Gemma 3 4B: {seconds:.1f} CPU seconds, {figures['megabytes']:.0f} MB")
    return int(seconds > MOST_SECONDS) + int(figures["megabytes"] > MOST_MEGABYTES)


def _plan_here(folder: Path) -> None:
    from ftcore.cli import main as ftcore

    os.chdir(folder)
    ftcore(["plan", "p.toml", "--on", "h100"])
    print(json.dumps({"megabytes": _status("VmHWM") / 1e6}))


def _status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _child(case: str, folder: Path) -> str:
    return _output([sys.executable, __file__, "--child", case, str(folder)], folder)


def _ftcore(folder: Path, *arguments: str) -> str:
    return _output([sys.executable, "-m", "ftcore.cli", *arguments], folder)


def _output(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


CASES: Mapping[str, Callable[[Path], int]] = {"counts": _counts, "bytes": _bytes, "peak": _peak, "cost": _cost}
CHILDREN: Mapping[str, Callable[[Path], Any]] = {
    "bytes": _quantized,
    "model": _save_model,
    "peak": _measured_run,
    "cost": _plan_here,
}


if __name__ == "__main__":
    sys.exit(main())
