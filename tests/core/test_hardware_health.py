"""Whether libraries work, tried in processes of their own; and what `ftcore hardware` prints."""

from __future__ import annotations

import json
import os
from pathlib import Path

import attrs
import pytest

from ftcore.cli import main
from ftcore.hardware.drivers import Card
from ftcore.hardware.health import _torch_health, library_health
from ftcore.hardware.machine import Machine, this_machine

RTX_4090 = Card(name="RTX 4090", memory=24.0, driver="525.60", capability=8.9)
TORCH = {"version": "2.13.0", "cuda": "13.0", "gpu": True, "bf16": True, "mps": False, "told": []}


@pytest.fixture
def machine():
    return Machine(system="Linux", architecture="x86_64", chip="", cores=2, memory=16.0, disk=50.0, place=Path("/"))


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Installs a stand-in for a library, which runs some code as it is imported."""
    folder = tmp_path / "libraries"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))

    def install(name, code):
        (folder / f"{name}.py").write_text(code)

    return install


@pytest.mark.parametrize(
    ("code", "state", "detail"),
    [
        ("__version__ = '9.1'", "ok", "9.1"),
        ("print('noise')\n__version__ = '9.1'", "ok", "9.1"),
        ("import nowhere", "broken", "ModuleNotFoundError: No module named 'nowhere'"),
        ("raise RuntimeError('no kernel\\n\\nread this page')", "broken", "RuntimeError: no kernel"),
        ("import os; os._exit(7)", "broken", "it ended the process with exit code 7"),
        ("import os; os.abort()", "broken", "it ended the process with signal 6"),
        ("import time; time.sleep(60)", "broken", "it took over 1 seconds to import"),
        ("raise ValueError('x' * 500)", "broken", "ValueError: " + "x" * 145 + "..."),
    ],
)
def test_a_library_is_tried_in_a_process_of_its_own(machine, library, code, state, detail):
    library("deepspeed", code)
    (found,) = library_health(machine, ["deepspeed"], timeout=1)
    assert (found.state, found.detail) == (state, detail)


def test_what_is_not_there_is_not_tried(machine, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("subprocess.run", None)
    assert {library.state for library in library_health(machine)} == {"not installed"}


def test_a_torchvision_that_does_not_fit_torch_is_broken(machine, library):
    library("torch", "def zeros(*shape): return None")
    library("torchvision", "raise RuntimeError('operator torchvision::nms does not exist')")
    (found,) = library_health(machine, ["torchvision"])
    assert str(found) == "broken: RuntimeError: operator torchvision::nms does not exist"


@pytest.mark.parametrize(
    ("facts", "cards", "system", "said"),
    [
        ({}, [RTX_4090], "Linux", "ok 2.13.0, built for 13.0, with bf16"),
        ({"bf16": False}, [RTX_4090], "Linux", "ok 2.13.0, built for 13.0, without bf16"),
        ({"cuda": "", "gpu": False}, [], "Linux", "ok 2.13.0, built for CPU"),
        ({"cuda": "", "gpu": False, "mps": True}, [], "Darwin", "ok 2.13.0, built for CPU, with MPS"),
        ({"cuda": "", "gpu": False}, [], "Darwin", "ok 2.13.0, built for CPU, without MPS"),
        (
            {"cuda": "", "gpu": False},
            [RTX_4090],
            "Linux",
            "broken: 2.13.0, built for CPU, but there is a RTX 4090; install a build for GPUs "
            "(https://pytorch.org/get-started)",
        ),
        (
            {"gpu": False, "told": ["CUDA initialization: the driver is too old (found version 12000)"]},
            [RTX_4090],
            "Linux",
            "broken: 2.13.0, built for 13.0, does not see the RTX 4090 with driver 525.60: CUDA initialization: the "
            "driver is too old (found version 12000)",
        ),
    ],
)
def test_torch_is_compared_with_the_machine(machine, facts, cards, system, said):
    here = attrs.evolve(machine, system=system, architecture="arm64", cards=tuple(cards))
    assert str(_torch_health({**TORCH, **facts}, here)) == said


def test_the_command_shows_machine_profiles_and_advice(gpus, capsys, monkeypatch, tmp_path):
    gpus(("NVIDIA GeForce RTX 4090", 24564, 8.9), ("NVIDIA GeForce RTX 4090", 24564, 8.9))
    own = tmp_path / "own"
    own.mkdir()
    (own / "lab.toml").write_text("# The box under the desk.\n")
    (own / "torn.toml").write_text("# Torn.\n[x\n")
    monkeypatch.setenv("FTCORE_HARDWARE_PROFILES", str(own))
    assert main(["hardware", "--quick"]) == 2
    assert f"hardware profile {own / 'torn.toml'} cannot be read" in capsys.readouterr().err
    (own / "torn.toml").unlink()
    assert main(["hardware", "--quick"]) == 0
    text = capsys.readouterr().out
    line = "NVIDIA GeForce RTX 4090 with 24.0 GiB, compute capability 8.9, bf16, driver 570.86.10"
    assert f"GPU 1          {line}\n" in text
    assert "The box under the desk." in text
    assert str(own) in text
    assert text.splitlines()[-1].startswith(
        'recommended: [hardware] profile = ["rtx_4090", "multi_gpu"], since it is made for the RTX 4090; here is a '
    )


def test_the_command_as_json(gpus, capsys, monkeypatch, tmp_path, library):
    gpus(("Tesla T4", 15360, 7.5))
    monkeypatch.setattr("ftcore.hardware.health.TRIALS", {"deepspeed": "tell(version='9')"})
    monkeypatch.setattr("ftcore.cli.hardware.library_health", lambda machine: library_health(machine, ["deepspeed"]))
    library("deepspeed", "")
    assert main(["hardware", "--json", "--output-dir", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recommended"]["profile"] == ["t4"]
    (card,) = found["machine"]["cards"]
    assert card == {"name": "Tesla T4", "memory": 15.0, "driver": "570.86.10", "capability": 7.5, "bf16": False}
    assert found["machine"]["place"] == str(tmp_path)
    assert found["libraries"] == [{"name": "deepspeed", "state": "ok", "detail": "9"}]
    assert {"name", "from", "path", "summary"} == set(found["profiles"][0])


def test_without_tools_it_is_a_machine_without_gpus(capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert main(["hardware", "--quick"]) == 0
    text = capsys.readouterr().out
    assert "\nGPU            none\n" in text
    assert text.splitlines()[-1].startswith('recommended: [hardware] profile = "cpu", since neither nvidia-smi')


@pytest.mark.slow
def test_the_libraries_of_this_machine_are_told(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("PATH", os.environ["PATH"])
    found = {library.name: library for library in library_health(this_machine(), ["torch", "bitsandbytes"])}
    import torch

    assert found["torch"].detail.startswith(torch.__version__)
    assert found["bitsandbytes"].state in ("ok", "not installed", "broken")
