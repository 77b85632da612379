"""Low-rank adapters on a frozen model (Hu et al. 2021, https://arxiv.org/abs/2106.09685), by PEFT."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import attrs

from ftcore.api import Loaded, Problem, Run, RunError, hookimpl, option
from ftcore_plugins.common.quiet import no_deprecations
from ftcore_plugins.common.requirements import missing

ALL_LINEAR = "all-linear"
MOST_LETTERS = 300
TIED_LAYERS = {"embed_tokens", "lm_head"}


@attrs.frozen(kw_only=True)
class Options:
    """Options of `[plugin.lora]`."""

    r: int = option(16, at_least=1, help="rank of the adapter matrices")
    alpha: float = option(32, above=0, help="scale of the adapter; its output is multiplied by alpha / r")
    dropout: float = option(0.0, at_least=0, below=1, help="dropout of the adapter's input while training")
    targets: str | tuple[str, ...] = option(
        ALL_LINEAR, help="ends of the names of the layers to adapt, or all-linear for all but the output layer"
    )
    rslora: bool = option(False, help="scale by alpha / sqrt(r) instead (https://arxiv.org/abs/2312.03732)")
    dora: bool = option(False, help="train direction and magnitude apart (https://arxiv.org/abs/2402.09353)")
    modules_to_save: tuple[str, ...] = option(
        (), help="layers that are trained whole and saved with the adapter, such as lm_head or multi_modal_projector"
    )
    bias: Literal["none", "all", "lora_only"] = option("none", help="which bias terms are trained with the adapter")
    vision: bool = option(False, help="put adapters on the vision tower and the projector of a model with images, too")


class Lora:
    """Puts a LoRA adapter on the model; only the adapter is trained and saved."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config

    @hookimpl
    def check(self) -> Sequence[Problem]:
        """PEFT must be there, and the targets must be one kind or the other."""
        targets, problems = self._targets, missing("lora", "train", "torch", "peft")
        if not targets:
            problems.append(Problem(key="plugin.lora.targets", message="empty; name layers, or set 'all-linear'"))
        if ALL_LINEAR in targets and len(targets) > 1:
            message = "all-linear stands alone; name layers, or leave the names out"
            problems.append(Problem(key="plugin.lora.targets", message=message))
        return problems

    @hookimpl
    def adapt(self, run: Run, loaded: Loaded) -> Loaded:
        """Freeze the model and add the adapter, its start drawn from the run's seed.

        Raises `RunError` when a target or a module to save matches no layer, or when there is no vision tower
        to put adapters on.
        """
        import torch
        from peft import get_peft_model

        config = self._peft_config(loaded)
        self._require_layers(loaded.model, config.exclude_modules)
        # Drawn apart from the global stream, so that what ran before does not change the adapter.
        with torch.random.fork_rng(), no_deprecations():
            torch.manual_seed(run.profile.run.seed)
            try:
                model = get_peft_model(loaded.model, config)
            except ValueError as error:
                cause = str(error).strip().partition("\n")[0][:MOST_LETTERS]
                raise RunError(f"plugin.lora: PEFT refuses targets or modules_to_save: {cause}") from error
        # PEFT fills these in from the model; a plain `PeftModel.from_pretrained` must find our base.
        config.base_model_name_or_path, config.revision = loaded.base, loaded.revision or None
        return attrs.evolve(loaded, model=model, adapter="lora")

    @property
    def _targets(self) -> tuple[str, ...]:
        targets = self.config.targets
        return (targets,) if isinstance(targets, str) else targets

    def _require_layers(self, model: Any, left_out: str | None) -> None:
        names = [name for name, _ in model.named_modules() if name]
        require_matches("modules_to_save", self.config.modules_to_save, names)
        if self._targets == (ALL_LINEAR,):
            return
        require_matches("targets", self._targets, names)
        reached = [name for name in names if not left_out or not re.fullmatch(left_out, name)]
        for target in self._targets:
            if not any(_matches(name, target) for name in reached):
                fix = "leave it out, or set plugin.lora.vision = true"
                raise RunError(f"plugin.lora.targets: {target} is a layer of the vision tower alone; {fix}")

    def _left_out(self, model: Any) -> str | None:
        """A pattern of the layers that get no adapter, as PEFT takes it: those beside the language model."""
        beside = beside_language_model(model)
        if self.config.vision and not beside:
            raise RunError("plugin.lora.vision: the model reads text only and has no vision tower; leave it out")
        if self.config.vision or not beside:
            return None
        return rf"({'|'.join(map(re.escape, beside))})(\..*)?"

    def _peft_config(self, loaded: Loaded) -> Any:
        from peft import LoraConfig, TaskType

        config = self.config
        return LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=config.r,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=ALL_LINEAR if self._targets == (ALL_LINEAR,) else list(self._targets),
            exclude_modules=self._left_out(loaded.model),
            use_rslora=config.rslora,
            use_dora=config.dora,
            modules_to_save=list(config.modules_to_save) or None,
            bias=config.bias,
            ensure_weight_tying=self._touches_tied_layers(loaded.model),
        )

    def _touches_tied_layers(self, model: Any) -> bool:
        named = {name.rpartition(".")[2] for name in (*self.config.modules_to_save, *self._targets)}
        tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
        return bool(tied and named & TIED_LAYERS)


def beside_language_model(model: Any) -> list[str]:
    """Names of what a model that reads images has beside its language model: vision tower and projector."""
    from ftcore_plugins.common.hub import reads_images

    if not reads_images(model.config):
        return []
    modules, language, head = dict(model.named_modules()), model.get_decoder(), model.get_output_embeddings()
    place = next(name for name, module in modules.items() if module is language)
    parent = place.rpartition(".")[0]
    return [
        f"{parent}.{name}".removeprefix(".")
        for name, module in modules[parent].named_children()
        if module is not language and module is not head
    ]


def require_matches(option_name: str, wanted: Iterable[str], names: Sequence[str]) -> None:
    """Every wanted name must be a module's name or its end, as PEFT matches them. Raises `RunError`."""
    for target in wanted:
        if any(_matches(name, target) for name in names):
            continue
        ends = {part for name in names for part in (name, name.rpartition(".")[2]) if not part.isdigit()}
        near = difflib.get_close_matches(target, sorted(ends), n=3, cutoff=0.5) or sorted(_last_parts(names))
        raise RunError(f"plugin.lora.{option_name}: no layer is called {target!r}; near it are {', '.join(near)}")


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _last_parts(names: Sequence[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in names if not name.rpartition(".")[2].isdigit()}
