"""What goes wrong around exports: folders that move, numbers that are none, disks, kills, several processes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from ftcore import engine
from ftcore.cli import main
from ftcore.errors import PluginError, RunError
from ftcore.manifest import read_manifest
from ftcore.shipping import delivery, exporting


@pytest.fixture
def profile(desk):
    """The light profile with a reference, so that what is exported can be proved."""
    desk.replace("max_steps = 10", "max_steps = 4")
    desk.replace("[plugin.light_export]\n", "[plugin.light_pack]\n\n[plugin.light_reference]\n")
    return desk


@pytest.fixture
def folder(profile):
    return engine.run(profile.load()).folder


def read(path):
    return json.loads(path.read_text())


# -- a run that lies elsewhere --------------------------------------------------------------------


@pytest.fixture
def moved(folder, tmp_path):
    """The run's folder in another place, with a space and an accent in its name."""
    place = tmp_path / "elsewhere é" / "a run"
    place.parent.mkdir()
    return folder.rename(place)


def test_artifacts_of_a_moved_run_are_where_it_is(folder, moved):
    (artifact,) = read_manifest(moved).artifacts()
    assert artifact.path == moved / "exports" / "pack" / "whole.pack"


def test_a_moved_run_is_published_with_its_artifacts(moved, ftcore):
    code, out, _ = ftcore("export", moved, "--to", "light_hub", "--json")
    assert (code, json.loads(out)["published"]) == (0, ["light://adapter/whole.pack"])


def test_an_artifact_of_a_moved_run_is_noted_where_it_was(moved, ftcore):
    assert ftcore("verify", moved / "exports" / "pack" / "whole.pack")[0] == 0
    (export,) = read(moved / "manifest.json")["exports"]
    assert export["path"] == str(moved / "exports" / "pack" / "whole.pack")


def test_a_run_that_a_link_leads_to(folder, tmp_path, ftcore):
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert ftcore("export", link, "--to", "light_pack", "--quiet")[0] == 0
    (export,) = read(folder / "manifest.json")["exports"]
    assert export["path"].endswith("exports/pack/whole.pack")


def test_a_copy_leaves_the_first_alone(folder, tmp_path, ftcore):
    copy = shutil.copytree(folder, tmp_path / "copy")
    before = (folder / "manifest.json").read_bytes()
    assert ftcore("export", copy, "--quiet")[0] == 0
    assert (folder / "manifest.json").read_bytes() == before
    assert [str(copy) in export["path"] for export in read(copy / "manifest.json")["exports"]] == [True]


# -- figures --------------------------------------------------------------------------------------


def test_a_figure_that_is_no_number_can_be_shown_ever_after(profile, ftcore):
    profile.installation.plugin(
        "lost",
        """
        class Plugin:
            @hookimpl
            def export(self, exports):
                path = exports / "lost.json"
                path.touch()
                proof = Proof(verdict=Verdict.FAILED, figures={"kl_mean": float("nan")}, note="lost")
                return Artifact(kind="lost", path=path, proof=proof)
        """,
    )
    profile.append("\n[plugin.lost]\n")
    with pytest.raises(RunError, match="kl_mean nan"):
        engine.run(profile.load())
    (folder,) = profile.runs()
    assert "kl_mean nan" in ftcore("export", folder, "--to", "light_hub")[2]


# -- references -----------------------------------------------------------------------------------


def test_a_checkpoint_without_a_reference_is_not_compared_with_another(folder, ftcore):
    unproved = ("--set", "export.verify=false", "--quiet")
    assert ftcore("export", folder, "--to", "light_pack", "--checkpoint", "3", *unproved)[0] == 0
    code, _, err = ftcore("verify", folder / "exports" / "step-000003" / "pack" / "whole.pack")
    assert code == 1
    assert "has no reference to compare with" in err
    assert "--checkpoint 3" in err


# -- plugins that misbehave -----------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["export", "verify", "publish"])
def test_a_plugin_that_leaves_with_0_never_ends_as_a_success(profile, folder, ftcore, hook):
    profile.installation.plugin(
        "bad",
        f"""
        class Plugin:
            @hookimpl
            def export(self, exports):
                (exports / "bad").touch()
                return Artifact(kind="bad", path=exports / "bad")
            @hookimpl
            def {hook}(self):
                raise SystemExit(0)
        """,
    )
    code, _, err = ftcore("export", folder, "--to", "bad")
    assert code == 3
    assert f"plugin bad (dist-bad 1.0) failed in {hook}: SystemExit: 0" in err


def test_two_exporters_that_write_one_file(profile, ftcore):
    for name in ("first", "second"):
        profile.installation.plugin(
            name,
            f"""
            class Plugin:
                @hookimpl
                def export(self, exports):
                    path = exports / "same.txt"
                    path.write_text("{name}")
                    return Artifact(kind="{name}", path=path)
            """,
        )
    profile.append("\n[plugin.first]\n\n[plugin.second]\n")
    with pytest.raises(PluginError, match=r"second wrote .*same.txt, which first has written"):
        engine.run(profile.load())


# -- disks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [exporting, delivery], ids=["verification", "card"])
def test_a_disk_that_fills_up_between_the_artifacts_is_one_sentence(profile, ftcore, monkeypatch, module):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "write_verification" if module is exporting else "write_card", full)
    code, _, err = ftcore("run", profile.profile, "--quiet")
    assert code == 1
    assert "no space left in" in err
    assert "free some, then: ftcore export" in err


