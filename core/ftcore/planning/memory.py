"""The most memory that one device of a run holds, and what makes it up. All figures are bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import attrs

from ftcore.hardware.usage import GIB
from ftcore.planning.activations import Activations, activations
from ftcore.planning.facts import Layer, ModelFacts, Part
from ftcore.planning.setting import FLOAT32, HALF, Setting

CONTEXT: Mapping[str, float] = MappingProxyType({"cuda": 0.55 * GIB, "mps": 0.6 * GIB, "cpu": 0.9 * GIB})
"""What a process holds before it has a model: the driver's context with its kernels, or Python with its libraries."""

SLACK: Mapping[str, float] = MappingProxyType({"cuda": 0.05, "mps": 0.05, "cpu": 0.03})
"""Share of all tensors that an allocator holds beside them, in gaps and rounded sizes."""

HOLES_ADAPTED, HOLES_WHOLE = 0.55, 0.25
"""Share of a batch's tensors that glibc's malloc keeps in holes on a CPU, as measured: it puts short-lived tensors
between those that the backward pass needs, and gives nothing back below them. Gradients of whole models fill some."""

BUCKET = 2 * 25 * 2**20
"""Bytes in which DDP and ZeRO gather gradients before they send them: one bucket being filled, one on its way."""

STATE: Mapping[str, float] = MappingProxyType({"adamw": 8.0, "adamw_8bit": 2.03, "adafactor": 0.02, "sgd": 0.0})
"""Bytes of optimizer state for each trained parameter. 8-bit states have a float32 scale for each 256 of them."""

SMALL = 4096
"""Parameters of a tensor under which 8-bit optimizers keep its state in float32."""


@attrs.frozen(kw_only=True)
class Memory:
    """Bytes on one device at the moment of most, part by part. `host` is what lies in the machine's memory instead.

    `activations` and `logits` are what the batch needs; `gradients` what is there of them at that moment. `context` and
    `slack` are no tensors: a program that asks torch how much is allocated does not see them.
    """

    weights: float
    quantized: float
    adapter: float
    gradients: float
    optimizer: float
    copies: float
    activations: float
    logits: float
    buckets: float
    context: float
    slack: float
    host: float = 0.0

    @property
    def tensors(self) -> float:
        """What torch itself counts as allocated."""
        return self.peak - self.context - self.slack

    @property
    def peak(self) -> float:
        """All of it."""
        return float(sum(value for name, value in attrs.asdict(self).items() if name != "host"))


@attrs.frozen(kw_only=True)
class _Standing:
    """What is there for the whole run, before anything is shared among processes."""

    plain: float
    quantized: float
    adapter: float
    trained: int
    state: float
    copies: float


def memory(facts: ModelFacts, setting: Setting) -> Memory:
    """The most that one device holds while a step of the longest rows is taken."""
    standing, batch = _standing(facts, setting), activations(facts, setting)
    parts = setting.sharding.parts
    share = _share(setting.sharding.weights, parts)
    weights = 0.0 if setting.sharding.offload_weights else 1.0
    gradients, kept, logits = _worst_moment(facts, setting, standing, batch)
    paged = setting.optimizer.startswith("paged")
    state = standing.state * _share(setting.sharding.optimizer, parts)
    elsewhere = setting.sharding.offload_optimizer
    made = Memory(
        weights=standing.plain * share * weights,
        quantized=standing.quantized * share * weights,
        adapter=standing.adapter * share * weights,
        gradients=gradients,
        optimizer=0.0 if elsewhere else state,
        copies=standing.copies + _gathered(facts, setting),
        activations=kept,
        logits=logits,
        buckets=float(BUCKET) if setting.sharding.buckets and parts > 1 else 0.0,
        context=CONTEXT[setting.device],
        slack=0.0,
        host=(state if elsewhere else 0.0) + _offloaded(setting, standing) * share,
    )
    made = attrs.evolve(made, slack=SLACK[setting.device] * made.tensors + _holes(facts, setting, batch))
    return _paged(made) if paged else made


def _holes(facts: ModelFacts, setting: Setting, batch: Activations) -> float:
    if setting.device != "cpu":
        return 0.0
    share = HOLES_ADAPTED if facts.added else HOLES_WHOLE
    return share * (batch.kept + batch.logits)


