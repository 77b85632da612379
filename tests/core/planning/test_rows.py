"""What rows are taken to be like, and what they are counted to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from ftcore.errors import ProfileError
from ftcore.planning.rows import Said, bounded, count_rows, counted, require_possible, steps_of
from ftcore.tables import DataTable, TrainTable
from ftcore.values import MASKED, Example, Ledger, PreparedData, Profile
from planned_models import facts


def profile(data: dict[str, Any] | None = None, **train: Any) -> Profile:
    return Profile(data=DataTable(**(data or {})), train=TrainTable(**train))


def seeing() -> Any:
    known = facts()
    return attrs.evolve(known, vision=known.text, image_tokens=16, patches=64)


def test_rows_are_as_long_as_they_may_be() -> None:
    found = bounded(profile(max_length=512), facts(), Said())
    assert (found.longest, found.trained, found.images, len(found.assumed)) == (512, 512, 0, 2)


def test_no_longer_than_the_model_reads() -> None:
    assert bounded(profile(max_length=512), attrs.evolve(facts(), positions=100), Said()).longest == 100


def test_what_the_user_says() -> None:
    found = bounded(profile(max_length=512), seeing(), Said(tokens=200, trained=10, images=2))
    assert (found.longest, found.trained, found.images, found.assumed) == (200, 10, 2, ())


def test_tokens_of_pictures_are_not_trained() -> None:
    found = bounded(profile(max_length=512), seeing(), Said())
    assert (found.images, found.trained) == (1, 512 - 16)
    assert any("--images" in text for text in found.assumed)


def prepared(lengths: list[int], trained: int, image: int = 0) -> PreparedData:
    examples = [
        Example(
            input_ids=[7] * image + [1] * (length - image),
            labels=[MASKED] * (length - trained) + [1] * trained,
            replies=(),
            origin=f"rows:{number}",
        )
        for number, length in enumerate(lengths)
    ]
    return PreparedData(
        train=examples,
        validation=[],
        lengths=lengths,
        collate=lambda rows: {},
        ledger=Ledger(rows=len(lengths), trained=len(lengths), held_out=0),
        end_of_turn=1,
        never_trained=frozenset({7}),
    )


def test_prepared_rows_are_counted() -> None:
    found = counted(profile(), facts(), prepared([10, 20, 60], 4))
    assert (found.longest, found.typical, found.trained, found.count, found.assumed) == (60, 30, 4, 3, ())


def test_pictures_are_counted_by_their_tokens() -> None:
    assert counted(profile(), seeing(), prepared([40, 50], 4, image=32)).images == 2


def test_packed_rows_fill_the_sequence() -> None:
    found = counted(profile(packing=True, max_length=120), facts(), prepared([10, 20, 60], 3))
    assert (found.longest, found.typical, found.count) == (120, 120, 1)
    assert found.typical_trained == pytest.approx(12)


def test_steps() -> None:
    rows = counted(profile(), facts(), prepared([10] * 20, 4))
    assert steps_of(profile(max_steps=7), rows) == 7
    assert steps_of(profile(epochs=2.0, batch_size=8), rows) == 6
    assert steps_of(profile(), attrs.evolve(rows, count=None)) is None


def test_lines_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n" * 100, "utf-8")
    assert count_rows(profile({"path": path, "validation": 0.1})) == 90
    assert count_rows(profile({"path": path, "validation": 0.0, "max_rows": 30})) == 30
    assert count_rows(profile({"path": (path, path), "validation": 0.0, "weights": (1.0, 0.5)})) == 150


def test_other_files_are_not(tmp_path: Path) -> None:
    assert count_rows(profile({"path": tmp_path / "rows.parquet"})) is None
    assert count_rows(profile()) is None


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (Said(tokens=4096), "over train.max_length, which is 2048"),
        (Said(images=2), "reads text only"),
        (Said(tokens=100, trained=101), "a row has 100 tokens of text"),
    ],
)
def test_rows_that_cannot_be_are_refused(said: Said, fault: str) -> None:
    with pytest.raises(ProfileError, match=fault):
        require_possible(profile(max_length=2048), facts(), said)


def test_more_pictures_than_a_row_has_room_for_are_refused() -> None:
    made = profile(max_length=64)
    require_possible(made, seeing(), Said(images=3))
    with pytest.raises(ProfileError, match="they are 64 tokens, and a row has 64"):
        require_possible(made, seeing(), Said(images=4))
