"""A model that sees: its text, and the file beside it that sees images, are proved together."""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np
import pytest

pytest.importorskip("xllamacpp")

from gguf import GGUFReader

from ftcore.api import MASKED, Artifact, Example, Ledger, PreparedData, Row, Verdict
from ftcore_plugins.lora import Lora
from ftcore_plugins.lora import Options as LoraOptions
from ftcore_plugins.sft import Options as SftOptions
from ftcore_plugins.sft import Sft
from ftcore_plugins.tiny_model import Options as TinyOptions
from ftcore_plugins.tiny_model import TinyModel
from gguf_kit import Tuned
from tiny_kit import PadRight, make_rows, make_run


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    folder = tmp_path_factory.mktemp("seeing")
    run, rows = make_run(folder, train={"max_steps": 2}), make_rows()
    plugin = TinyModel(
        TinyOptions(architecture="gemma3", vocabulary_size=600, image_size=56, image_tokens=4, vision_layers=1)
    )
    processor = plugin.load_processor(run, rows)
    tokenizer = processor.tokenizer

    def example(row: Row) -> Example:
        ids = tokenizer.apply_chat_template(row.values["messages"], return_dict=False)
        half = len(ids) // 2
        return Example(input_ids=ids, labels=[MASKED] * half + ids[half:], replies=(), origin=row.origin)

    train, held_out = [example(row) for row in rows.train], [example(row) for row in rows.validation]
    data = PreparedData(
        train=train,
        lengths=[len(each.input_ids) for each in train],
        validation=held_out,
        collate=PadRight(tokenizer.pad_token_id),
        ledger=Ledger(rows=len(train) + len(held_out), trained=len(train), held_out=len(held_out)),
        end_of_turn=tokenizer.convert_tokens_to_ids("<end_of_turn>"),
    )
    loaded = Lora(LoraOptions()).adapt(run, plugin.load_model(run, processor, None))
    Sft(SftOptions()).make_trainer(run, loaded, data, {}).save(folder / "saved")
    tuned = Tuned(run, loaded, data, folder / "saved", folder / "exports")
    tuned.write_reference()
    return tuned


@pytest.fixture(scope="module")
def artifacts(seeing: Tuned) -> list[Artifact]:
    return seeing.export("f16", "q4_k_m")


def test_all_files_are_proved_with_an_image(seeing: Tuned, artifacts: list[Artifact]) -> None:
    assert [path.path.name for path in artifacts] == ["tiny-f16.gguf", "tiny-q4_k_m.gguf", "mmproj-tiny-f16.gguf"]
    for artifact in artifacts:
        proof = seeing.prove(artifact)
        assert proof.verdict is Verdict.PROVED, proof
        assert "image_kl" in proof.figures
    assert seeing.prove(artifacts[-1]).figures["image_kl"] < 1e-4
    assert "FROM ./mmproj-tiny-f16.gguf" in (seeing.exports / "gguf/Modelfile-q4_k_m").read_text()


def test_the_file_that_sees_is_found_beside_one_of_another_tool(
    seeing: Tuned, artifacts: list[Artifact], tmp_path: Path
) -> None:
    text, vision = tmp_path / "any.gguf", tmp_path / "other-mmproj.gguf"
    text.write_bytes(artifacts[0].path.read_bytes())
    alone = seeing.prove_file(text)
    assert alone.verdict is Verdict.NOT_PROVED
    assert "not compared: images" in alone.note
    vision.write_bytes(artifacts[-1].path.read_bytes())
    assert seeing.prove_file(text).verdict is Verdict.PROVED
    assert seeing.prove_file(vision).note.startswith("with any.gguf")
    text.unlink()
    assert seeing.prove_file(vision).note == "there is no text model beside it to see with"


def test_the_note_names_a_file_that_is_shipped(seeing: Tuned, tmp_path: Path) -> None:
    *_, vision = seeing.export("q8_0", exports=tmp_path)
    proof = seeing.prove(vision)
    assert proof.verdict is Verdict.PROVED
    assert proof.note.startswith("with the weights that tiny-q8_0.gguf is made from, gate ")


def test_another_vision_is_found(seeing: Tuned, artifacts: list[Artifact], tmp_path: Path) -> None:
    for artifact in artifacts:
        (tmp_path / artifact.path.name).write_bytes(artifact.path.read_bytes())
    vision = tmp_path / artifacts[-1].path.name
    tensor = next(each for each in GGUFReader(vision).tensors if each.name == "mm.input_projection.weight")
    data = bytearray(vision.read_bytes())
    values = -np.frombuffer(data, tensor.data.dtype, tensor.n_elements, tensor.data_offset)
    data[tensor.data_offset : tensor.data_offset + tensor.n_bytes] = values.tobytes()
    vision.write_bytes(data)
    proof = seeing.prove(attrs.evolve(artifacts[0], path=tmp_path / artifacts[0].path.name))
    assert proof.verdict is Verdict.FAILED
    assert "it sees an image otherwise" in proof.note
