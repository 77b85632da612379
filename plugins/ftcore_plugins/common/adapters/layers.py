"""Which layers of a model an adapter goes on: names, expressions and presets become what PEFT takes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
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
MOST_NEAR = 3


def rank_of(config: AdapterOptions) -> int:
    """The rank that is meant: the option, else the budget's, else the usual one."""
    if config.r is not None:
        return config.r
    return BUDGETS[config.budget][0] if config.budget else RANK


@attrs.frozen
class Layers:
    """The layers of one model, and which of them `[plugin.NAME]` means."""

    plugin: str
    config: AdapterOptions
    model: Any

    @property
    def names(self) -> list[str]:
        """Every module's name."""
        return [name for name, _ in self.model.named_modules() if name]

    def left_out(self) -> str | None:
        """A pattern of the layers that get no adapter: those beside the language model.

        Raises `RunError` when adapters on a vision tower are wanted and there is none.
        """
        beside = beside_language_model(self.model)
        if self.config.vision and not beside:
            fault = "the model reads text only and has no vision tower; leave it out"
            raise RunError(f"plugin.{self.plugin}.vision: {fault}")
        if self.config.vision or not beside:
            return None
        return rf"({'|'.join(map(re.escape, beside))})(\..*)?"

    def targets(self, left_out: str | None) -> str | list[str]:
        """`all-linear`, an expression or names, as PEFT takes them. Raises `RunError` where one matches no layer."""
        require_matches(self.plugin, "modules_to_save", self.config.modules_to_save, self.names)
        wanted = named_targets(self.config) or self._of_budget(left_out)
        if wanted == (ALL_LINEAR,):
            return ALL_LINEAR
        if isinstance(self.config.targets, str) and is_expression(self.config.targets):
            self._require_expression(self.config.targets, left_out)
            return self.config.targets
        require_matches(self.plugin, "targets", wanted, self.names)
        for target in wanted:
            self._require_layers(target, [name for name in self._reached(left_out) if _matches(name, target)])
        return list(wanted)

    def require_rank(self, targets: str | list[str], left_out: str | None) -> None:
        """A rank over the smaller side of every layer only costs memory. Raises `RunError` then.

        A start from singular values needs as many of them in each layer.
        """
        rank, sides = rank_of(self.config), self._smaller_sides(targets, left_out)
        whole = self.config.init == "default"
        if not sides or rank <= (max if whole else min)(sides.values()):
            return
        name = (max if whole else min)(sides, key=sides.__getitem__)
        fault = f"{rank} is over the smaller side of {'every layer, at most' if whole else name + ','} {sides[name]}"
        raise RunError(f"plugin.{self.plugin}.r: {fault}{f' ({name})' if whole else ''}; lower it")

    def _smaller_sides(self, targets: str | list[str], left_out: str | None) -> dict[str, int]:
        reached, head = set(self._reached(left_out)), self.model.get_output_embeddings()
        sides: dict[str, int] = {}
        for name, module in self.model.named_modules():
            width = getattr(module, "in_features", None)
            if width is None or name not in reached or not _is_chosen(name, targets, is_head=module is head):
                continue
            sides[name] = min(width, module.out_features)
        return sides

    def _of_budget(self, left_out: str | None) -> tuple[str, ...]:
        if self.config.budget is None:
            return (ALL_LINEAR,)
        _, usual = BUDGETS[self.config.budget]
        reached = self._reached(left_out)
        found = tuple(name for name in usual if name == ALL_LINEAR or any(_matches(layer, name) for layer in reached))
        if not found:
            fault = f"no layer is called {', '.join(usual)}; name plugin.{self.plugin}.targets"
            raise RunError(f"plugin.{self.plugin}.budget: {fault}")
        return found

    def _require_expression(self, pattern: str, left_out: str | None) -> None:
        matched = [name for name in self.names if re.fullmatch(pattern, name)]
        if not matched:
            fault = f"no layer matches {pattern!r}, which must match whole names; near it are {self._like(pattern)}"
            raise RunError(f"plugin.{self.plugin}.targets: {fault}")
        self._require_layers(pattern, [name for name in matched if name in set(self._reached(left_out))])

    def _like(self, pattern: str) -> str:
        """Whole names, one for each end that is nearest to the pattern."""
        linear = [name for name, module in self.model.named_modules() if hasattr(module, "in_features")]
        firsts = {name.rpartition(".")[2]: name for name in reversed(linear)}
        nearest = sorted(firsts, key=lambda end: difflib.SequenceMatcher(None, pattern, end).ratio(), reverse=True)
        return ", ".join(firsts[end] for end in nearest[:MOST_NEAR])

    def _require_layers(self, target: str, reached: Sequence[str]) -> None:
        """What a target matches must lie where adapters go, and be layers rather than blocks of them."""
        if not reached:
            fix = f"leave it out, or set plugin.{self.plugin}.vision = true"
            raise RunError(f"plugin.{self.plugin}.targets: {target} is a layer of the vision tower alone; {fix}")
        modules = dict(self.model.named_modules())
        for name in reached:
            if not _is_layer(modules[name]):
                inside = ", ".join(sorted(child for child, _ in modules[name].named_children())[:MOST_NEAR])
                fault = f"{target} means {name}, which is no layer with weights but a block; name layers"
                raise RunError(f"plugin.{self.plugin}.targets: {fault}{f' such as {inside}' if inside else ''}")

    def _reached(self, left_out: str | None) -> list[str]:
        return [name for name in self.names if not left_out or not re.fullmatch(left_out, name)]


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


def _near(target: str, names: Sequence[str]) -> list[str]:
    ends = {part for name in names for part in (name, name.rpartition(".")[2]) if not part.isdigit()}
    found = difflib.get_close_matches(target, sorted(ends), n=MOST_NEAR, cutoff=0.5)
    return found or sorted({end for name in names if not (end := name.rpartition(".")[2]).isdigit()})


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _is_chosen(name: str, targets: str | list[str], *, is_head: bool) -> bool:
    if targets == ALL_LINEAR:
        return not is_head
    if isinstance(targets, str):
        return bool(re.fullmatch(targets, name))
    return any(_matches(name, target) for target in targets)


def _is_layer(module: Any) -> bool:
    return getattr(module, "weight", None) is not None and not any(True for _ in module.children())
