"""`gemma_grid` makes what the real `Gemma3Processor` makes, trains the reply alone, and refuses bad rows."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest
from PIL import Image

from ftcore.api import MASKED, Example, Row, Run
from ftcore.testing import formatted, make_run, prove_labels
from grid_kit import COLOURS, IMAGE_TOKENS, WIDE, make_format, make_model, make_processor, make_row, save


@pytest.fixture(scope="module")
def processor() -> Any:
    return make_processor()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "run").mkdir()
    return make_run(tmp_path / "run", data={"validation": 0.0})


def encoded(run: Run, row: Row, processor: Any, **options: Any) -> Example:
    [example] = make_format(run, [row], processor, options).encode([row])
    assert isinstance(example, Example)
    return example


def real_inputs(processor: Any, grid: Image.Image, text: str, **images_kwargs: Any) -> Any:
    """The prompt as transformers itself makes it."""
    parts = [{"type": "image", "image": grid}, {"type": "text", "text": text}]
    return processor.apply_chat_template(
        [{"role": "user", "content": parts}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"images_kwargs": images_kwargs},
    )


REAL_WIDE = {
    "do_pan_and_scan": True,
    "pan_and_scan_min_crop_size": 32,
    "pan_and_scan_max_num_crops": 4,
    "pan_and_scan_min_ratio_to_activate": 1.2,
}


@pytest.mark.parametrize(("options", "real"), [({}, {}), (WIDE, REAL_WIDE)], ids=["plain", "pan and scan"])
def test_inputs_are_the_real_processors(
    run: Run, tmp_path: Path, processor: Any, options: dict[str, Any], real: dict[str, Any]
) -> None:
    row = make_row(tmp_path, context="  go to the ball ü🙂 \n", question="Which way?")
    format_ = make_format(run, [row], processor, {**options, "prompt": "1 is old\n{context}\n{question}"})
    [example] = format_.encode([row])
    batch = format_.collate(
        [attrs.evolve(example, input_ids=example.prompt_ids, labels=[MASKED] * len(example.prompt_ids))]
    )
    pictures = format_.collate.pictures
    grid = pictures.grid(pictures.open(row.folder, row.values["frames"]))
    assert grid.size == (96, 64)
    wanted = real_inputs(processor, grid, "1 is old\ngo to the ball ü🙂\nWhich way?", **real)
    assert batch["input_ids"].tolist() == wanted["input_ids"].tolist()
    assert batch["attention_mask"].tolist() == wanted["attention_mask"].tolist()
    assert batch["token_type_ids"].tolist() == wanted["token_type_ids"].tolist()
    assert batch["pixel_values"].equal(wanted["pixel_values"])
    shown = 3 if real else 1
    assert batch["pixel_values"].shape[0] == shown
    assert int(batch["token_type_ids"].sum()) == shown * IMAGE_TOKENS
    assert example.features["crops"] == shown - 1


def test_tokens_read_as_a_conversation(run: Run, tmp_path: Path, processor: Any) -> None:
    example = encoded(run, make_row(tmp_path), processor, prompt="{context}")
    tokenizer = processor.tokenizer
    assert tokenizer.decode(example.input_ids) == (
        "<bos><start_of_turn>user\n\n\n<start_of_image>" + "<image_soft_token>" * IMAGE_TOKENS + "<end_of_image>\n\n"
        'go to the red ball 1<end_of_turn>\n<start_of_turn>model\n{"button": "left"}<end_of_turn>'
    )
    trained = [label for label in example.labels if label != MASKED]
    assert tokenizer.decode(trained) == '{"button": "left"}<end_of_turn>'
    assert list(example.input_ids[-len(trained) :]) == trained
    assert example.replies == ('{"button": "left"}',)


def test_labels_are_proved_by_the_engine(run: Run, tmp_path: Path, processor: Any) -> None:
    rows = [make_row(tmp_path, number, action={"button": "left", "hold": number}) for number in range(1, 6)]
    format_ = make_format(run, rows, processor, WIDE)
    data = formatted(run, format_, rows)
    assert prove_labels(data, format_.processor, 0) == 5
    assert not data.packable
    assert data.ledger.trained == 5
    image_tokens = {
        processor.tokenizer.convert_tokens_to_ids(f"<{name}>") for name in ("start_of_image", "end_of_image")
    }
    assert data.never_trained == image_tokens | {processor.tokenizer.image_token_id}
    for example in data.train:
        assert data.never_trained.isdisjoint(example.labels)
        assert example.folder == tmp_path
    assert data.collate(list(data.train))["pixel_values"].shape == (15, 3, 28, 28)


def test_rows_with_images_are_dropped_rather_than_cut(tmp_path: Path, processor: Any) -> None:
    (tmp_path / "run").mkdir()
    run = make_run(tmp_path / "run", data={"long_rows": "cut", "validation": 0.0}, train={"max_length": 60})
    rows = [make_row(tmp_path, 1), make_row(tmp_path, 2, context="go to the red ball " * 20)]
    data = formatted(run, make_format(run, rows, processor, {"prompt": "{context}"}), rows)
    assert data.ledger.reasons == {"longer than train.max_length": 1}
    assert len(data.train) == 1


def test_folder_of_the_guide(run: Run, tmp_path: Path, processor: Any) -> None:
    """`pokemon_grid_dataset.jsonl` beside `grid_images/`."""
    name = save(tmp_path, "grid_images/000001.png", size=(480, 320))
    values = {
        "image": name,
        "context": "You play.",
        "question": "What next?",
        "output": '{"button": "right", "hold": 2}',
    }
    row = Row(values=values, origin="pokemon_grid_dataset.jsonl:1", folder=tmp_path)
    example = encoded(run, row, processor)
    assert example.replies == ('{"button": "right", "hold": 2}',)
    assert "You play.\nWhat next?\n" in processor.tokenizer.decode(example.input_ids)


def test_content_is_what_the_pictures_show(run: Run, tmp_path: Path, processor: Any) -> None:
    one, two = make_row(tmp_path, 1), make_row(tmp_path, 2)
    same, other = [save(tmp_path, f"x/{colour}.bmp", colour) for colour in COLOURS], list(one.values["frames"][::-1])
    contents = [
        encoded(run, row, processor).features["content"]
        for row in (one, two, make_row(tmp_path, 1, frames=same), make_row(tmp_path, 1, frames=other))
    ]
    assert contents[0] == contents[1] == contents[2] != contents[3]


# The model


def test_model_learns_from_what_it_sees(run: Run, tmp_path: Path, processor: Any) -> None:
    import torch

    black, white = ([save(tmp_path, f"{colour}.png", colour)] * 4 for colour in ("black", "white"))
    rows = [make_row(tmp_path, frames=black), make_row(tmp_path, frames=white), make_row(tmp_path, context="go")]
    format_ = make_format(run, rows, processor, WIDE)
    model, examples = make_model(processor), list(format_.encode(rows))
    batch = format_.collate(examples)
    output = model(**batch)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    sight = model.model.vision_tower.get_parameter("embeddings.patch_embedding.weight")
    assert float(sight.grad.abs().sum()) > 0
    with torch.no_grad():
        logits = model(**format_.collate(examples[:2])).logits
    assert examples[0].input_ids == examples[1].input_ids
    assert not torch.allclose(logits[0, -1], logits[1, -1]), "the same words over another picture"


def test_padding(run: Run, tmp_path: Path, processor: Any) -> None:
    import torch

    rows = [make_row(tmp_path, 1), make_row(tmp_path, 2, context="go")]
    format_ = make_format(run, rows, processor)
    examples = list(format_.encode(rows))
    batch = format_.collate(examples)
    short = len(examples[1].input_ids)
    assert short < batch["input_ids"].shape[1]
    for name, value in (("labels", MASKED), ("attention_mask", 0), ("token_type_ids", 0)):
        assert set(batch[name][1, short:].tolist()) == {value}
    model = make_model(processor).eval()
    with torch.no_grad():
        together = model(**batch).logits[1, :short]
        alone = model(**format_.collate(examples[1:])).logits[0]
    assert torch.allclose(together, alone, atol=1e-4)


def test_prompts_are_collated_for_answers(run: Run, tmp_path: Path, processor: Any) -> None:
    from ftcore_plugins.sft.answers import left_padded

    rows = [make_row(tmp_path, 1), make_row(tmp_path, 2, context="go")]
    format_ = make_format(run, rows, processor)
    prompts = [
        attrs.evolve(example, input_ids=list(example.prompt_ids), labels=[MASKED] * len(example.prompt_ids))
        for example in format_.encode(rows)
    ]
    batch = {name: value for name, value in format_.collate(prompts).items() if name != "labels"}
    model = make_model(processor).eval()
    new = model.generate(**left_padded(batch), max_new_tokens=3, do_sample=False)
    assert new.shape[0] == 2


# Travelling


def test_encoder_travels_without_torch(run: Run, tmp_path: Path, processor: Any) -> None:
    rows = [make_row(tmp_path, number) for number in (1, 2)]
    format_ = make_format(run, rows, processor, {**WIDE, "frame_numbers": True})
    (tmp_path / "encode.pkl").write_bytes(pickle.dumps((format_.encode, rows, list(format_.encode(rows)))))
    code = (
        "import pickle, sys; encode, rows, wanted = pickle.load(open(sys.argv[1], 'rb')); "
        "assert list(encode(rows)) == wanted; "
        "assert not {'torch', 'transformers'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "encode.pkl"], check=True)


def test_collator_travels_and_serves_threads(run: Run, tmp_path: Path, processor: Any) -> None:
    rows = [make_row(tmp_path, number) for number in range(1, 5)]
    format_ = make_format(run, rows, processor, {**WIDE, "frame_numbers": True})
    examples = list(format_.encode(rows))
    collate = pickle.loads(pickle.dumps(format_.collate))
    wanted = format_.collate(examples)
    with ThreadPoolExecutor(4) as pool:
        for batch in pool.map(collate, [examples] * 8):
            assert all(batch[name].equal(wanted[name]) for name in wanted)


def test_processor_is_copied_not_changed(run: Run, tmp_path: Path, processor: Any) -> None:
    row = make_row(tmp_path)
    before = dict(vars(processor.image_processor))
    assert make_format(run, [row], processor).processor is processor
    ready = make_format(run, [row], processor, WIDE).processor
    assert vars(processor.image_processor) == before
    assert "images_kwargs" not in vars(processor)
    grid = Image.new("RGB", (96, 64))
    assert ready(images=[[grid]], text=["<start_of_image>"], return_tensors="pt")["pixel_values"].shape[0] == 3
    ready.save_pretrained(tmp_path / "saved")
    assert '"do_pan_and_scan": true' in (tmp_path / "saved" / "processor_config.json").read_text()
