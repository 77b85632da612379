"""Which curves share a chart, in which order, and their names and units."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs

from ftcore.report.curves import Curve

NEVER = frozenset({"epoch", "tokens_seen", "tokens"})
"""Lines that say nothing; their last values are among the headline figures."""
EVAL = "eval_"


@attrs.frozen(kw_only=True)
class Series:
    """One line. `dots` marks its points, which are few; `noisy` ones are smoothed."""

    name: str
    label: str
    curve: Curve
    dots: bool = False
    noisy: bool = True


@attrs.frozen(kw_only=True)
class Chart:
    """Lines that share both axes. `machine` is about how fast the run is, and not about what it learns."""

    key: str
    title: str
    unit: str
    series: Sequence[Series]
    machine: bool = False


@attrs.frozen(kw_only=True)
class Kind:
    """Names, as a pattern, that make up one chart."""

    key: str
    title: str
    unit: str
    names: str
    machine: bool = False
    noisy: bool = True
    together: Callable[[Curve], bool] = lambda _: True


def _is_share(curve: Curve) -> bool:
    return all(not value < 0 and not value > 1 for value in curve.values)


KINDS = (
    Kind(key="loss", title="Loss", unit="nats per trained token", names="loss|eval_loss"),
    Kind(
        key="scores",
        title="Scores on held-out rows",
        unit="",
        noisy=False,
        names=r"eval_(?!loss$|perplexity$)[^/]+",
        together=_is_share,
    ),
    Kind(key="perplexity", title="Perplexity of held-out rows", unit="", noisy=False, names="eval_perplexity"),
    Kind(key="learning-rate", title="Learning rate", unit="", noisy=False, names="learning_rate"),
    Kind(key="grad-norm", title="Gradient norm", unit="before clipping", names="grad_norm"),
    Kind(key="speed", title="Tokens per second", unit="trained tokens", names="tokens_per_second", machine=True),
    Kind(key="seconds", title="Time of a step", unit="seconds", names="seconds|data_seconds", machine=True),
    Kind(
        key="memory",
        title="Memory",
        unit="GiB",
        noisy=False,
        names=r"memory|system/(process_|host_)?memory|system/gpu\d+/memory",
        machine=True,
    ),
    Kind(
        key="use",
        title="Use of CPU and GPU",
        unit="percent",
        names=r"system/cpu|system/gpu\d+/utilization",
        machine=True,
    ),
    Kind(
        key="temperature",
        title="Temperature",
        unit="\N{DEGREE SIGN}C",
        names=r"system/gpu\d+/temperature",
        machine=True,
    ),
    Kind(key="power", title="Power", unit="watts", names=r"system/gpu\d+/power", machine=True),
    Kind(key="disk", title="Read from disks", unit="GiB", noisy=False, names="system/disk_read", machine=True),
)

LABELS = {
    "loss": "training",
    "eval_loss": "held-out rows",
    "seconds": "the step",
    "data_seconds": "waiting for its batches",
    "memory": "device, highest so far",
    "system/process_memory": "process",
    "system/host_memory": "machine",
    "system/cpu": "CPU",
}


def charts_of(curves: Mapping[str, Curve]) -> list[Chart]:
    """Every curve in its chart, those that no kind knows in one of their own."""
    left = {name: curve for name, curve in curves.items() if _is_drawn(name, curve)}
    found: list[Chart] = []
    for kind in KINDS:
        matched = {name: curve for name, curve in left.items() if re.fullmatch(kind.names, name)}
        shared = {name: curve for name, curve in matched.items() if kind.together(curve)}
        left = {name: curve for name, curve in left.items() if name not in shared}
        if shared:
            found.append(_chart(kind, shared))
    alone = (_alone(name, curve, number) for number, (name, curve) in enumerate(sorted(left.items()), start=1))
    return [*found, *alone]


def _is_drawn(name: str, curve: Curve) -> bool:
    """Not the cells of a table, which an evaluation may bring by the hundred, such as `eval_confusion/left/right`."""
    return name not in NEVER and not (name.startswith(EVAL) and "/" in name) and len(curve.steps) > 0


def _chart(kind: Kind, curves: Mapping[str, Curve]) -> Chart:
    return Chart(
        key=kind.key,
        title=kind.title,
        unit=kind.unit,
        series=list(_series(curves, noisy=kind.noisy)),
        machine=kind.machine,
    )


def _alone(name: str, curve: Curve, number: int) -> Chart:
    series, machine = list(_series({name: curve}, noisy=True)), name.startswith("system/")
    return Chart(key=f"own-{number}", title=label_of(name), unit="", series=series, machine=machine)


def _series(curves: Mapping[str, Curve], *, noisy: bool) -> Iterator[Series]:
    for name, curve in sorted(curves.items(), key=lambda pair: (pair[0].startswith(EVAL), natural(pair[0]))):
        yield Series(name=name, label=label_of(name), curve=curve, dots=name.startswith(EVAL), noisy=noisy)


def natural(name: str) -> list[tuple[int, str]]:
    """A key to sort names by in which gpu2 comes before gpu10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def label_of(name: str) -> str:
    """What a reader calls it."""
    gpu = re.fullmatch(r"system/gpu(\d+)/\w+", name)
    if gpu:
        return f"GPU {gpu[1]}"
    return LABELS.get(name) or name.removeprefix("system/").removeprefix(EVAL).replace("_", " ")
