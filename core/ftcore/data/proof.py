"""Prove, on real rows, that the labels train each reply with its end-of-turn token and nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from ftcore.errors import FtcoreError, PluginError, RunError
from ftcore.values import MASKED, Example, PreparedData, Row, Rows

SAMPLE = 64
BATCH = 8
SHOWN_TOKENS = 24
SHOWN_TEXT = 120
TELLING = 8
"""Characters from which on a text of a row is unlikely to occur in another one by chance."""


def prove_labels(data: PreparedData, processor: Any, seed: int, rows: Rows | None = None) -> int:
    """Check a sample of rows as the collator hands them to the model; return how many were checked.

    The longest and the shortest training row are always among them. With the raw `rows`, which lie as `data`
    does, the proof does not have to take the formatter's word for what is prompt and what is reply. Raises
    `RunError` that names the first wrong row and shows its tokens.
    """
    if not len(data.train):
        raise RunError("nothing to train on: the formatter kept no rows")
    checked = 0
    for side, examples in (("train", data.train), ("validation", data.validation)):
        places = _sample(len(examples), data.lengths if side == "train" else (), seed)
        raw: Sequence[Row] | None = getattr(rows, side, None)
        for start in range(0, len(places), BATCH):
            batch = places[start : start + BATCH]
            _prove_batch(data, processor, [examples[i] for i in batch], [raw[i] if raw else None for i in batch])
        checked += len(places)
    return checked


def trained_spans(labels: Sequence[int]) -> Iterator[list[int]]:
    """Maximal runs of positions whose label is not masked."""
    span: list[int] = []
    for position, label in enumerate(labels):
        if label != MASKED:
            span.append(position)
        elif span:
            yield span
            span = []
    if span:
        yield span


def _sample(count: int, lengths: Sequence[int], seed: int) -> list[int]:
    if count <= SAMPLE:
        return list(range(count))
    extremes = {lengths.index(pick(lengths)) for pick in (max, min)} if len(lengths) else set[int]()
    chosen = extremes | set(random.Random(seed).sample(range(count), SAMPLE - len(extremes)))  # noqa: S311
    return sorted(chosen)


@attrs.frozen(kw_only=True)
class _Seen:
    """One row as the model sees it: a list entry a token, padding included."""

    ids: list[int]
    labels: list[int]
    attention: list[int]


def _prove_batch(data: PreparedData, processor: Any, examples: Sequence[Example], rows: Sequence[Row | None]) -> None:
    for example, row, seen in zip(examples, rows, _collated(data, examples), strict=True):
        trained = (
            _whole_fault(data, processor, seen)
            if data.trains == "everything"
            else _span_fault(data, processor, example, seen)
        )
        fault = _token_fault(data, seen) or trained or _collated_fault(example, seen)
        if data.trains == "replies":
            fault = fault or _prompt_fault(row, processor, example, seen)
        if fault:
            shown = show_labels(processor, seen.ids, seen.labels)
            raise RunError(f"{example.origin}: the labels are wrong: {fault}\n  {shown}")


def _collated(data: PreparedData, examples: Sequence[Example]) -> list[_Seen]:
    try:
        batch = data.collate(examples)
        ids, labels, attention = (batch[name].tolist() for name in ("input_ids", "labels", "attention_mask"))
        rows = [_Seen(ids=i, labels=la, attention=a) for i, la, a in zip(ids, labels, attention, strict=True)]
        if len(rows) != len(examples) or any(not len(r.ids) == len(r.labels) == len(r.attention) for r in rows):
            raise ValueError(f"{len(examples)} examples became rows of other numbers or lengths")
    except FtcoreError:
        raise
    except Exception as error:
        wanted = "tensors input_ids, labels and attention_mask of one shape, a row for each example"
        raise PluginError(f"the collator must give {wanted}: {type(error).__name__}: {error}") from error
    return rows


def _collated_fault(example: Example, seen: _Seen) -> str:
    """The collator may pad, on either side, and nothing else."""
    real = [position for position, attended in enumerate(seen.attention) if attended]
    ids, labels = ([column[position] for position in real] for column in (seen.ids, seen.labels))
    if ids != list(example.input_ids):
        return f"the collator gives the model {len(ids)} tokens that are not the row's own {len(example.input_ids)}"
    if labels != list(example.labels):
        return "the collator gives the model other labels than the formatter made"
    return ""


def _token_fault(data: PreparedData, seen: _Seen) -> str:
    for position, (token, label) in enumerate(zip(seen.ids, seen.labels, strict=True)):
        if label == MASKED:
            continue
        if label != token:
            return f"token {position} is {token}, but its label is {label}; a label is the token itself or {MASKED}"
        if not seen.attention[position]:
            return f"token {position} is padding, but it is trained"
        if label in data.never_trained:
            return f"token {position} must never be trained (an image token, say), but it is"
    return ""


def _whole_fault(data: PreparedData, processor: Any, seen: _Seen) -> str:
    """Every token but the first is trained, image tokens and their like aside."""
    real = [position for position, attended in enumerate(seen.attention) if attended]
    if len(real) < 2:  # noqa: PLR2004  # the first one is what the second is predicted from
        return "no token is trained, so the row teaches nothing; drop it"
    left_out = [p for p in real[1:] if seen.labels[p] == MASKED and seen.ids[p] not in data.never_trained]
    if left_out:
        return f"token {left_out[0]} is not trained, but every token is to be"
    if seen.labels[real[0]] != MASKED:
        return "the first token is trained, which nothing comes before; mask it"
    return _end_fault(data, processor, seen.ids[real[-1]])


def _end_fault(data: PreparedData, processor: Any, token: int) -> str:
    ends = (*data.stops, *sorted(data.inner_ends))
    if token in ends:
        return ""
    last, *wanted = (decode(processor, [each]) for each in (token, *ends))
    named = " or ".join(map(repr, wanted))
    return f"the last trained token is {last!r}, not the end-of-turn token {named}; the model would never stop"


def _span_fault(data: PreparedData, processor: Any, example: Example, seen: _Seen) -> str:
    spans = list(trained_spans(seen.labels))
    if len(spans) != len(example.replies):
        return f"{len(spans)} spans are trained, but the row has {len(example.replies)} replies"
    for span, reply in zip(spans, example.replies, strict=True):
        fault = _reply_fault(data, processor, [seen.ids[position] for position in span], reply)
        if fault:
            return fault
    if not spans:
        return "no token is trained, so the row teaches nothing; drop it"
    if not any(seen.attention[: spans[0][0]]):
        return "the first token is trained, so no prompt is masked; mask it"
    return ""


def _reply_fault(data: PreparedData, processor: Any, tokens: list[int], reply: str) -> str:
    if not reply:
        return "the reply is empty; drop the row"
    fault = _end_fault(data, processor, tokens[-1])
    if fault:
        return fault
    text = decode(processor, tokens[:-1])
    if text != reply:
        return f"the trained tokens read {_short(text)}, but the reply is {_short(reply)}"
    return ""


def _prompt_fault(row: Row | None, processor: Any, example: Example, seen: _Seen) -> str:
    """Against the raw row, whatever the formatter says: is some of its text the prompt, or is all of it trained?"""
    texts = {text.strip() for text in _texts(row.values if row else {}) if len(text.strip()) >= TELLING}
    trained = [text for text in texts if any(text in reply for reply in example.replies)]
    apart = [text for text in trained if not any(text != other and text in other for other in trained)]
    masked = decode(processor, [token for token, label in zip(seen.ids, seen.labels, strict=True) if label == MASKED])
    if len(apart) > len(example.replies) and not any(text in masked for text in texts):
        return (
            f"of the row, {' and '.join(_short(text) for text in sorted(apart)[:2])} are trained and nothing is masked"
        )
    return ""


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def decode(processor: Any, tokens: Sequence[int]) -> str:
    """The text of the tokens, special tokens and spaces as they are."""
    tokenizer = getattr(processor, "tokenizer", processor)
    return str(tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def show_labels(processor: Any, ids: Sequence[int], labels: Sequence[int]) -> str:
    """The tokens around the first trained one; `[x]` is trained, `x` is masked."""
    first = next((i for i, label in enumerate(labels) if label != MASKED), 0)
    start = max(0, first - SHOWN_TOKENS // 2)
    places = range(start, min(start + SHOWN_TOKENS, len(ids)))
    words = [repr(decode(processor, [ids[i]]))[1:-1] for i in places]
    marked = [f"[{word}]" if labels[i] != MASKED else word for i, word in zip(places, words, strict=True)]
    return " ".join([*(["..."] if start else []), *marked, *(["..."] if places.stop < len(ids) else [])])


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN_TEXT else f"{text[:60]} ... {text[-50:]}")
