"""`ftcore plan` and `ftcore inspect` with the real plugins, on configurations of real models and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ftcore.cli import main
from model_configs import (
    EXPERTS,
    GEMMA_3_4B,
    GEMMA_LORA_64,
    GEMMA_PARAMETERS,
    LLAMA_3_2_1B,
    LLAMA_LORA_16,
    LLAMA_PARAMETERS,
    write_config,
)

LLAMA = '[model]\nid = "model"\n[train]\nmax_length = 1024\nmax_steps = 10\n[plugin.chat]\n[plugin.lora]\nr = 16\n'
GEMMA = '[model]\nid = "model"\n[plugin.gemma_grid]\n[plugin.lora]\nr = 64\nvision = true\n'

Ask = Callable[..., Any]


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Write a profile beside the model's folder, run a command on it, and read its JSON."""

    def asked(command: str, profile: str, config: Mapping[str, Any], *more: str, code: int = 0) -> Any:
        write_config(tmp_path / "model", config)
        path = tmp_path / "profile.toml"
        path.write_text(profile, "utf-8")
        assert main([command, str(path), *more, "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return asked


def test_published_counts_of_llama(ask: Ask) -> None:
    found = ask("inspect", LLAMA, LLAMA_3_2_1B)["parameters"]
    assert (found["base"], found["adapter"], found["trainable"]) == (LLAMA_PARAMETERS, LLAMA_LORA_16, LLAMA_LORA_16)
    assert found["total"] == LLAMA_PARAMETERS + LLAMA_LORA_16


def test_published_counts_of_gemma(ask: Ask) -> None:
    found = ask("inspect", GEMMA, GEMMA_3_4B)
    assert (found["parameters"]["base"], found["parameters"]["trainable"]) == (GEMMA_PARAMETERS, GEMMA_LORA_64)
    names = {layer["name"]: layer for layer in found["layers"]}
    assert names["lm_head"]["rank"] == 0
    assert names["model.language_model.layers.*.mlp.up_proj"]["count"] == 34


def test_vision_tower_stays_whole_unless_asked_for(ask: Ask) -> None:
    found = ask("inspect", GEMMA.replace("vision = true", ""), GEMMA_3_4B)
    assert {layer["rank"] for layer in found["layers"] if "vision_tower" in layer["name"]} == {0}


def test_quantized_layers_are_marked(ask: Ask) -> None:
    found = ask("inspect", LLAMA.replace("lora", "qlora"), LLAMA_3_2_1B)
    assert found["quantization"]
    marks = {layer["name"]: layer["quantized"] for layer in found["layers"]}
    assert (marks["lm_head"], marks["model.layers.*.mlp.up_proj"]) == (False, True)


def test_plan_for_a_card(ask: Ask) -> None:
    found = ask("plan", LLAMA, LLAMA_3_2_1B, "--on", "rtx_4090")
    assert found["fits"] is True
    assert (found["device"]["name"], found["device"]["memory_gib"]) == ("RTX 4090", 24.0)
    assert found["parameters"]["base"] == LLAMA_PARAMETERS
    assert found["memory"]["parts"]["weights"] == pytest.approx(2 * LLAMA_PARAMETERS / 2**30)
    assert found["speed"]["tokens_per_second"] > 100
    assert found["speed"]["steps"] == 10


def test_plan_that_does_not_fit_says_what_to_change(ask: Ask) -> None:
    whole = LLAMA.partition("[plugin.lora]")[0]
    found = ask("plan", whole, LLAMA_3_2_1B, "--on", "rtx_3070", code=1)
    assert found["fits"] is False
    changes = [one["change"] for one in found["advice"] if one["fits"]]
    assert any("[plugin.qlora]" in change or "[plugin.lora]" in change for change in changes)
    assert "a bigger card" in found["elsewhere"]


def test_quantizing_is_advised_with_the_options_of_the_adapter(ask: Ask) -> None:
    found = ask("plan", GEMMA.replace("vision = true", ""), GEMMA_3_4B, "--on", "rtx_3070", "--tokens", "400", code=1)
    (advice,) = [one for one in found["advice"] if one["change"].startswith("[plugin.qlora]")]
    assert advice["saves_gib"] > 3
    assert advice["slower"] > 1


def test_plan_for_every_card(ask: Ask) -> None:
    found = ask("plan", LLAMA, LLAMA_3_2_1B, "--all")["profiles"]
    assert {"rtx_3070", "rtx_4090", "h100"} <= set(found)
    assert found["h100"]["speed"]["tokens_per_second"] > found["rtx_3070"]["speed"]["tokens_per_second"]


def test_options_of_the_plan_change_it(ask: Ask) -> None:
    sizes = [
        ask("plan", LLAMA, LLAMA_3_2_1B, "--on", "h200", *more)["memory"]["peak_gib"]
        for more in ([], ["--tokens", "512"], ["--tokens", "512", "--trained", "16"])
    ]
    assert sizes[0] > sizes[1] > sizes[2]
    rates = [
        ask("plan", LLAMA + f"[hardware]\ndevice = 'cuda'\nmemory = {memory}\ntflops = {rate}\n", LLAMA_3_2_1B)
        for memory, rate in ((100, 50), (200, 100))
    ]
    assert rates[1]["speed"]["tokens_per_second"] == pytest.approx(2 * rates[0]["speed"]["tokens_per_second"])
    assert [one["device"]["memory_gib"] for one in rates] == [100, 200]


def test_pictures_cost_tokens_and_time(ask: Ask) -> None:
    some, many = (
        ask("plan", GEMMA, GEMMA_3_4B, "--on", "h200", "--tokens", "1500", "--images", images, code=code)
        for images, code in (("1", 1), ("4", 1))
    )
    assert many["memory"]["peak_gib"] > some["memory"]["peak_gib"]
    assert many["speed"]["operations"] > some["speed"]["operations"]


@pytest.mark.parametrize(
    ("plugin", "whole"), [("deepspeed_zero2", {"weights"}), ("deepspeed_zero3", set()), ("fsdp", set())]
)
def test_shards_of_several_processes(ask: Ask, plugin: str, whole: set[str]) -> None:
    one = ask("plan", LLAMA, LLAMA_3_2_1B, "--on", "h200")["memory"]["parts"]
    found = ask("plan", LLAMA + "[hardware]\nprocesses = 4\n", LLAMA_3_2_1B, "--on", "h200", "--with", plugin)
    parts = found["memory"]["parts"]
    assert found["batch"]["processes"] == 4
    assert parts["weights"] == pytest.approx(one["weights"] / (1 if "weights" in whole else 4))
    masters = 1.5 if plugin.startswith("deepspeed") else 1  # 12 bytes for 8: float32 copies of 16-bit weights
    assert parts["optimizer"] == pytest.approx(masters * one["optimizer"] / 4)


def test_ways_to_share_hold_on_any_machine(ask: Ask) -> None:
    profile = LLAMA + "[hardware]\nprofile = ['auto', 'deepspeed_zero3']\nprocesses = 2\n"
    found = ask("plan", profile, LLAMA_3_2_1B, "--on", "h200")
    assert found["device"]["name"] == "H200"
    assert "shards of all" in found["batch"]["sharding"]


def test_prepared_rows_take_the_place_of_bounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"instruction": f"what is {n}", "output": f"a number {n}"} for n in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    path = tmp_path / "profile.toml"
    text = "[hardware]\nprofile = 'cpu'\n[data]\npath = 'rows.jsonl'\n[train]\nmax_length = 512\n"
    path.write_text(f"{text}[plugin.chat]\n[plugin.tiny_model]\n", "utf-8")
    shapes = []
    for more in ([], ["--prepare"]):
        assert main(["plan", str(path), "--json", *more]) == 0
        shapes.append(json.loads(capsys.readouterr().out)["rows"])
    bound, real = shapes
    assert (bound["longest"], bool(bound["assumed"])) == (512, True)
    assert real["trained"] < real["longest"] < 100
    assert (real["assumed"], real["count"]) == ([], 28)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tokens", "0"], "--tokens 0: write a number from 1 up"),
        (["--tokens", "5", "--prepare"], "--tokens and --prepare"),
        (["--on", "nothing_such"], "no hardware profile 'nothing_such'"),
    ],
)
def test_odd_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str) -> None:
    write_config(tmp_path / "model", LLAMA_3_2_1B)
    path = tmp_path / "profile.toml"
    path.write_text(LLAMA, "utf-8")
    assert main(["plan", str(path), *more]) == 2
    assert message in capsys.readouterr().err


