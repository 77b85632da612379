"""`manifest.json` and `report.json`: what ran, on what, and how it ended."""

from __future__ import annotations

import json
import os
from pathlib import Path

import attrs
import pytest

from ftcore.errors import RunError
from ftcore.manifest import FILE, Manifest, ledger_as_json, new_manifest, read_manifest
from ftcore.report.document import write_report
from ftcore.values import Artifact, Drop, Ledger, Outcome, Proof, RunState, Sample, Verdict

ARTIFACT = Artifact(
    kind="merged", path=Path("/x/exports/merged"), proof=Proof(verdict=Verdict.PROVED, figures={"kl": 0.5}, note="n")
)
SAMPLE = Sample(origin="x:1", prompt="p", expected="e", before="b", after="a")


@pytest.fixture
def outcome(tmp_path):
    return Outcome(
        state=RunState.FINISHED,
        folder=tmp_path,
        step=9,
        reason="",
        loss_before=2.5,
        loss_after=1.25,
        scores_before={"exact": 0.0},
        scores_after={"exact": 0.5},
        samples=(SAMPLE,),
        artifacts=(ARTIFACT,),
    )


def test_a_manifest_reads_back_as_it_was_written(desk, tmp_path):
    loaded = desk.load()
    manifest = new_manifest("light", loaded.settings(), loaded.active)
    manifest.write(tmp_path)
    again = read_manifest(tmp_path)
    assert json.dumps(attrs.asdict(again)) == json.dumps(attrs.asdict(attrs.evolve(manifest, folder=str(tmp_path))))
    assert manifest.plugins[0] == {"name": "light_rows", "distribution": "light-plugins", "version": "1.2"}
    assert manifest.versions["ftcore"]
    assert manifest.environment["cpus"] == os.cpu_count()


def test_an_outcome_survives_the_manifest(desk, tmp_path, outcome):
    manifest = new_manifest("light", desk.load().settings(), []).with_outcome(outcome)
    manifest.write(tmp_path)
    assert read_manifest(tmp_path).outcome(tmp_path) == outcome


def test_a_run_that_has_not_ended_has_no_losses(desk, tmp_path):
    manifest = new_manifest("light", desk.load().settings(), [])
    assert manifest.outcome(tmp_path) == Outcome(state=RunState.RUNNING, folder=tmp_path)


def test_what_bends_bits_is_written_down(desk, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("HF_TOKEN", "canary-1234")
    manifest = new_manifest("light", desk.load().settings(), [])
    assert manifest.environment["bits"]["OMP_NUM_THREADS"] == "3"
    assert "canary-1234" not in json.dumps(attrs.asdict(manifest))


def test_a_field_of_a_later_version_is_passed_over(desk, tmp_path):
    new_manifest("light", {}, []).write(tmp_path)
    values = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**values, "from_the_future": 1}))
    assert read_manifest(tmp_path).name == "light"


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null", '{"name": 1}', "\0\0", "[" * 100_000])
def test_a_damaged_manifest_is_a_run_error(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(RunError, match=r"manifest.json is damaged: "):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_folder_without_a_manifest_is_no_run(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError):
        read_manifest(tmp_path / name)


def test_the_report_has_the_keys_that_other_programs_read(desk, tmp_path, outcome):
    ledger = Ledger(rows=4, trained=1, held_out=1, dropped=(Drop(origin="x:1", reason="long"),) * 2)
    manifest = attrs.evolve(new_manifest("light", {}, []), data={"ledger": ledger_as_json(ledger)}, total_steps=9)
    write_report(tmp_path, manifest.with_outcome(outcome))
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["outcome"] == "finished"
    assert report["loss"] == {"before": 2.5, "after": 1.25}
    assert report["ledger"] == {"rows": 4, "trained": 1, "held_out": 1, "dropped": {"long": 2}, "repeated": 0}
    assert report["step"] == report["total_steps"] == 9
    (export,) = report["exports"]
    assert (export["kind"], export["path"]) == ("merged", "/x/exports/merged")
    assert export["proof"] == {"verdict": "proved", "figures": {"kl": 0.5}, "note": "n"}
    assert report["samples"] == [attrs.asdict(SAMPLE) | {"images": []}]


def test_text_of_any_kind_survives(tmp_path):
    odd = attrs.evolve(SAMPLE, before="lone \ud800 surrogate", after="\x00 \u2028 ü 模")
    manifest = attrs.evolve(new_manifest("light", {}, []), samples=[attrs.asdict(odd) | {"images": []}])
    manifest.write(tmp_path)
    write_report(tmp_path, manifest)
    assert read_manifest(tmp_path).samples == [attrs.asdict(odd) | {"images": []}]


def test_figures_that_are_no_numbers_leave_valid_json(tmp_path, outcome):
    """`NaN` is no JSON: jq and browsers refuse the whole file."""
    bad = attrs.evolve(ARTIFACT, proof=Proof(verdict=Verdict.FAILED, figures={"kl": float("nan")}))
    ended = attrs.evolve(outcome, artifacts=(bad,), loss_after=float("inf"))
    write_report(tmp_path, new_manifest("light", {}, []).with_outcome(ended))
    json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)


def test_a_ledger_must_add_up():
    with pytest.raises(ValueError, match="does not add up"):
        Ledger(rows=3, trained=1, held_out=1)


def test_fields_have_defaults_so_that_old_manifests_stay_readable():
    required = {field.name for field in attrs.fields(Manifest) if field.default is attrs.NOTHING}
    assert required == {"name", "created", "settings", "plugins", "versions", "environment"}
