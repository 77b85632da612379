"""Which layers of a model an adapter goes on: names, expressions and presets become what PEFT takes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import attrs

from ftcore.api import RunError
from ftcore_plugins.common.adapters.options import ALL_LINEAR, RANK, AdapterOptions, is_expression, named_targets

# Query and value first, as in the paper on LoRA; some families keep query, key and value in one layer.
FUSED = ("qkv_proj", "query_key_value", "c_attn", "Wqkv")
BUDGETS = {
    "low": (8, ("q_proj", "v_proj", *FUSED)),
    "medium": (16, ("q_proj", "k_proj", "v_proj", "o_proj", *FUSED)),
    "high": (64, (ALL_LINEAR,)),
}
TIED_LAYERS = {"embed_tokens", "lm_head"}
"""Names by which PEFT knows what may be tied."""
MOST_NEAR = 3
MATRIX = 2
"""Dimensions of a weight that an adapter can be added to, at least."""


def rank_of(config: AdapterOptions) -> int:
    """The rank that is meant: the option, else the budget's, else the usual one."""
    if config.r is not None:
        return config.r
    return BUDGETS[config.budget][0] if config.budget else RANK


def is_linear(module: Any) -> bool:
    """Whether it is a linear layer, of torch or as GPT-2's family has them (`Conv1D` of transformers)."""
    return hasattr(module, "in_features") or is_upside_down(module)


def is_upside_down(module: Any) -> bool:
    """Whether it is a linear layer whose weight is of shape (inputs, outputs)."""
    return hasattr(module, "nx") and hasattr(module, "nf")


def sides(module: Any) -> tuple[int, int]:
    """Inputs and outputs of a linear layer."""
    return (module.nx, module.nf) if is_upside_down(module) else (module.in_features, module.out_features)