def test_text_of_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(tmp_path / "model", LLAMA_3_2_1B)
    path = tmp_path / "profile.toml"
    path.write_text(LLAMA, "utf-8")
    assert main(["plan", str(path), "--on", "h100"]) == 0
    assert "fits: " in capsys.readouterr().out
    assert main(["inspect", str(path)]) == 0
    assert f"{LLAMA_LORA_16:,}" in capsys.readouterr().out


@pytest.mark.parametrize("dora", ["false", "true"])
def test_smaller_adapter_is_counted_as_it_would_be_drawn(tmp_path: Path, dora: str) -> None:
    from ftcore.planning.source import Source, sketch_of
    from ftcore.planning.variants import with_rank

    write_config(tmp_path / "model", LLAMA_3_2_1B)
    path = tmp_path / "profile.toml"
    path.write_text(f"{LLAMA}dora = {dora}\n", "utf-8")
    large, small = (sketch_of(Source(path=path, sets=(f"plugin.lora.r={r}",)).load(), print).facts for r in (16, 8))
    assert with_rank(large, 16, 8) == small


def test_the_command_line_wins_over_the_machine(ask: Ask) -> None:
    found = ask("plan", LLAMA, LLAMA_3_2_1B, "--on", "rtx_4090", "--set", "hardware.memory=60")
    assert (found["device"]["memory_gib"], found["device"]["tflops"]) == (60, 165.2)


