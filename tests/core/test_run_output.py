"""What `ftcore run` prints for programs: the report, whatever became of the run, and its progress in JSON lines."""

from __future__ import annotations

import json
import os
import signal

from ftcore import engine
from ftcore.locks import COMMAND_LOCK, locked
from light_processes import begin, in_the_steps


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


def test_a_failed_run_prints_its_report_too(desk, ftcore):
    code, out, err = ftcore("run", desk.profile, "--set", "plugin.light_export.verdict=failed", "--json", "--quiet")
    assert code == 1
    report = json.loads(out)
    assert (report["outcome"], report["step"]) == ("failed", 10)
    assert report["exports"][0]["proof"]["verdict"] == "failed"
    assert err == f"{report['reason']}\n", "the sentence is told all the same"


def test_quiet_and_json_go_together(desk, ftcore):
    code, out, err = ftcore("run", desk.profile, "--quiet", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["outcome"] == "finished"


def test_a_run_that_never_began_has_no_report(desk, ftcore):
    assert ftcore("run", desk.profile, "--set", "train.max_steps=none", "--json")[:2] == (2, "")


def test_a_resume_that_is_refused_does_not_print_the_report_of_another(desk, ftcore):
    folder = engine.run(desk.load()).folder
    code, out, _ = ftcore("run", "--resume", folder, "--json", "--quiet")
    assert (code, out) == (1, "")
    more = ("--set", "train.max_steps=12", "--allow-changes", "--json", "--quiet")
    with locked(folder, COMMAND_LOCK):
        code, out, err = ftcore("run", "--resume", folder, *more)
    assert (code, out) == (1, "")
    assert err.startswith(f"{folder} is in use by pid {os.getpid()} on ")
    code, out, _ = ftcore("run", "--resume", folder, *more)
    assert (code, json.loads(out)["step"]) == (0, 12)


def test_a_stopped_run_prints_its_report(desk):
    process = begin(desk, "run", desk.profile, "--set=train.max_steps=2000", "--json", "--progress", "json")
    in_the_steps(desk)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert json.loads(out)["outcome"] == "stopped"
    assert objects(err)[-1]["event"] == "error"
    assert objects(err)[-1] | {"time": 0, "step": 0} == {
        "event": "error",
        "step": 0,
        "time": 0,
        "text": "SIGTERM received",
        "exit_code": 75,
    }


def test_progress_in_json_is_the_journal(desk, ftcore):
    code, _, err = ftcore("run", desk.profile, "--progress", "json")
    assert code == 0
    (folder,) = desk.runs()
    lines = objects(err)
    points = [line for line in lines if "event" not in line]
    assert points == objects((folder / "metrics.jsonl").read_text("utf-8"))
    said = [line["text"] for line in lines if line.get("event") == "said"]
    assert said[0] == f"run folder: {folder}"
    happened = [line["event"] for line in objects((folder / "events.jsonl").read_text("utf-8"))]
    assert [line["event"] for line in lines if line.get("event") not in (None, "said")] == happened


def test_a_mistake_is_an_object_too(desk, ftcore):
    code, out, err = ftcore("run", desk.profile, "--progress", "json", "--set", "train.batch_sizes=3")
    assert (code, out) == (2, "")
    (line,) = objects(err)
    assert (line["event"], line["exit_code"]) == ("error", 2)
    assert line["text"] == "train.batch_sizes: unknown key; did you mean 'batch_size'?"


def test_a_mistake_that_nobody_reads_is_no_success(desk, ftcore, monkeypatch):
    def write(_):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("ftcore.display.lines.Lines.__init__.__defaults__", (write,))
    assert ftcore("run", desk.profile, "--progress", "json", "--set", "train.batch_sizes=3")[0] == 2


def test_workers_show_progress_as_they_were_told(desk):
    desk.append("\n[plugin.light_launch]\n")
    process = begin(desk, "run", desk.profile, "--progress", "json", pause=0)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert [line["step"] for line in objects(err) if "event" not in line and "eval_loss" not in line] == list(
        range(1, 11)
    )


def test_quiet_and_progress_exclude_each_other(desk, ftcore):
    code, _, err = ftcore("run", desk.profile, "--quiet", "--progress", "plain")
    assert code == 2
    assert "not allowed with argument" in err
