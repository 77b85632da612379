"""The options that every plugin for low-rank adapters has, and which of them do not go together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal

import attrs

from ftcore.api import Problem, RunError, option

ALL_LINEAR = "all-linear"
RANK = 16

# No layer's name holds any of these, so a string with one is an expression and never a name.
EXPRESSION = re.compile(r"[\\^$*+?()\[\]{}|]")


@attrs.frozen(kw_only=True)
class AdapterOptions:
    """What is adapted, how large the adapter is, and how it starts."""

    r: int | None = option(
        None, at_least=1, help="rank of the adapter matrices; what budget says if unset, and without a budget 16"
    )
    alpha: float | None = option(
        None, above=0, help="scale of the adapter, whose output is multiplied by alpha / r; 2 x r if unset"
    )
    dropout: float = option(0.0, at_least=0, below=1, help="dropout of the adapter's input while training")
    targets: str | tuple[str, ...] | None = option(
        None,
        help="layers to adapt: ends of their names; all-linear for all but the output layer, which is meant if unset; "
        "or a regular expression that matches whole names, such as '.*layers.[0-7].*_proj'",
    )
    budget: Literal["low", "medium", "high"] | None = option(
        None,
        help="preset by memory: low is r = 8 on q_proj and v_proj, medium r = 16 on the attention, "
        "high r = 64 on all-linear; r and targets win over it",
    )
    rslora: bool = option(False, help="scale by alpha / sqrt(r) instead (https://arxiv.org/abs/2312.03732)")
    dora: bool = option(False, help="train direction and magnitude apart (https://arxiv.org/abs/2402.09353)")
    modules_to_save: tuple[str, ...] = option(
        (), help="layers that are trained whole and saved with the adapter, such as lm_head or multi_modal_projector"
    )
    bias: Literal["none", "all", "lora_only"] = option("none", help="which bias terms are trained with the adapter")
    vision: bool = option(False, help="put adapters on the vision tower and the projector of a model with images, too")
    init: Literal["default", "pissa"] = option(
        "default",
        help="start of the adapter: default changes nothing at first; pissa takes over each layer's largest "
        "singular values (https://arxiv.org/abs/2404.02948)",
    )
    pissa_rounds: int = option(
        0,
        at_least=0,
        at_most=100,
        help="rounds of a fast approximation for init = 'pissa'; 0 is exact, and slow for large layers",
    )
    loraplus_ratio: float = option(
        1.0, above=0, help="learning rate of the B matrices over that of the others (https://arxiv.org/abs/2402.12354)"
    )


def option_problems(plugin: str, config: AdapterOptions) -> list[Problem]:
    """Options that exclude each other, or that nothing would read."""
    faults = (*_target_faults(config), *_start_faults(config))
    return [Problem(key=f"plugin.{plugin}.{name}", message=message) for name, message in faults]


def named_targets(config: AdapterOptions) -> tuple[str, ...]:
    """`targets` as a tuple; empty where they are unset."""
    targets = config.targets
    return () if targets is None else (targets,) if isinstance(targets, str) else targets


def is_expression(target: str) -> bool:
    """Whether a target is a regular expression rather than a name."""
    return bool(EXPRESSION.search(target))


def require_trainable(plugin: str, modules_to_save: Iterable[str], quantized: Iterable[str]) -> None:
    """What is trained whole must not hold any of the quantized layers, given by name. Raises `RunError`."""
    for name in quantized:
        whole = next((end for end in modules_to_save if f".{end}." in f".{name}."), None)
        if whole is not None:
            fix = f"adapt it instead, or leave {name} unquantized (plugin.qlora.keep)"
            raise RunError(f"plugin.{plugin}.modules_to_save: {whole} is quantized and cannot be trained whole; {fix}")


def _target_faults(config: AdapterOptions) -> Iterator[tuple[str, str]]:
    targets = named_targets(config)
    if config.targets is not None and not all(targets or ("",)):
        yield "targets", "empty; name layers, or set 'all-linear'"
    if not all(config.modules_to_save):
        yield "modules_to_save", "one of the names is empty; leave it out"
    if len(targets) > 1 and ALL_LINEAR in targets:
        yield "targets", "all-linear stands alone; name layers, or leave the names out"
    for target in filter(is_expression, targets):
        if not isinstance(config.targets, str):
            yield "targets", f"{target!r} is a regular expression, which stands alone; write targets = {target!r}"
        elif fault := _expression_fault(target):
            yield "targets", f"{target!r} is no regular expression: {fault}"
    if config.budget and config.r is not None and config.targets is not None:
        yield "budget", "sets r and targets, and both are set; leave one of the three out"


def _start_faults(config: AdapterOptions) -> Iterator[tuple[str, str]]:
    if config.dora and config.init != "default":
        yield "init", f"{config.init} and dora both split the weights, each its own way; leave one of them out"
    if config.pissa_rounds and config.init != "pissa":
        yield "pissa_rounds", "nothing reads this; leave it out, or set init = 'pissa'"


def _expression_fault(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        return str(error)
    return ""
