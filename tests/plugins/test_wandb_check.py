"""What `ftcore check` says of `[plugin.wandb]` before anything is sent, or imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftcore.api import Problem
from ftcore_plugins import wandb as module
from ftcore_plugins.wandb import Options, WandB
from wandb_kit import CANARY, Server, listening


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    import os

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(module, "missing", lambda *_: [])  # the package itself is asked for below
    return tmp_path


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with listening() as server:
        yield server


@pytest.fixture
def asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("WANDB_BASE_URL", server.address)
    server.told.clear()
    server.status = 200
    return server


def check(**options: object) -> list[Problem]:
    return list(WandB(Options(**options)).check())  # type: ignore[arg-type]


def test_without_a_key_it_names_the_variable_and_the_way_without(asked: Server) -> None:
    [problem] = check()
    assert (problem.key, problem.severity) == ("plugin.wandb", "error")
    assert "set WANDB_API_KEY" in problem.message
    assert 'mode = "offline"' in problem.message
    assert not asked.told


@pytest.mark.parametrize("how", ["option", "variable"])
def test_offline_needs_neither_key_nor_server(how: str, asked: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline" if how == "variable" else "online")
    assert check(**({} if how == "variable" else {"mode": "offline"})) == []
    assert not asked.told


def test_a_mode_that_sends_nothing_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    [problem] = check()
    assert problem.key == "plugin.wandb.mode"
    assert "WANDB_MODE=disabled sends nothing" in problem.message


@pytest.mark.parametrize("place", ["WANDB_API_KEY", "netrc", "settings"])
def test_a_key_is_found_where_the_client_finds_it(
    place: str, asked: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "netrc":
        host = asked.address.removeprefix("http://")
        (home / ".netrc").write_text(f"machine {host}\n  login user\n  password {CANARY}\n", "utf-8")
        (home / ".netrc").chmod(0o600)
    elif place == "settings":
        monkeypatch.delenv("WANDB_BASE_URL")
        (home / ".config/wandb").mkdir(parents=True)
        text = f"[default]\nbase_url = {asked.address}\napi_key = {CANARY}\n"
        (home / ".config/wandb/settings").write_text(text, "utf-8")
    else:
        monkeypatch.setenv(place, CANARY)
    assert check() == []
    assert list(asked.told) == ["Viewer"]


def test_a_token_of_an_identity_provider_is_left_to_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_IDENTITY_TOKEN_FILE", "/somewhere/token")
    assert check() == []


@pytest.mark.parametrize("key", [CANARY, "not a key\n\x1b[31m"], ids=["unknown", "broken"])
def test_a_key_that_is_refused_is_never_shown(key: str, asked: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)
    asked.status = 401
    [problem] = check()
    assert problem.message.startswith(f"{asked.address} does not know the key of WANDB_API_KEY")
    assert key not in problem.message


@pytest.mark.parametrize("fault", [503, "nobody", "no-address"])
def test_a_server_that_does_not_answer_is_a_warning(
    fault: object, asked: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    if isinstance(fault, int):
        asked.status = fault
    else:
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9" if fault == "nobody" else "wandb.example.com")
    [problem] = check()
    assert problem.severity == "warning"
    assert "does not answer" in problem.message
    assert "ftcore sync sends it later" in problem.message
    assert CANARY not in problem.message


def test_a_missing_package_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    from ftcore_plugins.common import requirements

    monkeypatch.setattr(module, "missing", requirements.missing)
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    [problem] = check(mode="offline")
    assert problem.key == "plugin.wandb"
    assert "pip install 'ftcore[wandb]'" in problem.message


def test_check_does_not_import_the_client(asked: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    check()
    assert "wandb" not in sys.modules
