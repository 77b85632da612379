"""Faults that exports have had elsewhere, each made on purpose, for the benchmark of exports."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import attrs
from export_models import Made, adapted, save_adapter
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, pre_tokenizers

Alter = Callable[[Made, Path], Made]


@attrs.frozen(kw_only=True)
class Fault:
    """What goes wrong: in what exporters are given, inside of them, or in what they have written.

    `applies` says whether a model can have it, `kinds` which artifacts.
    """

    name: str
    alter: Alter = lambda made, _: made
    inside: Callable[[], Any] = nullcontext
    damage: Callable[[Path], None] = lambda _: None
    kinds: tuple[str, ...] = ("merged", "gguf", "mlx")
    applies: Callable[[Made], bool] = lambda _: True


def _swapped_adapter(made: Made, folder: Path) -> Made:
    other = adapted(Path(made.loaded.base), 4711)
    return attrs.evolve(made, saved=save_adapter(other, folder / "saved"))


def _flipped_sign(made: Made, folder: Path) -> Made:
    shutil.copytree(made.saved, folder / "saved")
    path = folder / "saved/adapter_model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "v_proj.lora_B" in name)
    save_file({**weights, name: -weights[name]}, path)
    return attrs.evolve(made, saved=folder / "saved")


def _lost_rope(made: Made, folder: Path) -> Made:
    shutil.copytree(made.loaded.base, folder / "base")
    _edit(folder / "base/config.json", rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    return attrs.evolve(made, loaded=attrs.evolve(made.loaded, base=str(folder / "base")))


def _is_scaled(made: Made) -> bool:
    return (made.config.get("rope_parameters") or {}).get("rope_type") == "llama3"


def _with_tokenizer(change: Callable[[dict[str, Any]], None]) -> Alter:
    """The tokenizer that is exported is changed in its file's form."""

    def alter(made: Made, _: Path) -> Made:
        tokenizer = copy.deepcopy(made.loaded.processor)
        document = json.loads(tokenizer.backend_tokenizer.to_str())
        change(document)
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(document))
        # What the tokenizer still names, transformers adds again when it reads the folder.
        there = {token["content"] for token in document["added_tokens"]}
        tokenizer._extra_special_tokens = [name for name in tokenizer._extra_special_tokens if str(name) in there]
        return attrs.evolve(made, loaded=attrs.evolve(made.loaded, processor=tokenizer))

    return alter


def _lost_tokens(document: dict[str, Any]) -> None:
    lost = {"<|start_header_id|>", "<start_of_turn>"}
    document["added_tokens"] = [token for token in document["added_tokens"] if token["content"] not in lost]


def _lost_merges(document: dict[str, Any]) -> None:
    document["model"]["merges"] = document["model"]["merges"][:20]


def _other_split(document: dict[str, Any]) -> None:
    split = pre_tokenizers.Split(Regex(r"\p{N}"), "isolated")
    steps = [split, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    other = Tokenizer.from_str(json.dumps(document))
    other.pre_tokenizer = pre_tokenizers.Sequence(steps)
    document["pre_tokenizer"] = json.loads(other.to_str())["pre_tokenizer"]


def _other_template(made: Made, _: Path) -> Made:
    tokenizer = copy.deepcopy(made.loaded.processor)
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
    return attrs.evolve(made, loaded=attrs.evolve(made.loaded, processor=tokenizer))


@contextmanager
def _unpermuted() -> Iterator[None]:
    from ftcore_plugins.gguf.conversion import convert

    kept, convert.rotated = convert.rotated, lambda *_: 0
    try:
        yield
    finally:
        convert.rotated = kept


@contextmanager
def _misnamed_split() -> Iterator[None]:
    from ftcore_plugins.gguf.conversion import vocabulary

    kept, vocabulary.pre_tokenizer = vocabulary.pre_tokenizer, lambda _: "smollm"
    try:
        yield
    finally:
        vocabulary.pre_tokenizer = kept


def _without_older_rope(path: Path) -> None:
    _edit(path / "config.json", rope_theta=None, rope_scaling=None)


def _truncate(path: Path) -> None:
    file = _weights(path)
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])


def _poison(path: Path) -> None:
    """Bits that are no number in every type, whole or scale, over a part of one tensor."""
    file = _weights(path)
    start = _first_tensor(file)
    with file.open("r+b") as opened:
        opened.seek(start)
        opened.write(b"\xff" * 256)


def _first_tensor(file: Path) -> int:
    if file.suffix == ".gguf":
        from gguf import GGUFReader

        return int(next(tensor.data_offset for tensor in GGUFReader(file).tensors if "token_embd" in tensor.name))
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    # Integers that hold several small weights know no such bits; scales and whole weights do.
    floats = {name: entry for name, entry in header.items() if entry.get("dtype") in ("F16", "BF16", "F32")}
    name = next(name for name in sorted(floats) if "embed_tokens" in name)
    return 8 + size + int(floats[name]["data_offsets"][0])


def _weights(path: Path) -> Path:
    return path if path.is_file() else next(iter(sorted(path.glob("*.safetensors"))))


def _edit(path: Path, **values: Any) -> None:
    changed: Mapping[str, Any] = {**json.loads(path.read_text("utf-8")), **values}
    path.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}), "utf-8")


def _is_byte_level(made: Made) -> bool:
    return "gemma" not in made.name


FAULTS = (
    Fault(name="swapped adapter", alter=_swapped_adapter),
    Fault(name="sign of one layer flipped", alter=_flipped_sign),
    Fault(name="rope scaling lost", alter=_lost_rope, applies=_is_scaled),
    Fault(name="rope settings of transformers 5 only", damage=_without_older_rope, kinds=("mlx",), applies=_is_scaled),
    Fault(name="q and k not permuted", inside=_unpermuted, kinds=("gguf",), applies=_is_scaled),
    Fault(name="wrong chat template", alter=_other_template),
    Fault(name="added tokens lost", alter=_with_tokenizer(_lost_tokens)),
    Fault(name="merges lost", alter=_with_tokenizer(_lost_merges)),
    Fault(name="wrong pre-tokenizer", alter=_with_tokenizer(_other_split), applies=_is_byte_level),
    Fault(name="pre-tokenizer misnamed", inside=_misnamed_split, kinds=("gguf",), applies=_is_byte_level),
    Fault(name="truncated file", damage=_truncate),
    Fault(name="a tensor with NaN", damage=_poison),
)
