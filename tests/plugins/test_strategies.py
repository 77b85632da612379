"""The plugins that share training out: what they refuse before anything is loaded, and what their options change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from ftcore.api import Loaded, Run, RunError, SavedAs, World
from ftcore.cli import main
from ftcore.errors import ExitCode
from ftcore_plugins.deepspeed_zero import Zero2, Zero3, checks
from ftcore_plugins.fsdp import Fsdp, Options
from tiny_kit import make_run

TWO = World(size=2)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return attrs.evolve(make_run(tmp_path, hardware={"device": "cpu", "processes": 2}), world=TWO)


def zero2(**options: Any) -> Zero2:
    return Zero2(Zero2.Config(**options))


def zero3(**options: Any) -> Zero3:
    return Zero3(Zero3.Config(**options))


def fsdp(**options: Any) -> Fsdp:
    return Fsdp(Options(**options))


# Checks


@pytest.mark.parametrize("plugin", [zero2(), zero3(), fsdp()], ids=["zero2", "zero3", "fsdp"])
def test_a_plain_profile_has_no_problem(plugin: Any, run: Run) -> None:
    assert not plugin.check(run)


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "paged_adamw", "paged_adamw_8bit", "adafactor"])
@pytest.mark.parametrize("plugin", [zero2(), zero3(), fsdp()], ids=["zero2", "zero3", "fsdp"])
def test_an_optimizer_that_cannot_be_shared_out(plugin: Any, optimizer: str, tmp_path: Path) -> None:
    made = make_run(tmp_path, train={"optimizer": optimizer}, hardware={"processes": 2})
    (problem,) = plugin.check(made)
    assert problem.key == "train.optimizer"
    assert problem.message.endswith(f"cannot share out the state of {optimizer}; set it to adamw or sgd")


@pytest.mark.parametrize("plugin", [zero2(), zero3()], ids=["zero2", "zero3"])
def test_zero_refuses_fp16(plugin: Any, tmp_path: Path) -> None:
    (problem,) = plugin.check(make_run(tmp_path, train={"precision": "fp16"}))
    assert problem.key == "train.precision"


@pytest.mark.parametrize("plugin", [zero2(), zero3(), fsdp()], ids=["zero2", "zero3", "fsdp"])
def test_an_apple_gpu_is_refused(plugin: Any, tmp_path: Path) -> None:
    (problem,) = plugin.check(make_run(tmp_path, hardware={"device": "mps", "processes": 2}))
    assert "Apple GPU" in problem.message


def test_deepspeed_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from ftcore_plugins.common import requirements

    monkeypatch.setattr(requirements, "_found", lambda module: module != "deepspeed")
    (problem,) = zero3().check(run)
    assert problem.message == "deepspeed not installed; run: pip install 'ftcore[deepspeed]'"


def test_fsdp_with_one_process_is_a_warning(tmp_path: Path) -> None:
    alone = make_run(tmp_path, hardware={"device": "cpu"})
    (problem,) = fsdp().check(alone)
    assert problem.severity == "warning"
    assert fsdp().training_args(alone) is None


# Offloading to a disk


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that has what DeepSpeed builds its disk access with."""
    monkeypatch.setattr(checks, "find_library", lambda name: f"lib{name}.so")
    monkeypatch.setattr(checks.shutil, "which", lambda name: f"/usr/bin/{name}")


@pytest.mark.usefixtures("tools")
def test_the_folder_to_offload_to(run: Run, tmp_path: Path) -> None:
    def message(path: Path | None) -> str:
        (problem,) = zero3(offload_optimizer="nvme", nvme_path=path).check(run)
        assert problem.key == "plugin.deepspeed_zero3.nvme_path"
        return problem.message

    assert message(None) == "not set; name a folder on a fast disk"
    assert message(tmp_path / "none") == f"no such folder: {tmp_path / 'none'}"
    assert not zero3(offload_parameters="nvme", nvme_path=tmp_path).check(run)


@pytest.mark.usefixtures("tools")
def test_a_folder_that_cannot_be_written_to(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.os, "access", lambda path, mode: False)  # a test may run as root
    (problem,) = zero3(offload_optimizer="nvme", nvme_path=tmp_path).check(run)
    assert problem.message.endswith("cannot be written to; choose another folder")


