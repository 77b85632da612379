"""Low-rank adapters on a model whose weights are kept in 4 or 8 bits (QLoRA, https://arxiv.org/abs/2305.14314).

bitsandbytes quantizes the weights as they are read; PEFT adds the adapter.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import attrs

from ftcore.api import Loaded, Problem, Quantization, Run, RunError, hookimpl, option
from ftcore_plugins.common.adapters.options import AdapterOptions, option_problems, require_trainable
from ftcore_plugins.common.quiet import quiet_logger
from ftcore_plugins.common.requirements import missing
from ftcore_plugins.common.saved import eight_bits, four_bits

# The list takes the place of the defaults of transformers, so the output layer must be on it; each name counts
# from the model's root. What a model has beside its language model stays whole: it is small, and pictures bear less.
OUTPUT_LAYERS = ("lm_head", "embed_out")
VISION = ("vision_tower", "vision_model", "visual", "multi_modal_projector", "connector", "embed_vision")
LEFT_OUT = (*OUTPUT_LAYERS, *VISION, *(f"model.{name}" for name in VISION))

NO_MPS = "bitsandbytes is not proved on Apple's GPUs; set hardware.device = 'cpu', or take [plugin.lora]"


@attrs.frozen(kw_only=True)
class Options(AdapterOptions):
    """Options of `[plugin.qlora]`."""

    bits: Literal[4, 8] = option(4, help="bits that a frozen weight is kept in")
    quant_type: Literal["nf4", "fp4"] = option("nf4", help="4 bits only: quantiles of a normal distribution, or floats")
    double_quantization: bool = option(True, help="4 bits only: quantize the scales, too: 0.4 bits a weight less")
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto", help="4 bits only: type that weights are brought back to; auto is that of train.precision"
    )
    keep: tuple[str, ...] = option(
        (),
        help="full names of further layers or blocks to leave whole, such as model.layers.0; never quantized are the "
        "output layer, a vision tower and a projector",
    )
    init: Literal["default", "pissa", "loftq"] = option(  # type: ignore[assignment]  # one more than `lora` has
        "default",
        help="start of the adapter: default changes nothing at first; pissa takes over each layer's largest singular "
        "values; loftq makes up for the quantization error (https://arxiv.org/abs/2310.08659)",
    )


class QLora:
    """Quantizes the model's weights and puts a LoRA adapter on them; only the adapter is trained and saved."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config

    @hookimpl
    def check(self, run: Run) -> Sequence[Problem]:
        """bitsandbytes must be there and know the device, and the options must go together."""
        faults = [*_option_faults(self.config), *_device_faults(run.profile.hardware.device)]
        return [
            *missing("qlora", "qlora", "torch", "peft", "bitsandbytes"),
            *option_problems("qlora", self.config),
            *(Problem(key=key, message=message) for key, message in faults),
        ]

    @hookimpl
    def quantize(self, run: Run) -> Quantization:
        """Options for the loader. Raises `RunError` for a type or a device that this machine cannot calculate with."""
        from transformers import BitsAndBytesConfig

        from ftcore_plugins.common.devices import device_of

        # As the loader imports it, it tells which kernels it lacks; 8-bit layers tell at each step that they cast.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        device = device_of(run)
        if device == "mps":
            raise RunError(f"plugin.qlora: {NO_MPS}")
        # In a group, since transformers would take a plain name for the end of a name, too.
        skipped = [*LEFT_OUT, *(f"(?:{re.escape(name)})" for name in self.config.keep)]
        options = {
            "quantization_config": BitsAndBytesConfig(**self._settings(run, device), llm_int8_skip_modules=skipped),
            "device_map": {"": run.world.local_rank if device == "cuda" else device},
        }
        left_out = (*LEFT_OUT, *self.config.keep)
        return Quantization(name="qlora", options=options, bytes_per_weight=self._bytes(), left_out=left_out)

    @hookimpl
    def adapt(self, run: Run, loaded: Loaded) -> Loaded:
        """Freeze the quantized model and add the adapter, its start drawn from the run's seed.

        Raises `RunError` when the model is saved quantized or the loader has not quantized it as told, when a
        target, a module to save or one to keep matches no layer or one that cannot be trained, or for what the
        model cannot have.
        """
        with quiet_logger("bitsandbytes"):  # it tells which kernels it lacks as it is imported
            from ftcore_plugins.common.adapters.adapter import adapt
            from ftcore_plugins.common.adapters.starts import WholeWeights, start_loftq

        self._require_possible(loaded.model)
        sketch = loaded.model.device.type == "meta"
        if not sketch:
            self._require_quantized(loaded.model)
        elif getattr(loaded.model.config, "quantization_config", None) is not None:
            raise RunError(f"model.id: {loaded.base} is saved quantized; take [plugin.lora], or name the whole model")
        adapted = adapt(run, loaded, "qlora", self.config)
        if self.config.init == "loftq" and not sketch:
            start_loftq(adapted.model, WholeWeights(run, loaded), "qlora")
        return adapted

    def _bytes(self) -> float:
        return four_bits(double=self.config.double_quantization) if _is_4bit(self.config) else eight_bits()

    def _settings(self, run: Run, device: str) -> dict[str, Any]:
        if not _is_4bit(self.config):
            return {"load_in_8bit": True}
        return {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": self.config.quant_type,
            "bnb_4bit_use_double_quant": self.config.double_quantization,
            "bnb_4bit_compute_dtype": self._compute_dtype(run, device),
        }

    def _compute_dtype(self, run: Run, device: str) -> str:
        from ftcore_plugins.common.devices import gpu_with_bf16, precision_of

        wanted = self.config.compute_dtype
        if wanted == "auto":
            return {"bf16": "bfloat16", "fp16": "float16"}.get(precision_of(run), "float32")
        if wanted == "bfloat16" and device == "cuda" and not gpu_with_bf16(device):
            raise RunError("plugin.qlora.compute_dtype: this card has no bfloat16; set float16, or leave it at auto")
        return wanted

    def _require_possible(self, model: Any) -> None:
        """Names of layers to keep must be there, and something must be left to quantize."""
        from ftcore_plugins.common.adapters.layers import is_linear, is_upside_down, nearest

        modules = {name: module for name, module in model.named_modules() if name}
        for name in self.config.keep:
            if name not in modules:
                near = ", ".join(nearest(name, modules))
                raise RunError(f"plugin.qlora.keep: no layer or block has the full name {name!r}; near it are {near}")
        blocks = tuple(f"{name}." for name in (*LEFT_OUT, *self.config.keep))
        linear = [name for name, module in modules.items() if is_linear(module)]
        quantized = [name for name in linear if not f"{name}.".startswith(blocks)]
        other = next((name for name in quantized if is_upside_down(modules[name])), None)
        if other is not None:
            fault = f"{other} is a Conv1D, and what a quantized one merges into is not proved"
            raise RunError(f"plugin.qlora: {fault}; take [plugin.lora]")
        if self.config.keep and not quantized:
            raise RunError("plugin.qlora.keep: leaves no layer to quantize; name fewer, or take [plugin.lora]")
        require_trainable("qlora", self.config.modules_to_save, quantized)

    def _require_quantized(self, model: Any) -> None:
        """The loader must have done what it was told: some pass over the options, or follow those of the files."""
        from ftcore_plugins.common.adapters.quantized import kind_of

        wanted, kind = self.config.quant_type if _is_4bit(self.config) else "int8", kind_of(model)
        if not kind:
            fix = "switch on a loader that takes the options of quantize, or take [plugin.lora]"
            raise RunError(f"plugin.qlora: the loader has read the model without quantizing a layer of it; {fix}")
        if kind != wanted:
            raise RunError(
                f"plugin.qlora: the loader has quantized the model to {kind} and not to {wanted}; see model.id"
            )


def _is_4bit(config: Options) -> bool:
    return config.bits == 4  # noqa: PLR2004


def _option_faults(config: Options) -> Iterator[tuple[str, str]]:
    if _is_4bit(config):
        return
    defaults = Options()
    for name in ("quant_type", "double_quantization", "compute_dtype"):
        if getattr(config, name) != getattr(defaults, name):
            yield f"plugin.qlora.{name}", "8-bit weights have none; leave it out, or set bits = 4"
    if config.dora:  # PEFT 0.21 loses the scales of 8-bit weights when it makes them whole on a CPU
        yield "plugin.qlora.dora", "needs 4-bit weights; leave it out, or set bits = 4"
    if config.init != "default":
        yield "plugin.qlora.init", f"{config.init} needs 4-bit weights; leave it out, or set bits = 4"


def _device_faults(device: str) -> Iterator[tuple[str, str]]:
    if device == "mps" or (device == "auto" and sys.platform == "darwin"):
        yield "plugin.qlora", NO_MPS
