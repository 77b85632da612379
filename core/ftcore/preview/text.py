"""Rows for a terminal, and for a program."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.text import Text

from ftcore.data.prepare import Prepared
from ftcore.data.proof import decode
from ftcore.errors import printable
from ftcore.manifest import ledger_as_json
from ftcore.preview.figures import figures, sums, trained_tokens
from ftcore.values import MASKED, Example


def as_json(prepared: Prepared, count: int) -> dict[str, Any]:
    """The first rows with tokens, labels and trained text; lengths; the ledger. Keys are stable.

    `trained_tokens` are of `sampled` rows: of all, or of some of a large set.
    """
    data = prepared.data
    found = figures(data)
    return {
        "rows": [_row(prepared, example) for example in data.train[:count]],
        "lengths": found.lengths,
        "trained_tokens": found.trained,
        "sampled": found.sampled,
        "ledger": ledger_as_json(data.ledger),
        "dropped": [{"origin": drop.origin, "reason": drop.reason} for drop in data.ledger.dropped],
        "proved": prepared.proved,
    }


def show(prepared: Prepared, count: int, *, colour: bool) -> None:
    """Print the rows, then what they add up to. Without colours, `[` and `]` surround what is trained."""
    console = Console(highlight=False, markup=False, soft_wrap=True, no_color=not colour)
    for example in prepared.data.train[:count]:
        trained = trained_tokens(example)
        console.print(f"--- {example.origin}: {len(example.input_ids)} tokens, {trained} trained", style="bold")
        console.print(_coloured(prepared, example, colour=colour))
        console.print()
    _show_totals(console, prepared)


def _show_totals(console: Console, prepared: Prepared) -> None:
    data = prepared.data
    found = figures(data)
    for title, spread in (("tokens a row", found.lengths), ("trained tokens a row", found.trained)):
        console.print(f"{title:<22} {'  '.join(f'{name} {value}' for name, value in spread.items())}")
    if found.sampled < len(data.train):
        console.print(f"  (trained tokens are those of {found.sampled} rows, drawn from {len(data.train)})")
    for line in sums(data.ledger, prepared.proved):
        console.print(line)


def _coloured(prepared: Prepared, example: Example, *, colour: bool) -> Text:
    text = Text()
    for trained, words in _stretches(prepared, example):
        shown = printable(words, keep="\n\t")
        text.append(shown if colour or not trained else f"[{shown}]", style="green" if trained else "dim")
    return text


def _stretches(prepared: Prepared, example: Example) -> Iterator[tuple[bool, str]]:
    """Text that is all trained or all masked. Of an image token that is repeated, how often it is."""
    never = prepared.data.never_trained

    def kind(pair: tuple[int, int]) -> tuple[bool, int | None]:
        return pair[1] != MASKED, pair[0] if pair[0] in never else None

    for (trained, image), pairs in groupby(zip(example.input_ids, example.labels, strict=True), kind):
        tokens = [token for token, _ in pairs]
        repeated = image is not None and len(tokens) > 1
        text = decode(prepared.processor, tokens[:1] if repeated else tokens)
        yield trained, f"{{{len(tokens)} x {text}}}" if repeated else text


def _row(prepared: Prepared, example: Example) -> dict[str, Any]:
    trained = [token for token, label in zip(example.input_ids, example.labels, strict=True) if label != MASKED]
    return {
        "origin": example.origin,
        "tokens": [decode(prepared.processor, [token]) for token in example.input_ids],
        "input_ids": list(example.input_ids),
        "labels": list(example.labels),
        "trained_text": decode(prepared.processor, trained),
    }