def test_a_log_that_cannot_be_written_hides_no_other_fault(folder, ftcore, monkeypatch):
    monkeypatch.setattr("ftcore.runlog.FILE", "full.log")
    (folder / "full.log").symlink_to("/dev/full")
    code, out, err = ftcore("export", folder)
    assert (code, out.count("proved")) == (0, 1), err
    assert "Logging error" not in err


# -- kills and signals ----------------------------------------------------------------------------


@pytest.fixture
def begin(profile):
    """Start `ftcore` in a process of its own."""

    def start(*arguments, **environment):
        command = [sys.executable, "-m", "ftcore.cli", *map(str, arguments)]
        env = {**os.environ, **profile.installation.env, **environment}
        return subprocess.Popen(command, cwd=profile.folder, env=env, stderr=subprocess.PIPE, text=True)

    return start


@pytest.mark.parametrize(
    ("place", "again"), [("write_reference", "export"), ("pack", "run"), ("verify", "export"), ("publish", "run")]
)
def test_a_kill_at_any_moment_of_the_exports(profile, begin, ftcore, place, again):
    profile.append("\n[plugin.light_hub]\n")
    process = begin("run", profile.profile, "--quiet", LIGHT_FAULT=f"{place}=SIGKILL")
    assert process.wait(60) == -signal.SIGKILL
    (folder,) = profile.runs()
    command = ("run", "--resume", folder) if again == "run" else ("export", folder)
    assert ftcore(*command, "--quiet")[0] == 0
    (export,) = read(folder / "manifest.json")["exports"]
    assert export["proof"]["verdict"] == "proved"
    assert sorted(path.name for path in (folder / "exports").iterdir()) == ["pack", "reference"]


def test_a_proof_of_a_file_that_was_replaced_before_a_kill_publishes_nothing(profile, folder, begin, ftcore):
    spoilt = ("--set", "plugin.light_pack.spoil=true")
    assert begin("export", folder, "--quiet", *spoilt, LIGHT_FAULT="verify=SIGKILL").wait(60) == -signal.SIGKILL
    assert read(folder / "manifest.json")["exports"][0]["proof"]["verdict"] == "proved"
    code, _, err = ftcore("export", folder, "--to", "light_hub")
    assert code == 1
    assert "whole.pack has changed since it was proved; run: ftcore verify " in err
    assert ftcore("verify", folder / "exports" / "pack" / "whole.pack")[0] == 1


@pytest.mark.parametrize(("name", "code", "place"), [("SIGINT", 130, "pack"), ("SIGTERM", 75, "verify")])
def test_a_signal_while_exporting(profile, begin, ftcore, name, code, place):
    profile.append("\n[plugin.light_hub]\n")
    process = begin("run", profile.profile, "--quiet", LIGHT_FAULT=f"{place}={name}")
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    (folder,) = profile.runs()
    process = begin("export", folder, "--quiet", LIGHT_FAULT=f"{place}={name}")
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert not (folder / "exports" / ".work").exists()
    assert ftcore("export", folder, "--quiet")[0] == 0


# -- older runs -----------------------------------------------------------------------------------


def test_a_manifest_of_an_older_version(folder, ftcore):
    manifest = read(folder / "manifest.json")
    for name in ("saved_at", "folder"):
        manifest.pop(name, None)
    manifest["model"].pop("license")
    for export in manifest["exports"]:
        export.pop("details")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert ftcore("export", folder, "--quiet")[0] == 0
    assert ftcore("verify", folder / "exports" / "pack" / "whole.pack")[0] == 0
    assert len(read(folder / "manifest.json")["exports"]) == 1


def test_a_plugin_of_the_run_that_is_gone(profile, folder, ftcore):
    text = (folder / "profile.toml").read_text()
    (folder / "profile.toml").write_text(text + "\n[plugin.gone]\nx = 1\n")
    code, _, err = ftcore("export", folder)
    assert code == 2
    assert "plugin.gone" in err


def test_a_run_without_exporters_can_export_later(profile, ftcore):
    folder = engine.run(profile.load(switch_off=["light_pack"])).folder
    assert not (folder / "exports").exists()
    assert ftcore("export", folder, "--to", "light_pack", "--quiet")[0] == 0
    assert read(folder / "manifest.json")["exports"][0]["proof"]["verdict"] == "proved"


# -- several processes ----------------------------------------------------------------------------


@pytest.fixture
def team(profile, monkeypatch):
    for name, value in profile.installation.env.items():
        monkeypatch.setenv(name, value)
    profile.installation.distribution("light-ranks", plugins={"light_ranks": "light_ranks:LightRanks"})
    profile.replace('profile = "cpu"\n', 'profile = "cpu"\nprocesses = 2\n')
    profile.append("\n[plugin.light_ranks]\n")
    return profile


@pytest.mark.parametrize("hook", ["pack", "verify"])
def test_a_failed_export_of_several_processes_is_told_as_it_is(team, monkeypatch, hook):
    monkeypatch.setenv("LIGHT_FAULT", f"{hook}=RunError")
    with pytest.raises(RunError, match=f"light fault in {hook}"):
        engine.run(team.load())
    monkeypatch.delenv("LIGHT_FAULT")
    (folder,) = team.runs()
    assert main(["export", str(folder), "--quiet"]) == 0