def _paged(made: Memory) -> Memory:
    """Paged states make room when the batch needs it: they are in the machine's memory at the worst moment."""
    return attrs.evolve(made, optimizer=0.0, host=made.host + made.optimizer)


def _offloaded(setting: Setting, standing: _Standing) -> float:
    return standing.plain + standing.quantized + standing.adapter if setting.sharding.offload_weights else 0.0


def _share(sharded: bool, parts: int) -> float:
    return 1 / parts if sharded else 1.0


def _standing(facts: ModelFacts, setting: Setting) -> _Standing:
    small, weights = quantized_weights(facts, setting)
    frozen = facts.base - facts.trained_base - weights
    grown = facts.added - (facts.trained - facts.trained_base)  # frozen parts of adapters
    return _Standing(
        plain=frozen * setting.weight + facts.trained_base * setting.trained,
        quantized=small,
        adapter=(facts.trained - facts.trained_base) * setting.trained + grown * setting.weight,
        trained=facts.trained,
        state=facts.trained * (state_bytes(setting.optimizer) + (FLOAT32 if setting.masters else 0)),
        copies=_copies(facts, setting, weights),
    )


def quantized_weights(facts: ModelFacts, setting: Setting) -> tuple[float, int]:
    """Bytes that the quantized weights take, and how many weights they are."""
    quantization = setting.quantization
    if quantization is None or quantization.bytes_per_weight is None:
        return 0.0, 0
    count = sum(layer.weights for layer in quantized_layers(facts.layers, quantization.left_out))
    return count * quantization.bytes_per_weight, count


def quantized_layers(layers: Iterable[Layer], left_out: tuple[str, ...]) -> list[Layer]:
    """The layers that a quantizer takes: all linear ones but the output, and those that it is told or lie in them."""
    blocks = tuple(f"{name}." for name in left_out)
    return [layer for layer in layers if layer.part is not Part.OUTPUT and not f"{layer.name}.".startswith(blocks)]


def state_bytes(optimizer: str) -> float:
    """Bytes that an optimizer remembers of each trained parameter."""
    return STATE[optimizer.removeprefix("paged_")]


def _copies(facts: ModelFacts, setting: Setting, quantized: int) -> float:
    """Copies in the type of the arithmetic: of float32 weights under autocast, and of the widest quantized layer."""
    copies = 0.0
    if setting.autocast and not setting.sharding.weights:  # shards are gathered in the type of the arithmetic
        trained = sum(layer.parameters for layer in facts.layers if layer.trained)
        adapters = sum(layer.adapter for layer in facts.layers if layer.rank)
        copies += (trained + adapters) * HALF
        if setting.weight == FLOAT32 and not setting.checkpointing:  # the backward pass keeps what it multiplies with
            copies += sum(layer.weights for layer in facts.layers if not layer.trained) * HALF
    if quantized:
        copies += max(layer.weights for layer in facts.layers if layer.part is not Part.OUTPUT) * setting.compute
    return copies


def _gathered(facts: ModelFacts, setting: Setting) -> float:
    """With shards of the weights: two whole layers, the one at work and the next."""
    if not setting.sharding.weights or setting.sharding.parts == 1:
        return 0.0
    block = facts.base / max(1, facts.text.blocks)
    output = max((layer.weights for layer in facts.linear(Part.OUTPUT)), default=0)
    return max(2 * block, output) * setting.compute


def _worst_moment(
    facts: ModelFacts, setting: Setting, standing: _Standing, batch: Activations
) -> tuple[float, float, float]:
    """Gradients, activations and logits when their sum is largest.

    That is where the backward pass begins, with all activations and the logits (and the gradients of earlier
    micro-batches); in its middle, where a layer is computed again; or at its end, with all gradients.
    """
    whole = standing.trained * FLOAT32 * _share(setting.sharding.gradients, setting.sharding.parts)
    early = whole if setting.accumulation > 1 else 0.0
    moments = [
        (early, batch.kept, batch.logits),
        (early, batch.kept + batch.block, 0.0),
        (early, batch.vision, 0.0),
        (whole, _last_block(facts, batch), 0.0),
    ]
    return max(moments, key=sum)


def _last_block(facts: ModelFacts, batch: Activations) -> float:
    blocks = max(1, facts.text.learning_blocks)
    return batch.kept / blocks + batch.block
