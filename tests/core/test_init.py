"""`ftcore init`: a commented profile in which every option is there, and which is the shipped one in meaning."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from ftcore.cli import main
from ftcore.discovery import config_class, discover
from ftcore.options import options_of
from ftcore.preflight import CORE_TABLES, load_profile
from ftcore.template import commented_profile, describe, tasks

TASKS = tasks()


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The profile that `init` writes for a task."""
    monkeypatch.chdir(tmp_path)

    def write(task, *arguments):
        assert main(["init", task, *arguments]) == 0
        return tmp_path / f"{task}.toml"

    return write


@pytest.mark.parametrize("task", TASKS)
def test_it_means_what_the_shipped_profile_means(written, task):
    shipped, ours = tomllib.loads(TASKS[task].read_text()), tomllib.loads(written(task).read_text())
    if "path" in shipped["data"]:
        shipped["data"]["path"] = shipped["data"]["path"].removeprefix("../")  # it lies where commands are run
    for table in ("run", "model", "data", "train"):
        assert ours.get(table, {}) == shipped.get(table, {}), table
    assert ours["plugin"] == shipped["plugin"]
    assert list(ours["plugin"]) == list(shipped["plugin"]), "the order of plugins is their calling order"
    assert ours["hardware"]["profile"] != "auto"


@pytest.mark.parametrize("output", ["grid.toml", "deep er/grid.toml"])
def test_the_commands_at_the_top_work_where_it_is_written(written, tmp_path, output):
    (tmp_path / "deep er").mkdir()
    written("gemma_grid_tiny", "--output", output)
    text = (tmp_path / output).read_text()
    record, run = (shlex.split(line.removeprefix("#")) for line in text.split("\n") if line.startswith("#   "))
    assert record[0] == "python"
    assert Path(record[1]).name == "record.py"
    assert Path(record[1]).is_file()
    assert run == ["ftcore", "run", output]
    rows = load_profile(tmp_path / output).profile.data.path
    assert rows.resolve() == tmp_path.resolve() / record[-1] / "minigrid.jsonl"


@pytest.mark.parametrize("task", TASKS)
def test_it_loads(written, task):
    assert load_profile(written(task)).profile.run.name


@pytest.mark.parametrize("task", TASKS)
def test_every_option_is_there_with_its_help(written, task):
    text = written(task).read_text()
    tables = {**CORE_TABLES}
    for name in tomllib.loads(text)["plugin"]:
        tables[f"plugin.{name}"] = config_class(discover().find(name).load())
    for table, cls in tables.items():
        section = re.search(rf"^\[{re.escape(table)}\]\n(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
        assert section, table
        for option in options_of(cls):
            line = re.search(rf"^(# )?{option.name} =.*$", section[1], re.MULTILINE)
            assert line, f"{table}.{option.name}"
            assert line[0].endswith(f"# {option.help}")


@pytest.mark.parametrize("task", TASKS)
def test_a_default_whose_mark_is_removed_is_still_valid(written, task, tmp_path):
    """Line by line: `# key = value` becomes `key = value`, and the profile still loads."""
    lines = written(task).read_text().split("\n")
    path = tmp_path / "changed.toml"
    for number, line in enumerate(lines):
        if re.match(r"# \w+ = [^#]*\S +# ", line) and not line.startswith("# remove"):
            path.write_text("\n".join([*lines[:number], line[2:], *lines[number + 1 :]]))
            assert load_profile(path), line


def test_a_file_that_is_there_is_not_replaced(written, tmp_path, capsys):
    path = written("quickstart")
    path.write_text("mine")
    assert main(["init", "quickstart"]) == 2
    assert "is there already; name another file with --output, or pass --force" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert main(["init", "quickstart", "--output", str(tmp_path / "other.toml")]) == 0
    assert main(["init", "quickstart", "--force"]) == 0
    assert path.read_text() != "mine"


def test_a_folder_that_is_not_there_is_one_sentence(written, tmp_path, capsys):
    assert main(["init", "quickstart", "--output", str(tmp_path / "none" / "x.toml")]) in (1, 2)
    assert "Traceback" not in capsys.readouterr().err


def test_tasks_are_described_in_a_line():
    for path in TASKS.values():
        assert len(describe(path)) > 20
        assert "\n" not in describe(path)


def test_values_of_every_kind_are_written_so_that_they_read_back(desk):
    desk.installation.plugin(
        "kinds",
        """
        @attrs.frozen(kw_only=True)
        class Config:
            text: str = option('say "x" # no comment', help="text")
            items: tuple[str, ...] = option(("a", "b"), help="items")
            sizes: dict[str, int] = option(attrs.Factory(lambda: {"a b": 1}), help="sizes")
            lines: str = option("one\\ntwo", help="lines")
        class Plugin:
            Config = Config
            def __init__(self, config): ...
        """,
    )
    values = {"text": 'say "x" # no comment', "items": ["a", "b"], "sizes": {"a b": 1}, "lines": "one\ntwo"}
    text = commented_profile({"plugin": {"kinds": values}}, discover(), "heading")
    assert tomllib.loads(text)["plugin"]["kinds"] == values
    text = commented_profile({"plugin": {"kinds": {}}}, discover(), "heading")
    opened = re.sub(r"^# (text|items|sizes|lines) =", r"\1 =", text, flags=re.MULTILINE)
    assert tomllib.loads(opened)["plugin"]["kinds"] == values
