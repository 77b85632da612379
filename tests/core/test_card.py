"""The model card: what it tells, what it keeps to itself, and that a reader of YAML and the hub's client accept it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import yaml
from huggingface_hub import ModelCard

from ftcore.api import Artifact, Proof, Run, Verdict, write_card
from ftcore.manifest import new_manifest
from ftcore.shipping.front_matter import LICENSES, is_folder, quoted
from ftcore.testing import make_run

PROVED = Proof(verdict=Verdict.PROVED, figures={"kl_mean": 1.5e-6, "top1": 1.0}, note="gate 1e-4")
FAILED = Proof(verdict=Verdict.FAILED, figures={"kl_mean": 0.5}, note="it does not load")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return attrs.evolve(make_run(tmp_path / "run"), name="my run")


def remember(run: Run, plugin: dict | None = None, **values: object) -> None:
    """A manifest as a finished run leaves it."""
    settings = {
        "run": {"name": "my run", "seed": 7, "output_dir": "/home/ann/runs"},
        "data": {"id": "", "path": "/home/ann/secret rows.jsonl"},
        "train": {"learning_rate": 0.01, "max_steps": 24, "epochs": 3.0, "log_steps": 1, "micro_batch_size": None},
        "plugin": plugin or {},
    }
    known = {
        "settings": settings,
        "model": {"base": "org/base", "revision": "abc123", "fingerprint": "f", "license": "llama3.2"},
        "data": {
            "fingerprint": "0123456789abcdef0123",
            "ledger": {"rows": 9, "trained": 6, "held_out": 2, "dropped": {"too long": 1}, "repeated": 0},
        },
        "loss": {"before": 7.5189, "after": 1.25},
        "scores": {"before": {"exact": 0.0, "cell/x": 1.0}, "after": {"exact": 0.5}},
        "samples": [{"origin": "x", "prompt": "my secret", "expected": "e", "before": "b", "after": "a"}],
        "total_steps": 24,
    }
    run.folder.mkdir(parents=True, exist_ok=True)
    attrs.evolve(new_manifest(run.name, settings, []), **{**known, **values}).write(run.folder)


def adapter_of(run: Run) -> Path:
    folder = run.folder / "adapter"
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 16, "target_modules": ["a.q_proj", "b.q_proj", "a.v_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def card(folder: Path, run: Run, *artifacts: Artifact) -> tuple[dict, str]:
    folder.mkdir(parents=True, exist_ok=True)
    write_card(folder, run, artifacts)
    text = (folder / "README.md").read_text("utf-8")
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert ModelCard.load(folder / "README.md").data.to_dict() == metadata
    return metadata, text


def test_a_merged_model(run: Run) -> None:
    remember(run)
    adapter_of(run)
    folder = run.folder / "exports/merged"
    metadata, text = card(folder, run)
    assert metadata == {
        "base_model": "org/base",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "license": "llama3.2",
        "pipeline_tag": "text-generation",
        "tags": ["ftcore", "lora"],
    }
    assert "Fine-tuned from [org/base](https://huggingface.co/org/base), revision `abc123`, by [ftcore]" in text
    assert "| loss, nats a trained token | 7.519 | 1.25 |\n| exact | 0 | 0.5 |" in text
    assert "cell/x" not in text
    assert "9 rows: 6 trained on, 2 held out, 1 dropped (too long). None of them is shown here." in text
    for row in ("seed | 7", "learning_rate | 0.01", "max_steps | 24", "target_modules | q_proj, v_proj", "r | 16"):
        assert f"| {row} |" in text
    assert not re.search(r"epochs|log_steps|micro_batch_size", text)
    assert "The base model's licence is llama3.2; its terms, see [org/base]" in text
    assert "| ftcore | " in text
    assert "## Files" not in text


def test_an_adapter(run: Run) -> None:
    remember(run, data={}, loss={"before": None, "after": None}, scores={"before": {}, "after": {}})
    metadata, text = card(adapter_of(run), run)
    assert (metadata["library_name"], metadata["base_model_relation"]) == ("peft", "adapter")
    assert not re.search("## (Results|Data|Images)", text)
    assert "PeftModel.from_pretrained(base, 'adapter')" in text


def test_an_adapters_card_lists_exports_that_lie_elsewhere_without_their_commands(run: Run) -> None:
    gguf = run.folder / "exports" / "gguf" / "my.gguf"
    artifact = Artifact(kind="gguf", path=gguf, proof=Proof(verdict=Verdict.PROVED), details={"run": "llama-cli -m x"})
    _, text = card(adapter_of(run), run, artifact)
    assert "exports/gguf/my.gguf" in text
    assert "llama-cli" not in text


def test_artifacts_and_their_proofs(run: Run) -> None:
    remember(run)
    folder = run.folder / "exports/gguf"
    good = Artifact(
        kind="gguf",
        path=folder / "my-q8_0.gguf",
        proof=PROVED,
        details={"quantization": "q8_0", "merged_into": "dequantized", "run": f"llama-cli -m {folder}/my-q8_0.gguf"},
    )
    bad = Artifact(kind="gguf", path=folder / "my|`<b>.gguf", proof=FAILED, details={"run": "never"})
    other = Artifact(kind="mlx", path=run.folder / "exports/mlx", proof=Proof(verdict=Verdict.NOT_PROVED, note="why"))
    metadata, text = card(folder, run, good, bad, other)
    assert "library_name" not in metadata
    assert metadata["tags"] == ["ftcore", "gguf", "mlx"]
    assert "**`my|'&lt;b>.gguf` failed: do not ship.**" in text
    assert "| `my-q8_0.gguf` | gguf; quantization q8_0; merged into dequantized | proved |" in text
    assert "| proved | kl_mean 1.5e-06, top1 1; gate 1e-4 |" in text
    assert "| `my\\|'&lt;b>.gguf` | gguf | **failed: do not ship** | kl_mean 0.5; it does not load |" in text
    assert "| `mlx` | mlx | not proved | why |" in text
    assert "```\nllama-cli -m my-q8_0.gguf\n```" in text
    assert "never" not in text


def test_an_mlx_folder(run: Run) -> None:
    remember(run)
    folder = run.folder / "exports/mlx-4bit"
    metadata, text = card(folder, run, Artifact(kind="mlx", path=folder, proof=PROVED))
    assert metadata["library_name"] == "mlx"
    assert "| `./` | mlx | proved |" in text


def test_nothing_of_this_machine_and_no_row(run: Run, tmp_path: Path) -> None:
    remember(run, model={"base": str(tmp_path / "my base"), "revision": ""})
    folder = tmp_path / "elsewhere"
    places = {
        "merged_into": f"{tmp_path}/a/base",
        "run": f"x {run.folder}/exports/m.gguf ~/y/z; see https://a.b/c/d\n/bin/sh",
    }
    proof = attrs.evolve(PROVED, note=f"compared with {run.folder}/exports/reference")
    _, text = card(folder, run, Artifact(kind="gguf", path=folder / "m.gguf", proof=proof, details=places))
    assert str(tmp_path) not in text
    assert not re.search("/home|/bin|~/|secret", text)
    assert "x exports/m.gguf z; see https://a.b/c/d\nsh" in text
    assert "from a local model, `my base`, by" in text
    assert "base_model" not in text


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("", {"license": "unknown"}),
        ("unknown", {"license": "unknown"}),
        ("other", {"license": "other"}),
        ("apache-2.0", {"license": "apache-2.0"}),
        (
            "Qwen Research",
            {"license": "other", "license_name": "qwen-research", "license_link": "https://huggingface.co/org/base"},
        ),
        ("!!", {"license": "other", "license_name": "unnamed", "license_link": "https://huggingface.co/org/base"}),
    ],
)
def test_licences(run: Run, named: str, expected: dict) -> None:
    remember(run, model={"base": "org/base", "license": named})
    metadata, _ = card(run.folder / "exports/merged", run)
    assert {name: value for name, value in metadata.items() if name.startswith("license")} == expected
    assert metadata["license"] in LICENSES


def test_images(run: Run) -> None:
    table = {"pan_and_scan": True, "max_crops": 4, "min_crop_size": 256, "min_ratio": 1.2}
    remember(run, plugin={"gemma_grid": table})
    folder = run.folder / "exports/merged"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"vision_config": {}}')
    metadata, text = card(folder, run)
    assert metadata["pipeline_tag"] == "image-text-to-text"
    call = (
        "images_kwargs={'do_pan_and_scan': True, 'pan_and_scan_max_num_crops': 4, 'pan_and_scan_min_crop_size': 256, "
    )
    assert f"processor(text=text, images=images, {call}'pan_and_scan_min_ratio_to_activate': 1.2}})" in text
    remember(run, plugin={"gemma_grid": {**table, "pan_and_scan": False}})
    assert "Pan & Scan" not in card(folder, run)[1]


def test_variables_of_the_chat_template(run: Run) -> None:
    remember(run, plugin={"chat": {"chat_template_kwargs": {"enable_thinking": False}}})
    call = "tokenizer.apply_chat_template(messages, add_generation_prompt=True, **{'enable_thinking': False})"
    folder = adapter_of(run)
    assert call in card(folder, run)[1]
    remember(run, plugin={"chat": {"chat_template_kwargs": {}}})
    assert "Chat template" not in card(folder, run)[1]


def test_a_processor_tells_of_images_too(run: Run) -> None:
    remember(run)
    folder = adapter_of(run)
    (folder / "processor_config.json").write_text("{}")
    assert card(folder, run)[0]["pipeline_tag"] == "image-text-to-text"


@pytest.mark.parametrize("quoted", [repr, shlex.quote, "({})".format])
def test_a_place_with_quotes_in_its_name(tmp_path: Path, quoted: Callable[[str], str]) -> None:
    run = make_run(tmp_path / 'Zoë\'s "runs"')
    remember(run)
    path = run.folder / "exports/m.gguf"
    artifact = Artifact(kind="gguf", path=path, details={"run": f"load {quoted(str(path))}"})
    _, text = card(run.folder / "exports", run, artifact)
    assert "Zoë" not in text
    assert re.search(r"^load .?m\.gguf.?$", text, re.MULTILINE)


def test_a_data_set_of_the_hub(run: Run) -> None:
    remember(run, settings={"data": {"id": "openai/gsm8k/main"}})
    metadata, text = card(run.folder / "x", run)
    assert metadata["datasets"] == ["openai/gsm8k"]
    assert "[openai/gsm8k](https://huggingface.co/datasets/openai/gsm8k)" in text


def test_a_run_without_a_manifest(run: Run) -> None:
    metadata, text = card(run.folder / "x", run)
    assert metadata["license"] == "unknown"
    assert "| learning_rate | 0.0002 |" in text


def test_a_run_of_any_name(run: Run) -> None:
    name = "a|b `c` <d>\n---\nlicense: mit"
    _, text = card(run.folder / "x", attrs.evolve(run, name=name))
    assert "\n# a|b 'c' &lt;d> --- license: mit\n" in text


@pytest.mark.parametrize(
    "text", ["", "plain", 'a "b" \\c', "ü 日本 🙂", "a\nb\t\x00\x85\ufeff", "yes", "- x: [", "\U0010ffff"]
)
def test_quoted_text_is_yaml(text: str) -> None:
    assert yaml.safe_load(quoted(text)) == text


def test_where_a_base_is() -> None:
    assert [is_folder(name) for name in ("gpt2", "org/model", "/a", "./a", "~/a", "a/b/c")] == [False] * 2 + [True] * 4
