"""`ftcore export`: a run, or a checkpoint of one, exported again without training."""

from __future__ import annotations

import json
import os

import pytest

from ftcore import engine
from ftcore.errors import RunError
from ftcore.locks import locked
from ftcore.manifest import read_manifest
from ftcore.shipping.choice import choose

OTHER = """
from typing import Literal

@attrs.frozen(kw_only=True)
class Options:
    quantization: {kind} = option("x", help="x")
class Plugin:
    Config = Options
    def __init__(self, config):
        pass
    @hookimpl
    def export(self):
        return None
"""


@pytest.fixture
def profile(desk):
    """The light profile with a reference, so that what is exported can be proved."""
    desk.replace("max_steps = 10", "max_steps = 4")
    desk.append("\n[plugin.light_reference]\n")
    return desk


@pytest.fixture
def folder(profile):
    """A finished run of four steps, with checkpoints of the third and fourth."""
    return engine.run(profile.load()).folder


@pytest.fixture
def stopped(profile, monkeypatch):
    """A run that failed in its fourth step, with a checkpoint of the third."""
    monkeypatch.setenv("LIGHT_FAULT", "step:4=RunError")
    with pytest.raises(RunError):
        engine.run(profile.load())
    monkeypatch.delenv("LIGHT_FAULT")
    return profile.runs()[-1]


def read(path):
    return json.loads(path.read_text())


def names(folder):
    return [export["path"].removeprefix(f"{folder}/") for export in read(folder / "report.json")["exports"]]


def test_the_exporters_of_the_profile_by_default(folder, ftcore):
    (folder / "exports" / "light.json").unlink()
    assert ftcore("export", folder, "--quiet") == (0, "", "")
    assert (folder / "exports" / "light.json").is_file()
    assert names(folder) == ["exports/light.json"]


def test_a_plugin_that_the_profile_does_not_name(folder, ftcore):
    code, out, err = ftcore("export", folder, "--to", "light_pack")
    assert code == 0
    weight = read(folder / "adapter" / "weight.json")["weight"]
    assert (folder / "exports" / "pack" / "whole.pack").read_text() == repr(weight)
    assert names(folder) == ["exports/light.json", "exports/pack/whole.pack"]
    assert "[5/5] exporting" in err
    assert "pack whole.pack: proved: far 0" in err
    assert str(folder / "exports" / "pack" / "whole.pack") in out
    assert "unpack whole" in out
    assert "exporting" in (folder / "run.log").read_text()


def test_only_the_named_plugins_export(folder, ftcore, monkeypatch):
    monkeypatch.setenv("LIGHT_FAULT", "export=ValueError")
    assert ftcore("export", folder, "--to", "light_pack")[0] == 0


def test_the_run_stays_as_it_was(folder, ftcore):
    before = read_manifest(folder)
    assert ftcore("export", folder, "--to", "light_pack", "--quiet")[0] == 0
    after = read_manifest(folder)
    for name in ("settings", "state", "step", "loss", "scores", "samples", "data", "model", "resumes"):
        assert getattr(after, name) == getattr(before, name), name
    assert "light_pack" not in (folder / "profile.toml").read_text()


def test_no_observer_is_told(profile, folder, ftcore):
    before = profile.diary.read_text()
    assert ftcore("export", folder, "--quiet")[0] == 0
    assert profile.diary.read_text() == before


def test_quantization_is_sugar_for_the_option(folder, ftcore):
    code, out, _ = ftcore(
        "export", folder, "--to", "light_pack", "--quantization", "short", "--quantization", "whole", "--json"
    )
    assert code == 0
    found = json.loads(out)
    assert [export["details"]["quantization"] for export in found["exports"]] == ["short", "whole"]
    assert found["run"] == str(folder)


@pytest.mark.parametrize(
    ("kind", "wanted", "value"),
    [
        ("str", ["a"], '"a"'),
        ("tuple[str, ...]", ["a"], '["a"]'),
        ("str | tuple[str, ...]", ["a"], '"a"'),
        ("str | tuple[str, ...]", ["a", "b"], '["a", "b"]'),
    ],
)
def test_quantization_fits_the_type_of_the_option(profile, folder, kind, wanted, value):
    profile.installation.plugin("other", OTHER.format(kind=kind))
    assert choose(read_manifest(folder), to=["other"], quantization=wanted).sets == (
        f"plugin.other.quantization={value}",
    )


