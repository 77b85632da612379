"""`ftcore verify`: a file that is there already, whoever made it."""

from __future__ import annotations

import json

import pytest

from ftcore import engine
from ftcore.cli import main
from ftcore.locks import locked

FALLBACKS = """
class Plugin:
    @hookimpl
    def check(self, run):
        if not run.profile.model.id.endswith("model"):
            return [Problem(key="model.id", message="no model")]
        return []
    @hookimpl(trylast=True)
    def load_processor(self):
        return "processor"
    @hookimpl(trylast=True)
    def load_model(self, run, processor):
        from pathlib import Path
        weight = float((Path(run.profile.model.id) / "weight").read_text())
        return Loaded(model={"weight": weight}, processor=processor, base=run.profile.model.id)
    @hookimpl(trylast=True)
    def write_reference(self, loaded, data, folder):
        import json
        assert data is None
        (folder / "light.json").write_text(json.dumps({"weight": loaded.model["weight"]}))
"""


@pytest.fixture
def folder(desk):
    """A finished run with a reference and a pack."""
    desk.replace("max_steps = 10", "max_steps = 4")
    loaded = desk.load(switch_on=["light_reference", "light_pack"], switch_off=["light_export"])
    return engine.run(loaded).folder


@pytest.fixture
def pack(folder):
    return folder / "exports" / "pack" / "whole.pack"


def read(path):
    return json.loads(path.read_text())


def verdict(folder):
    return read(folder / "report.json")["exports"][0]["proof"]["verdict"]


def test_an_artifact_of_a_run(folder, pack, ftcore):
    code, out, err = ftcore("verify", pack)
    assert (code, err) == (0, "")
    assert str(pack) in out
    assert "proved: far 0" in out


def test_one_that_was_spoilt_is_noted_in_the_run(folder, pack, ftcore):
    pack.write_text("77")
    code, out, _ = ftcore("verify", pack, "--json")
    assert code == 1
    assert json.loads(out)["proof"]["verdict"] == "failed"
    assert verdict(folder) == "failed"
    assert read(pack.parent / "verification.json")["artifacts"][0]["statement"] == "failed: do not ship"


def test_a_file_that_another_tool_put_into_the_run(folder, pack, ftcore):
    other = pack.with_name("other.pack")
    other.write_text(pack.read_text())
    assert ftcore("verify", other)[0] == 0
    assert [entry["path"] for entry in read(pack.parent / "verification.json")["artifacts"]] == [
        "other.pack",
        "whole.pack",
    ]
    assert len(read(folder / "report.json")["exports"]) == 1, "it is none of the run's own"


def test_the_reference_of_the_artifacts_own_checkpoint(folder, pack, ftcore):
    assert ftcore("export", folder, "--checkpoint", "3", "--quiet")[0] == 0
    early = folder / "exports" / "step-000003" / "pack" / "whole.pack"
    assert ftcore("verify", early)[0] == 0
    assert ftcore("verify", early, "--against", folder)[0] == 1
    assert ftcore("verify", early, "--against", folder / "exports" / "step-000003")[0] == 0
    assert ftcore("verify", pack, "--against", folder / "exports" / "step-000003")[0] == 1
    assert verdict(folder) == "proved", "what another reference says is not noted"


def test_a_foreign_file_against_a_run_stays_alone(desk, folder, pack, ftcore):
    place = desk.folder / "elsewhere"
    place.mkdir()
    (place / "x.pack").write_text(pack.read_text())
    code, out, _ = ftcore("verify", place / "x.pack", "--against", folder)
    assert code == 0
    assert "light_pack" in out
    assert [entry.name for entry in place.iterdir()] == ["x.pack"]


def test_a_foreign_file_against_the_folder_of_a_model(desk, ftcore):
    desk.installation.plugin("loader", FALLBACKS, fallback=True)
    model = desk.folder / "model"
    model.mkdir()
    (model / "weight").write_text("2.5")
    right, wrong = desk.write("2.5", "right.pack"), desk.write("3", "wrong.pack")
    before = sorted(desk.folder.iterdir())
    assert ftcore("verify", right, "--against", model)[0] == 0
    assert ftcore("verify", wrong, "--against", model)[0] == 1
    assert sorted(desk.folder.iterdir()) == before


