"""A small server on this machine that the real client of Weights & Biases sends to, and keeps what comes.

It answers as much as opening a run, its history, summary and files need. Of artifacts it only notes the names: that
they are stored cannot be tested here.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import attrs

CANARY = "canary0123456789012345678901234567890123"


@attrs.define
class Shelf:
    """What has come of one run. `history` are its rows, each in the place that the client has given it."""

    history: dict[int, dict[str, Any]] = attrs.field(factory=dict)
    summary: dict[str, Any] = attrs.field(factory=dict)
    fields: dict[str, Any] = attrs.field(factory=dict)
    files: dict[str, bytes] = attrs.field(factory=dict)
    ended: int | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [self.history[place] for place in sorted(self.history)]


class Server(ThreadingHTTPServer):
    """`told` are the values of each operation that was asked for; with another `status`, nothing is answered."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client leaves connections open, and resets them."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.runs: dict[str, Shelf] = {}
        self.told: dict[str, list[Any]] = {}
        self.status = 200

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def listening(port: int = 0) -> Iterator[Server]:
    server = Server(port)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.status != 200:
            self._answer({}, self.server.status)
        elif self.path == "/graphql":
            asked = json.loads(body)
            name = asked.get("operationName") or asked["query"].split()[1]
            self.server.told.setdefault(name, []).append(asked.get("variables") or {})
            found = self._asked(name, asked.get("variables") or {})
            self._answer({"data": found} if found else {"errors": [{"message": f"{name} is not known here"}]})
        elif self.path.endswith("/file_stream"):
            self._stream(self.server.runs[self.path.split("/")[4]], json.loads(body))
        else:
            self._answer({}, 404)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        _, _, run, name = self.path.split("/", 3)
        self.server.runs[run].files[name] = body
        self._answer({})

    def _asked(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        match name:
            case "UpsertBucket":
                return self._upsert(values)
            case "RunResumeStatus":
                return {"model": self._known(values["name"])}
            case "CreateRunFiles":
                return self._files(values)
            case "Viewer":
                return {"viewer": {"id": "u", "entity": "tester", "username": "tester", "flags": "{}"}}
        return {}

    def _upsert(self, values: Mapping[str, Any]) -> dict[str, Any]:
        run = self.server.runs.setdefault(values["name"], Shelf())
        run.fields.update({name: value for name, value in values.items() if value is not None})
        project = {"id": "p", "name": values.get("project") or "p", "entity": {"id": "e", "name": "tester"}}
        bucket = {"id": "b", "name": values["name"], "displayName": values.get("displayName"), "project": project}
        return {"upsertBucket": {"bucket": {**bucket, "config": "{}", "historyLineCount": 0}, "inserted": True}}

    def _known(self, name: str) -> dict[str, Any] | None:
        run = self.server.runs.get(name)
        if run is None:
            return None
        tail = json.dumps([json.dumps(run.rows[-1])] if run.rows else [])
        known = {"id": "b", "name": name, "summaryMetrics": json.dumps(run.summary), "displayName": name}
        lines = {"historyLineCount": len(run.rows), "logLineCount": 0, "eventsLineCount": 0}
        rest = {"historyTail": tail, "eventsTail": "[]", "config": run.fields.get("config", "{}"), "tags": []}
        bucket = {**known, **lines, **rest, "notes": "", "wandbConfig": json.dumps({"t": 1})}
        return {"id": "p", "name": "p", "entity": {"id": "e", "name": "tester"}, "bucket": bucket}

    def _files(self, values: Mapping[str, Any]) -> dict[str, Any]:
        address = f"{self.server.address}/upload/{values['run']}"
        files = [{"name": name, "uploadUrl": f"{address}/{name}"} for name in values["files"]]
        return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}

    def _stream(self, run: Shelf, sent: Mapping[str, Any]) -> None:
        files = sent.get("files") or {}
        if "wandb-history.jsonl" in files:
            part = files["wandb-history.jsonl"]
            for number, line in enumerate(part["content"]):
                run.history[part["offset"] + number] = json.loads(line)
        for line in files.get("wandb-summary.json", {}).get("content", ()):
            run.summary.update(json.loads(line))
        if sent.get("complete"):
            run.ended = sent.get("exitcode")
        self._answer({"exitcode": None, "limits": {}})

    def _answer(self, values: Mapping[str, Any], status: int = 200) -> None:
        data = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