def test_own_hardware_profiles_that_are_broken_are_left_out(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name, text in {"no_table": "hardware = 3\n", "no_number": "[hardware]\nmemory = 'x'\n"}.items():
        (own / f"{name}.toml").write_text(text, "utf-8")
    monkeypatch.setenv("FTCORE_HARDWARE_PROFILES", str(own))
    assert "h100" in ask("plan", LLAMA, LLAMA_3_2_1B, "--all")["profiles"]
    assert main(["plan", str(tmp_path / "profile.toml"), "--all"]) == 0
    assert "no_number is left out: " in capsys.readouterr().err
    assert ask("plan", LLAMA, LLAMA_3_2_1B, "--set", "hardware.memory=1", code=1)["elsewhere"]
    assert main(["plan", str(tmp_path / "profile.toml"), "--on", "no_number"]) == 2
    assert "no_number.toml:2: hardware.memory" in capsys.readouterr().err


def test_rows_that_cannot_be_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(tmp_path / "model", LLAMA_3_2_1B)
    (tmp_path / "profile.toml").write_text(LLAMA, "utf-8")
    assert main(["plan", str(tmp_path / "profile.toml"), "--tokens", "4096"]) == 2
    assert "over train.max_length" in capsys.readouterr().err


def test_layers_are_listed_in_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(tmp_path / "model", GEMMA_3_4B)
    (tmp_path / "profile.toml").write_text(GEMMA.replace("lora", "qlora"), "utf-8")
    assert main(["inspect", str(tmp_path / "profile.toml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "model.language_model.layers.*" in lines
    (line,) = [line for line in lines if "mlp.gate_proj" in line]
    assert line.split() == ["mlp.gate_proj", "34", "2560x10240", "891,289,600", "64", "27,852,800", "yes"]


def test_mixture_of_experts(ask: Ask) -> None:
    experts = {"num_local_experts": 8, "num_experts_per_tok": 2, "model_type": "mixtral"}
    config = {**LLAMA_3_2_1B, **experts, "architectures": ["MixtralForCausalLM"]}
    dense, mixed = (
        ask("plan", LLAMA.partition("[plugin.lora]")[0], found, "--on", "h200") for found in (LLAMA_3_2_1B, config)
    )
    assert mixed["parameters"]["total"] > 5 * dense["parameters"]["total"]
    assert 1.5 < mixed["speed"]["operations"] / dense["speed"]["operations"] < 2  # two experts of eight


def test_torchs_compiler_stays_out(tmp_path: Path) -> None:
    write_config(tmp_path / "model", LLAMA_3_2_1B)
    (tmp_path / "profile.toml").write_text(LLAMA, "utf-8")
    code = (
        "import os, sys; from ftcore.cli import main; main(sys.argv[1:]);"
        "assert 'TORCHDYNAMO_DISABLE' not in os.environ; print('torch._inductor.compile_fx' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "inspect", str(tmp_path / "profile.toml"), "--json"]
    environment = {name: value for name, value in os.environ.items() if name != "TORCHDYNAMO_DISABLE"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[-1] == "False"


def test_rows_that_are_only_assumed_are_to_be_counted_first(
    ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = GEMMA.replace("vision = true", "").replace("lora", "qlora")
    asked = ("--on", "rtx_3070", "--set", "train.optimizer=adamw")
    room = ask("plan", profile, GEMMA_3_4B, *asked, code=1)["room_for"]
    for name, value in room.items():
        for more, code in ((0, 0), (1, 1)):
            ask("plan", profile, GEMMA_3_4B, *asked, f"--{name}", str(value + more), code=code)
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "profile.toml", *asked]) == 1
    told = capsys.readouterr().out
    assert "  ftcore plan profile.toml --set train.optimizer=adamw --on rtx_3070 --prepare\n" in told
    assert f"rows of {room['tokens']} tokens, or for rows of 2048 tokens of which {room['trained']} are" in told
    assert told.index("--prepare\n") < told.index("what to change")


def test_settings_of_a_machine_without_a_gpu_are_told(
    ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    monkeypatch.setattr("platform.system", lambda: "Linux")
    profile = "[hardware]\ndevice = 'cuda'\n" + LLAMA
    found = ask("plan", profile, LLAMA_3_2_1B)
    assert (found["hardware_profiles"], found["precision"], found["device"]["kind"]) == (["cpu (auto)"], "fp32", "cuda")
    assert main(["plan", str(tmp_path / "profile.toml")]) == 0
    assert "made for this machine, without a GPU (--on NAME" in capsys.readouterr().out
    found = ask("plan", profile, LLAMA_3_2_1B, "--on", "t4")
    assert (found["hardware_profiles"], found["precision"]) == (["t4"], "fp16")
    assert main(["plan", str(tmp_path / "profile.toml"), "--on", "t4"]) == 0
    assert "without a GPU" not in capsys.readouterr().out


def test_adapters_on_what_is_no_linear_layer_are_told(
    ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ask("inspect", LLAMA.replace("r = 16", "r = 4"), EXPERTS)
    listed = sum(layer["adapter"] for layer in found["layers"])
    assert found["parameters"]["adapter_elsewhere"] == found["parameters"]["adapter"] - listed > 0
    assert main(["inspect", str(tmp_path / "profile.toml")]) == 0
    assert "of the adapter's are on what is not listed: experts in one tensor" in capsys.readouterr().out
    assert ask("inspect", LLAMA, LLAMA_3_2_1B)["parameters"]["adapter_elsewhere"] == 0