@pytest.mark.parametrize(
    ("wanted", "sets"),
    [
        (["q8", "4bit"], ['plugin.other.quantization="q8"', 'plugin.another.quantization=["4bit"]']),
        (["q8"], ['plugin.other.quantization="q8"']),
        (["f16", "4bit"], ['plugin.other.quantization="f16"', 'plugin.another.quantization=["f16", "4bit"]']),
        (["Q8", "q8", "4BIT"], ['plugin.other.quantization="q8"', 'plugin.another.quantization=["4bit"]']),
    ],
)
def test_each_quantization_goes_to_those_that_know_it(profile, folder, wanted, sets):
    profile.installation.plugin("other", OTHER.format(kind='Literal["q8", "f16"] | tuple[Literal["q8", "f16"], ...]'))
    profile.installation.plugin("another", OTHER.format(kind='tuple[Literal["4bit", "f16"], ...]'))
    assert choose(read_manifest(folder), to=["other", "another"], quantization=wanted).sets == tuple(sets)


@pytest.mark.parametrize(
    ("to", "wanted", "said"),
    [
        (["other"], "q4km", "--quantization q4km: other knows no such type; did you mean 'q4_k_m'?"),
        (["other", "another"], "Q9", "--quantization Q9: other and another know no such type; there are 4bit, q4_k_m"),
    ],
)
def test_a_quantization_that_nobody_knows(profile, folder, ftcore, to, wanted, said):
    profile.installation.plugin("other", OTHER.format(kind='Literal["q4_k_m"]'))
    profile.installation.plugin("another", OTHER.format(kind='tuple[Literal["4bit"], ...]'))
    named = [argument for name in to for argument in ("--to", name)]
    code, _, err = ftcore("export", folder, *named, "--quantization", wanted)
    assert (code, err.strip()) == (2, said)


def test_quantization_of_an_exporter_that_takes_one(profile, folder, ftcore):
    profile.installation.plugin("other", OTHER.format(kind="str"))
    code, _, err = ftcore("export", folder, "--to", "other", "--quantization", "a", "--quantization", "b")
    assert (code, err.strip()) == (2, "--quantization: other takes one at a time")


def test_a_set_wins_over_the_profile(folder, ftcore):
    code, _, err = ftcore("export", folder, "--to", "light_pack", "--set", 'plugin.light_pack.quantization=["short"]')
    assert code == 0
    assert "short.pack" in err


def test_a_second_export_takes_the_place_of_the_first(folder, ftcore):
    for _ in range(2):
        assert ftcore("export", folder, "--to", "light_pack", "--quiet")[0] == 0
    assert names(folder) == ["exports/light.json", "exports/pack/whole.pack"]


# -- checkpoints ----------------------------------------------------------------------------------


def test_a_checkpoint_has_a_folder_of_its_own(folder, ftcore):
    assert ftcore("export", folder, "--to", "light_pack", "--checkpoint", "3", "--quiet")[0] == 0
    place = folder / "exports" / "step-000003"
    weight = read(folder / "checkpoints" / "step-000003" / "state.json")["weight"]
    assert sorted(entry.name for entry in place.iterdir()) == [
        "adapter",
        "manifest.json",
        "pack",
        "reference",
    ]
    assert (place / "pack" / "whole.pack").read_text() == repr(weight)
    assert read(place / "adapter" / "weight.json")["weight"] == weight
    assert read(place / "reference" / "light.json")["weight"] == weight
    assert names(folder) == ["exports/light.json", "exports/step-000003/pack/whole.pack"]


def test_the_card_of_a_checkpoint_has_the_figures_of_its_step(folder, ftcore):
    assert ftcore("export", folder, "--to", "light_pack", "--checkpoint", "3", "--quiet")[0] == 0
    place = folder / "exports" / "step-000003"
    weight = read(place / "adapter" / "weight.json")["weight"]
    assert read(place / "manifest.json")["loss"] == {"before": 1.0, "after": weight}
    assert read(folder / "manifest.json")["loss"]["after"] != weight
    for name in ("adapter", "pack"):
        assert f"{weight:.4f}"[:5] in (place / name / "README.md").read_text()


def test_a_run_that_did_not_finish(stopped, ftcore):
    code, _, err = ftcore("export", stopped)
    assert code == 1
    assert err.strip() == (
        f"{stopped} is failed and has saved neither adapter nor model; pass --checkpoint with a step of 3"
    )
    assert ftcore("export", stopped, "--checkpoint", 3, "--quiet")[0] == 0
    assert read(stopped / "report.json")["outcome"] == "failed"