@pytest.mark.usefixtures("tools")
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model"
    model.mkdir()
    with (model / "model.safetensors").open("wb") as file:
        file.truncate(8 * checks.GIB)  # a file of holes
    run = make_run(tmp_path, model={"id": str(model)}, hardware={"processes": 2})
    usage = checks.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: usage._replace(free=3 * checks.GIB))
    assert not zero3(offload_optimizer="nvme", nvme_path=tmp_path).check(run)
    (problem,) = zero3(offload_parameters="nvme", nvme_path=tmp_path).check(run)
    assert problem.message == f"{tmp_path} has 3.0 GiB free, and at least 8.0 are needed; free some"


def test_what_the_disk_access_is_built_with(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_library", lambda name: None)
    monkeypatch.setattr(checks.shutil, "which", lambda name: None if name == "ninja" else f"/usr/bin/{name}")
    (problem,) = zero3(offload_optimizer="nvme", nvme_path=tmp_path).check(run)
    assert problem.key == "plugin.deepspeed_zero3.offload_optimizer"
    assert problem.message.startswith("nvme needs ninja, libaio to build")


def test_a_folder_that_nothing_is_offloaded_to(run: Run, tmp_path: Path) -> None:
    (problem,) = zero3(nvme_path=tmp_path).check(run)
    assert problem.message == "nothing is offloaded to nvme; leave it out"


# Quantized weights


@pytest.mark.parametrize("command", ["check", "plan"])
@pytest.mark.parametrize("name", ["deepspeed_zero2", "deepspeed_zero3", "fsdp"])
def test_a_quantizer_beside_it_is_refused(
    name: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = tmp_path / "profile.toml"
    tables = f"[hardware]\nprocesses = 2\n[plugin.tiny_model]\n[plugin.chat]\n[plugin.qlora]\n[plugin.{name}]\n"
    profile.write_text(tables, "utf-8")
    assert main([command, str(profile)]) == ExitCode.PROFILE
    assert f"quantize is implemented by qlora and {name}; keep one" in capsys.readouterr().err


@pytest.mark.parametrize("plugin", [zero2(), zero3(), fsdp()], ids=["zero2", "zero3", "fsdp"])
def test_a_model_that_is_saved_quantized_is_refused_before_it_is_read(plugin: Any) -> None:
    def sketched(saved: SavedAs | None) -> Any:
        around = plugin.sketch_model()
        next(around)
        with pytest.raises(StopIteration) as end:
            around.send(Loaded(model=None, processor=None, base="org/base", saved=saved))
        return end.value.value

    assert sketched(None).saved is None
    assert sketched(SavedAs(kind="fp8", whole=True)).saved.whole
    with pytest.raises(RunError, match=r"org/base is saved quantized \(nf4\), and .* cannot share out such weights;"):
        sketched(SavedAs(kind="nf4", bytes_per_weight=0.5))


# Arguments


def test_zero_offloads_what_it_is_asked_to(run: Run, tmp_path: Path) -> None:
    def settings(plugin: Any) -> Any:
        return plugin.training_args(run)["deepspeed"]["zero_optimization"]

    assert settings(zero2())["stage"] == 2
    assert settings(zero2(offload_optimizer="cpu"))["offload_optimizer"] == {"device": "cpu"}
    stage3 = settings(zero3(offload_optimizer="nvme", offload_parameters="cpu", nvme_path=tmp_path))
    assert stage3["stage"] == 3
    assert stage3["offload_optimizer"] == {"device": "nvme", "nvme_path": str(tmp_path)}
    assert stage3["offload_param"] == {"device": "cpu"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_zero_calculates_in_the_precision_of_the_run(tmp_path: Path, precision: str) -> None:
    run = make_run(tmp_path, train={"precision": precision}, hardware={"device": "cpu"})
    assert zero3().training_args(run)["deepspeed"]["bf16"] == {"enabled": precision == "bf16"}


@pytest.mark.parametrize("reshard", [True, False])
@pytest.mark.parametrize("offload", [True, False])
def test_fsdp_does_what_its_options_say(
    run: Run, monkeypatch: pytest.MonkeyPatch, reshard: bool, offload: bool
) -> None:
    from ftcore_plugins.common import devices

    monkeypatch.setattr(devices, "device_of", lambda run: "cuda")
    settings = fsdp(reshard=reshard, offload=offload).training_args(run)["fsdp_config"]
    assert (settings["reshard_after_forward"], settings["cpu_offload"]) == (reshard, offload)
    assert settings["version"] == 2
