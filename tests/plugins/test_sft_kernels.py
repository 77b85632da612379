"""Faster kernels: the arguments that ask for Liger's, and layers that torch compiles."""

from __future__ import annotations

import importlib.machinery
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ftcore.api import RunError
from ftcore_plugins.lora import Options as LoraOptions
from ftcore_plugins.sft import Options, Sft
from ftcore_plugins.sft.kernels import compile_layers, liger_arguments
from tiny_kit import SHORT, FakeControl, Tiny


class Installed:
    """A finder that says that Liger is there."""

    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, None) if name == "liger_kernel" else None


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [Installed(), *sys.meta_path])


def test_liger_is_taken_on_a_cuda_device_if_it_is_installed(installed: None) -> None:
    arguments = liger_arguments(Options(), "cuda")
    assert arguments["use_liger_kernel"] is True
    assert not arguments["liger_kernel_config"]["fused_linear_cross_entropy"]  # it would undo labelled logits
    assert liger_arguments(Options(), "cpu") == {}
    assert liger_arguments(Options(liger="off"), "cuda") == {}


def test_liger_is_left_out_if_it_is_not_installed() -> None:
    assert liger_arguments(Options(), "cuda") == {}
    assert liger_arguments(Options(liger="on"), "cuda")["use_liger_kernel"] is True


def test_liger_must_be_installed_and_have_a_device_for_it(tiny: Tiny, tmp_path: Path) -> None:
    problems = Sft(Options(liger="on")).check(tiny.run(tmp_path, hardware={"device": "cpu"}))
    assert [str(problem.message) for problem in problems] == [
        "liger_kernel not installed; run: pip install 'ftcore[liger]'",
        "Liger's kernels need a CUDA device, not cpu; set it to auto",
    ]
    assert {problem.key for problem in problems} == {"plugin.sft.liger"}
    assert not Sft(Options()).check(tiny.run(tmp_path, hardware={"device": "cpu"}))


def test_compiled_layers_train_the_same(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.nn.Module.compile
    # Traced as ever, but not made into machine code, which takes minutes.
    monkeypatch.setattr(torch.nn.Module, "compile", lambda layer, **given: whole(layer, backend="aot_eager", **given))
    run = tiny.run(tmp_path, train=SHORT)
    controls = [FakeControl(tmp_path / "a"), FakeControl(tmp_path / "b")]
    for control, compiled in zip(controls, (True, False), strict=True):
        trainer = tiny.trainer(run, sft=Options(compile=compiled), lora=LoraOptions())
        layers = trainer.inner.model.get_decoder().layers
        assert [layer._compiled_call_impl is not None for layer in layers] == [compiled] * len(layers)
        trainer.train(control, None)
    assert controls[0].losses == pytest.approx(controls[1].losses, rel=1e-5)


def test_a_model_without_layers_is_not_compiled() -> None:
    class Model:
        def get_decoder(self) -> object:
            return object()

    with pytest.raises(RunError, match=r"plugin\.sft\.compile: the model does not say which its layers are"):
        compile_layers(Model())
