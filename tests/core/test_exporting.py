"""Artifacts of a run: a reference first, a proof for each, what is said of it, and publishing last."""

from __future__ import annotations

import hashlib
import json
from collections import namedtuple

import pytest

from ftcore import disk, engine, session
from ftcore.errors import PluginError, RunError
from ftcore.manifest import read_manifest
from ftcore.shipping.verification import has_changed, proof_line, write_verification
from ftcore.values import Artifact, Proof, Verdict

ALL = ["light_reference", "light_pack", "light_hub"]
BOTH = 'plugin.light_pack.quantization=["whole", "short"]'


@pytest.fixture
def run(desk, display):
    """Run with the reference, the packing exporter and the hub in the place of the exporter that proves itself."""

    def start(*sets, switch_on=ALL, switch_off=("light_export",)):
        loaded = desk.load(switch_on=switch_on, switch_off=switch_off, sets=["train.max_steps=2", *sets])
        return engine.run(loaded, display=display)

    return start


@pytest.fixture
def failed(desk, run):
    """The folder of a run that fails, and how."""

    def start(*sets, error=RunError, **options):
        with pytest.raises(error) as caught:
            run(*sets, **options)
        return desk.runs()[-1], str(caught.value)

    return start


def read(path):
    return json.loads(path.read_text())


def test_each_artifact_is_proved_against_the_reference_and_published(run, display):
    outcome = run(BOTH)
    exports = outcome.folder / "exports"
    weight = read(outcome.folder / "adapter" / "weight.json")["weight"]
    assert read(exports / "reference" / "light.json") == {"weight": weight, "rows": True}
    assert [(a.path, a.proof.verdict) for a in outcome.artifacts] == [
        (exports / "pack" / "whole.pack", "proved"),
        (exports / "pack" / "short.pack", "proved"),
    ]
    assert [line for line in display.lines if "pack" in line] == [
        "pack whole.pack: proved: far 0",
        f"pack short.pack: proved: far {outcome.artifacts[1].proof.figures['far']:.3g}",
        "published: light://adapter/short.pack+whole.pack",
    ]


def test_what_exporters_share_is_gone_afterwards(run):
    folder = run().folder
    assert sorted(entry.name for entry in (folder / "exports").iterdir()) == ["pack", "reference"]


def test_what_was_found_lies_beside_the_artifact_with_versions(run):
    folder = run(BOTH).folder
    short, whole = read(folder / "exports" / "pack" / "verification.json")["artifacts"]
    assert (short["path"], whole["path"]) == ("short.pack", "whole.pack")
    assert whole["proof"] == {"verdict": "proved", "figures": {"far": 0.0}, "note": ""}
    assert whole["statement"].startswith("proved")
    assert whole["details"]["quantization"] == "whole"
    assert whole["versions"]["ftcore"]


