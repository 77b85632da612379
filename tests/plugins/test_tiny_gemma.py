"""The tiny Gemma 3: a real model and a real processor, saved and read like any other, and it sees."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from ftcore.api import Loaded, Quantization, Row, Rows, Run
from ftcore_plugins.lora import Lora
from ftcore_plugins.lora import Options as LoraOptions
from ftcore_plugins.tiny_model import Options, TinyModel
from tiny_kit import make_run

BUTTONS = ("forward", "left", "right", "toggle")
TINY: Mapping[str, Any] = {"architecture": "gemma3", "image_size": 56, "image_tokens": 4}
IMAGE_TOKENS = 4


def grid_rows(count: int = 24) -> Rows:
    """Rows as of a game: four frames, a text, an action."""
    train = [
        Row(
            values={
                "frames": [f"frames/{i:06d}-{n}.png" for n in range(4)],
                "context": f"mission: go to the {('red', 'blue')[i % 2]} ball, step {i}",
                "action": {"button": BUTTONS[i % 4]},
            },
            origin=f"rows.jsonl:{i + 1}",
        )
        for i in range(count)
    ]
    return Rows(train=train, validation=[], fingerprint="f" * 64)


def load(run: Run, quantization: Quantization | None = None, **options: Any) -> Loaded:
    plugin = TinyModel(Options(**{**TINY, **options}))
    return plugin.load_model(run, plugin.load_processor(run, grid_rows()), quantization)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Shared: tests do not change it."""
    return load(make_run(tmp_path_factory.mktemp("gemma")))


def colour(name: str, size: int = 56) -> Image.Image:
    return Image.new("RGB", (size, size), name)


def question(text: str = "mission: go") -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}


def encode(processor: Any, images: list[Image.Image], *, reply: str = "") -> Any:
    """A batch of one question about each image, with the reply or the prompt for one."""
    messages = [question(), {"role": "assistant", "content": reply}] if reply else [question()]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=not reply)
    nested = [[image] for image in images]
    return processor(images=nested, text=[text] * len(images), return_tensors="pt", add_special_tokens=False)


def test_the_processor_makes_what_a_gemma_3_reads(gemma: Loaded) -> None:
    batch = encode(gemma.processor, [colour("red"), colour("blue", 80)])
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "pixel_values"}
    assert batch["pixel_values"].shape == (2, 3, 56, 56)
    image = batch["input_ids"] == gemma.processor.tokenizer.image_token_id
    assert image.sum(1).tolist() == [IMAGE_TOKENS, IMAGE_TOKENS]
    assert torch.equal(image.long(), batch["token_type_ids"])
    assert gemma.processor.image_seq_length == gemma.model.config.mm_tokens_per_image == IMAGE_TOKENS


