"""What goes where in the repository.

One repository holds everything, so that a run has one address and one card. Its root is what a name alone finds:
`from_pretrained(name)` of transformers loads the merged model, or the adapter where nothing is merged, and llama.cpp
and Ollama look for GGUF files there, beside it. Whatever else is a folder has one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from ftcore.api import Artifact, RunError

__all__ = [
    "ADAPTER_CONFIG",
    "BRANCH",
    "CARD",
    "MODEL_CONFIG",
    "VERIFICATION",
    "File",
    "Part",
    "files_of",
    "parts",
    "read_adapter",
]

CARD, VERIFICATION = "README.md", "verification.json"
ADAPTER_CONFIG, MODEL_CONFIG = "adapter_config.json", "config.json"
OWN = {CARD, VERIFICATION}  # of a folder; the repository has one of each
BRANCH = "main"
COMPANIONS = ("Modelfile", "mmproj-")


@attrs.frozen(kw_only=True)
class Part:
    """A file or folder of the run, and its place in the repository; `""` is the root."""

    kind: str
    source: Path
    place: str
    artifact: Artifact | None = None


@attrs.frozen(kw_only=True)
class File:
    """One file of the repository, by its name there."""

    name: str
    content: Path | bytes

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


def parts(artifacts: Sequence[Artifact], saved: Path, what: Sequence[str], *, model_there: bool) -> list[Part]:
    """Everything that `what` asks for. `model_there` says that the root of the repository holds a model already.

    Raises `RunError` for what is asked for and not there.
    """
    chosen = [artifact for artifact in artifacts if not what or _is_any(artifact.kind, what)]
    found = [_part(artifact) for artifact in chosen]
    if not what or "adapter" in what:
        found += _trained(saved, merged=any(part.kind == "merged" for part in found), model_there=model_there)
    absent = [kind for kind in what if not any(_is_any(part.kind, (kind,)) for part in found)]
    if absent == ["adapter"] and saved.is_dir() and not (saved / ADAPTER_CONFIG).is_file():
        absent = []  # the whole model was trained, and is among what was found
    if absent:
        raise RunError(f"plugin.hub.what: the run has no {absent[0]} to push; export it first, or leave it out")
    if not found:
        raise RunError(f"plugin.hub: there is nothing to push: {saved} is gone, and nothing was exported")
    return found


def files_of(part: Part) -> Iterator[File]:
    """The files of a part, without its own card. Raises `RunError` for a link that leads out of its folder."""
    source = part.source
    if source.is_file():
        yield File(name=part.place, content=source)
        for path in sorted(source.parent.iterdir()):
            if path.is_file() and path.name.startswith(COMPANIONS):
                yield File(name=path.name, content=_inside(path, source.parent))
        return
    for path in _walk(source):
        name = path.relative_to(source).as_posix()
        if name not in OWN:
            content = _inside(path, source)
            yield File(name=f"{part.place}/{name}".lstrip("/"), content=_portable(content))


def read_adapter(folder: Path) -> dict[str, Any]:
    """PEFT's settings of the adapter in a folder; nothing if there is none."""
    try:
        values = json.loads((folder / ADAPTER_CONFIG).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _part(artifact: Artifact) -> Part:
    name, kind = artifact.path.name, artifact.kind
    if artifact.path.is_file():
        # llama.cpp picks a file of the root by its quantization, and an adapter is no model.
        place = f"adapter/{name}" if artifact.details.get("part") == "adapter" else name
    elif kind == "merged":
        place = ""
    else:
        place = name if name.startswith(kind) else f"{kind}/{name}"
    return Part(kind=kind, source=artifact.path, place=place, artifact=artifact)


def _trained(saved: Path, *, merged: bool, model_there: bool) -> Iterator[Part]:
    """What was trained: an adapter, or the whole model, which a merged one is a copy of."""
    if (saved / ADAPTER_CONFIG).is_file():
        yield Part(kind="adapter", source=saved, place="adapter" if merged or model_there else "")
    elif saved.is_dir() and not merged:
        yield Part(kind="merged", source=saved, place="")


def _is_any(kind: str, wanted: Sequence[str]) -> bool:
    return any(kind == name or kind.startswith(f"{name}-") for name in wanted)


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root) / name for name in folders if (Path(root) / name).is_symlink())
        yield from (Path(root) / name for name in sorted(names) if not name.startswith("."))


def _inside(path: Path, folder: Path) -> Path:
    if path.is_symlink() and (path.is_dir() or not path.resolve().is_relative_to(folder.resolve())):
        raise RunError(f"plugin.hub: {path} is a link; put what it leads to in its place")
    return path


def _portable(path: Path) -> Path | bytes:
    """PEFT writes down where the base model lies; if that is a folder of this machine, its name is enough."""
    values = read_adapter(path.parent) if path.name == ADAPTER_CONFIG else {}
    base = Path(str(values.get("base_model_name_or_path", "")))
    if not base.is_absolute():
        return path
    return json.dumps({**values, "base_model_name_or_path": base.name}, indent=2).encode() + b"\n"
