"""What lets a Gemma 3 see, as mmproj: square images are seen as transformers sees them."""

from __future__ import annotations

import base64
import io
import json
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, Gemma3Processor

from ftcore.api import RunError
from gguf_convert_kit import KINDS, digest, make_model, make_seeing, open_runtime
from tiny_kit import make_rows, make_run

pytest.importorskip("xllamacpp")

from gguf import GGUFReader
from PIL import Image

from ftcore_plugins.gguf.conversion.convert import convert, convert_vision
from ftcore_plugins.tiny_model import Options, TinyModel

PROMPT = "<start_of_turn>user\n<start_of_image>which<end_of_turn>\n<start_of_turn>model\n"


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plugin = TinyModel(Options(architecture="gemma3", image_size=56, image_tokens=4))
    run = make_run(tmp_path_factory.mktemp("seeing"))
    return Path(plugin.load_model(run, plugin.load_processor(run, make_rows()), None).base)


def expected(folder: Path, image: Any) -> np.ndarray:
    processor = Gemma3Processor.from_pretrained(folder, backend="pil")
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    batch = processor(text=f"<bos>{PROMPT}", images=[[image]], return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        return torch.log_softmax(model(**batch).logits[0, -1].double(), -1).numpy()


@pytest.mark.parametrize(("dtype", "limit"), [("f32", 1e-5), ("f16", 1e-5), ("bf16", 1e-3)])
def test_a_square_image_is_seen_alike(seeing: Path, tmp_path: Path, dtype: Any, limit: float) -> None:
    random = np.random.default_rng(3)
    image = Image.fromarray(random.integers(0, 255, (112, 112, 3), dtype=np.uint8))
    png = io.BytesIO()
    image.save(png, "PNG")
    convert(seeing, tmp_path / "model.gguf", "f32")
    assert convert_vision(seeing, tmp_path / "mmproj.gguf", dtype)
    runtime = open_runtime(tmp_path / "model.gguf", mmproj=tmp_path / "mmproj.gguf")
    properties = json.loads(urllib.request.urlopen(f"{runtime.server.listening_address}/props").read())
    text = PROMPT.replace("<start_of_image>", f"\n\n{properties.get('media_marker', '<__media__>')}\n\n")
    question = {"prompt_string": text, "multimodal_data": [base64.b64encode(png.getvalue()).decode()]}
    wanted, blank = expected(seeing, image), expected(seeing, Image.new("RGB", (112, 112)))
    found = runtime.next(question, len(wanted))
    assert abs(np.sum(np.exp(wanted) * (wanted - found))) < limit
    assert np.sum(np.exp(wanted) * (wanted - blank)) > 1e-2


def test_names_as_on_the_hub_and_as_transformers_saves_them(seeing: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    convert_vision(seeing, tmp_path / "saved.gguf", "f16")
    folder = Path(shutil.copytree(seeing, tmp_path / "copy"))
    weights = load_file(folder / "model.safetensors")
    for prefix in ("vision_tower.vision_model.", "model.vision_tower.vision_model."):
        plain = {name.replace("vision_model.", ""): weight for name, weight in weights.items()}
        renamed = {name.replace("vision_tower.", prefix): weight for name, weight in plain.items()}
        renamed["vision_tower.vision_model.head.probe"] = np.zeros((1, 1, 4), np.float32)
        save_file(renamed, folder / "model.safetensors")
        convert_vision(folder, tmp_path / "renamed.gguf", "f16")
        assert digest(tmp_path / "renamed.gguf") == digest(tmp_path / "saved.gguf")


def test_a_model_that_only_reads_has_none(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", KINDS["gemma3_bf16"])
    assert not convert_vision(folder, tmp_path / "mmproj.gguf", "f16")
    assert not (tmp_path / "mmproj.gguf").exists()


def test_settings_come_from_each_of_their_places(tmp_path: Path) -> None:
    folder, target = make_seeing(tmp_path / "model"), tmp_path / "mmproj.gguf"
    processor = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    (folder / "processor_config.json").unlink()
    with pytest.raises(RunError, match=r"no processor_config\.json with image_mean"):
        convert_vision(folder, target, "f16")
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    convert_vision(folder, target, "f16")
    fields = GGUFReader(target).fields
    assert fields["clip.vision.image_std"].contents() == pytest.approx([0.4, 0.5, 0.6])
    assert fields["clip.vision.projector.scale_factor"].contents() == 2
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "mm_tokens_per_image": 1}))
    convert_vision(folder, target, "f16")
    assert "clip.vision.projector.scale_factor" not in GGUFReader(target).fields


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_hidden_layers": 3}, "the model has no vision_tower.vision_model.encoder.layers.2"),
        ({"num_hidden_layers": 1}, "has no place for vision_tower.vision_model.encoder.layers.1"),
        ({"image_size": None}, "lacks vision_config.image_size"),
    ],
)
def test_another_tower_is_refused(seeing: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    folder = Path(shutil.copytree(seeing, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"].update(change)
    config["vision_config"] = {name: value for name, value in config["vision_config"].items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError) as raised:
        convert_vision(folder, tmp_path / "mmproj.gguf", "f16")
    assert said in str(raised.value)
    assert not (tmp_path / "mmproj.gguf").exists()
