"""Which rows are trained on, how often, and which are held out: by content, not by order."""

from __future__ import annotations

import hashlib
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
    profile, ours = run.profile, index.ours
    share = 0.0 if ours < len(index.places) else profile.data.validation
    held = _held_out(index.groups[:ours], share, profile.run.seed)
    train, left_out, again = array("Q"), array("Q"), array("Q")
    for row in range(ours):
        if not held[row]:
            part = index.parts[index.rows.part_of(index.places[row])]
            times = _times(part.weight, index.contents[row], profile.run.seed)
            (train if times else left_out).append(row)
            again.extend([row] * (times - 1))
    if not train:
        raise RunError(_none_to_train_on(index, left_out))
    validation = array("Q", (row for row in range(len(index.places)) if row >= ours or held[row]))
    return Split(train=train, validation=validation, left_out=left_out, again=again)


def rows_of(index: Index, split: Split) -> Rows:
    """The split, as hooks see it."""
    train, validation = (
        Chosen[Row](index.rows, array("Q", (index.places[row] for row in side)))
        for side in (split.train, split.validation)
    )
    return Rows(train=train, validation=validation, fingerprint=index.fingerprint)


def _none_to_train_on(index: Index, left_out: array[int]) -> str:
    if left_out:
        return "nothing to train on: data.weights leaves out every row that is not held out; raise them"
    count = len(index.places)
    rows = "the only row is" if count == 1 else f"all {count} rows are"
    return f"nothing to train on: {rows} held out; set data.validation to 0"


def _held_out(groups: array[int], share: float, seed: int) -> bytearray:
    """Whether each row is held out: those of the lowest ranks are, and with each all of its group."""
    if not share or not groups:
        return bytearray(len(groups))
    salt = f"validation {seed}"
    ranks = array("Q", (rank(group, salt) for group in groups))
    cutoff = sorted(ranks)[max(1, round(len(groups) * share)) - 1]
    return bytearray(each <= cutoff for each in ranks)


def rank(number: int, salt: str) -> int:
    """64 bits that look random, the same ones for the same number and salt."""
    digest = hashlib.sha256(salt.encode() + number.to_bytes(8, "little")).digest()
    return int.from_bytes(digest[:8], "little")


def _times(weight: float, content: int, seed: int) -> int:
    """How often a row comes in an epoch: a weight of 2.5 is twice for all and once more for a half of them."""
    whole = int(weight)
    part = weight - whole
    return whole + (1 if part and rank(content, f"weight {seed}") / FULL < part else 0)
