"""A model that reads images for MLX: its text is compared, its images are not, and nothing is said to be proved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftcore.api import Verdict
from ftcore_plugins.tiny_model import Options as TinyOptions
from ftcore_plugins.tiny_model import TinyModel
from merge_kit import QUIET, Saved, adapted
from mlx_kit import FEW, ask_all, export
from proof_kit import write_reference
from tiny_kit import Tiny, make_rows, make_run

pytest.importorskip("mlx_vlm", reason="pip install 'ftcore[mlx-vision]'")
pytestmark = [pytest.mark.slow, *(pytest.mark.filterwarnings(text) for text in QUIET)]


@pytest.fixture(scope="module")
def tuned(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A Gemma 3 whose images are four tokens, and not 256."""
    run = make_run(tmp_path_factory.mktemp("vision"))
    plugin = TinyModel(TinyOptions(architecture="gemma3", image_size=56, image_tokens=4, layers=6))
    processor = plugin.load_processor(run, make_rows())
    loaded = plugin.load_model(run, processor, None)
    targets = r".*language_model.*\.(q_proj|v_proj|up_proj)"
    return adapted(run, loaded.model, processor, tiny.data, Path(loaded.base), target_modules=targets)


def test_the_text_is_compared_and_the_images_are_not(tuned: Saved, tmp_path: Path) -> None:
    reference = write_reference(tmp_path / "reference", tuned.run, tuned.loaded, None, **FEW)
    whole, quantized = export(tuned, quantization=("bf16", "4bit"))
    assert whole.details["run"].startswith(f"mlx_vlm.generate --model {whole.path} --image IMAGE --prompt ")
    for artifact in (whole, quantized):
        config = json.loads((artifact.path / "config.json").read_text())
        assert config["text_config"]["mm_tokens_per_image"] == 4
        assert config["hidden_size"] == config["text_config"]["hidden_size"]
        assert config["text_config"]["rope_local_base_freq"] == 10000.0
        assert (artifact.path / "preprocessor_config.json").is_file()
    asked = ask_all(reference, [whole.path, quantized.path], tmp_path)
    assert not asked.heavy
    for proof in asked.proofs.values():
        assert proof.verdict is Verdict.NOT_PROVED
        assert proof.note.endswith("not compared: images")
        assert "image_kl" not in proof.figures
    assert asked.proofs[whole.path.name].figures["kl_mean"] < 5e-3
