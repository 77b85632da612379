"""`ftcore compare`: models side by side on the same rows."""

from __future__ import annotations

import json

import pytest

from ftcore import engine


@pytest.fixture
def folder(desk):
    """A finished run of four steps, with checkpoints of the third and fourth."""
    desk.write_rows(40)
    desk.replace("max_steps = 10", "max_steps = 4")
    desk.append("\n[plugin.light_score]\n")
    return engine.run(desk.load()).folder


def compared(ftcore, *arguments):
    code, out, err = ftcore("compare", *arguments, "--json", "--quiet")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_a_run_alone_is_compared_with_its_base(folder, ftcore):
    found = compared(ftcore, folder)
    assert [model["name"] for model in found["models"]] == [folder.name, "base"]
    assert found["reference"] == "base"
    report = json.loads((folder / "report.json").read_text())
    assert [model["loss"]["value"] for model in found["models"]] == pytest.approx(
        [report["loss"]["after"], report["loss"]["before"]]
    )
