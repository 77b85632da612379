"""A small hub on this machine that the real client pushes to, and that fails as it is told.

It answers what `create_repo`, `get_paths_info`, `list_repo_files` and `create_commit` ask: repositories with branches,
the way that a file is to be sent, large files by their SHA-256, commits, and the check of a card.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import attrs
import yaml

from ftcore.shipping.front_matter import LICENSES
from hub_kit import answering

TOKEN = "hf_canary_0123456789"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".gguf")
Answer = tuple[int, Mapping[str, str], bytes]


@attrs.define(kw_only=True)
class Repository:
    """Files by branch and path; a commit is the set of names that it changed."""

    private: bool
    branches: dict[str, dict[str, bytes]] = attrs.field(factory=lambda: {"main": {".gitattributes": b""}})
    commits: list[set[str]] = attrs.field(factory=list)


@attrs.define(kw_only=True)
class Fault:
    """How calls of a kind fail: with a status, or, if that is 0, by a connection that breaks after some bytes.

    `silent` is how many seconds pass before it breaks.
    """

    kind: str
    times: int
    status: int = 0
    headers: Mapping[str, str] = attrs.field(factory=dict)
    message: str = ""
    after_bytes: int = 0
    silent: float = 0.0


class PushHub(ThreadingHTTPServer):
    """`uploads` are the SHA-256 of the large files that came whole, `asked` all calls, as kind and path.

    `cards` are the front matter of models that are there, and hold nothing else.
    `on_upload` is called before the body of a large file is read.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """A hub without repositories, in good health."""
        self.account: dict[str, Any] = {
            "name": "ann",
            "orgs": [{"name": "acme"}],
            "auth": {"accessToken": {"role": "write"}},
        }
        self.repositories: dict[str, Repository] = {}
        self.cards: dict[str, dict[str, str]] = {}
        self.large: dict[str, bytes] = {}
        self.uploads: list[str] = []
        self.asked: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        self.forbidden: set[str] = set()
        self.lose_answers = 0
        self.on_upload: Callable[[], None] = lambda: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fail(self, kind: str, status: int = 0, times: int = 1, **more: Any) -> None:
        """Let the next calls of a kind fail."""
        self.faults.append(Fault(kind=kind, times=times, status=status, **more))

    def fault(self, kind: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.kind == kind and fault.times:
                    fault.times -= 1
                    return fault
        return None

    def files(self, repository: str, branch: str = "main") -> dict[str, bytes]:
        found = self.repositories[repository].branches[branch]
        return {name: content for name, content in found.items() if name != ".gitattributes"}

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms between its head and its body
    server: PushHub

    def do_GET(self) -> None:
        self._answer(lambda path, _: self._get(path))

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_PUT(self) -> None:
        self.server.on_upload()
        self._answer(self._put)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, act: Callable[[str, bytes], Answer]) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        kind = _kind(path)
        hub.asked.append((kind, path))
        fault = hub.fault(kind)
        if fault is not None and not fault.status:
            self.rfile.read(fault.after_bytes)
            time.sleep(fault.silent)
            self._hang_up()
            return
        body = self._body()
        if fault is not None:
            said = {"X-Error-Message": fault.message} if fault.message else {}
            status, headers, content = fault.status, {**fault.headers, **said}, b"{}"
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}" and kind != "upload":
            status, headers, content = 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b"{}"
        else:
            status, headers, content = act(path, body)
        if kind == "commit" and status == 200 and hub.lose_answers:
            hub.lose_answers -= 1
            self._hang_up()
            return
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().strip(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _get(self, path: str) -> Answer:
        if path == "/api/whoami-v2":
            return _json(self.server.account)
        owner, short, *rest = path.removeprefix("/api/models/").split("/")
        name = f"{owner}/{short}"
        if rest[:1] == ["tree"]:
            return _json(
                [_entry(*file) for file in self.server.repositories[name].branches["/".join(rest[1:])].items()]
            )
        found, card = self.server.repositories.get(name), self.server.cards.get(name)
        if found is None and card is None:
            return 404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b"{}"
        private = found is not None and found.private
        return _json({"id": name, "sha": COMMIT, "private": private, "siblings": [], "cardData": card})

    def _post(self, path: str, body: bytes) -> Answer:
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return _validated(json.loads(body)["content"])
        if path.endswith("/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        parts = path.removeprefix("/api/models/").split("/")
        name, kind, branch = "/".join(parts[:2]), parts[2], "/".join(parts[3:])
        if name not in self.server.repositories:
            return 404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b"{}"
        return self._in_repository(name, kind, branch, body)

    def _in_repository(self, name: str, kind: str, branch: str, body: bytes) -> Answer:
        branches = self.server.repositories[name].branches
        if kind == "branch":
            branches[branch] = dict(branches["main"])
            return _json({})
        files = branches[branch]
        if kind == "paths-info":
            return _json([_entry(path, files[path]) for path in parse_qs(body.decode())["paths"] if path in files])
        if kind == "preupload":
            return _json({"files": [_mode(file, files) for file in json.loads(body)["files"]]})
        if name in self.server.forbidden:
            return 403, {"X-Error-Message": "You don't have the rights to push to this repo"}, b"{}"
        return self._commit(name, files, [json.loads(line) for line in body.splitlines()])

    def _create(self, asked: Mapping[str, Any]) -> Answer:
        name = f"{asked['organization'] or 'ann'}/{asked['name']}"
        owners = {self.server.account["name"], *(group["name"] for group in self.server.account["orgs"])}
        if name.partition("/")[0] not in owners:
            message = "You don't have the rights to create a model under the namespace"
            return 403, {"X-Error-Message": message}, b"{}"
        if name in self.server.repositories:
            return 409, {}, _json({"error": "You already created it", "url": f"{self.server.url}/{name}"})[2]
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.server.repositories[name] = Repository(private=private)
        return _json({"url": f"{self.server.url}/{name}"})

    def _batch(self, asked: Mapping[str, Any]) -> Answer:
        objects = []
        for wanted in asked["objects"]:
            upload = {"href": f"{self.server.url}/large/{wanted['oid']}"}
            known = wanted["oid"] in self.server.large
            objects.append({**wanted, **({} if known else {"actions": {"upload": upload}})})
        return _json({"transfer": "basic", "objects": objects})

    def _put(self, path: str, body: bytes) -> Answer:
        digest = hashlib.sha256(body).hexdigest()
        if path != f"/large/{digest}":
            return 400, {}, b"another content"
        self.server.large[digest] = body
        self.server.uploads.append(digest)
        return 200, {}, b""

    def _commit(self, name: str, files: dict[str, bytes], lines: list[dict[str, Any]]) -> Answer:
        changed = {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                changed[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.server.large:
                    return 400, {"X-Error-Message": "LFS pointer pointed to a file that does not exist"}, b"{}"
                changed[value["path"]] = self.server.large[value["oid"]]
            else:
                del files[value["path"]]
        files.update(changed)
        self.server.repositories[name].commits.append(set(changed))
        return _json({"commitUrl": f"{self.server.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT})


def _kind(path: str) -> str:
    for kind in ("whoami", "create", "validate", "batch", "paths-info", "preupload", "commit", "branch", "tree"):
        if f"/{kind}" in path:
            return kind
    return "upload" if path.startswith("/large/") else "info"


def _mode(file: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    there = files.get(file["path"])
    large = file["path"].endswith(LARGE)
    oid = None if there is None else hashlib.sha256(there).hexdigest() if large else _blob(there)
    return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}


def _entry(name: str, content: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": name, "size": len(content), "oid": _blob(content)}
    if not name.endswith(LARGE):
        return entry
    digest = hashlib.sha256(content).hexdigest()
    return {**entry, "oid": "0" * 40, "lfs": {"oid": digest, "size": len(content), "pointerSize": 134}}


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _validated(card: str) -> Answer:
    """As the hub does: front matter that is YAML, with a licence that it knows."""
    metadata = yaml.safe_load(card.split("---\n")[1])
    known = metadata.get("license", "unknown") in LICENSES
    errors = [] if known else [{"message": '"license" must be one of [...]'}]
    return (200 if known else 400), {}, json.dumps({"errors": errors, "warnings": []}).encode()


def _json(value: Any) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


@contextmanager
def listening() -> Iterator[PushHub]:
    """A hub that listens on this machine only."""
    with PushHub() as hub, answering(hub):
        yield hub
