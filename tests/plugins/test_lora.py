"""LoRA: what is trained, what is saved with it, and what every option changes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors.torch import load_file

from ftcore.api import Loaded, Row, Rows, RunError
from ftcore_plugins.lora import Lora, Options
from ftcore_plugins.sft.saving import _by_each_name
from ftcore_plugins.tiny_model import Options as TinyOptions
from ftcore_plugins.tiny_model import TinyModel
from tiny_kit import SHORT, FakeControl, Tiny, make_run


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


def test_an_expression_matches_whole_names(tiny: Tiny, tmp_path: Path) -> None:
    model = adapt(tiny, tmp_path, targets=r".*layers\.1\..*(q|up)_proj").model
    layers = {name.partition(".lora_")[0].removeprefix("base_model.model.model.") for name in trained(model)}
    assert layers == {"layers.1.self_attn.q_proj", "layers.1.mlp.up_proj"}


def test_an_expression_that_matches_nothing_names_what_is_near(tiny: Tiny, tmp_path: Path) -> None:
    expected = r"targets: no layer matches '\(q\|v\)_proj', which must match whole names; near it are .*_proj"
    with pytest.raises(RunError, match=expected):
        adapt(tiny, tmp_path, targets="(q|v)_proj")


@pytest.mark.parametrize("targets", [("mlp",), r".*\.0\.mlp"])
def test_a_block_is_no_layer(tiny: Tiny, tmp_path: Path, targets: Any) -> None:
    with pytest.raises(
        RunError, match=r"no layer with weights but a block; name layers such as .*down_proj, gate_proj"
    ):
        adapt(tiny, tmp_path, targets=targets)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ("q_proj", "norm")}, r"targets: norm means model\.norm, whose weight is no matrix; name linear"),
        ({"targets": ("q_proj", "lm_head")}, "targets: lm_head means lm_head, which is the output layer and takes no"),
        ({"targets": "lm_head|.*q_proj"}, r"targets: lm_head\|\.\*q_proj means lm_head, which is the output layer"),
        ({"targets": "rotary_emb"}, r"which is no layer with weights but a block; name layers$"),
        (
            {"targets": "q_proj", "modules_to_save": ("self_attn", "mlp")},
            "self_attn, mlp trained whole leaves no",
        ),
        (
            {"modules_to_save": ("model",)},
            "modules_to_save: model trained whole leaves no layer to adapt",
        ),
    ],
    ids=str,
)
def test_what_can_have_no_adapter_is_told(tiny: Tiny, tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(RunError, match=rf"plugin\.lora\..*{message}"):
        adapt(tiny, tmp_path, **options)


def test_what_is_trained_whole_gets_no_adapter(tiny: Tiny, tmp_path: Path) -> None:
    model = adapt(tiny, tmp_path, targets="q_proj", modules_to_save=("layers.0.self_attn",)).model
    assert {name.partition(".lora_")[0][-18:] for name in trained(model) if "lora_" in name} == {"1.self_attn.q_proj"}


@pytest.mark.parametrize(
    ("options", "rank", "layers"),
    [
        ({"budget": "low"}, 8, "q_proj v_proj"),
        ({"budget": "medium"}, 16, "k_proj o_proj q_proj v_proj"),
        ({"budget": "high"}, 64, "down_proj gate_proj k_proj o_proj q_proj up_proj v_proj"),
        ({"budget": "low", "r": 4}, 4, "q_proj v_proj"),
        ({"budget": "low", "targets": ("up_proj",)}, 8, "up_proj"),
        ({"budget": "low", "targets": "up_proj"}, 8, "up_proj"),
    ],
    ids=str,
)
def test_a_budget_is_a_preset_that_options_win_over(
    tiny: Tiny, tmp_path: Path, options: Any, rank: int, layers: str
) -> None:
    model = adapt(tiny, tmp_path, **options).model
    assert {name.split(".")[-4] for name in trained(model)} == set(layers.split())
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha) == (rank, 2 * rank)


def test_a_budget_for_a_model_with_other_names_says_so(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny.run(tmp_path)
    loaded = tiny.load(run)
    for layer in loaded.model.model.layers:
        layer.self_attn = torch.nn.Module()
    with pytest.raises(
        RunError, match=r"plugin\.lora\.budget: no layer is called q_proj, v_proj, .*; name plugin\.lora"
    ):
        Lora(Options(budget="low")).adapt(run, loaded)


def test_a_rank_over_every_layer_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"plugin\.lora\.r: 65 is over the smaller side of every layer, at most 64 \(.*q_proj"
    ):
        adapt(tiny, tmp_path, r=65)
    assert adapt(tiny, tmp_path, r=64).model  # k_proj is 32 wide
    with pytest.raises(RunError, match=r"r: 33 .* 32 \(model\.layers\.0\.self_attn\.k_proj\); lower it"):
        adapt(tiny, tmp_path, r=33, targets=("k_proj",))


def test_loraplus_gives_b_its_own_rate(tiny: Tiny, tmp_path: Path) -> None:
    assert adapt(tiny, tmp_path).rate_factors == {}
    loaded = adapt(tiny, tmp_path, loraplus_ratio=16.0, targets=("q_proj", "embed_tokens"))
    [(pattern, factor)] = loaded.rate_factors.items()
    assert factor == 16.0
    matched = {name for name in trained(loaded.model) if re.fullmatch(pattern, name)}
    assert matched == {name for name in trained(loaded.model) if "_B" in name}
    assert len(matched) == 3


def test_loraplus_reaches_the_first_step(tiny: Tiny, tmp_path: Path) -> None:
    """Adam's first step is the learning rate itself, whatever the gradient."""

    def longest(ratio: float) -> float:
        run = tiny.run(tmp_path, train={**SHORT, "max_steps": 1, "learning_rate": 1e-4})
        trainer = tiny.trainer(run, lora=Options(loraplus_ratio=ratio))
        trainer.train(FakeControl(tmp_path / str(ratio)), None)
        named = trainer.inner.model.named_parameters()
        return max(weight.abs().max().item() for name, weight in named if "lora_B" in name)

    assert longest(8.0) == pytest.approx(8 * longest(1.0), rel=1e-3)


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


