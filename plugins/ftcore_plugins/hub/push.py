"""The push: a repository, what is missing in it, in commits. Imports the hub's client.

Each commit is whole or not at all, and holds what one more try would have to send again: the small files together,
each large one alone. What the repository holds already, by its content, is not sent.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import attrs
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub import utils as client

from ftcore.api import Artifact, Proof, Run, RunError, Verdict, write_card
from ftcore_plugins.common.hub_login import find_token, is_token, token_source
from ftcore_plugins.hub import Options
from ftcore_plugins.hub.faults import push_errors
from ftcore_plugins.hub.layout import (
    ADAPTER_CONFIG,
    BRANCH,
    CARD,
    MODEL_CONFIG,
    VERIFICATION,
    File,
    Part,
    files_of,
    parts,
)
from ftcore_plugins.hub.names import named
from ftcore_plugins.hub.patience import Patience
from ftcore_plugins.hub.usage import usage

__all__ = ["push"]

SMALL = 10 * 2**20  # bytes; the hub keeps larger files apart from the history anyway
TOGETHER = 50  # files of one commit
MEGABYTE = 10**6
MOVED = (ADAPTER_CONFIG, "adapter_model.safetensors")
WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
LOG = logging.getLogger("ftcore.plugins.hub")


def push(
    config: Options, run: Run, artifacts: Sequence[Artifact], saved: Path, patience: Patience | None = None
) -> str:
    """Push what `config` asks for, and return the address of the repository. Raises `RunError` of one sentence."""
    ask = patience or Patience()
    if not is_token(find_token()):
        raise RunError(f"plugin.hub: {token_source()} holds characters that no token has; set it again")
    api = HfApi(library_name="ftcore")
    with push_errors(config.repository), ask.listening():
        user = str(ask(api.whoami, LOG.warning)["name"])
    repository = named(config.repository, user, run.name)
    with push_errors(repository), ask.listening(), _bars():
        target = Target(api=api, ask=ask, name=repository, branch=config.revision)
        target.open(private=config.private)
        model_there = MODEL_CONFIG in ask(lambda: target.there([MODEL_CONFIG]), LOG.warning)
        chosen = parts(artifacts, saved, config.what, model_there=model_there)
        files = {file.name: file for part in chosen for file in files_of(part)}
        told = _told(run, chosen, repository, config.revision)
        target.take([*told, *(file for name, file in files.items() if name not in (CARD, VERIFICATION))])
    return f"{api.endpoint}/{repository}" + ("" if config.revision == BRANCH else f"/tree/{config.revision}")


@attrs.frozen(kw_only=True)
class Target:
    """A branch of a repository."""

    api: HfApi
    ask: Patience
    name: str
    branch: str

    def open(self, *, private: bool) -> None:
        """Make the repository and the branch if they are not there. A public one is refused when `private`."""
        api, again = self.api, self.ask
        again(lambda: api.create_repo(self.name, private=private, exist_ok=True), LOG.warning)
        if private and not again(lambda: api.repo_info(self.name), LOG.warning).private:
            raise RunError(
                f"plugin.hub.private: {self.name} is there already and public; make it private in its settings, or set "
                f"private = false"
            )
        if self.branch != BRANCH:
            again(lambda: api.create_branch(self.name, branch=self.branch, exist_ok=True), LOG.warning)

    def there(self, names: Sequence[str]) -> dict[str, Any]:
        """What the branch holds of these names: each file's size and digests."""
        found = self.api.get_paths_info(self.name, list(names), revision=self.branch)
        return {entry.path: entry for entry in found if hasattr(entry, "blob_id")}

    def take(self, files: Sequence[File]) -> None:
        """Send the files that are missing or different."""
        size = sum(file.size for file in files)
        LOG.info("pushing %d files (%.0f MB) to %s", len(files), size / MEGABYTE, self.name)
        stale = self.ask(lambda: self._stale({file.name for file in files}), LOG.warning)
        sent = 0
        for batch in _batches(files):
            sent += self.ask(partial(self._commit, batch, stale), LOG.warning)
            stale = []
        if sent < len(files):
            LOG.info("%d of them were there already", len(files) - sent)

    def _commit(self, batch: Sequence[File], stale: Sequence[str]) -> int:
        """One commit; how many files were missing. Repeating it after a lost answer changes nothing."""
        there = self.there([file.name for file in batch])
        missing = [file for file in batch if not _same(file, there.get(file.name))]
        older = list(self.there(stale)) if stale else []
        if missing or older:
            operations = [CommitOperationAdd(file.name, _content(file)) for file in missing]
            operations += [CommitOperationDelete(name) for name in older]
            self.api.create_commit(self.name, operations, commit_message=_message(missing), revision=self.branch)
        return len(missing)

    def _stale(self, names: Set[str]) -> list[str]:
        """What an earlier push has left that a loader would take in the place of what is pushed, or with it.

        That is a model in another number of files, and an adapter at the root where a model goes now.
        """
        folders = {path.parent for path in map(PurePosixPath, names) if WEIGHTS.fullmatch(path.name)}
        moved = MOVED if MODEL_CONFIG in names else ()
        there = map(PurePosixPath, self.api.list_repo_files(self.name, revision=self.branch))
        older = (path for path in there if path.parent in folders and WEIGHTS.fullmatch(path.name))
        return [*moved, *(path.as_posix() for path in older if path.as_posix() not in names)]


