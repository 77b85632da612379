"""The fallback loader: what it finds before a run, what it loads, and how it says what went wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ftcore.api import Problem, Quantization, Run, RunError
from ftcore_plugins.common.hub import hub_errors, model_class, processor_class
from ftcore_plugins.huggingface import HuggingFace, choose_padding
from tiny_kit import Tiny, make_run

PLUGIN = HuggingFace()


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def of(model: str, **rest: Any) -> Run:
    return make_run(Path("nowhere"), model={"id": model, **rest})


def only(problems: Any) -> Problem:
    [problem] = problems
    return problem


# check


def test_a_model_must_be_named() -> None:
    problem = only(PLUGIN.check(of("")))
    assert (problem.key, problem.severity) == ("model.id", "error")
    assert "not set" in problem.message


def test_a_complete_folder_is_fine(tiny: Tiny) -> None:
    assert PLUGIN.check(of(str(tiny.base))) == []


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        (["config.json"], "has no config.json; name a folder"),
        (["tokenizer.json", "tokenizer_config.json"], "has no tokenizer"),
        (["model.safetensors"], "has no weights"),
    ],
)
def test_what_a_folder_lacks_is_named(tiny: Tiny, tmp_path: Path, removed: list[str], message: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny.base, folder)
    for name in removed:
        (folder / name).unlink()
    assert message in only(PLUGIN.check(of(str(folder)))).message


def test_a_missing_folder_an_adapter_and_pickles(tmp_path: Path) -> None:
    assert "no such folder" in only(PLUGIN.check(of(str(tmp_path / "no")))).message
    (tmp_path / "adapter_config.json").touch()
    assert "holds an adapter" in only(PLUGIN.check(of(str(tmp_path)))).message
    for name in ("config.json", "tokenizer.json", "pytorch_model.bin"):
        (tmp_path / name).touch()
    assert "are pickles" in only(PLUGIN.check(of(str(tmp_path)))).message


def test_remote_code_needs_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "x")
    problem = only(PLUGIN.check(of("a/b", trust_remote_code=True, revision="main")))
    assert problem.key == "model.trust_remote_code"
    assert PLUGIN.check(of("a/b", trust_remote_code=True, revision="0" * 40)) == []


def test_without_a_token_there_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    problem = only(PLUGIN.check(of("a/b")))
    assert problem.severity == "warning"
    assert "HF_TOKEN" in problem.message
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/token").write_text("x")
    assert PLUGIN.check(of("a/b")) == []


def test_offline_the_cache_must_have_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    problem = only(PLUGIN.check(of("a/b")))
    assert problem.severity == "error"
    assert "hf download a/b" in problem.message
    refs = tmp_path / "hf/hub/models--a--b/refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("0" * 40)
    assert PLUGIN.check(of("a/b")) == []
    assert PLUGIN.check(of("a/b", revision="v2")) != []


def test_check_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pathlib import Path; from ftcore.api import Run, Profile;"
        "from ftcore_plugins.huggingface import HuggingFace; from ftcore_plugins.lora import Lora, Options as L;"
        "from ftcore_plugins.qlora import QLora, Options as Q;"
        "from ftcore_plugins.merge import Merge, Options as M; from ftcore_plugins.sft import Sft, Options as S;"
        "from ftcore_plugins.tensorboard import TensorBoard, Options as B;"
        "from ftcore_plugins.tiny_model import TinyModel, Options as T;"
        "run = Run(name='x', folder=Path('x'), profile=Profile());"
        "HuggingFace().check(run); Lora(L()).check(); QLora(Q()).check(run); Merge(M()).check(); Sft(S()).check(run);"
        "TensorBoard(B()).check(); TinyModel(T()).check(run);"
        "heavy = {'torch', 'transformers', 'trl', 'peft', 'bitsandbytes', 'numpy', 'datasets',"
        "'tensorboard', 'tokenizers'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Loading


def test_a_folder_is_loaded(tiny: Tiny) -> None:
    run = of(str(tiny.base), dtype="bfloat16", attention="eager")
    processor = PLUGIN.load_processor(run)
    before = torch.get_rng_state()
    loaded = PLUGIN.load_model(run, processor, None)
    assert torch.equal(torch.get_rng_state(), before)
    assert (loaded.base, loaded.adapter, loaded.revision) == (str(tiny.base), "", "")
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.model.config._attn_implementation == "eager"
    assert processor.encode("which colour") == tiny.tokenizer.encode("which colour")


def test_auto_is_float32_on_a_cpu(tiny: Tiny) -> None:
    run = make_run(Path("nowhere"), model={"id": str(tiny.base)}, hardware={"device": "cpu"})
    assert PLUGIN.load_model(run, tiny.tokenizer, None).model.dtype == torch.float32


def test_quantization_options_reach_the_loader(tiny: Tiny) -> None:
    options = Quantization(name="half", options={"dtype": "float16"})
    assert PLUGIN.load_model(of(str(tiny.base)), tiny.tokenizer, options).model.dtype == torch.float16


def test_missing_weights_are_not_made_up(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny.base, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(RunError, match=r"no weights for model\.layers\.2\."):
        PLUGIN.load_model(of(str(folder)), tiny.tokenizer, None)


def test_a_damaged_file_is_one_sentence(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny.base, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(RunError, match=f"model.id: {folder} cannot be loaded: ") as caught:
        PLUGIN.load_model(of(str(folder)), tiny.tokenizer, None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        ("GatedRepoError", "is gated; accept its terms at https://huggingface.co/org/m and set HF_TOKEN"),
        ("RepositoryNotFoundError", "is not on the hub, or private"),
        ("RevisionNotFoundError", "has no revision 'v9'"),
        ("LocalEntryNotFoundError", "the hub is out of reach; run: hf download org/m"),
        ("OfflineModeIsEnabled", "HF_HUB_OFFLINE is set"),
    ],
)
def test_errors_of_the_hub_are_one_sentence(cause: str, message: str) -> None:
    from huggingface_hub import errors

    kind = getattr(errors, cause)

    def load() -> None:
        try:
            raise kind.__new__(kind)  # their constructors want a response
        except kind as error:
            raise OSError("three\nlong\nlines") from error  # as transformers does

    with pytest.raises(RunError) as caught, hub_errors("org/m", "v9"):
        load()
    assert str(caught.value).startswith("model.id: org/m ")
    assert message in str(caught.value)


def test_remote_code_is_explained() -> None:
    with pytest.raises(RunError, match="brings its own code"), hub_errors("org/m", ""):
        raise ValueError("Please pass the argument `trust_remote_code=True` to allow custom code")


# Choices


def test_a_model_with_images_gets_its_own_classes() -> None:
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoProcessor,
        AutoTokenizer,
        Gemma3Config,
        LlamaConfig,
    )

    assert (model_class(LlamaConfig()), processor_class(LlamaConfig())) == (AutoModelForCausalLM, AutoTokenizer)
    assert model_class(Gemma3Config()) is AutoModelForImageTextToText
    assert processor_class(Gemma3Config()) is AutoProcessor


def test_padding_is_a_kept_token_else_the_end(tiny: Tiny) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.base)
    tokenizer.pad_token = None
    choose_padding(tokenizer)
    assert tokenizer.pad_token == "<|pad|>"

    class Bare:
        pad_token, eos_token = None, "</s>"

        def get_vocab(self) -> dict[str, int]:
            return {"</s>": 0}

    bare: Any = Bare()
    choose_padding(bare)
    assert bare.pad_token == "</s>"
