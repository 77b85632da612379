"""The tokenizer of a model's folder, as llama.cpp has it: tokens, their types, and what merges them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from gguf import GGUFWriter, SpecialVocab, TokenType

from ftcore.api import RunError
from ftcore_plugins.common.quiet import quiet_logger
from ftcore_plugins.gguf.conversion.pieces import fallback_model, fallback_scores, read_pieces
from ftcore_plugins.gguf.conversion.pretokenizers import pre_tokenizer

LOOKS_SPECIAL = re.compile(r"<pad>|<mask>|<2mass>|\[@BOS@\]|<\|.*\|>|<\uff5c.*\uff5c>|<unused.*>", re.DOTALL)
"""Marks that some tokenizers add without saying that they are special."""

BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
ADDED_SCORE, PADDING_SCORE = -1000.0, -10000.0


@attrs.frozen(kw_only=True)
class Vocabulary:
    """Tokens by id. `scores` order the merging where there are no merges; `space_first` is put before a text."""

    model: str
    pre: str
    tokens: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float] = ()
    space_first: bool | None = None


def write_vocabulary(writer: GGUFWriter, folder: Path, rows: int) -> None:
    """Write the tokenizer of `folder` for a model whose embedding has so many rows.

    Raises `RunError` for one that llama.cpp does not have.
    """
    found = read_vocabulary(folder, rows)
    writer.add_tokenizer_model(found.model)
    writer.add_tokenizer_pre(found.pre)
    writer.add_token_list(list(found.tokens))
    writer.add_token_types(list(found.types))
    if found.scores:
        writer.add_token_scores(list(found.scores))
    if found.space_first is not None:
        writer.add_add_space_prefix(found.space_first)
    _write_special(writer, folder, rows, merges=not found.scores)


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """The tokenizer of a folder, cut or padded to `rows` tokens."""
    tokenizer = _read(folder / "tokenizer.json")
    model = tokenizer.get("model", {})
    if model.get("type") == "BPE" and not model.get("byte_fallback"):
        return _byte_level(tokenizer, rows)
    if (folder / "tokenizer.model").is_file():
        return _sentencepiece(folder, tokenizer, rows)
    if model.get("type") == "BPE":
        return _byte_fallback(tokenizer, rows)
    kind = model.get("type", "")
    lacks = f"a {kind} tokenizer, which llama.cpp has not" if kind else "neither tokenizer.json nor tokenizer.model"
    raise RunError(f"gguf: {folder} has {lacks}; take a base model with a byte-pair or SentencePiece tokenizer")


def _byte_level(tokenizer: Mapping[str, Any], rows: int) -> Vocabulary:
    pre = pre_tokenizer(tokenizer)
    return _from_json(tokenizer, rows, model="gpt2", pre=pre)


def _byte_fallback(tokenizer: Mapping[str, Any], rows: int) -> Vocabulary:
    scores = fallback_scores(tokenizer["model"])
    if scores is None:
        return _from_json(tokenizer, rows, model="gpt2", pre=fallback_model(tokenizer))
    plain = _from_json(tokenizer, rows, model="llama", pre="default")
    of_type: dict[int, float] = {
        TokenType.CONTROL: ADDED_SCORE,
        TokenType.USER_DEFINED: ADDED_SCORE,
        TokenType.UNUSED: PADDING_SCORE,
    }
    given = [of_type.get(kind, scores.get(token, 0.0)) for token, kind in zip(plain.tokens, plain.types, strict=True)]
    return attrs.evolve(plain, scores=given, space_first=_space_first(tokenizer))


def _from_json(tokenizer: Mapping[str, Any], rows: int, *, model: str, pre: str) -> Vocabulary:
    tokens, types = _padding(rows)
    unknown = tokenizer["model"].get("unk_token")
    fallback = bool(tokenizer["model"].get("byte_fallback"))
    for token, index in tokenizer["model"]["vocab"].items():
        if index < rows:
            tokens[index], types[index] = token, _type_of(token, unknown, fallback)
    for added in tokenizer.get("added_tokens", ()):
        if added["id"] < rows:
            tokens[added["id"]], types[added["id"]] = _added(added, unknown)
    return Vocabulary(model=model, pre=pre, tokens=tokens, types=types)


def _padding(rows: int) -> tuple[list[str], list[int]]:
    return [f"[PAD{index}]" for index in range(rows)], [TokenType.UNUSED] * rows


def _type_of(token: str, unknown: str | None, fallback: bool) -> int:
    if fallback and BYTE.fullmatch(token):
        return TokenType.BYTE
    return TokenType.UNKNOWN if token == unknown else TokenType.NORMAL


def _added(added: Mapping[str, Any], unknown: str | None = None) -> tuple[str, int]:
    content = str(added["content"])
    if content == unknown:
        return content, TokenType.UNKNOWN
    if added.get("special") or LOOKS_SPECIAL.fullmatch(content):
        return content, TokenType.CONTROL
    # llama.cpp looks for these in the text before it writes spaces as a mark.
    return content.replace("▁", " "), TokenType.USER_DEFINED


def _sentencepiece(folder: Path, tokenizer: Mapping[str, Any], rows: int) -> Vocabulary:
    tokens, types = _padding(rows)
    scores = [PADDING_SCORE] * rows
    pieces = read_pieces(folder / "tokenizer.model")
    for index, piece in enumerate(pieces.pieces[:rows]):
        tokens[index], scores[index], types[index] = piece
    for index, added in _added_tokens(folder, tokenizer).items():
        if index < rows:
            tokens[index], types[index] = _added(added)
            scores[index] = ADDED_SCORE
    space_first = _space_first(tokenizer) if tokenizer else pieces.space_first
    return Vocabulary(model="llama", pre="default", tokens=tokens, types=types, scores=scores, space_first=space_first)


def _added_tokens(folder: Path, tokenizer: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    config = _read(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
    older = {index: {"content": content} for content, index in _read(folder / "added_tokens.json").items()}
    newer = {added["id"]: added for added in tokenizer.get("added_tokens", ())}
    return {**older, **newer, **{int(index): added for index, added in config.items()}}


def _space_first(tokenizer: Mapping[str, Any]) -> bool:
    text = json.dumps([tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer")])
    return '"Prepend"' in text or '"prepend_scheme": "first"' in text or '"prepend_scheme": "always"' in text


def _write_special(writer: GGUFWriter, folder: Path, rows: int, *, merges: bool) -> None:
    with quiet_logger("gguf"):
        special = SpecialVocab(folder, load_merges=merges, n_vocab=rows)
    if (folder / "tokenizer.json").is_file():
        # Without a word about it, the runtime decides by the name of the pre-tokenizer.
        for end in ("bos", "eos"):
            special.add_special_token.setdefault(end, False)
    turn = _end_of_turn(folder, special.special_token_ids.get("eos"))
    if turn is not None:
        special.special_token_ids.setdefault("eot", turn)
    special.add_to_gguf(writer, quiet=True)


def _end_of_turn(folder: Path, end_of_text: int | None) -> int | None:
    ends = _read(folder / "generation_config.json").get("eos_token_id")
    return next((end for end in ends if end != end_of_text), None) if isinstance(ends, list) else None


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"gguf: {path} cannot be read ({error}); merge the model again") from error