def test_the_tokens_are_those_of_gemma_3(gemma: Loaded) -> None:
    tokenizer = gemma.processor.tokenizer
    named = ("pad_token", "eos_token", "bos_token", "unk_token", "boi_token", "eoi_token", "image_token")
    assert [getattr(tokenizer, name) for name in named] == [
        *("<pad>", "<eos>", "<bos>", "<unk>"),
        *("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
    ]
    assert [tokenizer.convert_tokens_to_ids(token) for token in ("<pad>", "<eos>", "<bos>", "<unk>")] == [0, 1, 2, 3]
    for mark in ("<start_of_turn>", "<end_of_turn>"):
        assert tokenizer.tokenize(f"a{mark}b") == ["a", mark, "b"]
        assert tokenizer.decode(tokenizer.encode(mark), skip_special_tokens=True) == ""
    assert tokenizer("go").input_ids[0] == tokenizer.bos_token_id
    assert gemma.model.config.eos_token_id == [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    assert gemma.model.generation_config.eos_token_id == gemma.model.config.eos_token_id
    assert len(tokenizer) == gemma.model.config.text_config.vocab_size <= Options().vocabulary_size


@pytest.mark.parametrize(
    "text", ["any byte: ü 你 🙂 \x00", "  spaces  kept \n\n", '{"button": "forward"}', "spelled <0x41>x", "123"]
)
def test_any_text_survives(gemma: Loaded, text: str) -> None:
    tokenizer = gemma.processor.tokenizer
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_what_rows_spell_like_a_byte_stays_text(tmp_path: Path) -> None:
    rows = Rows(train=[Row(values={"a": "<0x41>x <0x41>x <eos>"}, origin="r:1")] * 9, validation=[], fingerprint="")
    tokenizer = TinyModel(Options(**TINY)).load_processor(make_run(tmp_path), rows).tokenizer
    assert tokenizer.decode(tokenizer("A <0x41>x Ax", add_special_tokens=False).input_ids) == "A <0x41>x Ax"


def test_targets_are_few_tokens_and_file_names_take_none(gemma: Loaded) -> None:
    tokenizer = gemma.processor.tokenizer
    assert all(len(tokenizer.tokenize(json.dumps({"button": button}))) < 6 for button in BUTTONS)
    assert any("mission" in piece for piece in tokenizer.get_vocab())
    assert not [piece for piece in tokenizer.get_vocab() if "png" in piece]


def test_the_template_is_gemma_3s(gemma: Loaded) -> None:
    said = gemma.processor.apply_chat_template
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "be brief"}]},
        question(" what now? "),
        {"role": "assistant", "content": "left\n"},
        {"role": "user", "content": "and now?"},
    ]
    talk = (
        "<bos><start_of_turn>user\nbe brief\n\n<start_of_image>what now?<end_of_turn>\n"
        "<start_of_turn>model\nleft<end_of_turn>\n<start_of_turn>user\nand now?<end_of_turn>\n"
    )
    assert said(messages, tokenize=False) == talk
    assert said(messages, tokenize=False, add_generation_prompt=True) == talk + "<start_of_turn>model\n"
    assert gemma.processor.tokenizer.apply_chat_template(messages, tokenize=False) == talk
    assert said(messages[1:2], tokenize=False).startswith("<bos><start_of_turn>user\n<start_of_image>what")
    for wrong in (messages[2:], [messages[1], messages[3]], [messages[0], messages[2]]):
        with pytest.raises(Exception, match="must take turns"):
            said(wrong, tokenize=False)


def test_plain_transformers_loads_the_base(gemma: Loaded) -> None:
    processor = AutoProcessor.from_pretrained(gemma.base)
    assert type(processor).__name__ == "Gemma3Processor"
    assert processor.chat_template == processor.tokenizer.chat_template == gemma.processor.chat_template
    batches = [encode(each, [colour("red")]) for each in (processor, gemma.processor)]
    assert all(torch.equal(batches[0][name], batches[1][name]) for name in batches[1])
    model = AutoModelForImageTextToText.from_pretrained(gemma.base)
    assert type(model).__name__ == "Gemma3ForConditionalGeneration"
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert torch.equal(model(**batches[0]).logits, gemma.model(**batches[0]).logits)


def test_a_resumed_run_reads_what_was_saved(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    first = load(run)
    written = (tmp_path / "base/model.safetensors").stat().st_mtime_ns
    plugin = TinyModel(Options(**TINY))
    processor = plugin.load_processor(run, grid_rows(3))  # other rows: what was saved is what counts
    second = plugin.load_model(run, processor, None)
    assert (tmp_path / "base/model.safetensors").stat().st_mtime_ns == written
    backends = [each.tokenizer.backend_tokenizer.to_str() for each in (first.processor, processor)]
    assert backends[0] == backends[1]
    assert first.processor.to_dict() == processor.to_dict()
    assert type(processor.image_processor) is type(first.processor.image_processor)
    weights = second.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in first.model.state_dict().items())


def test_the_seed_makes_the_weights_and_nothing_else_moves(gemma: Loaded, tmp_path: Path) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    again = load(make_run(tmp_path / "a")).model.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    first = gemma.model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    other = load(make_run(tmp_path / "b", run={"seed": 1})).model.state_dict()
    drawn = [name for name, value in first.items() if value.std() > 0]
    assert all(not torch.equal(first[name], other[name]) for name in drawn)
    assert sum("vision_tower" in name for name in drawn)


def test_it_is_not_blind(gemma: Loaded) -> None:
    halves = Image.new("RGB", (56, 56), "red")
    halves.paste("blue", (0, 0, 28, 56))
    turned = halves.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    batch = encode(gemma.processor, [colour("red"), colour("blue"), halves, turned], reply="left")
    with torch.no_grad():
        made = gemma.model(**batch, labels=batch["input_ids"])
    assert torch.isfinite(made.loss)
    last = made.logits[:, -1]
    assert torch.cdist(last, last).fill_diagonal_(9.0).min() > 0.1


