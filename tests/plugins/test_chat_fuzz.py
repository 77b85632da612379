from __future__ import annotations

import contextlib
import os
from typing import Any

import attrs
import pytest

from chat_cases import Family, cases, families, faults, real_families, templates_of_trl, trained_formats
from chat_kit import TEMPLATES, with_tokens
from ftcore.api import RowError
from ftcore_plugins.common.chat import ChatFormat, Encoded, chat_format, conversation

CASES = int(os.environ.get("FTCORE_FUZZ", "500"))


@pytest.fixture(scope="module")
def known() -> dict[str, Family]:
    return families()


@pytest.mark.parametrize("name", [*TEMPLATES, "merging", "alpaca", "inst"])
def test_the_trained_tokens_are_the_replies_and_their_ends(known: dict[str, Family], name: str) -> None:
    family = known[name]
    assert list(faults(family, trained_formats(family), list(cases(0, CASES)))) == []


def one_too_many_after(ids: list[int], labels: list[int]) -> list[int]:
    return [*labels[:-1], ids[-1]]


def one_too_many_before(ids: list[int], labels: list[int]) -> list[int]:
    first = next(place for place, label in enumerate(labels) if label != -100)
    return [*labels[: first - 1], ids[first - 1], *labels[first:]]


def no_end(ids: list[int], labels: list[int]) -> list[int]:
    return [-100 if label == ids[-2] else label for label in labels]


@pytest.mark.parametrize("wrong", [one_too_many_after, one_too_many_before, no_end])
def test_the_oracle_finds_wrong_labels(known: dict[str, Family], monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    family = known["chatml"]
    drawn = [case for case in cases(0, 60) if case.train == "all"]
    ready = chat_format(family.tokenizer)
    made = ChatFormat._encoded

    def broken(self: ChatFormat, ids: list[int], labels: list[int], replies: list[str]) -> Encoded:
        return attrs.evolve(made(self, ids, labels, replies), labels=wrong(ids, labels))

    monkeypatch.setattr(ChatFormat, "_encoded", broken)
    assert list(faults(family, {"all": ready}, drawn))


@pytest.mark.parametrize("name", real_families())
def test_the_templates_of_well_known_models(name: str) -> None:
    family = real_families()[name]
    assert list(faults(family, trained_formats(family), list(cases(2, CASES // 5)))) == []


UNTRAINABLE = "glm4moe.jinja"
"""It ends a reply with no token."""

TRAINABLE = [name for name in templates_of_trl() if name != UNTRAINABLE and "training" not in name]


@pytest.mark.parametrize("name", sorted(TRAINABLE))
def test_cutting_by_shape_is_cutting_by_every_prompt(name: str) -> None:
    format_ = chat_format(with_tokens(templates_of_trl()[name]), train="last")
    layout, seen = format_.layout, 0
    for case in cases(1, 40):
        one = format_._prepared(conversation(case.messages, "x"))
        turns = format_._turns(one)
        if format_._refusal(one, turns) or "</think>" in str(case.messages):
            continue
        with contextlib.suppress(RowError):  # a family without a system prompt
            exact = layout.exact.pieces([one], [turns])
            assert layout.pieces([one], [turns]) == exact
            seen += 1
    assert seen > 5
