"""Pushing to a hub on this machine with the real client: what goes where, and what the options change."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml

from ftcore.api import Proof, RunError, Verdict
from ftcore.shipping.verification import write_verification
from push_kit import TOKEN, PushHub
from push_shelf import Shelf

BIG = 10 * 2**20 + 1


def front(content: bytes) -> Any:
    return yaml.safe_load(content.decode().split("---\n")[1])


def test_everything_lands_in_one_repository(hub: PushHub, shelf: Shelf, tmp_path: Path) -> None:
    assert shelf.push() == f"{hub.url}/ann/my-run"
    files = hub.files("ann/my-run")
    assert sorted(files) == [
        "Modelfile",
        "README.md",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/my-adapter-f16.gguf",
        "config.json",
        "mlx-4bit/config.json",
        "mlx-4bit/model.safetensors",
        "model.safetensors",
        "my-q8_0.gguf",
        "verification.json",
    ]
    exports = shelf.run.folder / "exports"
    for name, path in (
        ("model.safetensors", exports / "merged/model.safetensors"),
        ("my-q8_0.gguf", exports / "gguf/my-q8_0.gguf"),
        ("Modelfile", exports / "gguf/Modelfile"),
        ("mlx-4bit/model.safetensors", exports / "mlx-4bit/model.safetensors"),
        ("adapter/adapter_model.safetensors", shelf.saved / "adapter_model.safetensors"),
    ):
        assert files[name] == path.read_bytes()
    assert json.loads(files["adapter/adapter_config.json"])["base_model_name_or_path"] == "base"
    found = json.loads(files["verification.json"])["artifacts"]
    assert [entry["path"] for entry in found] == [".", "my-q8_0.gguf", "mlx-4bit", "adapter/my-adapter-f16.gguf"]
    assert found[0]["proof"] == {"verdict": "proved", "figures": {"kl_mean": 1e-6}, "note": "seen in exports"}
    assert (found[1]["bytes"], found[1]["sha256"]) == (4, hashlib.sha256(b"GGUF").hexdigest())
    assert found[1]["statement"] == "proved: answers like the model that was trained (seen in exports)"
    assert "ftcore" in found[1]["versions"]
    assert hub.repositories["ann/my-run"].private
    assert str(tmp_path).encode() not in b"".join(files.values())
    assert TOKEN.encode() not in b"".join(files.values())


def test_the_card_says_how_to_run_each(hub: PushHub, shelf: Shelf) -> None:
    shelf.push()
    card = hub.files("ann/my-run")["README.md"].decode()
    assert front(card.encode())["library_name"] == "transformers"
    assert "pipeline(model='ann/my-run')" in card
    assert "base = AutoModelForCausalLM.from_pretrained('base')" in card
    assert "PeftModel.from_pretrained(base, 'ann/my-run', subfolder='adapter')" in card
    assert "llama-server -hf ann/my-run:Q8_0\nollama run hf.co/ann/my-run:Q8_0" in card
    assert "hf download ann/my-run --include 'mlx-4bit/*' --local-dir .\nrun mlx-4bit" in card
    assert "hf download ann/my-run adapter/my-adapter-f16.gguf --local-dir .\ntake adapter/my-adapter-f16.gguf" in card
    assert "| `my-q8_0.gguf` | gguf | proved | kl_mean 1e-06; seen in exports |" in card


def test_an_adapter_alone_is_what_the_name_finds(hub: PushHub, shelf: Shelf) -> None:
    shelf.push(what=["adapter"])
    files = hub.files("ann/my-run")
    assert sorted(files) == ["README.md", "adapter_config.json", "adapter_model.safetensors", "verification.json"]
    assert front(files["README.md"])["library_name"] == "peft"
    # Merged later: transformers would take an adapter beside the model for the model.
    shelf.push()
    assert not {"adapter_config.json", "adapter_model.safetensors"} & set(hub.files("ann/my-run"))
    assert "adapter/adapter_config.json" in hub.files("ann/my-run")
    # And an adapter that comes to a model stays out of its way.
    shelf.push(what=["adapter"])
    assert "adapter_config.json" not in hub.files("ann/my-run")


def test_a_whole_model(hub: PushHub, shelf: Shelf) -> None:
    (shelf.saved / "adapter_config.json").unlink()
    (shelf.saved / "config.json").write_text("{}")
    shelf.artifacts = shelf.artifacts[1:2]
    shelf.push(what=["adapter", "gguf"])
    assert {"config.json", "adapter_model.safetensors", "my-q8_0.gguf"} < set(hub.files("ann/my-run"))


def test_a_repeated_push_sends_only_what_is_missing(hub: PushHub, shelf: Shelf) -> None:
    shelf.push()
    sent, commits = len(hub.uploads), len(hub.repositories["ann/my-run"].commits)
    shelf.push()
    assert len(hub.uploads) == sent
    assert len(hub.repositories["ann/my-run"].commits) - commits <= 1  # the card has a date
    (shelf.run.folder / "exports/merged/model.safetensors").write_bytes(b"others" * 5)
    shelf.push()
    assert hub.uploads[sent:] == [hashlib.sha256(b"others" * 5).hexdigest()]
    assert hub.repositories["ann/my-run"].commits[-1] <= {"model.safetensors", "README.md"}
    assert hub.files("ann/my-run")["model.safetensors"] == b"others" * 5


def test_weights_of_an_earlier_push_do_not_stay(hub: PushHub, shelf: Shelf) -> None:
    """transformers would take a single file before the shards, and mlx-lm all of them."""
    merged, shards = (
        shelf.run.folder / "exports/merged",
        [f"model-0000{number}-of-00002.safetensors" for number in "12"],
    )
    shelf.push()
    hub.repositories["ann/my-run"].branches["main"] |= {"theirs.safetensors": b"kept", "x/model.safetensors": b"kept"}
    (merged / "model.safetensors").unlink()
    for name in (*shards, "model.safetensors.index.json"):
        (merged / name).write_bytes(b"part")
    hub.lose_answers = 1
    shelf.push(what=["merged"])
    files = hub.files("ann/my-run")
    assert "model.safetensors" not in files
    assert {*shards, "theirs.safetensors", "x/model.safetensors", "mlx-4bit/model.safetensors"} < set(files)
    for path in merged.glob("model*"):
        path.unlink()
    (merged / "model.safetensors").write_bytes(b"one")
    shelf.push(what=["merged"])
    assert not {*shards, "model.safetensors.index.json"} & set(hub.files("ann/my-run"))


def test_figures_and_notes_that_json_lacks(hub: PushHub, shelf: Shelf) -> None:
    proof = Proof(verdict=Verdict.FAILED, figures={"kl_mean": float("nan")}, note="\udcff")
    shelf.artifacts = [attrs.evolve(shelf.artifacts[0], proof=proof)]
    write_verification(shelf.artifacts[0])
    shelf.push()
    text = hub.files("ann/my-run")["verification.json"].decode()
    found = json.loads(text, parse_constant=pytest.fail)["artifacts"][0]["proof"]
    assert found["figures"] == {"kl_mean": None}
    assert found["note"] == "\udcff"


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"artifacts": []}'], ids=["none", "torn", "list", "another's"])
def test_an_artifact_whose_proof_is_not_beside_it_is_not_pushed(hub: PushHub, shelf: Shelf, content: Any) -> None:
    path = shelf.run.folder / "exports/gguf/verification.json"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(RunError, match=r"^plugin.hub: .*verification.json does not tell of my-q8_0.gguf; run: ftcore"):
        shelf.push(what=["gguf"])
    assert hub.files("ann/my-run") == {}


def test_large_files_have_commits_of_their_own(hub: PushHub, shelf: Shelf) -> None:
    for number in (1, 2):
        (shelf.run.folder / f"exports/merged/model-{number}.safetensors").write_bytes(bytes([number]) * BIG)
    shelf.push(what=["merged"])
    first, *others = hub.repositories["ann/my-run"].commits
    assert {"README.md", "config.json", "model.safetensors"} <= first
    assert others == [{"model-1.safetensors"}, {"model-2.safetensors"}]


def test_option_private(hub: PushHub, shelf: Shelf) -> None:
    shelf.push(private=False, what=["gguf"])
    assert not hub.repositories["ann/my-run"].private
    with pytest.raises(RunError, match=r"plugin\.hub\.private: ann/my-run is there already and public"):
        shelf.push(what=["gguf"])


def test_option_revision(hub: PushHub, shelf: Shelf) -> None:
    assert shelf.push(revision="v2", what=["gguf"]) == f"{hub.url}/ann/my-run/tree/v2"
    assert hub.files("ann/my-run") == {}
    assert "my-q8_0.gguf" in hub.files("ann/my-run", "v2")
    shelf.push(revision="v2")
    card = hub.files("ann/my-run", "v2")["README.md"].decode()
    assert "pipeline(model='ann/my-run', revision='v2')" in card
    assert "subfolder='adapter', revision='v2')" in card
    assert "hf download ann/my-run my-q8_0.gguf --revision v2 --local-dir .\nrun my-q8_0.gguf" in card


def test_option_repository(hub: PushHub, shelf: Shelf) -> None:
    assert shelf.push(repository="acme/x-{run}", what=["gguf"]) == f"{hub.url}/acme/x-my-run"


def test_option_what(hub: PushHub, shelf: Shelf) -> None:
    shelf.push(what=["mlx"])
    assert "mlx-4bit/config.json" in hub.files("ann/my-run")
    shelf.artifacts = shelf.artifacts[:1]
    with pytest.raises(RunError, match=r"plugin\.hub\.what: the run has no gguf to push; export it first"):
        shelf.push(what=["merged", "gguf"])


def test_nothing_to_push(hub: PushHub, shelf: Shelf) -> None:
    shelf.artifacts, shelf.saved = (), shelf.saved / "gone"
    with pytest.raises(RunError, match=r"there is nothing to push"):
        shelf.push()


def test_a_link_is_not_followed(hub: PushHub, shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (shelf.run.folder / "exports/merged/notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(RunError, match=r"notes\.txt is a link; put what it leads to in its place"):
        shelf.push()
    assert hub.uploads == []
