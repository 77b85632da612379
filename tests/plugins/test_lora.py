"""LoRA: what is trained, what is saved with it, and what every option changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from ftcore.api import Loaded, Row, Rows, RunError
from ftcore_plugins.lora import Lora, Options
from ftcore_plugins.tiny_model import Options as TinyOptions
from ftcore_plugins.tiny_model import TinyModel
from tiny_kit import Tiny, make_run


def adapt(tiny: Tiny, folder: Path, **options: Any) -> Loaded:
    run = tiny.run(folder)
    return Lora(Options(**options)).adapt(run, tiny.load(run))


def trained(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_only_the_adapter_is_trained(tiny: Tiny, tmp_path: Path) -> None:
    loaded = adapt(tiny, tmp_path)
    assert loaded.adapter == "lora"
    assert trained(loaded.model)
    assert all("lora_" in name for name in trained(loaded.model))
    layers = {name.split(".")[-4] for name in trained(loaded.model)}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_an_untrained_adapter_changes_nothing(tiny: Tiny, tmp_path: Path) -> None:
    batch = {name: value for name, value in tiny.data.collate(tiny.data.train[:2]).items() if name != "labels"}
    with torch.no_grad():
        before = tiny.load(tiny.run(tmp_path)).model(**batch).logits
        assert torch.equal(adapt(tiny, tmp_path).model.eval()(**batch).logits, before)


def test_the_base_is_named_for_plain_peft(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny.run(tmp_path)
    loaded = attrs.evolve(tiny.load(run), base="org/model", revision="a" * 40)
    config = Lora(Options()).adapt(run, loaded).model.peft_config["default"]
    assert (config.base_model_name_or_path, config.revision) == ("org/model", "a" * 40)


def test_the_start_is_drawn_from_the_seed_alone(tiny: Tiny, tmp_path: Path) -> None:
    def start(seed: int, global_seed: int) -> torch.Tensor:
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        run = tiny.run(tmp_path, run={"seed": seed})
        model = Lora(Options()).adapt(run, tiny.load(run)).model
        assert torch.equal(torch.get_rng_state(), state)
        return torch.cat([p.flatten() for name, p in model.named_parameters() if "lora_A" in name])

    assert torch.equal(start(1, 5), start(1, 6))
    assert not torch.equal(start(1, 5), start(2, 5))


@pytest.mark.parametrize(
    ("options", "read", "value"),
    [
        ({"r": 3}, lambda layer: layer.r["default"], 3),
        ({"alpha": 64.0}, lambda layer: layer.scaling["default"], 4.0),
        ({"dropout": 0.25}, lambda layer: getattr(layer.lora_dropout["default"], "p", 0.0), 0.25),
        ({"rslora": True}, lambda layer: layer.scaling["default"], 8.0),
        ({"dora": True}, lambda layer: "default" in layer.lora_magnitude_vector, True),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_options_reach_the_layers(tiny: Tiny, tmp_path: Path, options: Any, read: Any, value: Any) -> None:
    def layer(**chosen: Any) -> Any:
        return adapt(tiny, tmp_path, **chosen).model.base_model.model.model.layers[0].self_attn.q_proj

    assert read(layer(**options)) == value
    assert read(layer()) != value


def test_targets_are_names_or_their_ends(tiny: Tiny, tmp_path: Path) -> None:
    model = adapt(tiny, tmp_path, targets=("q_proj", "layers.1.mlp.up_proj")).model
    layers = {name.partition(".lora_")[0].removeprefix("base_model.model.model.") for name in trained(model)}
    assert layers == {"layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj", "layers.1.mlp.up_proj"}


def test_modules_to_save_are_trained_whole(tiny: Tiny, tmp_path: Path) -> None:
    model = adapt(tiny, tmp_path, modules_to_save=("lm_head",)).model
    assert any("lm_head.modules_to_save" in name for name in trained(model))


@pytest.mark.parametrize(("bias", "expected"), [("none", 0), ("all", 2), ("lora_only", 1)])
def test_bias_terms_are_trained_as_told(tiny: Tiny, tmp_path: Path, bias: str, expected: int) -> None:
    run = tiny.run(tmp_path)
    loaded = tiny.load(run)
    attention = loaded.model.model.layers[0].self_attn
    for layer in (attention.q_proj, attention.o_proj):
        layer.bias = torch.nn.Parameter(torch.zeros(layer.out_features))
    config = Options(targets=("q_proj",), bias=bias)  # type: ignore[arg-type]
    model = Lora(config).adapt(run, loaded).model
    assert sum(name.endswith("bias") for name in trained(model)) == expected


@pytest.mark.parametrize("option", ["targets", "modules_to_save"])
def test_a_name_without_a_layer_is_named_with_its_neighbours(tiny: Tiny, tmp_path: Path, option: str) -> None:
    with pytest.raises(RunError, match=f"plugin.lora.{option}: no layer is called 'q_prj'; near it are q_proj"):
        adapt(tiny, tmp_path, **{option: ("q_prj",)})
    with pytest.raises(RunError, match=r"no layer is called 'zzz'; near it are .*v_proj"):
        adapt(tiny, tmp_path, **{option: ("zzz",)})


def test_tied_layers_stay_tied(tiny: Tiny, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    run = tiny.run(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tiny.base)
    base.config.tie_word_embeddings = True
    base.tie_weights()
    base.save_pretrained(tmp_path / "tied")
    tied = AutoModelForCausalLM.from_pretrained(tmp_path / "tied")
    loaded = Loaded(model=tied, processor=tiny.tokenizer, base=str(tmp_path / "tied"))
    model = Lora(Options(modules_to_save=("embed_tokens",))).adapt(run, loaded).model
    causal = model.base_model.model
    kept = causal.model.embed_tokens.modules_to_save["default"].weight
    assert kept.requires_grad
    assert causal.lm_head.modules_to_save["default"].weight is kept


# Models that read images


@pytest.fixture
def gemma(tmp_path: Path) -> Loaded:
    rows = Rows(train=[Row(values={"text": "which colour is it"}, origin="r:1")], validation=[], fingerprint="")
    plugin, run = TinyModel(TinyOptions(architecture="gemma3")), make_run(tmp_path)
    return plugin.load_model(run, plugin.load_processor(run, rows), None)


def parts(model: Any) -> set[str]:
    """`language_model`, `vision_tower` and so on: where anything is trained."""
    return {name.split("model.model.model.")[-1].partition(".")[0] for name in trained(model)}


def test_the_vision_tower_is_left_out(gemma: Loaded, tmp_path: Path) -> None:
    model = Lora(Options()).adapt(make_run(tmp_path), gemma).model
    assert parts(model) == {"language_model"}
    layers = {name.split(".")[-4] for name in trained(model)}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_the_vision_tower_is_adapted_when_asked_for(gemma: Loaded, tmp_path: Path) -> None:
    model = Lora(Options(vision=True)).adapt(make_run(tmp_path), gemma).model
    assert parts(model) == {"language_model", "vision_tower"}


@pytest.mark.parametrize("vision", [True, False])
def test_named_targets_stay_out_of_the_vision_tower(gemma: Loaded, tmp_path: Path, vision: bool) -> None:
    model = Lora(Options(targets=("q_proj",), vision=vision)).adapt(make_run(tmp_path), gemma).model
    assert parts(model) == ({"language_model", "vision_tower"} if vision else {"language_model"})


def test_a_target_that_only_the_vision_tower_has_needs_it(gemma: Loaded, tmp_path: Path) -> None:
    expected = "targets: fc1 is a layer of the vision tower alone; leave it out, or set plugin.lora.vision = true"
    with pytest.raises(RunError, match=expected):
        Lora(Options(targets=("q_proj", "fc1"))).adapt(make_run(tmp_path), gemma)


def test_a_model_without_a_vision_tower_says_so(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"plugin\.lora\.vision: the model reads text only and has no vision tower"):
        adapt(tiny, tmp_path, vision=True)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of PEFT for transformers
def test_a_projector_is_trained_whole_and_comes_back(gemma: Loaded, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    run = make_run(tmp_path)
    model = Lora(Options(modules_to_save=("embed_tokens", "multi_modal_projector"))).adapt(run, gemma).model
    assert parts(model) == {"language_model", "multi_modal_projector"}
    causal = model.base_model.model
    embedding = causal.model.language_model.embed_tokens.modules_to_save["default"].weight
    assert causal.lm_head.modules_to_save["default"].weight is embedding
    with torch.no_grad():
        for parameter in (parameter for parameter in model.parameters() if parameter.requires_grad):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(gemma.base), tmp_path / "adapter")
    batch = {
        "input_ids": torch.tensor([[2, 7, *[gemma.model.config.image_token_id] * 16, 8, 70]]),
        "pixel_values": torch.linspace(-1, 1, 3 * 112 * 112).reshape(1, 3, 112, 112),
    }
    with torch.no_grad():
        assert torch.equal(again.eval()(**batch).logits, model.eval()(**batch).logits)


@pytest.mark.parametrize(("vision", "parameters"), [(False, 29_802_496), (True, 38_497_792)])
def test_a_gemma_3_of_4b_gets_as_many_as_is_known(tmp_path: Path, vision: bool, parameters: int) -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    config = Gemma3Config(
        text_config={"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34},
        vision_config={
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 896,
            "patch_size": 14,
            "vision_use_head": False,
        },
    )
    with torch.device("meta"):
        model = Gemma3ForConditionalGeneration(config)
    loaded = Loaded(model=model, processor=None, base="google/gemma-3-4b-it")
    adapted = Lora(Options(vision=vision)).adapt(make_run(tmp_path), loaded).model
    assert sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad) == parameters


def test_impossible_targets_are_found_early() -> None:
    assert Lora(Options()).check() == []
    for targets in ((), ("all-linear", "q_proj")):
        [problem] = Lora(Options(targets=targets)).check()
        assert problem.key == "plugin.lora.targets"