def test_the_file_beside_an_artifact_says_which_it_is_and_nothing_of_this_machine(run):
    folder = run(BOTH).folder
    text = (folder / "exports" / "pack" / "verification.json").read_text()
    short, whole = json.loads(text)["artifacts"]
    content = (folder / "exports" / "pack" / "whole.pack").read_bytes()
    assert (whole["bytes"], whole["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert short["sha256"] != whole["sha256"]
    assert "run" not in whole["details"]
    assert str(folder.parent) not in text


def test_paths_in_notes_and_details_become_names(tmp_path):
    tmp_path = tmp_path / "two words" / "exports"
    tmp_path.mkdir(parents=True)
    (tmp_path / "x").write_text("1")
    details = {"merged into": "/home/me/base", "run": "serve /home/me/x"}
    proof = Proof(verdict=Verdict.NOT_PROVED, note=f"{tmp_path}/x beside {tmp_path.parent}/adapter: no images")
    write_verification(Artifact(kind="k", path=tmp_path / "x", proof=proof, details=details))
    (entry,) = read(tmp_path / "verification.json")["artifacts"]
    assert entry["details"] == {"merged into": "base"}
    assert entry["statement"] == "not proved (x beside adapter: no images)"


def test_a_folder_has_changed_when_a_file_of_it_has(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "w").write_text("1")
    artifact = Artifact(kind="k", path=tmp_path, proof=Proof(verdict=Verdict.PROVED, note="q4, gate 0.5"))
    assert has_changed(artifact)
    write_verification(artifact)
    (entry,) = read(tmp_path / "verification.json")["artifacts"]
    assert (entry["bytes"], entry["statement"]) == (
        1,
        "proved: answers like the model that was trained (q4, gate 0.5)",
    )
    (tmp_path / "README.md").write_text("a card")
    (tmp_path / ".merged.json").write_text("{}")
    assert not has_changed(artifact)
    (tmp_path / "deep" / "w").rename(tmp_path / "deep" / "v")
    assert has_changed(artifact)


def test_report_and_manifest_hold_details_and_proof(run):
    folder = run().folder
    (export,) = read(folder / "report.json")["exports"]
    assert (export["kind"], export["path"]) == ("pack", str(folder / "exports" / "pack" / "whole.pack"))
    assert export["details"] == {"quantization": "whole", "run": "unpack whole"}
    assert export["proof"]["verdict"] == "proved"
    assert read_manifest(folder).exports == [export]


def test_a_card_lies_beside_each_artifact_and_beside_the_weights(run):
    folder = run().folder
    for place in (folder / "exports" / "pack", folder / "adapter"):
        assert "whole.pack" in (place / "README.md").read_text()


def test_a_card_of_a_run_without_exports(run):
    folder = run(switch_on=()).folder
    assert (folder / "adapter" / "README.md").is_file()
    assert not (folder / "exports").exists()


def test_how_the_model_has_become_is_known_before_it_is_exported(desk, run):
    desk.installation.plugin(
        "curious",
        """
        class Plugin:
            @hookimpl
            def export(self, run, exports):
                exports.mkdir(exist_ok=True)
                target = exports / "seen.json"
                target.write_text((run.folder / "manifest.json").read_text())
                return Artifact(kind="seen", path=target)
        """,
    )
    outcome = run(switch_on=["curious"])
    seen = read(outcome.folder / "exports" / "seen.json")
    assert seen["state"] == "running"
    assert (seen["step"], seen["saved_at"]) == (2, 2)
    assert seen["loss"] == {"before": 1.0, "after": outcome.loss_after}
    assert outcome.artifacts[0].proof.note == "no plugin says how seen is proved"


def test_verify_false_is_recorded_and_nothing_is_asked(run, monkeypatch):
    monkeypatch.setenv("LIGHT_FAULT", "verify=RunError")
    outcome = run("export.verify=false")
    proof = outcome.artifacts[0].proof
    assert (proof.verdict, proof.note) == ("not proved", "export.verify is false")
    assert not (outcome.folder / "exports" / "reference").exists()
    entry = read(outcome.folder / "exports" / "pack" / "verification.json")["artifacts"][0]
    assert entry["proof"]["note"] == "export.verify is false"
    assert entry["statement"].startswith("not proved")


def test_a_reference_of_other_weights_does_not_stay(run):
    folder = run().folder
    assert (folder / "exports" / "reference").is_dir()
    changes = ["train.max_steps=3", "export.verify=false"]
    assert engine.resume(folder, sets=changes, allow_changes=True).step == 3
    assert not (folder / "exports" / "reference").exists()


def test_a_failed_proof_fails_the_run_says_so_beside_the_artifact_and_publishes_nothing(failed, display):
    folder, said = failed("plugin.light_pack.spoil=true", BOTH)
    assert said.splitlines() == [
        f"export pack: {folder}/exports/pack/{name}.pack does not answer like the model that was trained "
        f"(far {far}); do not ship it"
        for name, far in (("whole", "1"), ("short", "1"))
    ]
    for entry in read(folder / "exports" / "pack" / "verification.json")["artifacts"]:
        assert entry["statement"] == "failed: do not ship"
    assert "do not ship" in (folder / "exports" / "pack" / "README.md").read_text()
    assert (folder / "exports" / "pack" / "whole.pack").is_file()
    assert read(folder / "report.json")["outcome"] == "failed"
    assert not any(line.startswith("published") for line in display.lines)


def test_the_other_exporters_still_run(failed):
    folder, said = failed(
        "plugin.light_export.verdict=failed", switch_on=["light_pack", "light_reference"], switch_off=()
    )
    assert "light.json does not answer" in said
    assert [export["kind"] for export in read(folder / "report.json")["exports"]] == ["light", "pack"]


def test_publishing_that_fails_says_how_to_repeat_it(failed, monkeypatch):
    monkeypatch.setenv("LIGHT_FAULT", "publish=RunError")
    folder, said = failed()
    assert said == f"light fault in publish; to publish again: ftcore export {folder} --to light_hub"
    assert read(folder / "report.json")["exports"][0]["proof"]["verdict"] == "proved"


# -- exporters that err ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("exports / 'none'", "says that it wrote {exports}/none, which is not there"),
        ("exports.parent / 'manifest.json'", "manifest.json, which is not below the folder for exports"),
        ("exports", "which is not below the folder for exports"),
    ],
)
def test_an_exporter_that_names_what_it_did_not_write(desk, failed, path, said):
    desk.installation.plugin(
        "liar",
        f"""
        class Plugin:
            @hookimpl
            def export(self, exports):
                exports.mkdir(exist_ok=True)
                return Artifact(kind="lie", path={path})
        """,
    )
    folder, message = failed(switch_on=["liar"], error=PluginError)
    assert message.startswith("export: liar ")
    assert said.format(exports=folder / "exports") in message


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("OSError(28, 'No space left on device')", "no space left in {exports}; free some, then: "),
        ("RuntimeError('I/O error: No space left (os error 28)')", "no space left in {exports}; free some, then: "),
        (
            "OSError(27, 'File too large')",
            "a file is larger than {exports} or this shell allows; raise the limit (ulimit",
        ),
        ("PermissionError(13, 'Permission denied', 'x')", "x cannot be written (Permission denied)"),
        ("OSError(30, 'Read-only file system', 'x')", "x cannot be written (Read-only file system)"),
    ],
)
def test_a_disk_that_cannot_be_written_is_one_sentence(desk, failed, error, said):
    desk.installation.plugin(
        "full", f"class Plugin:\n    @hookimpl\n    def export(self, exports):\n        raise {error}\n"
    )
    folder, message = failed(switch_on=["full"])
    assert message.startswith("export full: ")
    assert said.format(exports=folder / "exports") in message
    assert message.endswith(f"then: ftcore export {folder} --to full")


