"""Fingerprint raw rows, and hold some out by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ftcore.errors import RunError
from ftcore.values import Row, Rows


def split_rows(rows: Sequence[Row], share: float, seed: int) -> Rows:
    """Hold out about `share` of the rows. Rows of equal content go to the same side.

    The choice depends on the content and the seed, not on the order of the rows. Raises `RunError` when
    there are no rows, or none is left to train on.
    """
    if not rows:
        raise RunError("nothing to train on: the data has no rows")
    digests = [_digest(row.values) for row in rows]
    held = _held_out(digests, round(len(rows) * share), seed) if share else set()
    train = [row for row, digest in zip(rows, digests, strict=True) if digest not in held]
    validation = [row for row, digest in zip(rows, digests, strict=True) if digest in held]
    if not train:
        raise RunError(f"nothing to train on: all {len(rows)} rows are held out; set data.validation to 0")
    return Rows(train=train, validation=validation, fingerprint=hashlib.sha256(b"".join(digests)).hexdigest())


def _held_out(digests: Sequence[bytes], wanted: int, seed: int) -> set[bytes]:
    twins: dict[bytes, int] = {}
    for digest in digests:
        twins[digest] = twins.get(digest, 0) + 1
    salt = str(seed).encode()
    order = sorted(twins, key=lambda digest: hashlib.sha256(salt + digest).digest())
    held: set[bytes] = set()
    count = 0
    for digest in order:
        if count >= max(wanted, 1):
            break
        held.add(digest)
        count += twins[digest]
    return held


def _digest(values: Mapping[str, Any]) -> bytes:
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=repr)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