def test_a_folder_that_is_no_model(desk, ftcore):
    desk.installation.plugin("loader", FALLBACKS, fallback=True)
    (desk.folder / "nothing").mkdir()
    code, _, err = ftcore("verify", desk.write("1", "a.pack"), "--against", desk.folder / "nothing")
    assert (code, err.strip()) == (2, "model.id: no model")


def test_not_proved_never_looks_like_passed(desk, folder, ftcore):
    desk.installation.plugin(
        "shrug",
        """
        class Plugin:
            @hookimpl
            def verify(self, artifact):
                if artifact.path.suffix == ".shrug":
                    return Proof(verdict=Verdict.NOT_PROVED, note="who knows")
        """,
    )
    code, out, _ = ftcore("verify", desk.write("1", "a.shrug"), "--against", folder)
    assert code == 1
    assert "not proved" in out
    assert "who knows" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.pack"], "no such file or folder: none.pack"),
        (["rows.jsonl"], "lies in no run; say what to compare it with: --against RUN or --against FOLDER"),
        (["rows.jsonl", "--against", "none"], "--against none: no such folder; name a run, or a folder with a model"),
        (["rows.jsonl", "--against", "RUN"], "no plugin knows how this is proved (asked: light_pack)"),
    ],
)
def test_what_cannot_be_asked_exits_with_2(folder, ftcore, arguments, said):
    code, out, err = ftcore("verify", *[folder if argument == "RUN" else argument for argument in arguments])
    assert (code, out) == (2, "")
    assert said in err


def test_a_run_is_no_artifact(folder, pack, ftcore):
    code, _, err = ftcore("verify", folder)
    assert (code, err.strip()) == (2, f"{folder} is a run; name one of its artifacts: {pack}")


def test_plugins_that_cannot_be_asked_are_named_when_nobody_answers(desk, folder, ftcore):
    desk.installation.distribution("broken", plugins={"broken": "no_such_module:Plugin"})
    desk.installation.plugin(
        "lacking",
        """
        class Plugin:
            @hookimpl
            def check(self):
                return [Problem(message="llama is not installed; pip install llama")]
            @hookimpl
            def verify(self):
                raise ValueError("asked all the same")
        """,
    )
    code, _, err = ftcore("verify", desk.write("1", "a.llama"), "--against", folder)
    assert code == 2
    assert "plugin broken (broken 1.0) cannot be imported" in err
    assert "lacking is not asked: llama is not installed; pip install llama" in err


def test_a_run_that_has_exported_nothing(desk, ftcore):
    folder = engine.run(desk.load(switch_off=["light_export"])).folder
    (folder / "x.pack").write_text("1")
    code, _, err = ftcore("verify", folder / "x.pack")
    assert code == 1
    assert err.strip().endswith(f"exported and proved; run: ftcore export {folder} --set export.verify=true")


def test_a_run_in_use(folder, pack, ftcore):
    with locked(folder):
        code, _, err = ftcore("verify", pack)
    assert code == 1
    assert "is in use by pid" in err


def test_the_help_says_what_the_exit_codes_mean(capsys):
    with pytest.raises(SystemExit):
        main(["verify", "--help"])
    assert "failed, or not proved, which is never taken for passed" in " ".join(capsys.readouterr().out.split())


def test_what_was_trained_is_no_artifact(folder, pack, ftcore):
    assert ftcore("export", folder, "--checkpoint", "3", "--quiet")[0] == 0
    early = folder / "exports" / "step-000003"
    for place in (folder / "adapter", folder / "checkpoints" / "step-000003", early / "adapter"):
        code, out, err = ftcore("verify", place)
        said = f"{place} is what was trained, and no artifact; name one of the run's artifacts: {pack}, {early}/pack"
        assert (code, out, err.strip()) == (2, "", f"{said}/whole.pack")


def test_a_folder_of_artifacts_names_them(folder, pack, ftcore):
    code, out, err = ftcore("verify", pack.parent)
    assert (code, out) == (2, "")
    assert err.strip() == f"{pack.parent} is a folder of artifacts; name one of them: {pack}"


def test_a_command_with_a_space_can_be_pasted(desk, ftcore):
    folder = engine.run(desk.load(switch_off=["light_export"])).folder
    folder = folder.rename(folder.with_name("two words"))
    (folder / "x.pack").write_text("1")
    assert f"run: ftcore export '{folder}' --set" in ftcore("verify", folder / "x.pack")[2]
