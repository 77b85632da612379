"""Low-rank adapters on a frozen model (Hu et al. 2021, https://arxiv.org/abs/2106.09685), by PEFT."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from ftcore.api import Loaded, Problem, Run, hookimpl
from ftcore_plugins.common.adapters.options import AdapterOptions, option_problems
from ftcore_plugins.common.quiet import quiet_logger
from ftcore_plugins.common.requirements import missing


@attrs.frozen(kw_only=True)
class Options(AdapterOptions):
    """Options of `[plugin.lora]`."""


class Lora:
    """Puts a LoRA adapter on the model; only the adapter is trained and saved."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config

    @hookimpl
    def check(self) -> Sequence[Problem]:
        """PEFT must be there, and the options must go together."""
        return [*missing("lora", "train", "torch", "peft"), *option_problems("lora", self.config)]

    @hookimpl
    def adapt(self, run: Run, loaded: Loaded) -> Loaded:
        """Freeze the model and add the adapter, its start drawn from the run's seed.

        Raises `RunError` when a target or a module to save matches no layer, or for what the model cannot have.
        """
        with quiet_logger("bitsandbytes"):  # PEFT imports it if it can, and it tells which kernels it lacks
            from ftcore_plugins.common.adapters.adapter import adapt

        return adapt(run, loaded, "lora", self.config)
