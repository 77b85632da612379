"""Tokenized rows on the disk: what is written is what is read, in its order, here and in another process."""

from __future__ import annotations

import pickle
from pathlib import Path

import attrs
import pytest

from ftcore.data.cache import cached, clear
from ftcore.data.store import Stored, Writer, key_of
from ftcore.testing import make_run
from ftcore.values import MASKED, Example

PLAIN = Example(input_ids=[7, 8, 9], labels=[MASKED, 8, 9], replies=("ü",), origin="x.jsonl:1")
RICH = Example(
    input_ids=[1, 2, 3, 4, 5],
    labels=[1, MASKED, 3, 4, MASKED],
    replies=("a", ""),
    origin="x.jsonl:2",
    features={"images": ["1.png"], "size": 2},
    folder=Path("/data/some where"),
)
UNTRAINED = Example(input_ids=[3], labels=[MASKED], replies=(), origin="x.jsonl:3")


def written(folder: Path, **files: list[list[Example]]) -> Path:
    """Files by name, each of several batches."""
    for name, batches in files.items():
        with Writer(folder / f"{name}.arrow") as writer:
            for batch in batches:
                writer.write(batch)
    return folder


def plain(examples) -> list[Example]:
    return [attrs.evolve(each, input_ids=list(each.input_ids), labels=list(each.labels)) for each in examples]


def test_rows_come_back_as_they_were_in_the_order_of_the_files_names(tmp_path):
    folder = written(tmp_path, b=[[UNTRAINED]], a=[[PLAIN], [], [RICH, PLAIN]], c=[[]])
    stored = Stored(folder)
    assert plain(stored) == [PLAIN, RICH, PLAIN, UNTRAINED]
    assert [stored.origin(place) for place in range(len(stored))] == [f"x.jsonl:{n}" for n in (1, 2, 1, 3)]


def test_no_files_are_no_rows(tmp_path):
    assert len(Stored(tmp_path)) == 0


@pytest.mark.parametrize("labels", [[MASKED, 8], [MASKED, 8, 7], [MASKED, 8, 9, 9]])
def test_labels_that_are_not_the_tokens_of_their_places_are_refused(tmp_path, labels):
    with Writer(tmp_path / "a.arrow") as writer, pytest.raises(ValueError, match="a row needs a label for each"):
        writer.write([attrs.evolve(PLAIN, labels=labels)])


def test_twins_are_rows_that_a_model_cannot_tell_apart():
    assert key_of(attrs.evolve(PLAIN, origin="y:9", replies=("z",), labels=[MASKED] * 3)) == key_of(PLAIN)
    assert key_of(attrs.evolve(PLAIN, input_ids=[7, 8, 8])) != key_of(PLAIN)
    assert key_of(attrs.evolve(PLAIN, features={"size": 2})) != key_of(PLAIN)


def test_what_lies_in_files_is_told_apart_by_its_content_or_by_where_it_lies():
    elsewhere = attrs.evolve(RICH, folder=Path("/data/else"))
    assert key_of(elsewhere) == key_of(RICH), "its features are no names of files"
    assert key_of(elsewhere, has_files=True) != key_of(RICH, has_files=True)
    known, other = (attrs.evolve(RICH, features={"content": [each], "images": ["1.png"]}) for each in ("5f", "60"))
    renamed = attrs.evolve(known, folder=Path("/data/else"), features={**known.features, "images": ["2.png"]})
    assert key_of(renamed, has_files=True) == key_of(known, has_files=True)
    assert key_of(other, has_files=True) != key_of(known, has_files=True)


def test_a_worker_opens_them_again_and_meanwhile_nobody_clears_them(tmp_path):
    run, root = make_run(tmp_path, run={"cache_dir": str(tmp_path / "cache")}), tmp_path / "cache"
    stored = Stored(cached(run, "formatted", "k", lambda folder: written(folder, a=[[PLAIN, RICH]]) and None))
    sent = pickle.dumps(stored)
    assert len(sent) < 500, "the name of the folder, and no rows"
    assert clear(root) == []
    again = pickle.loads(sent)
    del stored
    assert clear(root) == []
    assert plain(again) == [PLAIN, RICH]
    del again
    assert [entry.key for entry in clear(root)] == ["k"]
