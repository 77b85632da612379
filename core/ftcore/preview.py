"""Rows as the model will see them, for a person or a program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from ftcore.errors import printable
from ftcore.manifest import ledger_as_json
from ftcore.prepare import Prepared
from ftcore.proof import decode
from ftcore.values import MASKED, Example

PERCENTILES = (0, 50, 90, 99, 100)
SHOWN_DROPS = 5


def as_json(prepared: Prepared, count: int) -> dict[str, Any]:
    """The first rows with tokens, labels and trained text; lengths; the ledger. Keys are stable."""
    ledger = prepared.data.ledger
    return {
        "rows": [_row(prepared, example) for example in prepared.data.train[:count]],
        "lengths": percentiles([len(example.input_ids) for example in prepared.data.train]),
        "trained_tokens": percentiles([_trained(example) for example in prepared.data.train]),
        "ledger": ledger_as_json(ledger),
        "dropped": [{"origin": drop.origin, "reason": drop.reason} for drop in ledger.dropped],
        "proved": prepared.proved,
    }


def percentiles(counts: Sequence[int]) -> dict[str, int]:
    """Nearest-rank percentiles."""
    ordered = sorted(counts)
    last = len(ordered) - 1
    return {f"p{percent}": ordered[round(last * percent / 100)] for percent in PERCENTILES} if ordered else {}


def show(prepared: Prepared, count: int, *, colour: bool) -> None:
    """Print the rows, then what they add up to. Without colours, `[` and `]` surround what is trained."""
    console = Console(highlight=False, markup=False, soft_wrap=True, no_color=not colour)
    for example in prepared.data.train[:count]:
        trained = _trained(example)
        console.print(f"--- {example.origin}: {len(example.input_ids)} tokens, {trained} trained", style="bold")
        console.print(_coloured(prepared, example, colour=colour))
        console.print()
    _show_totals(console, prepared)


def _show_totals(console: Console, prepared: Prepared) -> None:
    data = prepared.data
    ledger = data.ledger
    for title, counts in (
        ("tokens a row", [len(example.input_ids) for example in data.train]),
        ("trained tokens a row", [_trained(example) for example in data.train]),
    ):
        figures = "  ".join(f"{name} {value}" for name, value in percentiles(counts).items())
        console.print(f"{title:<22} {figures}")
    console.print(
        f"{ledger.rows} rows in = {ledger.trained} trained + {ledger.held_out} held out + {len(ledger.dropped)} dropped"
    )
    for reason, number in ledger.reasons.items():
        origins = [drop.origin for drop in ledger.dropped if drop.reason == reason]
        more = ", ..." if number > SHOWN_DROPS else ""
        console.print(f"  {number} dropped: {reason} ({', '.join(origins[:SHOWN_DROPS])}{more})")
    console.print(f"labels proved on {prepared.proved} rows")


def _coloured(prepared: Prepared, example: Example, *, colour: bool) -> Text:
    text = Text()
    for trained, tokens in _stretches(example):
        words = printable(decode(prepared.processor, tokens), keep="\n\t")
        marked = words if colour or not trained else f"[{words}]"
        text.append(marked, style="green" if trained else "dim")
    return text


def _stretches(example: Example) -> list[tuple[bool, list[int]]]:
    """Runs of tokens that are all trained or all masked."""
    stretches: list[tuple[bool, list[int]]] = []
    for token, label in zip(example.input_ids, example.labels, strict=True):
        trained = label != MASKED
        if not stretches or stretches[-1][0] != trained:
            stretches.append((trained, []))
        stretches[-1][1].append(token)
    return stretches


def _row(prepared: Prepared, example: Example) -> dict[str, Any]:
    trained = [token for token, label in zip(example.input_ids, example.labels, strict=True) if label != MASKED]
    return {
        "origin": example.origin,
        "tokens": [decode(prepared.processor, [token]) for token in example.input_ids],
        "input_ids": list(example.input_ids),
        "labels": list(example.labels),
        "trained_text": decode(prepared.processor, trained),
    }


def _trained(example: Example) -> int:
    return sum(label != MASKED for label in example.labels)
