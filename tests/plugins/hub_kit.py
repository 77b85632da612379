"""A small hub on this machine that the real client talks to, and `files` in a process of its own that asks it.

It answers what `list_repo_files` and `snapshot_download` ask: the tree of a revision, its commit, and files.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_token_of_the_tests"

SCRIPT = """
import json, sys
from pathlib import Path
from files_kit import source
from ftcore.api import RunError
def answer(data):
    try:
        found = source(None, Path(sys.argv[1]), **data)
        rows = [[dict(row.values), row.origin] for part in found.parts for row in part.rows]
        return {"rows": rows, "validation": [dict(row.values) for row in found.validation]}
    except RunError as error:
        return {"error": str(error)}
print(json.dumps([answer(data) for data in json.loads(sys.argv[2])]))
"""


class Hub(ThreadingHTTPServer):
    """Data sets by name: their files by path. `asked` are the paths of all requests.

    A name in `gated` shows its tree, and its files only with `TOKEN`, as the real hub does. `revisions` are
    those that there are beside `main`. `down` answers everything with that status.
    """

    daemon_threads = True

    def __init__(self, data_sets: Mapping[str, Mapping[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.data_sets = data_sets
        self.asked: list[str] = []
        self.gated: set[str] = set()
        self.revisions = {"main", COMMIT}
        self.down = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def downloads(self) -> list[str]:
        """The files that were fetched, by their paths in the data set."""
        return sorted({path.split("/resolve/")[1].partition("/")[2] for path in self.asked if "/resolve/" in path})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(path)
        status, headers, content = self._content(path.removeprefix("/api").removeprefix("/datasets/"))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _content(self, path: str) -> tuple[int, dict[str, str], bytes]:
        hub = self.server
        if hub.down:
            return hub.down, {}, b"the hub is ill"
        name = next((name for name in hub.data_sets if path == name or path.startswith(f"{name}/")), None)
        if name is None:
            return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b""
        kind, _, rest = path.removeprefix(name).strip("/").partition("/")
        revision, _, file = rest.partition("/")
        if revision and revision not in hub.revisions:
            return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}, b""
        if kind == "tree":
            return 200, {}, _tree(hub.data_sets[name])
        if kind == "resolve":
            return self._file(name, file)
        return 200, {}, json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode()

    def _file(self, name: str, file: str) -> tuple[int, dict[str, str], bytes]:
        if name in self.server.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}, b""
        content = self.server.data_sets[name].get(file)
        if content is None:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        return 200, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}, content


def _tree(files: Mapping[str, bytes]) -> bytes:
    entries = [
        {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        for path, content in files.items()
    ]
    return json.dumps(entries).encode()


@contextmanager
def serving(data_sets: Mapping[str, Mapping[str, bytes]]) -> Iterator[Hub]:
    """A hub that listens on this machine only."""
    with Hub(data_sets) as hub, answering(hub):
        yield hub


@contextmanager
def answering(server: ThreadingHTTPServer) -> Iterator[None]:
    """While it lasts, the server answers, in a thread of its own."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


def ask(url: str, home: Path, env: Mapping[str, str] | None = None, **data: Any) -> dict[str, Any]:
    """What `files` makes of the options with the hub at `url`, and with its cache in `home`."""
    return ask_all(url, home, [data], env)[0]


def ask_all(
    url: str, home: Path, options: Sequence[Mapping[str, Any]], env: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """The same for several options, one after the other in one process."""
    names = ("PATH", "PYTHONPATH", "LANG", "VIRTUAL_ENV", "TMPDIR")
    environment = {name: os.environ[name] for name in names if name in os.environ}
    environment |= {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "HOME": str(home)}
    command = [sys.executable, "-c", SCRIPT, str(home / "rows"), json.dumps(options)]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parent,
        env={**environment, **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return [{**found, "stderr": done.stderr} for found in answers]
