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
