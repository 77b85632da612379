"""What `ftcore check` says of MLflow: the package, the address, the server and the login."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ftcore.api import Problem, Profile, Run, RunError
from ftcore_plugins import mlflow as module
from ftcore_plugins.common import asking, requirements
from ftcore_plugins.mlflow import MLflow, Options
from ftcore_plugins.mlflow.address import find_place
from ftcore_plugins.mlflow.opening import open_tracker

GOOD = "Basic YW5uYTpzZWNyZXQ="
"""anna:secret"""


class Door(ThreadingHTTPServer):
    """Answers what MLflow is asked, with `status` and `body`, or only to those who know `login`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.body, self.login = 200, b"{}", ""
        self.asked: list[str] = []

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Door

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        door = self.server
        door.asked.append(self.path)
        known = not door.login or self.headers.get("Authorization") == door.login
        status, body = (door.status, door.body) if known else (401, b"You are not authenticated. See docs.\nmore")
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def house() -> Iterator[Door]:
    with Door() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def door(house: Door) -> Door:
    house.status, house.body, house.login = 200, b"{}", ""
    house.asked.clear()
    return house


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Packages are there, and no login is set."""
    for name in ("URI", "USERNAME", "PASSWORD", "TOKEN", "AUTH"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(requirements, "find_spec", lambda name: name)
    monkeypatch.setattr(module, "_version", lambda: "3.5.0")


def run_in(tmp_path: Path) -> Run:
    return Run(name="r", folder=tmp_path / "runs/r-1", profile=Profile())


def problems(tmp_path: Path, **options: str) -> list[Problem]:
    return list(MLflow(Options(**options)).check(run_in(tmp_path)))


def only(tmp_path: Path, **options: str) -> Problem:
    (problem,) = problems(tmp_path, **options)
    return problem


def test_nothing_is_wrong_with_the_default(tmp_path: Path) -> None:
    assert problems(tmp_path) == []
    assert list(tmp_path.iterdir()) == [], "nothing is made yet"


def test_a_missing_package_is_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda name: name if name != "mlflow" else None)
    assert only(tmp_path).message == "mlflow not installed; run: pip install 'ftcore[mlflow]'"


def test_the_light_package_lacks_what_a_database_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: Door
) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda name: name if name == "mlflow" else None)
    assert only(tmp_path).message == "sqlalchemy, alembic not installed; run: pip install 'ftcore[mlflow]'"
    assert problems(tmp_path, tracking_uri=door.uri) == [], "a server has its own"


def test_an_old_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_version", lambda: "1.27.0")
    text = "mlflow 1.27.0 is older than 3.5; run: pip install --upgrade 'ftcore[mlflow]'"
    assert only(tmp_path).message == text


@pytest.mark.parametrize(
    ("uri", "part"),
    [
        ("mlruns", "'mlruns' is a folder, which MLflow no longer writes runs to; write an address such as"),
        ("file:///tmp/mlruns", "is a folder"),
        ("ftp://host/x", "'ftp://host/x' is no address that MLflow takes"),
        ("sqlite://", "'sqlite://' names no file; write sqlite:///FILE"),
        ("http://", "'http://' names no host and port"),
        ("http://host:port", "names no host and port"),
        ("https://anna:secret@host/x", "https://host/x was written with a login in it; leave that out"),
        ("postgresql://anna:secret@host/x", "postgresql://host/x was written with a login in it"),
    ],
)
def test_an_address_that_is_none_is_an_error(tmp_path: Path, uri: str, part: str) -> None:
    problem = only(tmp_path, tracking_uri=uri)
    assert (problem.key, problem.severity) == ("plugin.mlflow.tracking_uri", "error")
    assert part in problem.message
    assert "secret" not in problem.message


@pytest.mark.parametrize("uri", ["databricks", "databricks://profile", "postgresql+psycopg://host/x"])
def test_other_places_of_mlflow_are_left_to_it(tmp_path: Path, uri: str) -> None:
    assert problems(tmp_path, tracking_uri=uri) == []


def test_the_option_wins_over_the_variable_and_that_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs/r-1"
    assert find_place("", folder).uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://anna:secret@host:5000/")
    place = find_place("", folder)
    assert (place.uri, place.shown, place.fault) == ("http://anna:secret@host:5000", "http://host:5000", "")
    assert find_place("sqlite:///all.db", folder).uri == f"sqlite:///{tmp_path}/runs/all.db"
    assert find_place("sqlite:////data/all.db", folder).uri == "sqlite:////data/all.db"


def test_a_file_that_cannot_be_a_database_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("no database at all, and long enough to be read as one" * 20)
    (tmp_path / "folder").mkdir()
    for name, part in (
        ("notes.txt", "is no database (file is not a database); name another file"),
        ("folder", "is a folder; name a file in it"),
        ("notes.txt/x.db", f"cannot be written: {tmp_path}/notes.txt is no folder that this user may write to"),
    ):
        problem = only(tmp_path, tracking_uri=f"sqlite:///{tmp_path}/{name}")
        assert problem.key == "plugin.mlflow.tracking_uri"
        assert problem.message == f"{tmp_path}/{name} {part}"
        with pytest.raises(RunError, match=rf"^plugin\.mlflow: {tmp_path}/{name} "):
            open_tracker(Options(tracking_uri=f"sqlite:///{tmp_path}/{name}"), run_in(tmp_path), {})


def test_a_server_is_asked_for_what_only_mlflow_answers(tmp_path: Path, door: Door) -> None:
    assert problems(tmp_path, tracking_uri=f"{door.uri}/") == []
    assert door.asked == ["/api/2.0/mlflow/experiments/search"]


def test_nobody_there_is_a_warning_that_names_address_and_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    problem = only(tmp_path)
    assert problem.severity == "warning"
    assert problem.message.startswith(f"{uri}, from MLFLOW_TRACKING_URI, does not answer as MLflow does (")
    assert problem.message.endswith("; the run goes on without it, and ftcore sync sends it later")


def test_a_server_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        problem = only(tmp_path, tracking_uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert "(timed out)" in problem.message


@pytest.mark.parametrize(
    ("status", "body", "part"),
    [
        (404, b"", "status 404"),
        (302, b"", "status 302"),
        (200, b"<html>", "Expecting value"),
        (200, b"[]", "no JSON object"),
    ],
)
def test_another_server_is_not_taken_for_mlflow(
    tmp_path: Path, door: Door, status: int, body: bytes, part: str
) -> None:
    door.status, door.body = status, body
    assert part in only(tmp_path, tracking_uri=door.uri).message


def test_a_login_that_is_missing_names_the_variables(tmp_path: Path, door: Door) -> None:
    door.login = GOOD
    problem = only(tmp_path, tracking_uri=door.uri)
    assert problem.severity == "error"
    assert problem.message == (
        f"{door.uri} refuses the login (You are not authenticated. See docs.); "
        "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    )


def test_every_way_to_log_in_is_tried_as_the_client_does(
    tmp_path: Path, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.login = "Bearer of-the-token"
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "of-the-token")
    assert problems(tmp_path, tracking_uri=door.uri) == []
    door.login = GOOD
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    assert problems(tmp_path, tracking_uri=door.uri) == []
    for name in ("TOKEN", "USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login anna password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert problems(tmp_path, tracking_uri=door.uri) == []
    (tmp_path / ".netrc").rename(tmp_path / "logins")
    monkeypatch.setenv("NETRC", str(tmp_path / "logins"))
    assert problems(tmp_path, tracking_uri=door.uri) == []
    monkeypatch.delenv("NETRC")
    (tmp_path / ".mlflow").mkdir()
    kept = "[mlflow]\nmlflow_tracking_username = anna\nmlflow_tracking_password = secret\n"
    (tmp_path / ".mlflow/credentials").write_text(kept)
    assert problems(tmp_path, tracking_uri=door.uri) == []
    (tmp_path / ".mlflow/credentials").unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", door.uri.replace("://", "://anna:secret@"))
    assert problems(tmp_path) == []
    monkeypatch.setenv("MLFLOW_TRACKING_AUTH", "a-plugin-of-the-client")
    assert problems(tmp_path, tracking_uri=door.uri) == [], "what only the client can do is left to it"


def test_a_token_that_cannot_be_sent_is_not_shown(tmp_path: Path, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "of-the-token\n")
    problem = only(tmp_path, tracking_uri=door.uri)
    assert problem.message.startswith(f"{door.uri} refuses the login (it has signs that cannot be sent); set")
    assert not door.asked


def test_certificates_that_are_none_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(tmp_path / "none.pem"))
    problem = only(tmp_path, tracking_uri="https://127.0.0.1:9")
    assert f"({tmp_path}/none.pem holds no certificates: No such file" in problem.message


def test_a_name_in_the_registry_needs_a_model(tmp_path: Path) -> None:
    problem = only(tmp_path, registered_model="grids")
    assert problem.key == "plugin.mlflow.registered_model"
    assert problem.message == 'grids needs a model; write log_model = "adapter" or "merged"'
    assert problems(tmp_path, registered_model="grids", log_model="merged") == []
