"""Which rows are trained on, how often, and which are held out: by content, not by order."""

from __future__ import annotations

import hashlib
import heapq
from array import array

import attrs

from ftcore.data.index import Index
from ftcore.data.sequences import Chosen
from ftcore.errors import RunError
from ftcore.values import Row, Rows, Run

FULL = 2.0**64


@attrs.frozen(kw_only=True)
class Split:
    """Numbers of sound rows (their places in `Index.places`): trained on, held out, left out by a weight.

    `again` are trained rows that come once more in an epoch, each as often as it does.
    """

    train: array[int]
    validation: array[int]
    left_out: array[int]
    again: array[int]


def split_rows(run: Run, index: Index) -> Split:
    """Hold out `data.validation` of the rows, unless the source brings its own held-out rows.

    Rows of equal content, or of equal `data.group`, go to the same side. The choice depends on the content and
    the seed, not on the order of the rows. Raises `RunError` when none is left to train on.
    """
    given = len(index.parts)
    owners = [index.rows.part_of(place) for place in index.places]
    brought = array("Q", (row for row, owner in enumerate(owners) if owner == given))
    ours = [row for row, owner in enumerate(owners) if owner < given]
    share = 0.0 if brought else run.profile.data.validation
    cutoff, ranks = _cutoff(index.groups, ours, share, run.profile.run.seed)
    train, left_out, again = array("Q"), array("Q"), array("Q")
    for row, rank in zip(ours, ranks, strict=True):
        if rank <= cutoff:
            brought.append(row)
            continue
        times = _times(index.parts[owners[row]].weight, index.contents[row], run.profile.run.seed)
        (train if times else left_out).append(row)
        again.extend([row] * (times - 1))
    if not train:
        raise RunError(f"nothing to train on: all {len(index.places)} rows are held out; set data.validation to 0")
    return Split(train=train, validation=brought, left_out=left_out, again=again)


def rows_of(index: Index, split: Split) -> Rows:
    """The split, as hooks see it."""
    train, validation = (
        Chosen[Row](index.rows, array("Q", (index.places[row] for row in side)))
        for side in (split.train, split.validation)
    )
    return Rows(train=train, validation=validation, fingerprint=index.fingerprint)


def _cutoff(groups: array[int], rows: list[int], share: float, seed: int) -> tuple[int, list[int]]:
    """Each row's rank, and the rank up to which rows are held out: -1 for none."""
    if not share or not rows:
        return -1, [0] * len(rows)
    ranks = [rank(groups[row], f"validation {seed}") for row in rows]
    wanted = max(1, round(len(rows) * share))
    return heapq.nsmallest(wanted, ranks)[-1], ranks


def rank(number: int, salt: str) -> int:
    """64 bits that look random, the same ones for the same number and salt."""
    digest = hashlib.sha256(salt.encode() + number.to_bytes(8, "little")).digest()
    return int.from_bytes(digest[:8], "little")


def _times(weight: float, content: int, seed: int) -> int:
    """How often a row comes in an epoch: a weight of 2.5 is twice for all and once more for a half of them."""
    whole = int(weight)
    part = weight - whole
    return whole + (1 if part and rank(content, f"weight {seed}") / FULL < part else 0)