def test_a_lora_learns_from_what_it_sees(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    loaded = Lora(LoraOptions()).adapt(run, load(run))
    processor, model = loaded.processor, loaded.model
    batches = []
    for name, reply in (("red", "left"), ("blue", "right")):
        batch = encode(processor, [colour(name)], reply=reply)
        prompt = encode(processor, [colour(name)])["input_ids"].shape[1]
        labels = batch["input_ids"].clone()
        labels[:, :prompt] = -100
        batches.append({**batch, "labels": labels})
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(25):
        for batch in batches:
            model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    answers = []
    for name in ("red", "blue"):
        prompt = encode(processor, [colour(name)])
        made = model.generate(**prompt, max_new_tokens=16, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        answers.append(processor.tokenizer.decode(made, skip_special_tokens=True).strip())
    assert answers == ["left", "right"]


def test_the_model_table_and_quantization_count(tmp_path: Path) -> None:
    loaded = load(make_run(tmp_path, model={"dtype": "bfloat16", "attention": "eager"}))
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.model.config._attn_implementation == "eager"
    half = load(make_run(tmp_path), Quantization(name="half", options={"dtype": "float16"}))
    assert half.model.dtype == torch.float16


@pytest.mark.parametrize(
    ("changed", "part", "attribute", "value"),
    [
        ({"hidden_size": 32}, "text_config", "hidden_size", 32),
        ({"hidden_size": 32}, "vision_config", "hidden_size", 32),
        ({"layers": 6}, "text_config", "num_hidden_layers", 6),
        ({"heads": 8}, "text_config", "head_dim", 8),
        ({"heads": 8}, "vision_config", "num_attention_heads", 8),
        ({"kv_heads": 4}, "text_config", "num_key_value_heads", 4),
        ({"intermediate_size": 96}, "text_config", "intermediate_size", 96),
        ({"vocabulary_size": 300}, "text_config", "vocab_size", 300),
        ({"positions": 512}, "text_config", "sliding_window", 512),
        ({"image_size": 112}, "vision_config", "image_size", 112),
        ({"patch_size": 7}, "vision_config", "patch_size", 7),
        ({"vision_layers": 1}, "vision_config", "num_hidden_layers", 1),
    ],
)
def test_every_option_counts(
    gemma: Loaded, tmp_path: Path, changed: dict[str, int], part: str, attribute: str, value: int
) -> None:
    loaded = load(make_run(tmp_path), **changed)
    assert getattr(getattr(loaded.model.config, part), attribute) == value
    assert getattr(getattr(gemma.model.config, part), attribute) != value
    with torch.no_grad():
        assert torch.isfinite(loaded.model(**encode(loaded.processor, [colour("red")])).logits).all()


def test_some_layers_see_everything_and_some_a_window(tmp_path: Path) -> None:
    kinds = load(make_run(tmp_path), layers=6).model.config.text_config.layer_types
    assert kinds == ["sliding_attention"] * 5 + ["full_attention"]


@pytest.mark.parametrize(
    ("changed", "key", "said"),
    [
        ({"hidden_size": 60}, "hidden_size", "60 is not a multiple of 2 x heads (8)"),
        ({"kv_heads": 3}, "kv_heads", "3 does not divide heads (4)"),
        ({"vocabulary_size": 266}, "vocabulary_size", "266 leave no room beside the 266 marks and bytes"),
        ({"image_size": 100}, "patch_size", "14 does not divide image_size (100)"),
        ({"image_size": 56, "patch_size": 112}, "patch_size", "112 does not divide image_size (56)"),
        ({"image_tokens": 5}, "image_tokens", "5 do not tile 4 x 4 patches; take one of 1, 4, 16"),
        ({"image_tokens": 9}, "image_tokens", "9 do not tile 4 x 4 patches; take one of 1, 4, 16"),
    ],
)
def test_impossible_shapes_are_found_early(tmp_path: Path, changed: dict[str, int], key: str, said: str) -> None:
    run = make_run(tmp_path)
    assert TinyModel(Options(**TINY)).check(run) == []
    [problem] = TinyModel(Options(**{**TINY, **changed})).check(run)
    assert problem.key == f"plugin.tiny_model.{key}"
    assert said in problem.message


def test_a_missing_pillow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftcore_plugins.common.requirements._found", lambda module: module != "PIL")
    [problem] = TinyModel(Options(**TINY)).check(make_run(tmp_path))
    assert problem.message == "PIL not installed; run: pip install 'ftcore[vision]'"
    assert TinyModel(Options()).check(make_run(tmp_path)) == []
