"""What the rows of a run are like: counted where they are prepared, and bounded where they are not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import attrs

from ftcore.errors import ProfileError
from ftcore.planning.facts import ModelFacts
from ftcore.planning.setting import RowShape, positions_of
from ftcore.values import MASKED, Example, PreparedData, Profile

LOOKED_AT = 2000
"""Rows whose labels are counted; lengths are known of all."""

MOST_BYTES = 2**30
"""Files over this are not counted line by line for a plan."""

LINES = {".jsonl", ".ndjson"}


@attrs.frozen(kw_only=True)
class Said:
    """What the user says about the rows; None for what is to be assumed."""

    tokens: int | None = None
    trained: int | None = None
    images: int | None = None


def bounded(profile: Profile, facts: ModelFacts, said: Said) -> RowShape:
    """Rows that nobody has tokenized yet: as long as `train.max_length` lets them be, and trained in full."""
    assumed = []
    longest = positions_of(facts, profile.train.max_length)
    images = 0 if facts.vision is None else 1 if said.images is None else said.images
    if said.tokens is None:
        assumed.append(f"every row has {longest} tokens (train.max_length; --tokens says less)")
    if facts.vision is not None and said.images is None:
        assumed.append(
            f"every row shows one picture of {facts.image_tokens} tokens, without crops (--images says more)"
        )
    longest = min(longest, said.tokens or longest)
    text = max(1, longest - images * facts.image_tokens)
    if said.trained is None:
        assumed.append(f"all {text} tokens of its text are trained (--trained says less)")
    trained = min(text, said.trained or text)
    return RowShape(
        longest=longest,
        typical=longest,
        trained=trained,
        typical_trained=trained,
        images=images,
        count=count_rows(profile),
        assumed=tuple(assumed),
    )


def require_possible(profile: Profile, facts: ModelFacts, said: Said) -> None:
    """Raise `ProfileError` for what the user says and no row can be."""
    longest = positions_of(facts, profile.train.max_length)
    if said.tokens is not None and said.tokens > longest:
        cause = "train.max_length" if longest == profile.train.max_length else "what the model reads"
        raise ProfileError(f"--tokens {said.tokens}: over {cause}, which is {longest}; rows so long are not trained")
    rows = said.tokens or longest
    if said.images and facts.vision is None:
        raise ProfileError(f"--images {said.images}: this model reads text only; leave --images out")
    if said.images and said.images * facts.image_tokens >= rows:
        needed = said.images * facts.image_tokens
        raise ProfileError(f"--images {said.images}: they are {needed} tokens, and a row has {rows}")
    text = rows - (said.images or 0) * facts.image_tokens
    if said.trained is not None and said.trained > text:
        raise ProfileError(f"--trained {said.trained}: a row has {text} tokens of text")


def counted(profile: Profile, facts: ModelFacts, data: PreparedData) -> RowShape:
    """Rows that are prepared: their lengths, and labels and pictures of the longest and of some others."""
    lengths, train = data.lengths, profile.train
    longest = max(lengths)
    order = range(0, len(lengths), max(1, len(lengths) // LOOKED_AT))
    sample = [data.train[place] for place in order]
    most = data.train[max(range(len(lengths)), key=lengths.__getitem__)]
    typical, trained = sum(lengths) / len(lengths), [_trained(example) for example in sample]
    mean = sum(trained) / len(trained)
    count = len(lengths)
    if train.packing and data.packable:  # a sequence is filled to the brim, with rows as they come
        filling = train.max_length / typical
        count, longest, mean = math.ceil(count / filling), train.max_length, mean * filling
        typical = float(train.max_length)
    pictures = _pictures(most, data, facts)
    return RowShape(
        longest=longest,
        typical=typical,
        trained=math.ceil(max(*trained, _trained(most), mean)),
        typical_trained=mean,
        images=pictures,
        count=count,
    )


def steps_of(profile: Profile, rows: RowShape) -> int | None:
    """Optimizer steps of the whole run, or None when nobody knows how many rows there are."""
    train = profile.train
    if train.max_steps is not None:
        return train.max_steps
    if rows.count is None:
        return None
    return max(1, math.ceil(train.epochs * math.ceil(rows.count / train.batch_size)))


def count_rows(profile: Profile) -> int | None:
    """Training rows, by the lines of JSON Lines files, or None for data that would have to be read to be counted."""
    data = profile.data
    paths: Sequence[Path] = () if data.path is None else (data.path,) if isinstance(data.path, Path) else data.path
    if not paths or profile.train.packing or not all(_is_lines(path) for path in paths):
        return None
    if sum(path.stat().st_size for path in paths) > MOST_BYTES:
        return None
    weights = data.weights or (1.0,) * len(paths)
    counts = [_lines(path) for path in paths]
    rows = sum(count * weight for count, weight in zip(counts, weights, strict=False))
    if data.max_rows:  # they are drawn from all files in proportion
        rows *= min(1.0, data.max_rows / sum(counts))
    held_out = 0.0 if data.validation_path or data.validation_split else data.validation
    return max(1, round(rows * (1 - held_out)))


def _is_lines(path: Path) -> bool:
    return path.suffix.lower() in LINES and path.is_file()


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(part.count(b"\n") for part in iter(lambda: file.read(2**20), b"")) or 1


def _trained(example: Example) -> int:
    return sum(label != MASKED for label in example.labels[1:])


def _pictures(example: Example, data: PreparedData, facts: ModelFacts) -> int:
    if facts.vision is None or not facts.image_tokens:
        return 0
    marks = sum(token in data.never_trained for token in example.input_ids)
    return marks // facts.image_tokens
