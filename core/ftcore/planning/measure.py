"""Count a model that lies on the meta device. Walks it by what its modules have, and imports no framework.

A linear layer is a module with `in_features`, `out_features` and a matrix as `weight`, or with `nx` and `nf`, as in
GPT-2's family. Whatever wraps such a layer and was not there before is its adapter, whichever library made it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from ftcore.errors import RunError
from ftcore.planning.facts import Layer, ModelFacts, Part, Tower
from ftcore.planning.towers import part_of, picture, routed, text_config, tower_of
from ftcore.plugins import Plugins
from ftcore.values import Loaded, Run

MATRIX = 2
SIDES = (("in_features", "out_features"), ("nx", "nf"))
"""What modules call their inputs and outputs: those of torch, and `Conv1D` of transformers."""
_EXPERT = re.compile(r"\.experts\.\d+\.")
_BLOCK = re.compile(r"\.(\d+)\.")


@attrs.frozen(kw_only=True)
class _Before:
    """A model as it was before adapters: what must be remembered, since they change it in place."""

    parameters: int
    identities: frozenset[int]
    modules: frozenset[int]
    layers: Mapping[int, Layer]
    text: Tower
    vision: Tower | None


def sketch(plugins: Plugins, run: Run) -> ModelFacts | None:
    """The facts of the run's model with its adapters, or None when no plugin draws it without weights.

    Raises `RunError` for what is wrong with the model's configuration or the adapter's targets.
    """
    loaded = plugins.sketch_model(run)
    if loaded is None:
        return None
    facts = measure(loaded, lambda: plugins.adapt(run, loaded))
    if loaded.saved is not None and not loaded.saved.whole and not facts.adapter:
        fault = f"{loaded.base} is saved quantized ({loaded.saved.kind}), and such weights are not trained themselves"
        raise RunError(f"model.id: {fault}; add [plugin.lora], or name the model with whole weights")
    return facts


def measure(loaded: Loaded, adapt: Callable[[], Loaded] | None = None) -> ModelFacts:
    """The facts of a model, before and after `adapt` puts adapters on it; what has `requires_grad` then is trained."""
    before = _remember(loaded.model)
    return _facts(before, loaded.model.config, adapt() if adapt else loaded)


def _remember(model: Any) -> _Before:
    modules = dict(model.named_modules())
    parameters = list(model.parameters())
    config = model.config
    text, vision = text_config(config), getattr(config, "vision_config", None)
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return _Before(
        parameters=sum(parameter.numel() for parameter in parameters),
        identities=frozenset(map(id, parameters)),
        modules=frozenset(map(id, modules.values())),
        layers={
            id(module): _layer(name, module, output, routed(text))
            for name, module in modules.items()
            if _is_linear(module)
        },
        text=tower_of(text, modules, vision=False),
        vision=None if vision is None else tower_of(vision, modules, vision=True),
    )


def _is_linear(module: Any) -> bool:
    return _sides(module) is not None and getattr(getattr(module, "weight", None), "ndim", 0) == MATRIX


def _sides(module: Any) -> tuple[int, int] | None:
    """Inputs and outputs; None for what is no linear layer."""
    names = next((pair for pair in SIDES if all(hasattr(module, name) for name in pair)), None)
    return None if names is None else (int(getattr(module, names[0])), int(getattr(module, names[1])))


def _layer(name: str, module: Any, output: Any, routed: float) -> Layer:
    block, (inputs, outputs) = _BLOCK.search(name), _sides(module) or (0, 0)
    return Layer(
        name=name,
        inputs=inputs,
        outputs=outputs,
        bias=getattr(module, "bias", None) is not None,
        part=Part.OUTPUT if module is output else part_of(name),
        block=int(block[1]) if block else None,
        share=routed if _EXPERT.search(name) else 1.0,
    )


def _facts(before: _Before, config: Any, adapted: Loaded) -> ModelFacts:
    model = adapted.model
    parameters = list(model.parameters())
    total = sum(parameter.numel() for parameter in parameters)
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    layers = _adapted_layers(model, before)
    image_tokens, patches = picture(config)
    text = text_config(config)
    return ModelFacts(
        base=before.parameters,
        added=total - before.parameters,
        trained=sum(parameter.numel() for parameter in trained),
        trained_base=sum(parameter.numel() for parameter in trained if id(parameter) in before.identities),
        layers=layers,
        text=_learning(before.text, layers, Part.TEXT, embeds=_learns_embeddings(model)),
        vision=None if before.vision is None else _learning(before.vision, layers, Part.VISION, embeds=False),
        vocabulary=int(getattr(text, "vocab_size", 0) or 0),
        patches=patches,
        image_tokens=image_tokens,
        positions=int(getattr(text, "max_position_embeddings", 0) or 0),
        adapter=adapted.adapter,
        saved=adapted.saved,
    )


def _adapted_layers(model: Any, before: _Before) -> tuple[Layer, ...]:
    modules = dict(model.named_modules())
    found = []
    for name, module in modules.items():
        layer = before.layers.get(id(module))
        if layer is None:
            continue
        wrapper = modules.get(name.rpartition(".")[0])
        own = bool(module.weight.requires_grad)
        if wrapper is None or id(wrapper) in before.modules or wrapper is model:
            found.append(attrs.evolve(layer, trained=own))
        else:
            found.append(_wrapped(layer, module, wrapper, own=own))
    return tuple(found)


def _wrapped(layer: Layer, module: Any, wrapper: Any, *, own: bool) -> Layer:
    inner = {id(parameter) for parameter in module.parameters()}
    added = [item for item in wrapper.parameters() if id(item) not in inner and item.requires_grad]
    matrices = [tuple(item.shape) for item in added if len(item.shape) == MATRIX]
    if matrices == [tuple(module.weight.shape)]:  # a copy that is trained whole
        return attrs.evolve(layer, trained=True, adapter=sum(item.numel() for item in added))
    return attrs.evolve(
        layer,
        rank=min(map(min, matrices), default=0),
        adapter=sum(item.numel() for item in added),
        trained=own,
        drops=any(float(getattr(part, "p", 0) or 0) > 0 for part in wrapper.modules()),
    )


def _learns_embeddings(model: Any) -> bool:
    """Whether a gradient goes down to the model's input, because its embeddings are trained."""
    embeddings = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    return embeddings is not None and any(parameter.requires_grad for parameter in embeddings.parameters())


def _learning(tower: Tower, layers: tuple[Layer, ...], part: Part, *, embeds: bool) -> Tower:
    learning = [layer.block for layer in layers if layer.part is part and layer.learns and layer.block is not None]
    if part is Part.TEXT:  # what comes before it, and learns, is reached through all of its layers
        embeds |= any(layer.learns for layer in layers if layer.part in (Part.VISION, Part.PROJECTOR))
    first = 0 if embeds else min(learning, default=tower.blocks)
    return attrs.evolve(tower, learns_from=first)
