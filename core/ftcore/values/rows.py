"""Rows, raw and tokenized, and where each one went."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

MASKED = -100
"""Label of a token that is not trained: `ignore_index` of `torch.nn.CrossEntropyLoss`."""


@attrs.frozen(kw_only=True)
class Row:
    """One row of raw data.

    `values` are what JSON can hold. `origin` is where a person finds the row, such as `functions.jsonl:41`.
    Relative paths among the values start in `folder`, and no file outside of it is read; None for no files.
    """

    values: Mapping[str, Any]
    origin: str
    folder: Path | None = None


@attrs.frozen(kw_only=True)
class Part:
    """Rows of one file, folder or split. `weight` says how often each of them comes in one epoch.

    With a weight of 2 each row comes twice; with 0.5 a half of the rows, chosen by content, comes once.
    """

    rows: Sequence[Row]
    weight: float = 1.0


@attrs.frozen(kw_only=True)
class RowSource:
    """What `load_rows` found: rows that may be read only when they are asked for.

    `parts` are trained on, but for the share that the engine holds out; `validation` is held out as it is.
    Reading a row raises `RowError` if it is broken. Sequences of rows must pickle, and should read by need:
    no list of millions. `fingerprint` is a SHA-256 over all that the rows are made from: bytes, names and
    folders; with an equal one the engine does not read them again to see what they hold.
    """

    parts: Sequence[Part]
    validation: Sequence[Row] = ()
    fingerprint: str = ""


@attrs.frozen(kw_only=True)
class Rows:
    """Raw rows, split by content; only held-out rows that a source brings may have twins in `train`.

    Both may read from a file at each access: go through them in order, once. `fingerprint` is a SHA-256
    over the content of all rows in order, before the split.
    """

    train: Sequence[Row]
    validation: Sequence[Row]
    fingerprint: str


@attrs.frozen(kw_only=True)
class Example:
    """One tokenized row.

    `input_ids` and `labels` have one entry a token; a label is `MASKED` or the token itself.
    `replies` are the texts that must be trained, in order, each without its end-of-turn token: the
    engine proves the labels against them. `features` holds what else the formatter's own collator or
    score needs, such as image paths; it is what JSON can hold, and its `content`, if it has one, is a hash
    of what the files hold. `folder` is the row's own.
    """

    input_ids: Sequence[int]
    labels: Sequence[int]
    replies: tuple[str, ...]
    origin: str
    features: Mapping[str, Any] = attrs.field(factory=dict)
    folder: Path | None = None

    @property
    def prompt_ids(self) -> Sequence[int]:
        """The tokens before the last trained span: what a model answers from."""
        trained = [index for index, label in enumerate(self.labels) if label != MASKED]
        start = trained[-1] if trained else len(self.labels)
        while start > 0 and self.labels[start - 1] != MASKED:
            start -= 1
        return self.input_ids[:start]


TOO_LONG = "longer than train.max_length"
"""Reason to drop a row that has more tokens; where `data.long_rows` says so, it is an error."""


@attrs.frozen(kw_only=True)
class Drop:
    """A row that is not trained, and why: `reason` is a short phrase that many rows share."""

    origin: str
    reason: str


@attrs.frozen(kw_only=True)
class Ledger:
    """Where every row went: rows in = trained + held out + dropped. Raises `ValueError` if not.

    `repeated` counts how often rows come again in an epoch, since their part has a weight over 1.
    """

    rows: int
    trained: int
    held_out: int
    dropped: tuple[Drop, ...] = ()
    repeated: int = 0

    def __attrs_post_init__(self) -> None:
        if self.rows != self.trained + self.held_out + len(self.dropped):
            raise ValueError(f"ledger does not add up: {self}")

    @property
    def reasons(self) -> Mapping[str, int]:
        """Dropped rows counted by reason."""
        counts: dict[str, int] = {}
        for drop in self.dropped:
            counts[drop.reason] = counts.get(drop.reason, 0) + 1
        return counts


Collate = Callable[[Sequence[Example]], Mapping[str, Any]]
"""Examples to a batch: a mapping of tensors, `input_ids`, `attention_mask` and `labels` of shape (rows, tokens)."""


@attrs.frozen(kw_only=True)
class Format:
    """What `format_dataset` returns: how a row becomes tokens. The engine feeds it the rows, and counts them.

    `encode` answers a batch of rows with one `Example` or `Drop` each, in order, and depends on nothing but the
    rows: the engine calls it in several processes (where it pickles) and keeps the answers in its cache. It
    raises `RowError` for a row that is not what the format takes. `processor` is what the run goes on with and
    is saved with the model: the one that was given, or a copy with another chat template, say.

    `end_of_turn` is the token that ends a reply. A template may end replies of another kind with `other_ends`, such as
    calls of tools, and those in the midst of a conversation with `inner_ends`; they are trained as well, and answers
    stop at all of these but the last. `never_trained` are tokens that no label may hold, such as
    image tokens. `trains` says whether replies alone are trained, or every token but the first. `packable`
    says that rows may be laid end to end in one sequence. `fingerprint` is a SHA-256 over all that `encode`
    depends on but the rows, the plugin's code and options, and the length policy: the tokenizer, the chat
    template, what was guessed from the first rows. Without one, nothing is kept for the next run.

    The last two let a model be asked what nobody has answered yet. `ask` is `encode` for rows that may lack their
    reply; `prompt_ids` of its examples count, and `replies`, which are empty for such a row. `question` answers the
    columns of one for a text and the paths of images, and raises `RunError` for what the format has no place for.
    Without them, rows must have a reply, and a text alone cannot be asked.
    """

    encode: Callable[[Sequence[Row]], Iterable[Example | Drop]]
    collate: Collate
    processor: Any
    end_of_turn: int
    other_ends: frozenset[int] = frozenset()
    inner_ends: frozenset[int] = frozenset()
    never_trained: frozenset[int] = frozenset()
    trains: Literal["replies", "everything"] = "replies"
    packable: bool = True
    fingerprint: str = ""
    ask: Callable[[Sequence[Row]], Iterable[Example | Drop]] | None = None
    question: Callable[[str, Sequence[str]], Mapping[str, Any]] | None = None


@attrs.frozen(kw_only=True)
class PreparedData:
    """Tokenized rows, ready to train. `lengths` are the tokens of each training row; for the rest see `Format`.

    The sequences map a file: an example is read when it is asked for.
    """

    train: Sequence[Example]
    validation: Sequence[Example]
    lengths: Sequence[int]
    collate: Collate
    ledger: Ledger
    end_of_turn: int
    other_ends: frozenset[int] = frozenset()
    inner_ends: frozenset[int] = frozenset()
    never_trained: frozenset[int] = frozenset()
    trains: Literal["replies", "everything"] = "replies"
    packable: bool = True

    @property
    def stops(self) -> tuple[int, ...]:
        """The tokens at which an answer stops, `end_of_turn` first."""
        return self.end_of_turn, *sorted(self.other_ends - {self.end_of_turn})
