"""The tokenizer in a GGUF: token ids of llama.cpp are those of transformers, on many texts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ftcore.api import RunError
from gguf_convert_kit import KINDS, SHAPE, Runtime, make_model, open_runtime
from tiny_kit import make_rows, make_run

pytest.importorskip("xllamacpp")

from gguf import GGUFReader, TokenType
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ftcore_plugins.gguf.conversion.convert import convert
from ftcore_plugins.gguf.conversion.pieces import fallback_model, fallback_scores, read_pieces
from ftcore_plugins.gguf.conversion.pretokenizers import DIGITS, GPT2, NAMES, Way, pre_tokenizer
from ftcore_plugins.gguf.conversion.vocabulary import read_vocabulary

TEXTS = [
    "def add(a: int, b: int) -> int:\n    return a + b\n",
    "an indented line\n\n\n    and\ttabs \t here \n",
    "Grüße, 你好, 🙂 日本語テキスト 한국어",
    "12345 + 0.678 = ? 1,234.56 $9.99 50% \uff11\uff12 ٣٤٥ Ⅷ",
    "I'M sure we'Ll don't THEY'RE don\u2019t “quote” word's 's",
    "\n\n\n\n",
    "a\n\n\nb \n c  ",
    "trail ",
    "a  b   c    d",
    "HelloWorld camelCase ABCdef _snake_case_ __init__",
    "path/to/file//\n http://x.y/z '''\"\"\"```",
    "wide\u00a0nbsp\u3000space",
    "the red ball which user model 12345 abc",
    "x" * 50,
]
SPACED = ["  two spaces", " lead", " \t \r\n x"]
MARKED = ["नमस्ते", "e\u0301 é", "ÀÉÎõü ÇA"]
"""Letters with marks, for which llama.cpp's own expressions of two ways are not those of the tokenizers."""


def differing(tokenizer: Any, runtime: Runtime, texts: Iterable[str]) -> list[str]:
    return [text for text in texts if tokenizer(text)["input_ids"] != runtime.tokens(text, special=True)]


def weights(folder: Path, rows: int) -> None:
    LlamaForCausalLM(LlamaConfig(**{**SHAPE, "vocab_size": rows})).save_pretrained(folder)


def converted(folder: Path) -> Runtime:
    convert(folder, folder / "model.gguf", "f16")
    return open_runtime(folder / "model.gguf")


def read(folder: Path, name: str = "tokenizer.json") -> dict[str, Any]:
    return dict(json.loads((folder / name).read_text()))


# Byte-level


def byte_level(way: Way, ignore_merges: bool) -> Any:
    steps: list[Any] = []
    for pattern in way:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        known = {GPT2: pre_tokenizers.ByteLevel(add_prefix_space=False), DIGITS: pre_tokenizers.Digits(True)}
        steps.append(known.get(pattern, split))
    if GPT2 not in way:
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS, *SPACED, *MARKED] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


WAYS = [(way, ignore, name) for way, names in NAMES.items() for ignore, name in enumerate(names) if name]


@pytest.mark.parametrize(("way", "ignore", "name"), WAYS, ids=[name for *_, name in WAYS])
def test_every_way_to_take_text_apart_has_its_name(tmp_path: Path, way: Way, ignore: int, name: str) -> None:
    tokenizer = byte_level(way, bool(ignore))
    tokenizer.add_tokens(["plain words"])
    tokenizer.save_pretrained(tmp_path)
    weights(tmp_path, len(tokenizer) + 5)
    assert pre_tokenizer(read(tmp_path)) == name
    texts = [*TEXTS, *SPACED, "<|end|>a<|end|> b plain words c", *(MARKED if name not in ("tekken", "gpt-4o") else ())]
    assert differing(tokenizer, converted(tmp_path), texts) == []
    found = read_vocabulary(tmp_path, len(tokenizer) + 5)
    assert [found.types[index] for index in (0, 1, len(tokenizer) - 1, len(tokenizer))] == [
        TokenType.CONTROL,
        TokenType.NORMAL,
        TokenType.USER_DEFINED,
        TokenType.UNUSED,
    ]


