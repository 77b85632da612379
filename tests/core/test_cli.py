"""The command line: exit codes, `--json` for programs, one sentence for people, and never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft7Validator

from ftcore import __version__, engine
from ftcore.cli import COMMANDS
from ftcore.manifest import read_manifest


@pytest.fixture
def broken(desk):
    """A profile with two mistakes."""
    desk.replace("max_steps = 10", "max_stepz = 10\nbatch_size = 0")
    return desk.profile


# -- no command, wrong command --------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_lists_every_command(ftcore, arguments):
    code, out, err = ftcore(*arguments)
    assert (code, err) == (0, "")
    for name, text in COMMANDS.items():
        assert f"  {name} " in out
        assert text in out
    assert "worker" not in out


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(ftcore, option):
    assert ftcore(option) == (0, f"ftcore {__version__}\n", "")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("chek", "ftcore: no such command: chek; did you mean 'check'?"),
        ("zzz", "ftcore: no such command: zzz; there are cache, check, "),
        ("--verison", "ftcore: no such option: --verison"),
        ("", "ftcore: no such command: "),
    ],
)
def test_an_unknown_command_is_named_with_the_nearest(ftcore, name, said):
    code, out, err = ftcore(name)
    assert (code, out) == (2, "")
    assert err.startswith(said)


@pytest.mark.parametrize("name", [*COMMANDS, "worker"])
def test_every_command_has_help_of_its_own(ftcore, name):
    code, out, _ = ftcore(name, "--help")
    assert code == 0
    assert out.startswith(f"usage: ftcore {name} ")


@pytest.mark.parametrize("name", [*COMMANDS, "worker"])
def test_an_unknown_option_is_a_usage_error(ftcore, name):
    code, _, err = ftcore(name, "--no-such-option", "x", "y", "z")
    assert code == 2
    assert err.startswith(f"usage: ftcore {name} ")


# -- check ----------------------------------------------------------------------------------------


def test_check_of_a_right_profile(desk, ftcore):
    assert ftcore("check", desk.profile) == (0, f"{desk.profile}: ready to run\n", "")


def test_check_prints_every_mistake_and_exits_with_2(broken, ftcore):
    code, out, err = ftcore("check", broken)
    assert (code, out) == (2, "")
    line = broken.read_text().split("\n").index("max_stepz = 10") + 1
    assert err.splitlines() == [
        f"{broken}:{line}: train.max_stepz: unknown key; did you mean 'max_steps'?",
        f"{broken}:{line + 1}: train.batch_size: must be >= 1, got 0 (a whole number)",
    ]


def test_check_prints_warnings_and_exits_with_0(desk, ftcore):
    code, out, err = ftcore("check", desk.profile, "--set", "train.learning_rate=0.5")
    assert (code, out) == (0, f"{desk.profile}: ready to run, 1 warning\n")
    assert err == "warning: train.learning_rate: 0.5 is unusually high; 1e-5 to 1e-3 is common\n"


def test_check_as_json(desk, broken, ftcore):
    code, out, err = ftcore("check", broken, "--json")
    assert (code, err) == (2, "")
    found = json.loads(out)
    assert found["ok"] is False
    assert [problem["key"] for problem in found["problems"]] == ["train.max_stepz", "train.batch_size"]
    first = found["problems"][0]
    assert first == {
        "message": "unknown key; did you mean 'max_steps'?",
        "key": "train.max_stepz",
        "file": str(broken),
        "line": broken.read_text().split("\n").index("max_stepz = 10") + 1,
        "severity": "error",
    }


def test_check_of_a_right_profile_as_json(desk, ftcore):
    code, out, _ = ftcore("check", desk.profile, "--json", "--set", "train.learning_rate=0.5")
    found = json.loads(out)
    assert (code, found["ok"]) == (0, True)
    assert [problem["severity"] for problem in found["problems"]] == ["warning"]


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_a_broken_plugin_exits_with_3(desk, ftcore, option):
    desk.installation.plugin("cracked", "raise ImportError('no driver')")
    code, out, err = ftcore("check", desk.profile, "--with", "cracked", *option)
    assert code == 3
    message = json.loads(out)["problems"][0]["message"] if option else err.strip()
    assert message.startswith("plugin cracked (dist-cracked 1.0) cannot be imported")
    assert message.endswith("ImportError: no driver")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.toml", "no such profile: none.toml (looked in {folder})"),
        (".", ". is no file; name a profile such as profile.toml"),
        ("x" * 5000, "cannot be read: File name too long"),
    ],
)
def test_a_profile_that_is_none_exits_with_2(desk, ftcore, name, said):
    code, out, err = ftcore("check", name)
    assert (code, out) == (2, "")
    assert said.format(folder=desk.folder) in err
    assert len(err.splitlines()) == 1


def test_the_command_line_lays_keys_over_the_profile(desk, ftcore):
    code, _, err = ftcore("check", desk.profile, "--set", "train.max_steps=x", "--set", "run.seed=-1")
    assert code == 2
    assert [line.split(":")[0] for line in err.splitlines()] == ["run.seed", "train.max_steps"]
    code, _, err = ftcore("check", desk.profile, "--without", "light_trainer")
    assert code == 2
    assert "no plugin implements make_trainer" in err


# -- run ------------------------------------------------------------------------------------------


def test_a_run_prints_stages_on_standard_error_and_the_summary_on_standard_output(desk, ftcore):
    code, out, err = ftcore("run", desk.profile)
    (folder,) = desk.runs()
    assert code == 0
    assert "finished after 10 steps" in out
    assert str(folder) in out
    assert "[5/7] training" in err
    assert "step 10/10" in err


def test_a_quiet_run_prints_nothing(desk, ftcore):
    assert ftcore("run", desk.profile, "--quiet") == (0, "", "")


def test_a_run_as_json_prints_the_report_and_nothing_else(desk, ftcore):
    code, out, _ = ftcore("run", desk.profile, "--json")
    (folder,) = desk.runs()
    assert code == 0
    assert json.loads(out) == json.loads((folder / "report.json").read_text())


def test_a_run_with_mistakes_starts_nothing(desk, broken, ftcore):
    assert ftcore("run", broken)[0] == 2
    assert desk.runs() == []


@pytest.mark.parametrize(
    ("place", "kind", "code"),
    [
        ("step:2", "ValueError", 1),
        ("step:5", "RunError", 1),
        ("step:5", "ValueError", 1),
        ("step:5", "SystemExit", 1),
        ("export", "ValueError", 3),
        ("load_model", "RunError", 1),
        ("load_rows", "SystemExit", 3),
        ("load_model", "KeyboardInterrupt", 3),
    ],
)
def test_a_failing_run_says_one_sentence_and_how_to_go_on_if_that_helps(desk, ftcore, monkeypatch, place, kind, code):
    monkeypatch.setenv("LIGHT_FAULT", f"{place}={kind}")
    found, out, err = ftcore("run", desk.profile)
    (folder,) = desk.runs()
    assert (found, out) == (code, "")
    ways = {
        ("step:2", "ValueError"): "to go on from the start, since it has no checkpoint: ",
        ("step:5", "RunError"): "once that is mended, to go on from step 3: ",
        ("step:5", "ValueError"): "to go on from step 3: ",
        ("step:5", "SystemExit"): "to go on from step 3: ",
        ("export", "ValueError"): "once that is mended, to go on from step 10: ",
    }
    way = [line for line in err.splitlines() if "--resume" in line]
    assert way == ([f"{ways[place, kind]}ftcore run --resume {folder}"] if (place, kind) in ways else [])
    assert kind.removesuffix("RunError") in err.splitlines()[-1]
    if kind != "RunError":
        assert "Traceback" in (folder / "run.log").read_text(), "for who mends it"
    monkeypatch.delenv("LIGHT_FAULT")
    assert ftcore("run", "--resume", folder, "--quiet") == (0, "", "")


def test_a_failed_proof_exits_with_1_and_says_what_is_there_all_the_same(desk, ftcore):
    sets = ["--with", "light_reference", "--with", "light_pack", "--set", "plugin.light_export.verdict=failed"]
    code, _, err = ftcore("run", desk.profile, *sets, "--progress", "plain")
    (folder,) = desk.runs()
    assert code == 1
    assert err.splitlines()[-3:] == [
        f"the run is trained, and saved in {folder}/adapter; failed: light.json; proved: whole.pack; "
        f"to export again, without training: ftcore export {folder}",
        f"once that is mended, to go on from step 10: ftcore run --resume {folder}",
        f"export light: {folder}/exports/light.json does not answer like the model that was trained (difference 0.25); "
        "do not ship it",
    ]


def test_a_run_that_was_stopped_early_is_done_and_trains_on_without_who_stopped_it(desk, ftcore):
    stop = "return StopRequest(reason='early: enough') if step.number == 5 else None"
    desk.installation.plugin("early", f"class Plugin:\n    @hookimpl\n    def on_step(self, step):\n        {stop}\n")
    assert ftcore("run", desk.profile, "--with", "early", "--quiet")[0] == 0
    (folder,) = desk.runs()
    code, out, err = ftcore("run", "--resume", folder)
    done = f"{folder} has finished, stopped at step 5 of 10 (early: enough)"
    assert (code, out, err) == (1, "", f"{done}; to train on, pass --without early and --allow-changes\n")
    code, _, err = ftcore("run", "--resume", folder, "--without", "early")
    assert (code, "plugin.early: on -> off" in err) == (2, True)
    code, out, _ = ftcore("run", "--resume", folder, "--without", "early", "--allow-changes", "--json")
    assert (code, json.loads(out)["step"], json.loads(out)["reason"]) == (0, 10, "")
    known = {plugin["name"] for plugin in read_manifest(folder).plugins}
    assert "early" not in known | read_manifest(folder).settings["plugin"].keys()
    assert "light_model" in known


def test_a_resume_goes_on_and_changes_must_be_allowed(desk, ftcore, monkeypatch):
    monkeypatch.setenv("LIGHT_FAULT", "step:8=RunError")
    assert ftcore("run", desk.profile)[0] == 1
    monkeypatch.delenv("LIGHT_FAULT")
    (folder,) = desk.runs()
    code, _, err = ftcore("run", "--resume", folder, "--set", "train.max_steps=12")
    assert code == 2
    assert "train.max_steps: 10 -> 12" in err
    assert "--allow-changes" in err
    code, out, _ = ftcore("run", "--resume", folder, "--set", "train.max_steps=12", "--allow-changes", "--json")
    assert code == 0
    assert json.loads(out)["step"] == 12


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a profile (ftcore run profile.toml) or a run to go on with (ftcore run --resume RUN)"),
        (["light.toml", "--resume", "x"], "name a profile (ftcore run profile.toml) or a run to go on with"),
        (["light.toml", "--allow-changes"], "--allow-changes and --checkpoint go with --resume"),
    ],
)
def test_odd_usage_of_run(desk, ftcore, arguments, said):
    code, out, err = ftcore("run", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(said)


def test_resuming_what_is_no_run(desk, ftcore):
    code, _, err = ftcore("run", "--resume", desk.folder)
    assert (code, err) == (1, f"{desk.folder} is no run folder: it has no manifest.json\n")


def test_the_trace_names_who_answered(desk, ftcore):
    code, _, err = ftcore("run", desk.profile, "--quiet", "--trace-hooks")
    assert code == 0
    rows = {tuple(line.split()[:4]) for line in err.splitlines()}
    assert ("hook", "plugin", "calls", "answers") in rows
    assert ("on_step", "light_diary", "10", "0") in rows
    assert ("load_model", "light_model", "1", "1") in rows


def test_the_worker_does_the_work_of_a_folder(desk, ftcore, monkeypatch):
    monkeypatch.setenv("LIGHT_FAULT", "load_rows=RunError")
    assert ftcore("run", desk.profile)[0] == 1
    monkeypatch.delenv("LIGHT_FAULT")
    (folder,) = desk.runs()
    assert ftcore("worker", folder)[0] == 0
    assert json.loads((folder / "report.json").read_text())["outcome"] == "finished"


# -- preview --------------------------------------------------------------------------------------


def test_preview_shows_rows_and_the_ledger_and_leaves_nothing(desk, ftcore):
    code, out, err = ftcore("preview", desk.profile, "--rows", 1)
    assert (code, err) == (0, "")
    assert out.count("--- rows.jsonl:") == 1
    assert "[" in out
    assert "what is " in out
    assert "12 rows in = 9 trained + 3 held out + 0 dropped" in out
    assert "labels proved on 12 rows" in out
    assert desk.runs() == []


def test_preview_as_json(desk, ftcore):
    code, out, _ = ftcore("preview", desk.profile, "--json", "--rows", 2)
    found = json.loads(out)
    assert code == 0
    assert len(found["rows"]) == 2
    for row in found["rows"]:
        assert len(row["tokens"]) == len(row["labels"]) == len(row["input_ids"])
        assert row["trained_text"].endswith(".\x03")
        assert "".join(row["tokens"]).endswith(row["trained_text"])
        assert [t for t, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100] == [
            *map(ord, row["trained_text"])
        ]
    assert found["ledger"] == {"rows": 12, "trained": 9, "held_out": 3, "dropped": {}, "repeated": 0}
    assert found["proved"] == 12
    assert found["lengths"]["p0"] <= found["lengths"]["p50"] <= found["lengths"]["p100"]


@pytest.mark.parametrize("rows", [0, 1000])
def test_preview_of_none_and_of_more_than_there_are(desk, ftcore, rows):
    code, out, _ = ftcore("preview", desk.profile, "--json", "--rows", rows)
    assert code == 0
    assert len(json.loads(out)["rows"]) == min(rows, 9)


@pytest.mark.parametrize("rows", [-1, "many"])
def test_preview_of_a_number_that_is_none(desk, ftcore, rows):
    code, _, err = ftcore("preview", desk.profile, "--rows", rows)
    assert code == 2
    assert "--rows" in err


def test_preview_refuses_wrong_labels(desk, ftcore):
    code, _, err = ftcore("preview", desk.profile, "--set", "plugin.light_format.train_prompt=true")
    assert code == 1
    assert "the labels are wrong" in err


# -- plugins and schema ---------------------------------------------------------------------------


def test_plugins_lists_all_of_them_broken_ones_with_their_reason(desk, ftcore):
    desk.installation.plugin("cracked", "raise ImportError('no driver')")
    desk.installation.plugin("plain", "class Plugin:\n    '''Plain and simple.'''", fallback=True)
    code, out, _ = ftcore("plugins", "--json")
    assert code == 0
    found = {facts["name"]: facts for facts in json.loads(out)}
    assert found["light_rows"] == {
        "name": "light_rows",
        "distribution": "light-plugins",
        "version": "1.2",
        "hooks": ["check", "load_rows"],
        "state": "ready",
        "reason": "",
        "help": "Rows of a JSONL file.",
    }
    assert found["plain"]["state"] == "fallback"
    assert found["cracked"]["state"] == "broken"
    assert found["cracked"]["reason"].endswith("ImportError: no driver")
    code, out, _ = ftcore("plugins")
    assert code == 0
    assert "Plain and simple." in out
    assert "no driver" in out


def test_the_options_of_a_plugin(desk, ftcore):
    code, out, _ = ftcore("plugins", "light_diary", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["hooks"] == ["run_started", "on_step", "run_ended"]
    assert found["options"] == [
        {
            "name": "path",
            "type": "path",
            "default": "required",
            "help": "file to write each event to, as JSON lines",
            "bounds": {},
        },
        {
            "name": "stop_at",
            "type": "integer",
            "default": "unset",
            "help": "step to ask for a stop at",
            "bounds": {"minimum": 1},
        },
    ]
    code, out, _ = ftcore("plugins", "light_diary")
    assert code == 0
    assert out.startswith("light_diary (light-plugins 1.2)\n\nAn observer that writes down what it sees.")
    assert "step to ask for a stop at" in out
    code, out, _ = ftcore("plugins", "light_rows")
    assert out.endswith("no options\n")


def test_a_plugin_that_is_not_there(desk, ftcore):
    code, out, err = ftcore("plugins", "light_dairy")
    assert (code, out, err) == (2, "", "no such plugin: light_dairy; did you mean 'light_diary'?\n")


def test_a_plugin_that_is_broken(desk, ftcore):
    desk.installation.plugin("cracked", "raise ImportError('no driver')")
    code, out, err = ftcore("plugins", "cracked")
    assert (code, out) == (3, "")
    assert "no driver" in err


def test_the_schema_is_one_and_names_broken_plugins_on_standard_error(desk, ftcore):
    desk.installation.plugin("cracked", "raise ImportError('no driver')")
    code, out, err = ftcore("schema")
    assert code == 0
    Draft7Validator.check_schema(json.loads(out))
    assert err.startswith("warning: plugin cracked (dist-cracked 1.0) cannot be imported")
    code, out, _ = ftcore("schema", "--output", desk.folder / "schema.json")
    assert (code, out) == (0, "")
    Draft7Validator(json.loads((desk.folder / "schema.json").read_text())).validate(
        tomllib.loads(desk.profile.read_text())
    )


def test_a_schema_that_cannot_be_written_is_one_sentence(desk, ftcore):
    path = desk.folder / "none" / "schema.json"
    assert ftcore("schema", "--output", path) == (1, "", f"{path}: No such file or directory\n")


# -- runs and init --------------------------------------------------------------------------------


def test_runs_lists_what_is_there(desk, ftcore, monkeypatch):
    assert ftcore("runs") == (0, f"no runs in {desk.folder / 'runs'}\n", "")
    engine.run(desk.load())
    monkeypatch.setenv("LIGHT_FAULT", "step:5=RunError")
    ftcore("run", desk.profile)
    code, out, _ = ftcore("runs", "--json")
    assert code == 0
    found = json.loads(out)
    assert sorted((info["state"], info["step"], info["total_steps"]) for info in found) == [
        ("failed", 4, 10),
        ("finished", 10, 10),
    ]
    assert all({"name", "folder", "created", "loss"} <= set(info) for info in found)
    code, out, _ = ftcore("runs", desk.folder / "runs")
    assert out.split()[:5] == ["run", "state", "step", "loss", "created"]
    assert sorted(line.split()[1] for line in out.splitlines()[1:]) == ["failed", "finished"]
    assert ftcore("runs", desk.folder / "none")[0] == 0


def test_init_lists_tasks_and_names_the_nearest(desk, ftcore):
    code, out, _ = ftcore("init")
    assert code == 0
    assert "quickstart" in out
    code, _, err = ftcore("init", "quickstrat")
    assert (code, err) == (2, "no such task: quickstrat; did you mean 'quickstart'?\n")


# -- pipes, signals, odd places -------------------------------------------------------------------


def shell(desk, command, **options):
    environment = {**os.environ, **desk.installation.env, "PYTHON": sys.executable}
    environment.pop("PYTHONUNBUFFERED", None)
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=desk.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


@pytest.mark.parametrize("buffered", ["", "PYTHONUNBUFFERED=1"])
@pytest.mark.parametrize(
    "arguments", ["schema", "runs", "plugins", "plugins light_diary", "--help", "check light.toml"]
)
def test_a_reader_that_leaves_early_is_no_error(desk, arguments, buffered):
    answer = shell(desk, f"{buffered} $PYTHON -m ftcore.cli {arguments} | true")
    assert (answer.returncode, answer.stderr) == (0, "")


def test_a_large_output_cut_short_is_no_error(desk):
    answer = shell(desk, "$PYTHON -m ftcore.cli schema | head -c 1")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "{", "")


@pytest.mark.parametrize("buffered", ["", "PYTHONUNBUFFERED=1"])
@pytest.mark.parametrize(
    ("arguments", "code"), [("check none.toml", 2), ("run light.toml --without light_rows", 2), ("run --resume .", 1)]
)
def test_the_exit_code_of_a_mistake_survives_a_reader_that_leaves(desk, arguments, code, buffered):
    answer = shell(desk, f"({buffered} $PYTHON -m ftcore.cli {arguments}; echo $? > code) 2>&1 | true")
    assert answer.returncode == 0
    assert (desk.folder / "code").read_text() == f"{code}\n"


def test_a_run_whose_reader_leaves_goes_on_to_its_end(desk):
    answer = shell(desk, "LIGHT_PAUSE=0.02 $PYTHON -m ftcore.cli run light.toml 2>&1 | head -n 1")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith("run folder: ")
    (folder,) = desk.runs()
    assert json.loads((folder / "report.json").read_text())["outcome"] == "finished"


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "POSIX"])
def test_text_of_any_kind_is_printed_in_any_locale(desk, locale, ftcore_process):
    desk.write('[run]\nname = "模型 ü"\nsede = 1\n["plügin \\ud7ff"]\n')
    answer = ftcore_process("check", desk.profile, env={**desk.installation.env, "LC_ALL": locale})
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr
    assert len(answer.stderr.splitlines()) == 2


def test_an_encoding_that_cannot_say_it_is_no_traceback(desk, ftcore_process):
    desk.write(desk.profile.read_text(), "模型.toml")
    environment = {**desk.installation.env, "PYTHONIOENCODING": "ascii"}
    answer = ftcore_process("check", "模型.toml", cwd=desk.folder, env=environment)
    assert answer.returncode == 0
    assert "Traceback" not in answer.stderr
    assert "ready to run" in answer.stdout


def test_the_entry_point_and_the_module_are_the_same_command(desk, ftcore_process):
    answer = ftcore_process("--version")
    assert answer.stdout == f"ftcore {__version__}\n"
    assert answer.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="this system has no /dev/full")
def test_a_disk_that_is_full_where_the_output_goes_is_no_traceback(desk):
    answer = shell(desk, "$PYTHON -m ftcore.cli schema > /dev/full")
    assert answer.returncode != 0
    assert "Traceback" not in answer.stderr
