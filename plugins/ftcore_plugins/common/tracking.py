"""What trackers share: how a run's journal is named and laid out for those that look at it elsewhere.

Names are grouped by the part before the first slash: `train/loss`, `eval/loss`, `system/cpu`. Should a point have what
`score` counts by class (`target/X`, `predicted/X`, `confusion/X/Y`), it goes into `counts/`, so that a few hundred
curves of it do not bury the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import Event, without_secrets

__all__ = [
    "Answered",
    "answers",
    "artifact_facts",
    "counted",
    "counts",
    "flat",
    "grouped",
    "judged",
    "machine",
    "model_facts",
    "noticed",
]

COUNTED = ("target", "predicted", "confusion")


@attrs.frozen(kw_only=True)
class Answered:
    """One answered row of an `answers` event. `images` are the files that are there, below the run's folder."""

    origin: str
    prompt: str
    expected: str
    answer: str
    images: tuple[Path, ...] = ()


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Nested tables as one, `train.learning_rate` say, of scalars: lists and None as JSON, no secrets."""
    found: dict[str, str | int | float | bool] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = _scalar(value)
    return found


def grouped(metrics: Mapping[str, float]) -> dict[str, float]:
    """Figures of a point under the names that trackers show: `train/...`, `eval/...`, `counts/...`, `system/...`."""
    return {_group(name): value for name, value in metrics.items()}


def judged(event: Event) -> dict[str, float]:
    """Loss and scores of an `answers` event from before or after training, such as `eval/loss_before`.

    Empty for one from during it, whose figures come as a point. Without what is counted by class: see `counts`.
    """
    when = event.values.get("when")
    if when not in ("before", "after"):
        return {}
    figures = {"loss": event.values.get("loss"), **_table(event.values.get("scores"))}
    named = grouped({f"eval_{name}": float(value) for name, value in figures.items() if _is_number(value)})
    return {f"{name}_{when}": value for name, value in named.items() if name.startswith("eval/")}


def counts(scores: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What scores count: how often each class was the `target`, and was `predicted`.

    Both have the same classes in the same order; empty where nothing was counted. A point has no counts: take them
    from `answers` events.
    """
    found = {kind: _of_kind(kind, scores) for kind in ("target", "predicted")}
    classes = list(dict.fromkeys([*found["target"], *found["predicted"]]))
    return {kind: {name: by.get(name, 0.0) for name in classes} for kind, by in found.items()} if classes else {}


def counted(event: Event) -> dict[str, dict[str, float]]:
    """The same of an `answers` event, named as its figures are: `target` while training, else `target_before`."""
    when = event.values.get("when")
    moment = f"_{when}" if when in ("before", "after") else ""
    return {f"{kind}{moment}": by for kind, by in counts(_table(event.values.get("scores"))).items()}


def answers(event: Event, folder: Path) -> list[Answered]:
    """The answered rows of an `answers` event of the run in `folder`."""
    rows = event.values.get("rows")
    return [_answered(row, folder) for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def model_facts(event: Event) -> dict[str, str | int | float | bool]:
    """Of a `model` event: `model/base` and the rest, `model/parameters`, `model/trainable`, and their share."""
    values = dict(event.values)
    parameters = _table(values.pop("parameters", None))
    facts = {f"model/{name}": _scalar(value) for name, value in values.items() if value not in (None, "")}
    total, trainable = parameters.get("total"), parameters.get("trainable")
    if isinstance(total, int) and isinstance(trainable, int):
        share = trainable / total if total else 0.0
        facts |= {"model/parameters": total, "model/trainable": trainable, "model/trainable_share": share}
    return facts


def artifact_facts(event: Event, folder: Path) -> dict[str, str | int | float | bool]:
    """Of an `artifact` event, named by what it is and its file: its path, verdict, note, and the proof's figures."""
    values, proof = event.values, _table(event.values.get("proof"))
    path = Path(str(values.get("path", "")))
    place = path.relative_to(folder) if path.is_relative_to(folder) else path
    name = f"artifacts/{values.get('kind', 'unknown')}/{path.name}"
    figures = {f"{name}/{key}": value for key, value in _table(proof.get("figures")).items() if _is_number(value)}
    note = {f"{name}/note": str(proof["note"])} if proof.get("note") else {}
    return {f"{name}/path": str(place), f"{name}/verdict": str(proof.get("verdict", "")), **note, **figures}


def noticed(event: Event) -> tuple[str, str]:
    """Of a `notice` event, its sign, and in a line what was seen, what to try and where that is explained."""
    told = [event.values.get(name) for name in ("text", "advice", "page")]
    return str(event.values.get("sign", "notice")), "; ".join(str(part) for part in told if part)


def machine(folder: Path) -> dict[str, str | int | float | bool]:
    """What the run in `folder` runs on, as its manifest says: `environment.cpus`, `versions.torch` and the like."""
    try:
        manifest = _table(json.loads((folder / "manifest.json").read_text("utf-8")))
    except (OSError, ValueError):  # a scratch run has none
        return {}
    return flat({name: _table(manifest.get(name)) for name in ("environment", "versions")})


def _of_kind(kind: str, scores: Mapping[str, Any]) -> dict[str, float]:
    named = {name.removeprefix(f"{kind}/"): n for name, n in scores.items() if name.startswith(f"{kind}/")}
    return {name: float(n) for name, n in named.items() if _is_number(n)}


def _answered(row: Mapping[str, Any], folder: Path) -> Answered:
    texts = {name: str(row.get(name, "")) for name in ("origin", "prompt", "expected", "answer")}
    return Answered(**texts, images=tuple(_files(row.get("images"), folder)))


def _files(names: Any, folder: Path) -> Iterator[Path]:
    base = folder.resolve()
    for name in names if isinstance(names, Sequence) and not isinstance(names, str) else ():
        path = (base / str(name)).resolve()
        if path.is_relative_to(base) and path.is_file():
            yield path


def _group(name: str) -> str:
    if name.startswith("system/"):
        return name
    if not name.startswith("eval_"):
        return f"train/{name}"
    rest = name.removeprefix("eval_")
    return f"counts/{rest}" if rest.partition("/")[0] in COUNTED and "/" in rest else f"eval/{rest}"


def _scalar(value: Any) -> str | int | float | bool:
    if isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return without_secrets(text)


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
