"""Puts a LoRA adapter on a loaded model (Hu et al. 2021, https://arxiv.org/abs/2106.09685). Imports PEFT."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from peft import LoraConfig, PeftModelForCausalLM, TaskType

from ftcore.api import Loaded, Run, RunError
from ftcore_plugins.common.adapters.layers import TIED_LAYERS, Layers, rank_of
from ftcore_plugins.common.adapters.options import AdapterOptions, named_targets, require_trainable
from ftcore_plugins.common.adapters.quantized import kind_of, never_repack, quantized_layers
from ftcore_plugins.common.adapters.starts import SavedAsLora, WholeWeights, needs_whole, start_pissa
from ftcore_plugins.common.devices import precision_of
from ftcore_plugins.common.quiet import no_deprecations, no_false_patterns
from ftcore_plugins.common.saved import kept_layers

MOST_LETTERS = 300
B_MATRICES = r".*\.lora_(embedding_)?B\..*"


def adapt(run: Run, loaded: Loaded, plugin: str, config: AdapterOptions) -> Loaded:
    """Freeze the model and add the adapter, its start drawn from the run's seed.

    On the meta device nothing is drawn or computed, so that a sketch can be counted. Raises `RunError` when a
    target or a module to save matches no layer, for a rank over the size of every layer, or when there is no
    vision tower to put adapters on.
    """
    _require_adaptable(loaded, plugin, config)
    _require_one_type(run, loaded.model, plugin, config)
    settings = _lora_config(loaded.model, plugin, config)
    sketch = loaded.model.device.type == "meta"
    never_repack(loaded.model)  # also where the model was saved quantized
    started = config.init == "pissa" and not sketch
    kind = SavedAsLora if started else PeftModelForCausalLM
    # Drawn apart from the global stream, so that what ran before does not change the adapter.
    with torch.random.fork_rng(enabled=not sketch), no_deprecations(), no_false_patterns():
        if not sketch:
            torch.manual_seed(run.profile.run.seed)
        try:
            model = kind(loaded.model, settings, low_cpu_mem_usage=sketch)
        except ValueError as error:
            cause = str(error).strip().partition("\n")[0][:MOST_LETTERS]
            raise RunError(f"plugin.{plugin}: PEFT refuses targets or modules_to_save: {cause}") from error
        if started:
            model.starts = start_pissa(model, WholeWeights(run, loaded), plugin, config.pissa_rounds)
    # PEFT fills these in from the model; a plain `PeftModel.from_pretrained` must find our base.
    settings.base_model_name_or_path, settings.revision = loaded.base, loaded.revision or None
    return attrs.evolve(loaded, model=model, adapter=plugin, rate_factors=_rate_factors(config))


def _require_adaptable(loaded: Loaded, plugin: str, config: AdapterOptions) -> None:
    """What a model that was saved quantized cannot have, too; of its sketch, `saved` tells which layers are."""
    saved = None if loaded.saved is None or loaded.saved.whole else loaded.saved
    quantized = [name for name, _ in quantized_layers(loaded.model)] or kept_layers(loaded.model, saved)
    require_trainable(plugin, config.modules_to_save, quantized)
    if saved is not None and config.init != "default":
        raise RunError(needs_whole(loaded.base))
    if config.dora and "int8" in (kind_of(loaded.model), saved and saved.kind):
        # PEFT 0.21 loses the scales when it makes them whole on a CPU.
        raise RunError(f"plugin.{plugin}.dora: the model's weights are in 8 bits, and it needs 4 or whole ones")


def _require_one_type(run: Run, model: Any, plugin: str, config: AdapterOptions) -> None:
    """What the model's own layers are trained in, float32, must go with the other weights.

    An adapter brings its input to its own type; a layer or a bias does not, and leaves that to autocast. A sketch
    may be of a model for another machine, so an automatic precision is not judged by this one.
    """
    precision = run.profile.train.precision if model.device.type == "meta" else precision_of(run)
    if model.dtype == torch.float32 or precision != "fp32":
        return
    biased = config.bias != "none" and any(name.endswith(".bias") for name, _ in model.named_parameters())
    option_name = "modules_to_save" if config.modules_to_save else "bias" if biased else ""
    if option_name:
        dtype = str(model.dtype).removeprefix("torch.")
        fault = f"is trained in float32, which weights in {dtype} go with at train.precision = 'bf16' only"
        raise RunError(f"plugin.{plugin}.{option_name}: {fault}; set that, or model.dtype = 'float32'")


def _rate_factors(config: AdapterOptions) -> dict[str, float]:
    return {} if config.loraplus_ratio == 1 else {B_MATRICES: config.loraplus_ratio}


def _lora_config(model: Any, plugin: str, config: AdapterOptions) -> Any:
    layers, rank = Layers(plugin, config, model), rank_of(config)
    targets = layers.targets()
    layers.require_some_left(targets)
    layers.require_rank(targets)
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=rank,
        lora_alpha=2 * rank if config.alpha is None else config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        exclude_modules=layers.left_out,
        fan_in_fan_out=layers.are_upside_down(targets),
        use_rslora=config.rslora,
        use_dora=config.dora,
        modules_to_save=list(config.modules_to_save) or None,
        bias=config.bias,
        ensure_weight_tying=_touches_tied_layers(model, config),
    )


def _touches_tied_layers(model: Any, config: AdapterOptions) -> bool:
    names = (*config.modules_to_save, *named_targets(config))
    named = {name.rpartition(".")[2] for name in names}
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    return bool(tied and named & TIED_LAYERS)