def _batches(files: Sequence[File]) -> Iterator[list[File]]:
    """The card first, since the hub may refuse it, with all that is small."""
    small = [file for file in files if file.size <= SMALL]
    yield from (small[start : start + TOGETHER] for start in range(0, len(small), TOGETHER))
    yield from ([file] for file in files if file.size > SMALL)


def _content(file: File) -> bytes | str:
    return file.content if isinstance(file.content, bytes) else str(file.content)


def _message(files: Sequence[File]) -> str:
    if not files:
        return "Remove what an earlier push has left with ftcore"
    return f"Add {files[0].name} with ftcore" if len(files) == 1 else f"Add {len(files)} files with ftcore"


def _same(file: File, there: Any) -> bool:
    """Whether the repository has the same content: the hub tells SHA-256 of large files, git's SHA-1 of others."""
    if there is None or there.size != file.size:
        return False
    if there.lfs is not None:
        return bool(_digest(file, hashlib.sha256()) == there.lfs.sha256)
    return bool(_digest(file, hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)) == there.blob_id)


def _digest(file: File, digest: Any) -> str:
    if isinstance(file.content, bytes):
        digest.update(file.content)
        return str(digest.hexdigest())
    with file.content.open("rb") as opened:
        while block := opened.read(2**20):
            digest.update(block)
    return str(digest.hexdigest())


def _told(run: Run, chosen: Sequence[Part], repository: str, revision: str) -> list[File]:
    """The card of the whole repository, and what its proofs found."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artifacts = [_moved_to(folder, part, usage(part, repository, revision)) for part in chosen]
        write_card(folder, run, artifacts)
        card = (folder / CARD).read_bytes()
    return [File(name=CARD, content=card), File(name=VERIFICATION, content=_verification(chosen))]


def _moved_to(folder: Path, part: Part, run: str) -> Artifact:
    note = "what was trained, which the others are compared with"
    artifact = part.artifact or Artifact(
        kind=part.kind, path=part.source, proof=Proof(verdict=Verdict.NOT_PROVED, note=note)
    )
    return attrs.evolve(
        artifact, path=folder / part.place if part.place else folder, details={**artifact.details, "run": run}
    )


def _verification(chosen: Sequence[Part]) -> bytes:
    """What lies beside each artifact about its proof, with its name in the repository."""
    entries = [
        {**_beside(part.artifact), "kind": part.kind, "path": part.place or "."}
        for part in chosen
        if part.artifact is not None
    ]
    text = json.dumps({"artifacts": entries}, indent=1, ensure_ascii=False)
    return text.encode(errors="backslashreplace") + b"\n"


def _beside(artifact: Artifact) -> Mapping[str, Any]:
    """The entry of an artifact in its folder's `verification.json`. Raises `RunError` where there is none."""
    folder = artifact.path if artifact.path.is_dir() else artifact.path.parent
    try:
        entries = json.loads((folder / VERIFICATION).read_text("utf-8"))["artifacts"]
        return next(dict(entry) for entry in entries if entry["path"] == artifact.path.name)
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        fix = f"run: ftcore verify {shlex.quote(str(artifact.path))}"
        raise RunError(f"plugin.hub: {folder / VERIFICATION} does not tell of {artifact.path.name}; {fix}") from None


@contextmanager
def _bars() -> Iterator[None]:
    """The client's bars on a terminal; a file of them helps nobody."""
    if sys.stderr.isatty() or client.are_progress_bars_disabled():
        yield
        return
    client.disable_progress_bars()
    try:
        yield
    finally:
        client.enable_progress_bars()
