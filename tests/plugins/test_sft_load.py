"""`Trainer.load`: the weights of a checkpoint, or of what was saved, answer exactly as they did in training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors.torch import load_file, save_file

from ftcore.api import Decision, RunError
from ftcore_plugins.lora import Options as LoraOptions
from ftcore_plugins.sft import Options as SftOptions
from ftcore_plugins.sft import Sft
from qlora_kit import load, run_of, train
from tiny_kit import SHORT, FakeControl, Tiny

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of PEFT for transformers

ADAPTERS: dict[str, dict[str, Any] | None] = {
    "whole model": None,
    "lora": {},
    "rslora": {"rslora": True, "alpha": 5.0},
    "dora": {"dora": True, "targets": "q_proj"},
    "layers trained whole": {"modules_to_save": ("lm_head", "embed_tokens")},
    "norms trained whole": {"modules_to_save": ("norm",), "bias": "all"},
    "embeddings adapted": {"targets": ("embed_tokens", "q_proj")},
    "pissa": {"init": "pissa", "r": 4},
    "pissa, rslora": {"init": "pissa", "r": 4, "rslora": True, "pissa_rounds": 8},
}


def trainer_of(tiny: Tiny, folder: Path, options: dict[str, Any] | None) -> Any:
    run = tiny.run(folder, train=SHORT)
    return tiny.trainer(run, lora=None if options is None else LoraOptions(**options))


def state(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.inner.model.state_dict().items()}


def differing(trainer: Any, wanted: dict[str, torch.Tensor]) -> list[str]:
    return [name for name, tensor in trainer.inner.model.state_dict().items() if not torch.equal(tensor, wanted[name])]


@pytest.fixture(scope="module")
def tuned(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A saved adapter with a checkpoint: its folder and the loss before it was saved."""
    folder = tmp_path_factory.mktemp("tuned")
    trainer = trainer_of(tiny, folder, {})
    trainer.train(FakeControl(folder / "checkpoints", lambda step: Decision(checkpoint=step.number == 3)), None)
    trainer.save(folder / "saved")
    return folder, trainer.evaluate()["eval_loss"]


@pytest.mark.parametrize("options", ADAPTERS.values(), ids=ADAPTERS)
def test_what_was_saved_answers_as_it_did(tiny: Tiny, tmp_path: Path, options: dict[str, Any] | None) -> None:
    trainer = trainer_of(tiny, tmp_path, options)
    trainer.train(FakeControl(tmp_path / "checkpoints"), None)
    trainer.save(tmp_path / "saved")
    again = trainer_of(tiny, tmp_path, options)
    untrained = again.evaluate()["eval_loss"]
    again.load(tmp_path / "saved")
    assert differing(again, state(trainer)) == []
    assert again.evaluate() == trainer.evaluate()
    assert again.evaluate()["eval_loss"] != untrained


@pytest.mark.parametrize("options", [{}, {"init": "loftq"}, {"init": "pissa", "r": 4}, {"bits": 8}], ids=str)
def test_adapters_of_quantized_weights(tiny: Tiny, tmp_path: Path, options: dict[str, Any]) -> None:
    run = run_of(tiny, tmp_path)
    _, trainer = train(tiny, run, load(tiny, run, **options))
    trainer.save(tmp_path / "saved")
    again = Sft(SftOptions()).make_trainer(run, load(tiny, run, **options), tiny.data, {})
    again.load(tmp_path / "saved")
    assert differing(again, state(trainer)) == []
    assert again.evaluate() == trainer.evaluate()


