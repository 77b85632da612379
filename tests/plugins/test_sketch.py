"""A model is counted without its weights: as many parameters, of the same names and types, as are loaded later."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from ftcore.api import Loaded, RunError
from ftcore_plugins.huggingface import HuggingFace
from ftcore_plugins.lora import Lora, Options
from ftcore_plugins.qlora import Options as QOptions
from ftcore_plugins.qlora import QLora
from ftcore_plugins.tiny_model import Options as TinyOptions
from ftcore_plugins.tiny_model import TinyModel
from model_configs import (
    EXPERTS,
    GEMMA_3_4B,
    GEMMA_LORA_64,
    GEMMA_PARAMETERS,
    LLAMA_3_2_1B,
    LLAMA_LORA_16,
    LLAMA_PARAMETERS,
    write_config,
)
from tiny_kit import Tiny, make_run

DEEP_VISION = {**GEMMA_3_4B, "vision_config": {**GEMMA_3_4B["vision_config"], "num_hidden_layers": 1500}}


def sketch(folder: Path, config: Any, **model: Any) -> Loaded:
    run = make_run(folder, model={"id": str(write_config(folder / "model", config)), **model})
    return HuggingFace().sketch_model(run)


def trained(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    ("config", "options", "parameters", "adapter"),
    [
        (LLAMA_3_2_1B, {}, LLAMA_PARAMETERS, LLAMA_LORA_16),
        (GEMMA_3_4B, {}, GEMMA_PARAMETERS, 29_802_496),
        (GEMMA_3_4B, {"vision": True}, GEMMA_PARAMETERS, 38_497_792),
        (GEMMA_3_4B, {"vision": True, "r": 64}, GEMMA_PARAMETERS, GEMMA_LORA_64),
    ],
    ids=["llama", "gemma", "gemma with vision", "gemma with vision, r=64"],
)
def test_counts_are_the_published_ones(
    tmp_path: Path, config: Any, options: dict[str, Any], parameters: int, adapter: int
) -> None:
    state = torch.get_rng_state()
    loaded = sketch(tmp_path, config, dtype="bfloat16")
    assert loaded.processor is None
    assert {(parameter.device.type, parameter.dtype) for parameter in loaded.model.parameters()} == {
        ("meta", torch.bfloat16)
    }
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == parameters
    for adapted in (
        Lora(Options(**options)).adapt(make_run(tmp_path), loaded),
        QLora(QOptions(**options)).adapt(make_run(tmp_path), sketch(tmp_path, config)),
    ):
        assert trained(adapted.model) == adapter
        assert {parameter.device.type for parameter in adapted.model.parameters()} == {"meta"}
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "options",
    [
        {"init": "pissa"},
        {"dora": True},
        {"modules_to_save": ("embed_tokens",)},
        {"bias": "all"},
        {"targets": "q_proj", "dropout": 0.1, "rslora": True},
    ],
    ids=str,
)
def test_an_adapted_sketch_has_the_parameters_of_the_adapted_model(
    tiny: Tiny, tmp_path: Path, options: dict[str, Any]
) -> None:
    run = tiny.run(tmp_path, model={"id": str(tiny.base)})
    real = Lora(Options(**options)).adapt(run, tiny.load(run)).model
    drawn = Lora(Options(**options)).adapt(run, HuggingFace().sketch_model(run)).model
    shapes = [
        [(name, tuple(weight.shape), weight.dtype, weight.requires_grad) for name, weight in model.named_parameters()]
        for model in (real, drawn)
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("options", [{"init": "loftq"}, {"init": "pissa"}, {"bits": 8}], ids=str)
def test_a_sketch_is_not_quantized(tmp_path: Path, options: dict[str, Any]) -> None:
    adapted = QLora(QOptions(**options)).adapt(make_run(tmp_path), sketch(tmp_path, LLAMA_3_2_1B))
    assert trained(adapted.model) == LLAMA_LORA_16


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_a_tiny_model_is_sketched_with_its_largest_vocabulary(tiny: Tiny, tmp_path: Path, architecture: Any) -> None:
    run = make_run(tmp_path, model={"dtype": "float16"})
    plugin = TinyModel(TinyOptions(architecture=architecture, vocabulary_size=400))
    drawn = plugin.sketch_model(run)
    loaded = plugin.load_model(run, plugin.load_processor(run, tiny.rows), None)
    names = [dict(each.model.named_parameters()) for each in (drawn, loaded)]
    assert names[0].keys() == names[1].keys()
    assert {weight.dtype for weight in names[0].values()} == {torch.float16}
    assert drawn.model.get_input_embeddings().weight.shape[0] == 400
    assert drawn.base == loaded.base
    assert trained(QLora(QOptions(r=4)).adapt(run, drawn).model) > 0


def test_a_config_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"model\.id: .* cannot be loaded: ") as caught:
        sketch(tmp_path, {"model_type": "no_such_family"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [{**LLAMA_3_2_1B, "num_hidden_layers": 10**6}, {"model_type": "gpt2", "n_layer": 1001}, DEEP_VISION],
    ids=["llama", "gpt2", "vision"],
)
def test_more_layers_than_any_model_has_are_not_drawn(tmp_path: Path, config: Any) -> None:
    with pytest.raises(RunError, match=r"model\.id: its config\.json says 1,\d+(,000)? layers, more than 1,000; copy"):
        sketch(tmp_path, config)


def test_experts_in_one_tensor_are_adapted_without_a_false_warning(tmp_path: Path) -> None:
    """PEFT doubles the rank of two layers that it finds in one, and then says that it has not."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        model = Lora(Options(r=4)).adapt(make_run(tmp_path), sketch(tmp_path, EXPERTS)).model
    shapes = [
        tuple(weight.shape) for name, weight in model.named_parameters() if "experts" in name and "lora_A" in name
    ]
    assert sorted(shapes) == sorted(2 * [(4 * 2 * 4, 64), (4 * 4, 128)])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_sketch_takes_no_weights_memory(tmp_path: Path) -> None:
    """The config of a model of 17 GB is enough; as a process of its own, since memory is never given back."""
    folder = write_config(tmp_path / "model", GEMMA_3_4B)
    code = (
        "import re; from pathlib import Path\n"
        "from ftcore.api import ModelTable, Profile, Run\n"
        "from ftcore_plugins.huggingface import HuggingFace\n"
        "from ftcore_plugins.lora import Lora, Options\n"
        f"run = Run(name='x', folder=Path('x'), profile=Profile(model=ModelTable(id={str(folder)!r})))\n"
        "Lora(Options(r=64, vision=True)).adapt(run, HuggingFace().sketch_model(run))\n"
        # Not `ru_maxrss`, which a child begins with its parent's.
        "print(re.search(r'VmHWM:\\s*(\\d+) kB', Path('/proc/self/status').read_text())[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "kernels" not in done.stderr
    assert int(done.stdout) < 600_000
