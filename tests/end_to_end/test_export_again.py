"""A finished run is exported again without training, and every artifact is proved by the same answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from conftest import Start
from forked import Child, read

Finished = tuple[Path, Child]


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    """The finished run in another place, without its exports."""
    folder = Path(shutil.copytree(finished[0], tmp_path / "copied"))
    shutil.rmtree(folder / "exports")
    return folder


def verdicts(run: Path) -> dict[str, str]:
    exports = read(run / "report.json")["exports"]
    return {export["path"].removeprefix(f"{run}/"): export["proof"]["verdict"] for export in exports}


def test_what_is_exported_again_is_the_same(finished: Finished, copied: Path, start: Start) -> None:
    child = start("export", copied)
    assert child.wait() == 0, child.text
    assert "merged merged: proved: kl_mean" in child.text
    for name in ("reference/reference.safetensors", "merged/model.safetensors", "merged/config.json"):
        assert (copied / "exports" / name).read_bytes() == (finished[0] / "exports" / name).read_bytes(), name
    assert verdicts(copied)["exports/merged"] == "proved"


@pytest.mark.slow
def test_a_checkpoint_is_proved_by_its_own_answers(copied: Path, start: Start) -> None:
    step = min(int(path.name.removeprefix("step-")) for path in (copied / "checkpoints").glob("step-*"))
    assert start("export", copied, "--to", "merge", "--checkpoint", step, "--quiet").wait() == 0
    place = copied / "exports" / f"step-{step:06d}"
    assert verdicts(copied)[f"exports/{place.name}/merged"] == "proved"
    assert start("verify", place / "merged").wait() == 0
    wrong = start("verify", copied / "base", "--against", place)
    assert wrong.wait() == 1
    assert "its answers differ from the tuned model's" in wrong.text


@pytest.mark.slow
def test_a_folder_is_what_an_artifact_is_compared_with(finished: Finished, start: Start) -> None:
    merged = finished[0] / "exports" / "merged"
    right = start("verify", merged, "--against", merged)
    assert right.wait() == 0, right.text
    wrong = start("verify", merged, "--against", finished[0] / "base")
    assert wrong.wait() == 1
    assert "failed: kl_mean" in wrong.text