def test_expressions_are_those_of_transformers() -> None:
    import inspect

    from transformers.convert_slow_tokenizer import TikTokenConverter
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    of_llama = inspect.signature(TikTokenConverter.__init__).parameters["pattern"].default
    assert NAMES[of_llama,] == ("smaug-bpe", "llama-bpe")
    assert NAMES[PRETOKENIZE_REGEX,] == ("qwen2", "")


def test_a_wrong_name_gives_other_tokens(tmp_path: Path) -> None:
    qwen, gpt = (next(way for way, names in NAMES.items() if names[0] == name) for name in ("qwen2", "gpt-2"))
    tokenizer = byte_level(qwen, False)
    tokenizer.save_pretrained(tmp_path)
    weights(tmp_path, len(tokenizer))
    document = read(tmp_path)
    document["pre_tokenizer"] = json.loads(byte_level(gpt, False).backend_tokenizer.to_str())["pre_tokenizer"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    assert differing(tokenizer, converted(tmp_path), TEXTS)


def test_the_tiny_llama(tmp_path: Path) -> None:
    folder = tiny(tmp_path, "llama")
    tokenizer, runtime = AutoTokenizer.from_pretrained(folder), converted(folder)
    assert differing(tokenizer, runtime, [*TEXTS, *SPACED, *MARKED]) == []
    conversation = [{"role": "user", "content": "which colour"}, {"role": "assistant", "content": "red"}]
    text = runtime.ask("/apply-template", messages=[*conversation, conversation[0]])["prompt"]
    wanted = tokenizer.apply_chat_template([*conversation, conversation[0]], add_generation_prompt=True)["input_ids"]
    assert runtime.tokens(text) in (wanted, wanted[1:])  # whoever asks may put the beginning of text first
    fields = GGUFReader(folder / "model.gguf").fields
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.eos_token_id


def tiny(folder: Path, architecture: str) -> Path:
    from ftcore_plugins.tiny_model import Options, TinyModel

    vision: dict[str, Any] = {"image_size": 56, "image_tokens": 4} if architecture == "gemma3" else {}
    plugin, run = TinyModel(Options(architecture=architecture, **vision)), make_run(folder)
    processor = plugin.load_processor(run, make_rows())
    return Path(plugin.load_model(run, processor, None).base)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "takes text apart by Whitespace"),
        ({"pre_tokenizer": None}, "by nothing that splits text"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "a space before the text"),
        ({"normalizer": {"type": "Lowercase"}}, "has the normalizer Lowercase"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}]}}, "has the normalizer NFKC"),
    ],
)
def test_an_unknown_way_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    byte_level((GPT2,), False).save_pretrained(tmp_path)
    with pytest.raises(RunError, match=said):
        pre_tokenizer({**read(tmp_path), **change})
    assert pre_tokenizer({**read(tmp_path), "normalizer": {"type": "NFC"}}) == "gpt-2"


# SentencePiece


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("gemma"), KINDS["gemma3_bf16"])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("llama"), KINDS["llama"])


MARKS = ["a<|end|>b plain words c<bos>"]
TURNS = ["<start_of_turn>user\nhello<end_of_turn>\n<start_of_turn>model"]


def test_pieces_of_gemma(gemma: Path) -> None:
    texts = [*TEXTS, *SPACED, *MARKED, *MARKS]
    assert differing(AutoTokenizer.from_pretrained(gemma), converted(gemma), texts) == []


def test_pieces_of_llama_have_a_space_before_the_first(llama: Path) -> None:
    assert differing(AutoTokenizer.from_pretrained(llama), converted(llama), [*TEXTS, *MARKED]) == []
    found = GGUFReader(llama / "model.gguf").fields
    assert found["tokenizer.ggml.add_space_prefix"].contents() is True
    assert found["tokenizer.ggml.model"].contents() == "llama"


def test_without_tokenizer_json_the_pieces_say_it(llama: Path, gemma: Path, tmp_path: Path) -> None:
    for folder, space_first in ((llama, True), (gemma, False)):
        assert read_pieces(folder / "tokenizer.model").space_first is space_first
        copy = Path(shutil.copytree(folder, tmp_path / f"{space_first}"))
        (copy / "tokenizer.json").unlink()
        assert read_vocabulary(copy, 400) == read_vocabulary(folder, 400)