@pytest.mark.parametrize("option", [{"modules_to_save": ("lm_head",)}, {"bias": "all"}], ids=str)
def test_whole_layers_in_float32_need_weights_of_that_type_or_autocast(tiny: Tiny, tmp_path: Path, option: Any) -> None:
    def start(model: str, precision: str, *, sketch: bool = False) -> Loaded:
        run = tiny.run(tmp_path, model={"dtype": model}, train={"precision": precision})
        loaded = TinyModel(TinyOptions()).sketch_model(run) if sketch else tiny.load(run)
        loaded.model.model.layers[0].self_attn.q_proj.register_parameter(
            "bias", torch.nn.Parameter(torch.zeros(64, dtype=loaded.model.dtype, device=loaded.model.device))
        )
        return Lora(Options(**option)).adapt(run, loaded)

    expected = rf"{next(iter(option))}: is trained in float32, which weights in bfloat16 .* or model\.dtype = 'float32'"
    for precision, sketch in (("auto", False), ("fp32", True)):
        with pytest.raises(RunError, match=expected):
            start("bfloat16", precision, sketch=sketch)
    assert start("bfloat16", "bf16").adapter == start("float32", "fp32").adapter == "lora"
    assert start("bfloat16", "auto", sketch=True).adapter == "lora"


@pytest.mark.parametrize("option", ["targets", "modules_to_save"])
def test_a_name_without_a_layer_is_named_with_its_neighbours(tiny: Tiny, tmp_path: Path, option: str) -> None:
    with pytest.raises(RunError, match=f"plugin.lora.{option}: no layer is called 'q_prj'; near it are q_proj"):
        adapt(tiny, tmp_path, **{option: ("q_prj",)})
    with pytest.raises(RunError, match=r"no layer is called 'zzz'; near it are .*v_proj"):
        adapt(tiny, tmp_path, **{option: ("zzz",)})


def test_every_name_without_a_layer_is_told(tiny: Tiny, tmp_path: Path) -> None:
    expected = r"no layer is called 'q_prj'; near it are q_proj.*; nor 'up_prj'; near it are up_proj"
    with pytest.raises(RunError, match=expected):
        adapt(tiny, tmp_path, targets=("q_prj", "v_proj", "up_prj"))


def test_tied_layers_stay_tied(tiny: Tiny, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    run = tiny.run(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tiny.base)
    base.config.tie_word_embeddings = True
    base.tie_weights()
    base.save_pretrained(tmp_path / "tied")
    tied = AutoModelForCausalLM.from_pretrained(tmp_path / "tied")
    loaded = Loaded(model=tied, processor=tiny.tokenizer, base=str(tmp_path / "tied"))
    with pytest.raises(RunError, match=r"means model\.embed_tokens, which is tied to the output layer and takes no"):
        Lora(Options(targets=("embed_tokens",))).adapt(run, loaded)
    model = Lora(Options(modules_to_save=("embed_tokens",))).adapt(run, loaded).model
    causal = model.base_model.model
    kept = causal.model.embed_tokens.modules_to_save["default"].weight
    assert kept.requires_grad
    assert causal.lm_head.modules_to_save["default"].weight is kept
    # As they are saved where several processes share the weights: gathered by one name, asked for by both.
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    options = {"save_embedding_layers": False}
    with pytest.raises(KeyError, match=r"modules_to_save\.default\.weight"):
        model.save_pretrained(tmp_path / "saved", state_dict=dict(weights), **options)
    model.save_pretrained(tmp_path / "saved", state_dict=_by_each_name(model, weights), **options)
    saved = load_file(tmp_path / "saved/adapter_model.safetensors")
    assert torch.equal(next(weight for name, weight in saved.items() if "embed_tokens" in name), kept)


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


@pytest.mark.parametrize(
    ("options", "key", "message"),
    [
        ({"targets": ()}, "targets", "empty; name layers"),
        ({"targets": ""}, "targets", "empty; name layers"),
        ({"targets": ("all-linear", "q_proj")}, "targets", "all-linear stands alone"),
        ({"targets": ("q_proj", ".*_proj")}, "targets", "is a regular expression, which stands alone"),
        ({"targets": "(q_proj"}, "targets", r"'(q_proj' is no regular expression: missing )"),
        ({"budget": "low", "r": 4, "targets": "q_proj"}, "budget", "both are set; leave one of the three out"),
        ({"init": "pissa", "dora": True}, "init", "leave one of them out"),
        ({"pissa_rounds": 4}, "pissa_rounds", "nothing reads this"),
        ({"modules_to_save": ("lm_head", "")}, "modules_to_save", "one of the names is empty"),
    ],
    ids=str,
)
def test_options_that_exclude_each_other_are_found_early(options: Any, key: str, message: str) -> None:
    assert Lora(Options()).check() == []
    [problem] = Lora(Options(**options)).check()
    assert problem.key == f"plugin.lora.{key}"
    assert message in problem.message


@pytest.mark.parametrize(
    "options",
    [{"r": 0}, {"alpha": 0.0}, {"dropout": 1.0}, {"loraplus_ratio": 0.0}, {"pissa_rounds": 101}],
    ids=str,
)
def test_options_have_bounds(options: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Options(**options)