def test_a_run_that_failed_in_its_exports(profile, ftcore, monkeypatch):
    monkeypatch.setenv("LIGHT_FAULT", "export=RunError")
    assert ftcore("run", profile.profile, "--quiet")[0] == 1
    monkeypatch.delenv("LIGHT_FAULT")
    (folder,) = profile.runs()
    assert ftcore("export", folder, "--quiet")[0] == 0


def test_weights_that_the_run_has_left_behind(folder, ftcore, monkeypatch):
    monkeypatch.setenv("LIGHT_FAULT", "step:7=RunError")
    assert ftcore("run", "--resume", folder, "--set", "train.max_steps=8", "--allow-changes", "--quiet")[0] == 1
    monkeypatch.delenv("LIGHT_FAULT")
    code, _, err = ftcore("export", folder)
    assert code == 1
    assert err.strip() == (
        f"{folder}/adapter is of step 4 and the run has gone on to 6; pass --checkpoint with a step of 4, 6"
    )


def test_a_checkpoint_that_is_not_there(folder, ftcore):
    code, _, err = ftcore("export", folder, "--checkpoint", "7")
    assert (code, err.strip()) == (1, f"no checkpoint of step 7 in {folder}/checkpoints; there are: 3, 4")


def test_exports_of_checkpoints_outlive_a_resume(folder, ftcore):
    assert ftcore("export", folder, "--to", "light_pack", "--checkpoint", "3", "--quiet")[0] == 0
    assert ftcore("export", folder, "--to", "light_pack", "--quiet")[0] == 0
    assert ftcore("run", "--resume", folder, "--set", "train.max_steps=5", "--allow-changes", "--quiet")[0] == 0
    assert names(folder) == ["exports/step-000003/pack/whole.pack", "exports/light.json"]


def test_json_of_what_was_written_also_where_a_proof_fails(folder, ftcore):
    spoilt = ("--to", "light_pack", "--set", "plugin.light_pack.spoil=true")
    code, out, err = ftcore("export", folder, *spoilt, "--json")
    assert (code, json.loads(out)["published"]) == (1, [])
    assert json.loads(out)["exports"][0]["proof"] == {"verdict": "failed", "figures": {"far": 1.0}, "note": ""}
    assert err.strip().endswith("do not ship it")
    assert ftcore("export", folder, *spoilt, "--quiet")[1] == ""


def test_a_reference_of_the_same_weights_stays(folder, ftcore):
    for where in ((), ("--checkpoint", "3")):
        assert ftcore("export", folder, "--to", "light_pack", "--quiet", *where)[0] == 0
        unproved = ("--to", "light_export", "--set", "export.verify=false", "--quiet")
        assert ftcore("export", folder, *unproved, *where)[0] == 0
    for place in ("pack", "step-000003/pack"):
        assert ftcore("verify", folder / "exports" / place / "whole.pack")[0] == 0


# -- publishing -----------------------------------------------------------------------------------


def test_publishing_alone_loads_no_model(folder, ftcore, monkeypatch):
    monkeypatch.setenv("LIGHT_FAULT", "load_rows=RunError")
    code, out, err = ftcore("export", folder, "--to", "light_hub", "--json")
    assert (code, json.loads(out)["published"]) == (0, ["light://adapter/light.json"])
    assert "published: light://adapter/light.json" in err


def test_what_was_exported_before_is_published_with_it(folder, ftcore):
    code, out, _ = ftcore("export", folder, "--to", "light_pack", "--to", "light_hub", "--json")
    assert (code, json.loads(out)["published"]) == (0, ["light://adapter/light.json+whole.pack"])


def test_a_checkpoint_is_published_with_its_own(folder, ftcore):
    code, out, _ = ftcore("export", folder, "--to", "light_hub", "--checkpoint", 3, "--json")
    assert (code, json.loads(out)["published"]) == (0, ["light://exports/step-000003/adapter/"])


def test_what_has_failed_is_not_published(profile, folder, ftcore):
    assert ftcore("export", folder, "--set", "plugin.light_export.verdict=failed", "--quiet")[0] == 1
    assert read(folder / "report.json")["exports"][0]["proof"]["verdict"] == "failed"
    code, _, err = ftcore("export", folder, "--to", "light_hub")
    assert code == 1
    assert "does not answer like the model that was trained (difference 0.25); do not ship it" in err
    assert "published" not in err