def test_added_tokens_are_found_in_each_of_their_places(gemma: Path, tmp_path: Path) -> None:
    wanted = read_vocabulary(gemma, 500)
    folder = Path(shutil.copytree(gemma, tmp_path / "copy"))
    config = read(folder, "tokenizer_config.json")
    config.pop("added_tokens_decoder")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert read_vocabulary(folder, 500) == wanted
    (folder / "tokenizer.json").unlink()
    assert "<|end|>" not in read_vocabulary(folder, 500).tokens
    (folder / "added_tokens.json").write_text(json.dumps({"<|end|>": wanted.tokens.index("<|end|>")}))
    found = read_vocabulary(folder, 500)
    index = found.tokens.index("<|end|>")
    assert found.types[index] == wanted.types[index] == TokenType.CONTROL


def test_tokens_beyond_the_embedding_are_left_out(gemma: Path) -> None:
    whole, cut = read_vocabulary(gemma, 500), read_vocabulary(gemma, 300)
    assert (cut.tokens, cut.types) == (whole.tokens[:300], whole.types[:300])
    assert whole.tokens[499] == "[PAD499]"


def test_a_damaged_tokenizer_model(gemma: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(gemma, tmp_path / "copy"))
    (folder / "tokenizer.model").write_bytes(b"\x00 no model")
    with pytest.raises(RunError, match=r"tokenizer\.model cannot be read"):
        read_vocabulary(folder, 500)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(RunError, match=r"tokenizer\.json cannot be read"):
        read_vocabulary(folder, 500)
    for name in ("tokenizer.json", "tokenizer.model"):
        (folder / name).unlink()
    with pytest.raises(RunError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        read_vocabulary(folder, 500)
    (folder / "tokenizer.json").write_text('{"model": {"type": "WordPiece"}}')
    with pytest.raises(RunError, match="has a WordPiece tokenizer"):
        read_vocabulary(folder, 500)


# Pieces without a tokenizer.model


def test_the_tiny_gemma_merges_by_rank(tmp_path: Path) -> None:
    folder = tiny(tmp_path, "gemma3")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert differing(tokenizer, converted(folder), [*TEXTS, *SPACED, *MARKED, *TURNS]) == []
    fields = GGUFReader(folder / "model.gguf").fields
    assert fields["tokenizer.ggml.eot_token_id"].contents() == tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert fields["tokenizer.ggml.add_bos_token"].contents() is True


def test_merges_made_from_pieces_become_scores(gemma: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(gemma, tmp_path / "copy"))
    (folder / "tokenizer.model").unlink()
    document = read(folder)
    model = document["model"]
    pieces = sorted((token for token in model["vocab"] if len(token) > 1 and token[0] != "<"), key=len)
    model["merges"] = [
        [piece[:at], piece[at:]]
        for piece in pieces
        for at in range(1, len(piece))
        if piece[:at] in model["vocab"] and piece[at:] in model["vocab"]
    ]
    (folder / "tokenizer.json").write_text(json.dumps(document))
    found = read_vocabulary(folder, 500)
    assert (found.model, found.space_first) == ("llama", False)
    assert differing(AutoTokenizer.from_pretrained(folder), converted(folder), [*TEXTS, *SPACED, *MARKS]) == []
    model["merges"] = [" ".join(merge) for merge in model["merges"]]
    assert fallback_scores(model) is not None
    model["merges"] = model["merges"][::-1]
    assert fallback_scores({**model, "merges": model["merges"][1:]}) is None


def test_merges_that_no_scores_give_and_that_cross_lines_are_refused(tmp_path: Path) -> None:
    folder = tiny(tmp_path, "gemma3")
    document = read(folder)
    assert fallback_model(document) == "gemma4"
    for change in ({"normalizer": None}, {"model": {"merges": [["a\n", "b"]]}}):
        with pytest.raises(RunError, match=r"put the base model's tokenizer\.model beside it"):
            fallback_model({**document, **change})


@pytest.mark.parametrize("space_first", [True, False])
def test_a_space_before_the_text_is_as_tokenizer_json_says(llama: Path, tmp_path: Path, space_first: bool) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "copy"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("@", "isolated")
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if space_first else replace
    tokenizer.save(str(folder / "tokenizer.json"))
    assert read_vocabulary(folder, 400).space_first is space_first
