"""What one run does with its model, as far as memory and time depend on it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any, Literal

import attrs

from ftcore.hardware import nvidia_memory_gib
from ftcore.planning.facts import ModelFacts
from ftcore.values import Profile, Quantization

Device = Literal["cuda", "mps", "cpu"]

FLOAT32, HALF = 4, 2
"""Bytes of a number."""


@attrs.frozen(kw_only=True)
class RowShape:
    """The rows that a plan is made for: tokens of the longest and of an average one, pictures, and what is trained.

    `trained` counts the tokens of the longest row that have a label, `typical_trained` those of an average one.
    `assumed` says what of this is a bound rather than a count, in words for the user.
    """

    longest: int
    typical: float
    trained: int
    typical_trained: float
    images: int = 0
    count: int | None = None
    assumed: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class Sharding:
    """How several processes share what a model needs. `parts` counts the processes.

    Each flag says that every process holds one part of it rather than the whole; offloaded, it lies in host memory.
    """

    parts: int = 1
    weights: bool = False
    gradients: bool = False
    optimizer: bool = False
    offload_weights: bool = False
    offload_optimizer: bool = False
    buckets: bool = False

    @property
    def name(self) -> str:
        """What it is called."""
        if self.parts == 1:
            return "one process"
        kind = "shards of all" if self.weights else "shards of gradients and optimizer" if self.optimizer else "copies"
        return f"{self.parts} processes, {kind}"


@attrs.frozen(kw_only=True)
class Setting:
    """The choices of a profile, on one kind of device. `weight` and `compute` are bytes of a number.

    `autocast` says that the arithmetic is in another type than the trained weights are kept in. With `masters` the
    trained weights are in 16 bits themselves, and float32 copies of them lie beside the optimizer's states. `micro`
    rows are on a device at once, `accumulation` times for one step.
    """

    device: Device
    weight: int
    compute: int
    autocast: bool
    micro: int
    accumulation: int
    rows: RowShape
    optimizer: str
    checkpointing: bool
    attention: str
    quantization: Quantization | None
    sharding: Sharding
    masters: bool = False

    @property
    def trained(self) -> int:
        """Bytes of a trained weight."""
        return HALF if self.masters else FLOAT32


def device_of(profile: Profile) -> Device:
    """The device of a profile, without asking torch: what it names, else what this machine has."""
    named = profile.hardware.device
    if named != "auto":
        return named
    if nvidia_memory_gib():
        return "cuda"
    return "mps" if platform.system() == "Darwin" and platform.machine() == "arm64" else "cpu"


def setting_of(
    profile: Profile,
    rows: RowShape,
    quantization: Quantization | None,
    arguments: Mapping[str, Any],
    parts: int,
) -> Setting:
    """What the profile comes to on `parts` processes; the trainer's `arguments` say how they share a model."""
    train, device = profile.train, device_of(profile)
    weight, half = weight_bytes(profile, device), precision_of(profile, device) != "fp32"
    # DeepSpeed casts the whole model (https://www.deepspeed.ai/docs/config-json/#bfloat16-training-options).
    masters = half and bool(arguments.get("deepspeed"))
    share = max(1, train.batch_size // parts)
    micro = min(train.micro_batch_size or share, share)
    return Setting(
        device=device,
        weight=HALF if masters else weight,
        compute=HALF if half else weight,
        autocast=half and not masters,
        micro=micro,
        accumulation=max(1, round(train.batch_size / (micro * parts))),
        rows=rows,
        optimizer=train.optimizer,
        checkpointing=train.activation_checkpointing,
        attention="sdpa" if profile.model.attention == "auto" else profile.model.attention,
        quantization=quantization,
        sharding=sharding_of(arguments, parts),
        masters=masters,
    )


def precision_of(profile: Profile, device: Device) -> str:
    """The precision of the arithmetic: a card is taken to have bfloat16 unless its profile says otherwise."""
    if profile.train.precision != "auto":
        return profile.train.precision
    return "fp32" if device == "cpu" else "bf16"


def weight_bytes(profile: Profile, device: Device) -> int:
    """Bytes of a frozen weight that is not quantized."""
    named = profile.model.dtype
    if named != "auto":
        return FLOAT32 if named == "float32" else HALF
    # A card whose profile says fp16 is taken to have no bfloat16, and then weights are read in float32.
    return HALF if device != "cpu" and profile.train.precision != "fp16" else FLOAT32


def processes_of(profile: Profile) -> int:
    """Processes on all machines; for `hardware.processes = 0`, one for each GPU of this one."""
    here = profile.hardware.processes or max(1, len(nvidia_memory_gib()))
    return here * profile.hardware.machines


def sharding_of(arguments: Mapping[str, Any], parts: int) -> Sharding:
    """What the trainer's arguments for DeepSpeed or FSDP say; without them, every process has a copy of all."""
    if parts == 1:
        return _offloads(arguments.get("deepspeed"), Sharding())
    if arguments.get("deepspeed"):
        zero = _zero(arguments["deepspeed"])
        stage = int(zero.get("stage", 0) or 0)
        sharding = Sharding(
            parts=parts,
            optimizer=stage >= 1,
            gradients=stage >= 2,  # noqa: PLR2004
            weights=stage >= 3,  # noqa: PLR2004
            buckets=True,
        )
        return _offloads(arguments["deepspeed"], sharding)
    if arguments.get("fsdp"):
        return _fsdp(arguments, parts)
    return Sharding(parts=parts, buckets=True)


def _fsdp(arguments: Mapping[str, Any], parts: int) -> Sharding:
    options = arguments.get("fsdp_config")
    options = options if isinstance(options, Mapping) else {}
    words = f"{arguments.get('fsdp')} {options.get('sharding_strategy', '')}".lower()
    keeps = options.get("reshard_after_forward") is False or "shard_grad_op" in words
    offload = bool(options.get("cpu_offload") or options.get("offload_params") or "offload" in words)
    return Sharding(
        parts=parts,
        optimizer=True,
        gradients=True,
        weights=not keeps,
        offload_weights=offload,
        offload_optimizer=offload,
    )


def _zero(config: Any) -> Mapping[str, Any]:
    zero = config.get("zero_optimization", {}) if isinstance(config, Mapping) else {}
    return zero if isinstance(zero, Mapping) else {}


def _offloads(config: Any, sharding: Sharding) -> Sharding:
    zero = _zero(config)
    optimizer, weights = (_device(zero.get(f"offload_{what}")) for what in ("optimizer", "param"))
    return attrs.evolve(sharding, offload_optimizer=optimizer, offload_weights=weights)


def _device(table: Any) -> bool:
    return isinstance(table, Mapping) and table.get("device") not in (None, "none")


def positions_of(facts: ModelFacts, length: int) -> int:
    """A row cannot be longer than the model reads."""
    return min(length, facts.positions) if facts.positions else length
