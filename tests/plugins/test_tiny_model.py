"""The tiny model: deterministic, resumable, loadable by plain transformers, and every option counts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftcore.api import Loaded, Quantization, Row, Rows, Run, RunError
from ftcore_plugins.lora import Options as LoraOptions
from ftcore_plugins.tiny_model import Options, TinyModel, texts, train_tokenizer
from ftcore_plugins.tiny_model.options import VISION_OPTIONS
from tiny_kit import FakeControl, Tiny, make_rows, make_run


def load(run: Run, config: Options | None = None, rows: Rows | None = None, **rest: Any) -> Loaded:
    plugin = TinyModel(config or Options())
    processor = plugin.load_processor(run, rows or make_rows())
    return plugin.load_model(run, processor, rest.get("quantization"))


def state(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


def test_the_tokenizer_is_llama_3_like(tiny: Tiny) -> None:
    tokenizer, messages = tiny.tokenizer, tiny.rows.train[0].values["messages"]
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|begin_of_text|>", "<|eot_id|>")
    assert tokenizer.pad_token == "<|pad|>"
    made = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    pairs = zip(made["input_ids"], made["assistant_masks"], strict=True)
    assert tokenizer.decode([token for token, trained in pairs if trained]) == "red red<|eot_id|>"
    assert tokenizer.decode(made["input_ids"]) == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nwhich colour has number 0<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nred red<|eot_id|>"
    )
    prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=False)
    assert prompt.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
    for text in ("any byte: ü 你 🙂 \x00", "  spaces  kept \n"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_tokenizer_reads_training_rows_only() -> None:
    rows = Rows(
        train=[Row(values={"a": "x", "b": [{"c": "y"}, 3], "d": None}, origin="r:1")],
        validation=[Row(values={"a": "unseen"}, origin="r:2")],
        fingerprint="",
    )
    assert list(texts(rows)) == ["x", "y"]


def test_rows_without_text_are_an_error(tmp_path: Path) -> None:
    rows = Rows(train=[Row(values={"a": 1}, origin="r:1")], validation=[], fingerprint="")
    with pytest.raises(RunError, match="no text to train a tokenizer on"):
        TinyModel(Options()).load_processor(make_run(tmp_path), rows)


def test_the_tokenizer_reads_no_more_than_it_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftcore_plugins.tiny_model.corpus.LONGEST_TEXT", 4)
    monkeypatch.setattr("ftcore_plugins.tiny_model.corpus.MOST_TEXT", 10)
    asked: list[str] = []

    def many() -> Iterator[str]:
        for text in ("aaaaaaa", "bb", "cccc", "dd"):
            asked.append(text)
            yield text

    tokenizer = train_tokenizer(many(), 384, 2048)
    assert asked == ["aaaaaaa", "bb", "cccc"]
    assert {"aa", "aaaa", "bb", "cccc"} <= tokenizer.get_vocab().keys()


def test_the_tokenizer_is_the_same_in_every_process(tiny: Tiny, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); from tiny_kit import *;"
        "t = TinyModel(TinyOptions()).load_processor(make_run(Path('no')), make_rows());"
        "print(t.backend_tokenizer.to_str(), end='')"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == tiny.tokenizer.backend_tokenizer.to_str()


def test_a_preview_writes_nothing(tmp_path: Path) -> None:
    TinyModel(Options()).load_processor(make_run(tmp_path / "run"), make_rows())
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_has_the_same_tokenizer_and_weights(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    first = load(run)
    weights = tmp_path / "base/model.safetensors"
    written = weights.stat().st_mtime_ns
    # Even with other rows: what was saved is what counts.
    second = load(run, rows=make_rows(3))
    assert weights.stat().st_mtime_ns == written
    backends = [loaded.processor.backend_tokenizer.to_str() for loaded in (first, second)]
    assert backends[0] == backends[1]
    assert first.processor.chat_template == second.processor.chat_template
    assert first.processor.special_tokens_map == second.processor.special_tokens_map
    assert all(torch.equal(value, state(second.model)[name]) for name, value in state(first.model).items())


def test_the_seed_makes_the_weights_and_nothing_else_moves(tmp_path: Path) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = load(make_run(tmp_path / "a"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    again = load(make_run(tmp_path / "b"))
    other = load(make_run(tmp_path / "c", run={"seed": 1}))
    weights = [loaded.model.lm_head.weight for loaded in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_plain_transformers_loads_the_base(tiny: Tiny) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny.base)
    assert model.config.model_type == "llama"
    tokens = model.generation_config
    assert (tokens.bos_token_id, tokens.eos_token_id, tokens.pad_token_id) == (
        tiny.tokenizer.bos_token_id,
        tiny.tokenizer.eos_token_id,
        tiny.tokenizer.pad_token_id,
    )
    assert AutoTokenizer.from_pretrained(tiny.base).encode("number 3") == tiny.tokenizer.encode("number 3")
    assert [path.name for path in tiny.base.parent.iterdir()] == ["base"]


def test_what_a_killed_run_left_half_written_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".base.partial").mkdir()
    (tmp_path / ".base.partial/config.json").write_text("{")
    load(make_run(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_the_model_table_and_quantization_count(tmp_path: Path) -> None:
    loaded = load(make_run(tmp_path, model={"dtype": "bfloat16", "attention": "eager"}))
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.model.config._attn_implementation == "eager"
    half = load(make_run(tmp_path), quantization=Quantization(name="half", options={"dtype": "float16"}))
    assert half.model.dtype == torch.float16


@pytest.mark.parametrize(
    ("changed", "attribute", "value"),
    [
        ({"hidden_size": 32}, "hidden_size", 32),
        ({"layers": 1}, "num_hidden_layers", 1),
        ({"heads": 8}, "num_attention_heads", 8),
        ({"kv_heads": 4}, "num_key_value_heads", 4),
        ({"intermediate_size": 96}, "intermediate_size", 96),
        ({"vocabulary_size": 300}, "vocab_size", 300),
        ({"positions": 4096}, "max_position_embeddings", 4096),
    ],
)
def test_every_option_counts(tiny: Tiny, tmp_path: Path, changed: dict[str, int], attribute: str, value: int) -> None:
    model = load(make_run(tmp_path), Options(**changed)).model
    assert getattr(model.config, attribute) == value
    assert getattr(AutoModelForCausalLM.from_pretrained(tiny.base).config, attribute) != value
    model(torch.tensor([[1, 2, 3]]))


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"hidden_size": 60}, "hidden_size"),
        ({"kv_heads": 3}, "kv_heads"),
        ({"positions": 64}, "positions"),
    ],
)
def test_impossible_shapes_are_found_early(tmp_path: Path, changed: dict[str, int], key: str) -> None:
    assert TinyModel(Options()).check(make_run(tmp_path)) == []
    [problem] = TinyModel(Options(**changed)).check(make_run(tmp_path))
    assert problem.key == f"plugin.tiny_model.{key}"


@pytest.mark.parametrize("option", VISION_OPTIONS)
def test_what_a_llama_does_not_read_is_refused(tmp_path: Path, option: str) -> None:
    config = Options(**{option: getattr(Options(), option) + 1})
    [problem] = TinyModel(config).check(make_run(tmp_path))
    assert problem.key == f"plugin.tiny_model.{option}"
    fix = "leave it out, or set architecture = 'gemma3'"
    assert problem.message == f"a llama reads no images, so nothing reads this; {fix}"
    assert attrs.fields_dict(Options)[option].metadata["help"].startswith("gemma3 only: ")


@pytest.mark.parametrize("lora", [None, LoraOptions()], ids=["full", "lora"])
def test_it_learns(tiny: Tiny, tmp_path: Path, lora: LoraOptions | None) -> None:
    run = tiny.run(tmp_path, train={"max_steps": 100, "batch_size": 8, "learning_rate": 5e-3})
    control = FakeControl(tmp_path / "c")
    tiny.trainer(run, lora=lora).train(control, None)
    assert control.losses[0] > 5
    assert max(control.losses[-3:]) < 0.5
