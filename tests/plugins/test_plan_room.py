"""A run that cannot fit is refused before its weights are read; a model of nothing goes through."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftcore.cli import main

PROFILE = """
[run]
samples = 0
output_dir = "runs"
[hardware]
profile = "cpu"
memory = {memory}
[data]
path = "rows.jsonl"
[train]
max_steps = 1
batch_size = 2
max_length = 256
[plugin.chat]
[plugin.tiny_model]
"""


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    rows = [{"instruction": f"what is {n}", "output": f"a number {n}"} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return tmp_path / "profile.toml"


def test_run_is_refused_before_the_model_is_made(profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile.write_text(PROFILE.format(memory=0.5), "utf-8")
    assert main(["run", str(profile), "--quiet"]) == 1
    told = capsys.readouterr().err
    assert "the run needs about" in told
    assert "the processor has 0.5" in told
    assert "hardware.memory" in told
    (folder,) = (profile.parent / "runs").iterdir()
    assert not (folder / "base").exists()


def test_memory_that_the_profile_says_overrules_the_plan(profile: Path) -> None:
    profile.write_text(PROFILE.format(memory=1000), "utf-8")
    assert main(["run", str(profile), "--quiet"]) == 0


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('[plugin.lora]\ntargets = ["q_prij"]', "plugin.lora.targets: no layer is called 'q_prij'; near it are q_proj"),
        ("[plugin.lora]\nr = 4096", "plugin.lora.r: 4096 is over the smaller side of every layer"),
        ('[plugin.lora]\nmodules_to_save = ["lm_hed"]', "plugin.lora.modules_to_save: no layer is called 'lm_hed'"),
        ('[hardware]\ndevice = "cuda"', "hardware.device: torch"),
    ],
    ids=["target", "rank", "module to save", "device"],
)
def test_what_the_model_or_the_machine_lacks_is_told_before_rows_are_read(
    profile: Path, table: str, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    written = PROFILE.format(memory=1000)
    written = written.replace("[hardware]\n", f"{table}\n") if "[hardware]" in table else f"{written}{table}\n"
    profile.write_text(written, "utf-8")
    assert main(["run", str(profile)]) == 1
    said = capsys.readouterr()
    assert told in said.err
    assert "reading rows" not in said.out + said.err
