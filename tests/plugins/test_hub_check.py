"""What `check` says of a push before the run: names, the token, the hub."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from ftcore.api import Run, RunError
from ftcore.testing import heavy_imports, make_config, plugin_faults
from ftcore_plugins.hub import Hub, Options
from ftcore_plugins.hub.names import fault_of, named
from push_kit import TOKEN, PushHub
from push_shelf import Shelf


def problems(run: Run, **options: Any) -> list[tuple[str, str, str]]:
    found = Hub(make_config(Options, options)).check(run)
    return [(problem.key, problem.severity, problem.message) for problem in found]


def test_check_finds_nothing(hub: PushHub, shelf: Shelf) -> None:
    assert problems(shelf.run) == []
    hub.account["auth"] = {"accessToken": {"role": "fineGrained", "fineGrained": {"scoped": [SCOPE]}}}
    assert problems(shelf.run, repository="acme/x") == []


SCOPE = {"entity": {"name": "ann"}, "permissions": ["repo.content.read", "repo.write"]}


def test_check_of_the_token(hub: PushHub, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    [(key, severity, text)] = problems(shelf.run, repository="bob/x")
    assert (key, severity) == ("plugin.hub.repository", "warning")
    assert text == "bob/x is not ann's own: it may be refused, unless the token may write there"
    for token in ({"role": "read"}, {"role": "fineGrained", "fineGrained": {"scoped": [], "global": []}}):
        hub.account["auth"] = {"accessToken": token}
        page = f"{hub.url}/settings/tokens"
        reads = f"the token of HF_TOKEN may only read; make one with the write role at {page}"
        assert problems(shelf.run) == [("plugin.hub", "error", reads)]
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    unknown = f"the hub does not know the token of HF_TOKEN; make another at {page}"
    assert problems(shelf.run) == [("plugin.hub", "error", unknown)]
    monkeypatch.setenv("HF_TOKEN", "hf_secret\tü")
    assert problems(shelf.run) == [("plugin.hub", "error", unknown)]
    with pytest.raises(RunError, match="HF_TOKEN holds characters that no token has; set it again"):
        shelf.push()
    monkeypatch.delenv("HF_TOKEN")
    [(_, _, text)] = problems(shelf.run)
    assert text.startswith("no HF_TOKEN to push with; make one with the write role at")
    monkeypatch.setenv("HF_OIDC_RESOURCE", "x")
    assert problems(shelf.run) == []


def test_check_without_a_hub(hub: PushHub, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.fail("whoami", 302, headers={"Location": "http://127.0.0.1:1/"})
    assert "does not answer (status 302)" in problems(shelf.run)[0][2]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    [(_, severity, text)] = problems(shelf.run)
    assert severity == "warning"
    assert text.startswith("http://127.0.0.1:1 does not answer (")
    for address in ("http://[::1", "http://x:abc", "http://a b/"):
        monkeypatch.setenv("HF_ENDPOINT", address)
        assert problems(shelf.run)[0][2].startswith(f"{address.rstrip('/')} does not answer (")
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc")
    assert "HF_ENDPOINT is no address" in problems(shelf.run)[0][2]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert problems(shelf.run)[0][2] == "HF_HUB_OFFLINE is set, so nothing can be pushed; unset it"


@pytest.mark.parametrize(
    "answer",
    [
        b"H",
        b"HTTP/1.1 200 OK\r\nContent-Length: 54\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        *(b"HTTP/1.1 200 OK\r\n\r\n" + body for body in (b"", b"[]", b'{"name": "a", "auth": "b"}', b"[" * 10000)),
    ],
    ids=range(7),
)
def test_check_with_a_hub_that_is_none(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        [(key, severity, text)] = problems(shelf.run)
        thread.join()
    assert (key, severity) == ("plugin.hub", "warning")
    assert "does not answer (" in text
    assert "\n" not in text


def test_check_of_names(hub: PushHub, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    [(key, _, text)] = problems(shelf.run, repository="{owner}/x")
    assert (key, text) == (
        "plugin.hub.repository",
        "{owner} stands for nothing; write {user}, {run}, or the name itself",
    )
    for bad in ("x", "a/b/c", "a b/c", "a/-b", "a/b.", "a/b--c", "a/b..c", "a/b.git", "", "https://h.co/a/b", "a/ä"):
        assert fault_of(bad, "run").endswith("of letters, digits, '-', '_' and '.'")
    for bad in ("", "a b", "a..b", "-a", "a/", "a//b", "refs/pr/1", "x.lock", "v1\n", "a~1", "x" * 300):
        [(key, severity, text)] = problems(shelf.run, revision=bad)
        assert (key, severity) == ("plugin.hub.revision", "error")
        assert text == f"{bad!r} is no name of a branch; write one such as main"
    assert problems(shelf.run, revision="exports/v1.2_x") == []
    monkeypatch.setattr("ftcore_plugins.common.requirements.find_spec", lambda _: None)
    assert "pip install 'ftcore[train]'" in problems(shelf.run)[0][2]


def test_the_name_of_any_run_is_one_that_the_hub_takes() -> None:
    for run in ("my run", "-x-", "a--b", "..", "grün", "x" * 200, "a.git", "日本"):
        assert fault_of("{user}/{run}", run) == ""
    assert named("{user}/{run}", "ann", "my  run/2") == "ann/my-run-2"


def test_the_face_is_light() -> None:
    assert plugin_faults(Hub) == []
    assert heavy_imports("ftcore_plugins.hub") == []
