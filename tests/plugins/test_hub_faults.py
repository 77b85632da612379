"""A push over bad connections, to a hub that is ill or refuses, and one that is killed and goes on."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ftcore.api import RunError
from push_kit import TOKEN, PushHub, Repository
from push_shelf import Shelf

BIG = 10 * 2**20 + 1


def test_connections_that_break(hub: PushHub, shelf: Shelf) -> None:
    hub.fail("upload", times=2, after_bytes=1)
    for kind in ("create", "paths-info", "preupload", "batch", "commit"):
        hub.fail(kind)
    shelf.push()
    assert hub.files("ann/my-run")["model.safetensors"] == b"merged" * 5
    assert len(shelf.waited) == 3  # the client itself asks again for the others


def test_a_hub_that_falls_silent(hub: PushHub, shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ftcore.plugins.hub")
    hub.fail("commit", silent=3.0)
    shelf.silence = 0.5
    shelf.push(what=["gguf"])
    assert len(hub.repositories["ann/my-run"].commits) == 1
    assert "the connection to the hub has failed (timed out)" in caplog.text


def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub: PushHub, shelf: Shelf) -> None:
    hub.lose_answers = 1
    shelf.push(what=["gguf"])
    assert len(hub.repositories["ann/my-run"].commits) == 1


def test_a_hub_that_is_ill_for_a_while(hub: PushHub, shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ftcore.plugins.hub")
    hub.fail("whoami", 503, times=1)
    hub.fail("commit", 500, times=3)
    shelf.push(what=["gguf"])
    assert "my-q8_0.gguf" in hub.files("ann/my-run")
    assert [2 * 2**n <= wait <= 3 * 2**n for n, wait in zip((0, 0, 1, 2), shelf.waited, strict=True)] == [True] * 4
    assert "the hub answers 503; trying again in" in caplog.text
    assert "the hub answers 500; trying again in" in caplog.text
    assert "(4 of 4)" in caplog.text


def test_a_hub_that_stays_ill(hub: PushHub, shelf: Shelf) -> None:
    hub.fail("commit", 500, times=99)
    message = r"plugin\.hub: the hub is ill, and answers 500 again and again \(.*\); what has been pushed is kept"
    with pytest.raises(RunError, match=message):
        shelf.push()
    assert len(shelf.waited) == 3


def test_a_hub_that_asks_to_wait(hub: PushHub, shelf: Shelf) -> None:
    hub.fail("commit", 429, headers={"Retry-After": "7"})
    shelf.push(what=["gguf"])
    hub.fail("create", 429, headers={"RateLimit": '"api";r=0;t=55'})
    shelf.push(what=["gguf"])
    assert shelf.waited == [8.0, 56.0]
    hub.fail("create", 429, headers={"Retry-After": "86400"}, message="too many repositories today")
    with pytest.raises(RunError, match=r"the hub asks to wait \(too many repositories today\); push again later"):
        shelf.push(what=["gguf"])
    assert shelf.waited == [8.0, 56.0]


def test_another_push_at_the_same_time(hub: PushHub, shelf: Shelf) -> None:
    hub.fail("commit", 412, message="A commit has happened since. Please refresh and try again.")
    shelf.push(what=["gguf"])
    assert len(shelf.waited) == 1
    hub.fail("commit", 412, times=99)
    with pytest.raises(RunError, match="somebody else pushes to ann/my-run"):
        shelf.push()


@pytest.mark.parametrize(
    ("kind", "status", "said", "message"),
    [
        (
            "whoami",
            401,
            "",
            r"the hub does not know the token of HF_TOKEN \(.*\); make another one at http://.*/tokens",
        ),
        ("commit", 403, "no right", r"the token of HF_TOKEN may not write to ann/my-run \(no right\); give it"),
        ("commit", 403, "Private repository storage limit reached", "the hub has no room left for ann/my-run"),
        ("commit", 402, "pay", r"the hub has no room left for ann/my-run \(pay\); free some, or get more"),
        ("commit", 413, "big", r"a file is too large for the hub \(big\); lower plugin.merge.max_shard_size"),
        ("commit", 418, "tea", r"the hub refuses ann/my-run with status 418 \(tea\)"),
        ("paths-info", 404, "gone", r"ann/my-run is not there, or the token of HF_TOKEN may not see it"),
    ],
)
def test_refusals_are_one_sentence(hub: PushHub, shelf: Shelf, kind: str, status: int, said: str, message: str) -> None:
    hub.fail(kind, status, message=said)
    with pytest.raises(RunError, match=message) as caught:
        shelf.push()
    assert str(caught.value).startswith("plugin.hub: ")
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert shelf.waited == []


def test_a_gated_repository(hub: PushHub, shelf: Shelf) -> None:
    hub.fail("paths-info", 403, headers={"X-Error-Code": "GatedRepo"})
    with pytest.raises(RunError, match=r"ann/my-run is gated, and the owner of the token of HF_TOKEN has no access"):
        shelf.push()


def test_a_card_that_the_hub_refuses(hub: PushHub, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftcore_plugins.hub.push.write_card", lambda folder, *_: (folder / "README.md").write_text(BAD))
    with pytest.raises(RunError, match=r'the hub refuses ann/my-run with status 400 \("license" must be one of'):
        shelf.push()
    assert hub.uploads == []


BAD = "---\nlicense: my own\n---\n"


def test_a_name_that_belongs_to_somebody_else(hub: PushHub, shelf: Shelf) -> None:
    with pytest.raises(RunError, match=r"may not write to bob/my-run \(You don't have the rights"):
        shelf.push(repository="bob/{run}")
    hub.repositories["bob/my-run"] = Repository(private=True)
    hub.forbidden.add("bob/my-run")
    with pytest.raises(RunError, match=r"may not write to bob/my-run \(You don't have the rights to push"):
        shelf.push(repository="bob/{run}")


def test_no_hub_and_no_token(hub: PushHub, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(RunError, match=r"the hub is out of reach \(.*refused.*\); what has been pushed is kept"):
        shelf.push()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RunError, match="HF_HUB_OFFLINE is set, so nothing can be pushed; unset it"):
        shelf.push()
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere")
    with pytest.raises(RunError, match="no HF_TOKEN to push with"):
        shelf.push()


SCRIPT = """
import json, sys
from pathlib import Path
from ftcore.api import Artifact
from ftcore.testing import make_run
from ftcore_plugins.hub import Hub, Options
folder = Path(sys.argv[1])
import attrs
run = attrs.evolve(make_run(folder), name="killed")
artifacts = [Artifact(kind="merged", path=folder / "exports/merged")]
print(Hub(Options()).publish(run, artifacts, folder / "adapter"))
"""


def test_a_push_that_is_killed_goes_on(hub: PushHub, shelf: Shelf, tmp_path: Path) -> None:
    """In processes of its own, which know the hub by their environment alone."""
    contents = [bytes([number]) * BIG for number in range(3)]
    for number, content in enumerate(contents):
        (shelf.run.folder / f"exports/merged/model-{number}.safetensors").write_bytes(content)
    uploading = threading.Semaphore(0)
    hub.on_upload = uploading.release
    names = ("PATH", "PYTHONPATH", "LANG", "VIRTUAL_ENV", "TMPDIR", "HF_TOKEN", "HF_ENDPOINT", "HF_HOME")
    env = {name: os.environ[name] for name in names if name in os.environ}
    env |= {"HF_HUB_DISABLE_XET": "1", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", SCRIPT, str(shelf.run.folder)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as pushing:
        while hashlib.sha256(contents[0]).hexdigest() not in hub.uploads:
            assert uploading.acquire(timeout=30)
        assert uploading.acquire(timeout=30)
        pushing.send_signal(signal.SIGKILL)
    before = list(hub.uploads)
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == f"{hub.url}/ann/killed\n", done.stderr
    files = hub.files("ann/killed")
    assert [files[f"model-{number}.safetensors"] for number in range(3)] == contents
    assert len(set(hub.uploads)) == len(hub.uploads), "nothing is sent twice"
    assert len(hub.uploads) > len(before)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert TOKEN.encode() not in written
    assert TOKEN not in done.stdout + done.stderr
