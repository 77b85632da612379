"""examples/minigrid: recordings are exact, repeatable and whole, and the rows are what the README says."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "minigrid" / "record.py"
FEW = 12


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("minigrid_record", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # attrs looks the module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recorded(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("recorded") / "minigrid"
    assert script.main(["--output", str(folder), "--sequences", str(FEW)]) == 0
    return folder


@pytest.fixture(scope="module")
def rows(recorded: Path) -> list[dict[str, Any]]:
    return _rows(recorded)


@pytest.fixture
def say(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Call the script: its exit code and what it says, which is one line on one of the two streams."""

    def call(*arguments: object) -> tuple[int, str]:
        code = script.main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert (said.out + said.err).count("\n") == 1
        assert bool(said.err) == bool(code)
        return code, said.out + said.err

    return call


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "minigrid.jsonl").read_text().splitlines()]


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_seed_gives_the_same_bytes(recorded: Path, tmp_path: Path, say: Callable[..., tuple[int, str]]) -> None:
    code, said = say("--output", tmp_path / "same", "--sequences", FEW, "--seed", 7)
    assert code == 0
    assert f"{FEW} sequences of " in said
    assert _bytes(tmp_path / "same") == _bytes(recorded)
    assert say("--output", tmp_path / "other", "--sequences", FEW, "--seed", 8)[0] == 0
    other = _bytes(tmp_path / "other")
    assert other["minigrid.jsonl"] != _bytes(recorded)["minigrid.jsonl"]
    assert other["frames/000000-00.png"] != _bytes(recorded)["frames/000000-00.png"]


def test_a_row_has_what_the_readme_says(rows: list[dict[str, Any]]) -> None:
    assert len(rows) == FEW
    for row in rows:
        assert list(row) == ["frames", "context", "action", "mission", "level", "step"]
        assert len(row["frames"]) == 4
        assert row["context"].startswith("mission: ")
        assert list(row["action"]) == ["button"]
        assert row["action"]["button"] in {"left", "right", "forward", "toggle"}
        assert row["mission"].startswith(f"{row['level']}-")


def test_frames_are_pictures_in_the_order_of_time(recorded: Path, rows: list[dict[str, Any]]) -> None:
    from PIL import Image

    for row in rows:
        steps = [int(name.removesuffix(".png").rpartition("-")[2]) for name in row["frames"]]
        assert steps == [max(0, row["step"] - back) for back in (3, 2, 1, 0)]  # the first one is repeated
        for name in row["frames"]:
            with Image.open(recorded / name) as picture:
                picture.load()
                assert (picture.size, picture.mode, picture.format) == ((56, 56), "RGB", "PNG")
    named = {name for row in rows for name in row["frames"]}
    assert {str(path.relative_to(recorded)) for path in (recorded / "frames").iterdir()} == named
    assert len(named) < 4 * FEW  # the sequences of a mission share them


def test_replayed_actions_show_the_same_frames(script: ModuleType, recorded: Path, rows: list[dict[str, Any]]) -> None:
    import gymnasium
    import numpy as np
    from PIL import Image

    for mission in {row["mission"] for row in rows}:
        level, _, seed = mission.rpartition("-")
        mine = {row["step"]: row for row in rows if row["mission"] == mission}
        world: Any = gymnasium.make(level).unwrapped
        world.reset(seed=int(seed))
        for step, button in enumerate(script.play(0, level, int(seed)).buttons):
            if step in mine:
                with Image.open(recorded / mine[step]["frames"][-1]) as picture:
                    assert np.array_equal(np.asarray(picture), world.get_pov_render(8))
                assert mine[step]["action"] == {"button": button}
                assert mine[step]["context"] == f"mission: {world.mission}"
            _, reward, ended, _, _ = world.step(world.actions[button])
        assert ended
        assert reward > 0


def test_missions_differ_and_no_row_is_seen_twice(tmp_path: Path, say: Callable[..., tuple[int, str]]) -> None:
    assert say("--output", tmp_path / "many", "--sequences", 150)[0] == 0
    rows = _rows(tmp_path / "many")
    sights = {(row["context"], *((tmp_path / "many" / name).read_bytes() for name in row["frames"])) for row in rows}
    assert len(sights) == len(rows) == 150
    missions = [mission for mission, _ in groupby(row["mission"] for row in rows)]
    assert len(missions) == len(set(missions)) > 30  # the rows of a mission are together
    assert len({row["context"] for row in rows}) == 2
    counts = Counter(row["action"]["button"] for row in rows)
    assert set(counts) == {"forward", "left", "right", "toggle"}
    assert max(counts.values()) <= 0.45 * 150 + 1


def test_a_used_folder_is_refused_unless_forced(tmp_path: Path, say: Callable[..., tuple[int, str]]) -> None:
    folder = tmp_path / "deep" / "minigrid"
    assert say("--output", folder, "--sequences", 3)[0] == 0
    before = _bytes(folder)
    code, said = say("--output", folder, "--sequences", 2)
    assert code == 2
    assert "already holds a recording; name another folder, or replace it with --force" in said
    assert _bytes(folder) == before
    assert say("--output", folder, "--sequences", 2, "--force")[0] == 0
    assert len(_rows(folder)) == 2
    assert [path.name for path in folder.parent.iterdir()] == ["minigrid"]  # no staging folder is left


def test_other_files_are_never_replaced(tmp_path: Path, say: Callable[..., tuple[int, str]]) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    code, said = say("--output", tmp_path, "--force")
    assert (code, (tmp_path / "thesis.tex").read_text()) == (2, "mine")
    assert "holds thesis.tex, which is no part of a recording" in said
    code, said = say("--output", tmp_path / "thesis.tex")
    assert code == 2
    assert "is a file; name a folder" in said


def test_a_failed_recording_leaves_the_old_one(
    recorded: Path, script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Callable[..., Any]
) -> None:
    folder = tmp_path / "minigrid"
    assert say("--output", folder, "--sequences", 2)[0] == 0
    before = _bytes(folder)
    monkeypatch.setattr(script, "play", lambda *_: None)
    code, said = say("--output", folder, "--sequences", 5, "--force")
    assert code == 1
    assert "the expert failed 50 missions of BabyAI-GoToRedBallNoDists-v0 in a row; leave it out" in said
    assert _bytes(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["minigrid"]


def test_levels_that_show_too_little_are_named(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Callable[..., tuple[int, str]]
) -> None:
    monkeypatch.setattr(script, "DRY", 3)
    code, said = say("--output", tmp_path / "x", "--levels", "BabyAI-OpenRedDoor-v0")
    assert code == 1
    assert "nothing new to see after " in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--levels", "BabyAI-OpenRedDor-v0"], "is no BabyAI level; did you mean BabyAI-OpenRedDoor-v0?"),
        (["--sequences", "0"], "--sequences is at least 1"),
        (["--seed", "-1"], "--seed at least 0"),
    ],
)
def test_a_wrong_option_is_named(
    arguments: list[str], said: str, tmp_path: Path, say: Callable[..., tuple[int, str]]
) -> None:
    code, line = say("--output", tmp_path / "x", *arguments)
    assert code == 2
    assert said in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["minigrid", "PIL"])
def test_a_missing_package_is_a_sentence(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Callable[..., tuple[int, str]]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    code, said = say("--output", tmp_path / "x")
    assert code == 2
    assert said == f"record.py: {package} is not installed; run: pip install minigrid pillow\n"


def test_the_command_says_one_line(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, "examples/minigrid/record.py", "--output", str(tmp_path / "x"), "--sequences", "4"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path / 'x'}: 4 sequences of ")
    assert done.stdout.count("\n") == 1