def test_what_has_changed_since_its_proof_is_not_published_until_it_is_verified(folder, ftcore):
    assert ftcore("export", folder, "--to", "light_pack", "--quiet")[0] == 0
    pack = folder / "exports" / "pack" / "whole.pack"
    pack.write_text(f"{float(pack.read_text())!r}\n")
    code, out, err = ftcore("export", folder, "--to", "light_hub")
    assert (code, out) == (1, "")
    again = f"run: ftcore verify {pack}, or write it again: ftcore export {folder}"
    assert err.strip().splitlines()[-1] == f"{pack} has changed since it was proved; {again}"
    assert ftcore("verify", pack)[0] == 0
    assert ftcore("export", folder, "--to", "light_hub", "--quiet")[0] == 0
    (pack.parent / "verification.json").unlink()
    assert ftcore("export", folder, "--to", "light_hub", "--quiet")[0] == 1


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "light_pak"], "--to light_pak: no such plugin; did you mean 'light_pack'?"),
        (
            ["--to", "light_rows"],
            "--to light_rows: that exports nothing; those that do: light_export, light_hub, light_pack",
        ),
        (["--quantization", "short"], "--quantization: light_export has no option of that name"),
        (["--to", "light_pack", "--quantization", "tiny"], "plugin.light_pack.quantization: unknown: tiny"),
        (["--set", "plugin.light_trainer.shrink=0.5"], "plugin.light_trainer.shrink: 0.9 -> 0.5"),
        (["--set", "train.seed=1"], "train.seed: unknown key"),
    ],
)
def test_a_mistake_in_the_command_exits_with_2(folder, ftcore, arguments, said):
    code, out, err = ftcore("export", folder, *arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_a_profile_that_exports_nothing(profile, ftcore):
    profile.replace("[plugin.light_export]", "")
    folder = engine.run(profile.load()).folder
    code, _, err = ftcore("export", folder)
    assert code == 2
    assert "the run's profile exports nothing; name a plugin with --to: light_export, light_hub, light_pack" in err


@pytest.mark.parametrize("name", ["none", "."])
def test_a_folder_that_is_no_run(profile, ftcore, name):
    code, _, err = ftcore("export", name)
    assert code == 1
    assert "is no run folder: it has no manifest.json" in err


@pytest.mark.parametrize("place", ["exports", "checkpoints"])
def test_a_checkpoint_is_no_run(folder, ftcore, place):
    assert ftcore("export", folder, "--checkpoint", 3, "--quiet")[0] == 0
    early = folder / place / "step-000003"
    code, _, err = ftcore("export", early)
    assert (code, err.strip()) == (
        2,
        f"{early} is of a checkpoint, and no run; run: ftcore export {folder} --checkpoint 3",
    )


def test_a_run_in_use_names_its_holder(folder, ftcore):
    with locked(folder):
        code, _, err = ftcore("export", folder)
    assert code == 1
    assert f"{folder} is in use by pid {os.getpid()} on " in err


def test_a_folder_that_cannot_be_written(folder, ftcore, monkeypatch):
    (folder / ".lock").unlink()
    (folder / ".lock").mkdir()  # as root, permissions hinder nobody
    code, _, err = ftcore("export", folder)
    assert code == 1
    assert err.strip() == f"{folder} cannot be written (Is a directory); change its permissions, or copy it"


def test_changed_data_is_refused_unless_allowed(profile, folder, ftcore):
    profile.write_rows(13)
    code, _, err = ftcore("export", folder)
    assert code == 1
    assert "the data has changed since the run began (fingerprint " in err
    assert "--allow-changes" in err
    code, _, err = ftcore("export", folder, "--allow-changes")
    assert code == 0
    assert "warning: the data has changed" in err


def test_a_changed_model_is_refused_unless_allowed(folder, ftcore, monkeypatch):
    monkeypatch.setenv("LIGHT_REVISION", "r2")
    code, _, err = ftcore("export", folder)
    assert code == 1
    assert "the model has changed since the run began (fingerprint r1, now r2); pass --allow-changes" in err
    assert ftcore("export", folder, "--allow-changes", "--quiet")[0] == 0


def test_a_crash_is_one_sentence_and_leaves_the_run_free(folder, ftcore, monkeypatch):
    monkeypatch.setenv("LIGHT_FAULT", "load=ValueError")
    code, _, err = ftcore("export", folder)
    assert (code, err.splitlines()[-1]) == (1, "ValueError: light fault in load; run.log says where")
    assert "Traceback" in (folder / "run.log").read_text()
    monkeypatch.delenv("LIGHT_FAULT")
    assert ftcore("export", folder, "--quiet")[0] == 0