def test_an_exporter_without_room_does_not_start(desk, run, failed, monkeypatch):
    """The light model cannot be sketched; its sizes are given."""
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(session, "require_room", lambda *_: {"light_pack": 3 * 2**30})
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: Usage(0, 0, 2**30))
    folder, said = failed()
    assert said == (
        f"export light_pack writes about 3.0 GiB and {folder}/exports has 1.0 GiB free; "
        f"free some, then: ftcore export {folder} --to light_pack"
    )
    assert not (folder / "exports" / "pack").exists()


def test_a_killed_run_that_is_resumed_exports_again_and_forgets_nothing(desk, run, monkeypatch):
    monkeypatch.setenv("LIGHT_FAULT", "pack=RunError")
    with pytest.raises(RunError):
        run()
    monkeypatch.delenv("LIGHT_FAULT")
    (folder,) = desk.runs()
    assert [artifact.path.name for artifact in engine.resume(folder).artifacts] == ["whole.pack"]


def test_a_line_for_the_screen():
    proof = Proof(verdict=Verdict.NOT_PROVED, figures={"kl_mean": 1e-7, "top1": 1.0}, note="images")
    artifact = Artifact(kind="mlx", path=disk.Path("a/4bit"), proof=proof)
    assert proof_line(artifact) == "mlx 4bit: not proved: kl_mean 1e-07, top1 1 (images)"
