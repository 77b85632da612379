"""What is compared: runs, checkpoints of them, and base models, as a person names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.errors import ProfileError
from ftcore.evaluation.measuring import Weights
from ftcore.manifest import Manifest

BASE = "base"
AT = "@"

TRAINED_BY = frozenset(
    {
        *("learning_rate", "epochs", "max_steps", "batch_size", "micro_batch_size", "scheduler", "warmup"),
        *("weight_decay", "max_grad_norm", "optimizer", "log_steps", "save_steps", "save_limit", "eval_steps"),
        *("eval_samples", "eval_batch_size", "best_metric", "load_best"),
    }
)
"""Keys of `train` that say how weights come about, and nothing about what the model does with them."""

WRITTEN_BY = frozenset({"name", "output_dir", "cache_dir", "samples", "sample_tokens"})
"""Keys of `run` that have no part in the model either."""


@attrs.frozen(kw_only=True)
class Subject:
    """One model of a comparison, and what it is called there."""

    name: str
    folder: Path
    weights: Weights


def subjects_of(named: Sequence[str], checkpoints: Sequence[int] = ()) -> tuple[Subject, ...]:
    """Those that `RUN`, `RUN@STEP`, `RUN@base` and `base` name; a run alone is compared with its base.

    `base` is that of the first run, and so are `checkpoints`. Raises `ProfileError` for what cannot be compared.
    """
    if not named or named[0] == BASE:
        raise ProfileError("name a run first, such as: ftcore compare RUN base")
    parts = [_parted(name) for name in named if name != BASE]
    first = parts[0][0]
    pairs = [(first, BASE) if name == BASE else _parted(name) for name in named]
    pairs += [(first, str(step)) for step in checkpoints]
    if len(pairs) == 1:
        pairs = [*pairs, (first, BASE)] if pairs[0][1] != BASE else pairs
    if len(pairs) == 1:
        raise ProfileError(f"{named[0]}: one model alone; name another one beside it")
    found = tuple(_subject(folder, which, pairs) for folder, which in pairs)
    names = [subject.name for subject in found]
    twin = next((name for name in names if names.count(name) > 1), None)
    if twin is not None:
        raise ProfileError(f"{twin} is named twice; name each model once")
    return found


def _parted(name: str) -> tuple[Path, str]:
    """The run's folder, and which weights of it. A folder may have an @ in its name."""
    folder, at, which = name.rpartition(AT)
    if not at or Path(name).is_dir():
        return Path(name), ""
    if which != BASE and not which.isdecimal():
        raise ProfileError(f"{name}: write RUN{AT}STEP or RUN{AT}{BASE}, such as {folder or 'RUN'}{AT}120")
    return Path(folder), which


def _subject(folder: Path, which: str, pairs: Sequence[tuple[Path, str]]) -> Subject:
    place = folder.resolve()
    folders = {each.resolve() for each, _ in pairs}
    short = place.name if sum(other.name == place.name for other in folders) == 1 else str(place)
    weights = Weights(base=which == BASE, checkpoint=int(which) if which.isdecimal() else None)
    base_alone = which == BASE and place == pairs[0][0].resolve()
    name = BASE if base_alone else f"{short}{AT}{which}" if which else short
    return Subject(name=name, folder=place, weights=weights)


def reference_of(subjects: Sequence[Subject]) -> Subject:
    """What the others are compared with: the first base, or what was named first."""
    return next((subject for subject in subjects if subject.weights.base), subjects[0])


def same_model(one: Manifest, other: Manifest) -> bool:
    """Whether two runs differ at most in how they were trained: then either's weights fit into the other's model."""
    model, data = (("model", "fingerprint"), ("data", "fingerprint"))
    known = [getattr(manifest, table).get(key) for table, key in (model, data) for manifest in (one, other)]
    return None not in known and known[0] == known[1] and known[2] == known[3] and _shared(one) == _shared(other)


def _shared(manifest: Manifest) -> dict[str, Any]:
    settings: Mapping[str, Any] = manifest.settings
    return {
        **settings,
        "run": {key: value for key, value in settings.get("run", {}).items() if key not in WRITTEN_BY},
        "train": {key: value for key, value in settings.get("train", {}).items() if key not in TRAINED_BY},
        "export": {},
    }
