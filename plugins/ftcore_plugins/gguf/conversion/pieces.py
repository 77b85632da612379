"""Tokenizers as SentencePiece's: pieces of plain text, spaces kept as `▁`, and bytes for what no piece has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import attrs
from gguf import TokenType

from ftcore.api import RunError

SPACE = "▁"


@attrs.frozen(kw_only=True)
class Pieces:
    """Text, score and type of each piece, and whether a space is put before a text."""

    pieces: Sequence[tuple[str, float, int]]
    space_first: bool


def read_pieces(path: Path) -> Pieces:
    """What a `tokenizer.model` holds. Raises `RunError` when SentencePiece cannot read it."""
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor()
    try:
        processor.Load(str(path))
    except (OSError, RuntimeError) as error:
        raise RunError(f"gguf: {path} cannot be read ({str(error)[:100]}); merge the model again") from error
    count = processor.GetPieceSize()
    pieces = [
        (processor.IdToPiece(index), processor.GetScore(index), _kind(processor, index)) for index in range(count)
    ]
    return Pieces(pieces=pieces, space_first="".join(processor.EncodeAsPieces("a")).startswith(SPACE))


def _kind(processor: Any, index: int) -> int:
    # A piece that was defined by a user is one that merges, as the runtime's own algorithm takes it.
    kinds = {
        TokenType.UNKNOWN: processor.IsUnknown,
        TokenType.CONTROL: processor.IsControl,
        TokenType.UNUSED: processor.IsUnused,
        TokenType.BYTE: processor.IsByte,
    }
    return next((kind for kind, matches in kinds.items() if matches(index)), TokenType.NORMAL)


def fallback_scores(model: Mapping[str, Any]) -> Mapping[str, float] | None:
    """Scores that make llama.cpp merge as the merges of a `tokenizer.json` say, or None where none can.

    llama.cpp merges whatever two neighbours are a piece together, the one with the highest score first. That is the
    same as merging by rank where every such pair is in the merges, and those of a piece stand together: as where the
    merges were made from a SentencePiece model. Merges that were learned as such lack most of the pairs.
    """
    merges = [_pair(merge) for merge in model["merges"]]
    made = [piece for piece, _ in groupby(left + right for left, right in merges)]
    if len(made) != len(set(made)):
        return None
    pairs, vocabulary = set(merges), model["vocab"]
    if any(pair not in pairs for piece in made for pair in _splits(piece, vocabulary)):
        return None
    return {piece: -float(rank) for rank, piece in enumerate(made)}


def fallback_model(tokenizer: Mapping[str, Any]) -> str:
    """The name of llama.cpp's way to merge plain text by rank. Raises `RunError` where it would do something else."""
    normalizer = tokenizer.get("normalizer") or {}
    replaces = normalizer.get("type") == "Replace" and normalizer.get("pattern") == {"String": " "}
    over_lines = any("\n" in piece.strip("\n") or piece.strip("\n") not in ("", piece) for piece in _made(tokenizer))
    if replaces and normalizer.get("content") == SPACE and not over_lines:
        return "gemma4"
    raise RunError(
        "gguf: tokenizer.json merges pieces in an order that no scores give; put the base model's tokenizer.model "
        "beside it"
    )


def _made(tokenizer: Mapping[str, Any]) -> Iterator[str]:
    return ("".join(_pair(merge)) for merge in tokenizer["model"]["merges"])


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _splits(piece: str, vocabulary: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    for at in range(1, len(piece)):
        if piece[:at] in vocabulary and piece[at:] in vocabulary:
            yield piece[:at], piece[at:]