@attrs.frozen
class Layers:
    """The layers of one model, and which of them `[plugin.NAME]` means."""

    plugin: str
    config: AdapterOptions
    model: Any

    @cached_property
    def modules(self) -> dict[str, Any]:
        """Every module, by its name."""
        return {name: module for name, module in self.model.named_modules() if name}

    @cached_property
    def left_out(self) -> str | None:
        """A pattern of the layers that get no adapter: those beside the language model.

        Raises `RunError` when adapters on a vision tower are wanted and there is none.
        """
        beside = beside_language_model(self.model)
        if self.config.vision and not beside:
            raise self._fault("vision", "the model reads text only and has no vision tower; leave it out")
        if self.config.vision or not beside:
            return None
        return rf"({'|'.join(map(re.escape, beside))})(\..*)?"

    @cached_property
    def reached(self) -> list[str]:
        """Names of the modules that adapters may go on."""
        return [name for name in self.modules if not self.left_out or not re.fullmatch(self.left_out, name)]

    def targets(self) -> str | list[str]:
        """`all-linear`, an expression or names, as PEFT takes them. Raises `RunError` where one matches no layer,
        or one that can have no adapter."""
        require_matches(self.plugin, "modules_to_save", self.config.modules_to_save, list(self.modules))
        self._require_known_tie()
        wanted = named_targets(self.config) or self._of_budget()
        if wanted == (ALL_LINEAR,):
            return ALL_LINEAR
        if isinstance(self.config.targets, str) and is_expression(self.config.targets):
            self._require_expression(self.config.targets)
            return self.config.targets
        require_matches(self.plugin, "targets", wanted, list(self.modules))
        for target in wanted:
            self._require_layers(target, [name for name in self.reached if _matches(name, target)])
        return list(wanted)

    def are_upside_down(self, targets: str | list[str]) -> bool:
        """Whether the chosen linear layers have weights of shape (inputs, outputs), which PEFT wants to be told."""
        chosen = [self.modules[name] for name in self._chosen(targets)]
        return any(map(is_upside_down, chosen)) and not any(hasattr(module, "in_features") for module in chosen)

    def require_some_left(self, targets: str | list[str]) -> None:
        """Layers that are trained whole get no adapter. Raises `RunError` when that is all of them."""
        whole = self.config.modules_to_save
        if not self._chosen(targets):
            raise self._fault("targets", "the model has no linear layer but the output; name layers that it has")
        if all(any(f".{end}." in f".{name}." for end in whole) for name in self._chosen(targets)):
            fault = f"{', '.join(whole)} trained whole leaves no layer to adapt; leave it out, or name other targets"
            raise self._fault("modules_to_save", fault)

    def require_rank(self, targets: str | list[str]) -> None:
        """A rank over the smaller side of every layer only costs memory. Raises `RunError` then.

        A start from singular values needs as many of them in each layer.
        """
        rank, sides = rank_of(self.config), self._smaller_sides(targets)
        whole = self.config.init == "default"
        if not sides or rank <= (max if whole else min)(sides.values()):
            return
        name = (max if whole else min)(sides, key=sides.__getitem__)
        fault = f"{rank} is over the smaller side of {'every layer, at most' if whole else name + ','} {sides[name]}"
        raise self._fault("r", f"{fault}{f' ({name})' if whole else ''}; lower it")

    def _smaller_sides(self, targets: str | list[str]) -> dict[str, int]:
        chosen = {name: self.modules[name] for name in self._chosen(targets)}
        return {name: min(sides(module)) for name, module in chosen.items() if is_linear(module)}

    def _chosen(self, targets: str | list[str]) -> list[str]:
        if targets == ALL_LINEAR:
            head = self.model.get_output_embeddings()
            linear = {name: module for name, module in self.modules.items() if is_linear(module)}
            return [name for name in self.reached if name in linear and linear[name] is not head]
        if isinstance(targets, str):
            return [name for name in self.reached if re.fullmatch(targets, name)]
        return [name for name in self.reached if any(_matches(name, target) for target in targets)]

    def _require_known_tie(self) -> None:
        """PEFT trains tied embeddings and output layer as one by these names alone, and would part others."""
        head = self.model.get_output_embeddings()
        tied = [
            name
            for name, module in self.modules.items()
            if head is not None and module is not head and getattr(module, "weight", None) is head.weight
        ]
        for wanted in self.config.modules_to_save:
            if any(_matches(name, wanted) and name.rpartition(".")[2] not in TIED_LAYERS for name in tied):
                fault = f"{wanted} is tied to the output layer; name lm_head, which trains them as one"
                raise self._fault("modules_to_save", fault)

    def _of_budget(self) -> tuple[str, ...]:
        if self.config.budget is None:
            return (ALL_LINEAR,)
        _, usual = BUDGETS[self.config.budget]
        found = tuple(
            name for name in usual if name == ALL_LINEAR or any(_matches(layer, name) for layer in self.reached)
        )
        if not found:
            raise self._fault("budget", f"no layer is called {', '.join(usual)}; name plugin.{self.plugin}.targets")
        return found

    def _require_expression(self, pattern: str) -> None:
        matched = [name for name in self.modules if re.fullmatch(pattern, name)]
        if not matched:
            fault = f"no layer matches {pattern!r}, which must match whole names; near it are {self._like(pattern)}"
            raise self._fault("targets", fault)
        self._require_layers(pattern, sorted(set(matched) & set(self.reached)))

    def _like(self, pattern: str) -> str:
        """Whole names, one for each end that is nearest to the pattern."""
        linear = [name for name, module in self.modules.items() if is_linear(module)]
        firsts = {name.rpartition(".")[2]: name for name in reversed(linear)}
        nearest = sorted(firsts, key=lambda end: difflib.SequenceMatcher(None, pattern, end).ratio(), reverse=True)
        return ", ".join(firsts[end] for end in nearest[:MOST_NEAR])

    def _require_layers(self, target: str, names: Sequence[str]) -> None:
        """What a target matches must lie where adapters go, and be something that can have one."""
        if not names:
            fix = f"leave it out, or set plugin.{self.plugin}.vision = true"
            raise self._fault("targets", f"{target} is a layer of the vision tower alone; {fix}")
        for name in names:
            fault = self._unfit(name)
            if fault:
                raise self._fault("targets", f"{target} means {name}, {fault}")

    def _unfit(self, name: str) -> str:
        """Why the module can have no adapter; empty if it can."""
        module, head = self.modules[name], self.model.get_output_embeddings()
        inside = [child for child, _ in module.named_children()]
        weight = getattr(module, "weight", None)
        if weight is None or inside:
            such = f" such as {', '.join(sorted(inside)[:MOST_NEAR])}" if inside else ""
            return f"which is no layer with weights but a block; name layers{such}"
        if weight.dim() < MATRIX:
            return "whose weight is no matrix; name linear layers, or embeddings"
        # Trainers multiply by its weight themselves, for the loss of large vocabularies: nothing would train it.
        if module is head or (head is not None and weight is head.weight):
            tied = "" if module is head else "tied to "
            return f"which is {tied}the output layer and takes no adapter; train it whole with modules_to_save"
        return ""

    def _fault(self, option_name: str, fault: str) -> RunError:
        return RunError(f"plugin.{self.plugin}.{option_name}: {fault}")


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


def require_matches(plugin: str, option_name: str, wanted: Iterable[str], names: Sequence[str]) -> None:
    """Every wanted name must be a module's name or its end, as PEFT matches them. Raises `RunError`."""
    faults = [
        f"{target!r}; near it are {', '.join(_near(target, names))}"
        for target in wanted
        if not any(_matches(name, target) for name in names)
    ]
    if faults:
        raise RunError(f"plugin.{plugin}.{option_name}: no layer is called {'; nor '.join(faults)}")


def nearest(wanted: str, names: Iterable[str], likeness: float = 0.0) -> list[str]:
    """The few names that are most like the wanted one, the likest first."""
    return difflib.get_close_matches(wanted, sorted(names), n=MOST_NEAR, cutoff=likeness)


def _near(target: str, names: Sequence[str]) -> list[str]:
    ends = {name.rpartition(".")[2] for name in names}
    ends = {end for end in ends if not end.isdigit()}
    return nearest(target, {*names, *ends}, likeness=0.5) or sorted(ends)


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