def test_several_files(tiny: Tiny, tmp_path: Path) -> None:
    trainer = trainer_of(tiny, tmp_path, None)
    trainer.train(FakeControl(tmp_path / "checkpoints"), None)
    trainer.save(tmp_path / "saved")
    trainer.inner.model.save_pretrained(tmp_path / "parts", max_shard_size="100KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    again = trainer_of(tiny, tmp_path, None)
    again.load(tmp_path / "parts")
    assert again.evaluate() == trainer.evaluate()


def test_a_checkpoint(tiny: Tiny, tuned: Any, tmp_path: Path) -> None:
    folder, loss = tuned
    trainer = trainer_of(tiny, tmp_path, {})
    trainer.load(folder / "checkpoints" / "step-000003")
    assert trainer.evaluate()["eval_loss"] == loss


def test_a_model_takes_one_after_the_other(tiny: Tiny, tuned: Any, tmp_path: Path) -> None:
    folder, loss = tuned
    trainer = trainer_of(tiny, tmp_path, {})
    trainer.save(tmp_path / "untrained")
    before = trainer.evaluate()
    trainer.load(folder / "saved")
    assert trainer.evaluate()["eval_loss"] == loss
    trainer.load(tmp_path / "untrained")
    assert trainer.evaluate() == before


def nan(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = min(weights)
    return {**weights, name: torch.full_like(weights[name], float("nan"))}


def renamed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = min(weights)
    return {f"{key}.x" if key == name else key: tensor for key, tensor in weights.items()}


def cut(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = min(weights)
    return {**weights, name: weights[name][:-1].contiguous()}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (nan, "has a value that is infinite or not a number; take another checkpoint"),
        (renamed, "is of another adapter: base_model.model.model.layers.0"),
        (cut, r"is of another model: base_model.model.model.layers.0.* differs; name the run"),
        (lambda weights: {}, "is empty: there are no weights in it"),
        (None, "cannot be read: "),
    ],
    ids=["nan", "names", "shape", "empty", "torn"],
)
@pytest.mark.parametrize("kind", ["saved", "checkpoint"])
def test_weights_that_are_not_this_models(
    tiny: Tiny, tuned: Any, tmp_path: Path, kind: str, spoil: Any, said: str
) -> None:
    if kind == "checkpoint" and spoil in (renamed, cut):
        said = "is of another model: base_model.model.model.layers.0"
    source = tuned[0] / ("saved" if kind == "saved" else "checkpoints/step-000003")
    folder = Path(shutil.copytree(source, tmp_path / "spoilt"))
    file = folder / ("adapter_model.safetensors" if kind == "saved" else "weights.safetensors")
    if spoil is None:
        file.write_bytes(file.read_bytes()[:-50])
    else:
        save_file(spoil(load_file(file)), file, metadata={"format": "pt"})
    trainer = trainer_of(tiny, tmp_path, {})
    before = state(trainer)
    with pytest.raises(RunError, match=said):
        trainer.load(folder)
    assert differing(trainer, before) == [], "a refused file leaves the model as it was"


@pytest.mark.parametrize("options", [{"r": 3}, {"targets": "q_proj"}, None], ids=str)
def test_an_adapter_of_another_profile(tiny: Tiny, tuned: Any, tmp_path: Path, options: Any) -> None:
    with pytest.raises(RunError, match=r"is of another|cannot be loaded"):
        trainer_of(tiny, tmp_path, options).load(tuned[0] / "saved")


def test_an_adapter_of_another_model_of_the_hub(tiny: Tiny, tuned: Any, tmp_path: Path) -> None:
    trainer = trainer_of(tiny, tmp_path, {})
    trainer._loaded = attrs.evolve(trainer._loaded, base="some/model")
    with pytest.raises(RunError, match=r"is an adapter of .*/base, and the model is some/model; name the run"):
        trainer.load(tuned[0] / "saved")


def test_an_adapter_without_its_configuration(tiny: Tiny, tuned: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tuned[0] / "saved", tmp_path / "spoilt"))
    (folder / "adapter_config.json").unlink()
    with pytest.raises(RunError, match=r"has no sound adapter_config.json"):
        trainer_of(tiny, tmp_path, {}).load(folder)


def test_a_model_of_another_shape(tiny: Tiny, tmp_path: Path) -> None:
    trainer = trainer_of(tiny, tmp_path, None)
    for name, change in {"smaller": {"num_hidden_layers": 1}, "wider": {"intermediate_size": 96}}.items():
        from transformers import AutoModelForCausalLM

        config = trainer.inner.model.config.__class__(**{**trainer.inner.model.config.to_dict(), **change})
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / name)
        with pytest.raises(RunError, match=r"is of another model: .* differs"):
            trainer.load(tmp_path / name)


def test_a_pissa_start_that_is_another_one_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    """Which happens where another machine's arithmetic found other last bits."""
    options = {"init": "pissa", "r": 4}
    trainer_of(tiny, tmp_path, options).save(tmp_path / "saved")
    again = trainer_of(tiny, tmp_path, options)
    start = again.inner.model.starts["model.layers.1.mlp.up_proj"]
    start.a[0, 0] += 1e-6
    with pytest.raises(RunError, match=r"did not begin at the singular values .*; name a checkpoint with --checkpoint"):
        again.load(tmp_path / "saved")
