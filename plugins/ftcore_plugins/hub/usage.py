"""How to run what lies in a repository, by its name there."""

from __future__ import annotations

import re
from pathlib import Path
from shlex import quote

from ftcore_plugins.hub.layout import BRANCH, Part, read_adapter

__all__ = ["usage"]

QUANTIZATION = re.compile(r"(?:q\d\w*|iq\d\w*|f16|f32|bf16)", re.IGNORECASE)


def usage(part: Part, repository: str, revision: str) -> str:
    """Lines to copy; empty for a kind that only its exporter knows how to run."""
    if part.kind == "merged":
        return f"from transformers import pipeline\n\npipe = pipeline(model={repository!r}{_pinned(revision)})"
    if part.kind == "adapter":
        return _adapter(part, repository, revision)
    details = part.artifact.details if part.artifact else {}
    if part.kind == "gguf" and not details.get("part") and revision == BRANCH:  # neither tool takes another branch
        tag = _tag(part)
        return f"llama-server -hf {repository}{tag}\nollama run hf.co/{repository}{tag}"
    told = details.get("run", "").replace(str(part.source), part.place)
    return f"{_download(part, repository, revision)}\n{told}" if told else ""


def _download(part: Part, repository: str, revision: str) -> str:
    what = f"--include {quote(part.place + '/*')}" if part.source.is_dir() else quote(part.place)
    branch = "" if revision == BRANCH else f" --revision {revision}"
    return f"hf download {repository} {what}{branch} --local-dir ."


def _pinned(revision: str) -> str:
    return "" if revision == BRANCH else f", revision={revision!r}"


def _adapter(part: Part, repository: str, revision: str) -> str:
    images = (part.source / "processor_config.json").is_file()
    kind = "AutoModelForImageTextToText" if images else "AutoModelForCausalLM"
    inside = f", subfolder={part.place!r}" if part.place else ""
    return "\n".join(
        [
            "from peft import PeftModel",
            f"from transformers import {kind}",
            "",
            f"base = {kind}.from_pretrained({_base(part)!r})",
            f"model = PeftModel.from_pretrained(base, {repository!r}{inside}{_pinned(revision)})",
        ]
    )


def _base(part: Part) -> str:
    """The base model as the adapter names it: on the hub, or the name of a folder that the reader has to have."""
    named = str(read_adapter(part.source).get("base_model_name_or_path", ""))
    return Path(named).name if Path(named).is_absolute() else named


def _tag(part: Part) -> str:
    """The quantization, which both tools take from the end of a file's name."""
    named = part.artifact.details.get("quantization", "") if part.artifact else ""
    last = named or part.source.stem.rpartition("-")[2]
    return f":{last.upper()}" if QUANTIZATION.fullmatch(last) else ""
