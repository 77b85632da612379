"""A Modelfile, from which Ollama makes a model (https://docs.ollama.com/modelfile)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf import GGUFReader

from ftcore.api import PreparedData
from ftcore_plugins.gguf import Options
from ftcore_plugins.gguf.files import written
from ftcore_plugins.gguf.go_template import Messages, Render, translated

MOST_CONTEXT = 8192
"""Tokens of context unless more are asked for: Ollama sets memory aside for all of them."""

UNKNOWN = (
    "# The chat template of this model has no translation into Ollama's language. Without a TEMPLATE, Ollama looks",
    "# whether it knows the one inside the file; if a chat with it reads oddly, give one here.",
)


def write_modelfile(path: Path, vision: Path | None, *, config: Options, processor: Any, data: PreparedData) -> Path:
    """Write `Modelfile-QUANTIZATION` beside the GGUF at `path`, which `vision` sees images for.

    Raises `RunError` when it cannot be written.
    """
    known = GGUFReader(path)
    lines = [
        f"# ollama create {path.stem.lower()} -f {modelfile_of(path).name}",
        *(f"FROM ./{file.name}" for file in (path, vision) if file),
        *_template_lines(known, processor),
        *(f'PARAMETER stop "{token}"' for token in _stops(processor, data)),
        f"PARAMETER num_ctx {config.context or _context(known)}",
        *([f'SYSTEM """{config.system}"""'] if config.system else []),
    ]
    with written(modelfile_of(path)) as partial:
        partial.write_text("\n".join(lines) + "\n", "utf-8")
    return modelfile_of(path)


def modelfile_of(path: Path) -> Path:
    """Where the Modelfile of a GGUF lies."""
    return path.with_name(f"Modelfile-{path.stem.rpartition('-')[2]}")


def _template_lines(known: GGUFReader, processor: Any) -> tuple[str, ...]:
    render = _renderer(processor, opening=_opening(known))
    template = translated(render) if render else None
    return UNKNOWN if template is None else (f'TEMPLATE """{template}"""',)


def _stops(processor: Any, data: PreparedData) -> list[str]:
    tokenizer = getattr(processor, "tokenizer", processor)
    ids = dict.fromkeys([tokenizer.eos_token_id, *data.stops])
    return [str(tokenizer.convert_ids_to_tokens(token)) for token in ids if token is not None]


def _renderer(processor: Any, opening: str) -> Render | None:
    """Writes chats as transformers does, but for the first token where llama.cpp puts it there itself."""
    tokenizer = getattr(processor, "tokenizer", processor)
    its_own = getattr(processor, "chat_template", None)
    if not (tokenizer.chat_template or its_own):
        return None
    # A tokenizer may have several by name, and then knows itself which one is for a plain chat.
    template = {} if tokenizer.chat_template else {"chat_template": its_own}

    def render(messages: Messages, reply: bool, **variables: Any) -> str:
        given = {**template, "tokenize": False, "add_generation_prompt": reply, **variables}
        try:
            return str(tokenizer.apply_chat_template(list(messages), **given)).removeprefix(opening)
        except Exception as error:  # whatever a template does with a conversation that it was not written for
            raise ValueError(str(error)) from error

    return None if _is_dated(render) else render


def _is_dated(render: Any) -> bool:
    """Whether it writes today's date, which would be yesterday's in a Modelfile."""
    try:
        asked = [{"role": "user", "content": "x"}]
        return bool(render(asked, True, strftime_now=lambda _: "some day") != render(asked, True))
    except ValueError:
        return True


def _opening(known: GGUFReader) -> str:
    """The text of the token that llama.cpp puts first by itself, if it does."""
    adds = known.fields.get("tokenizer.ggml.add_bos_token")
    first = known.fields.get("tokenizer.ggml.bos_token_id")
    if first is None or not (adds is not None and adds.contents()):
        return ""
    return str(known.fields["tokenizer.ggml.tokens"].contents(int(first.contents())))


def _context(known: GGUFReader) -> int:
    architecture = known.fields["general.architecture"].contents()
    return min(MOST_CONTEXT, int(known.fields[f"{architecture}.context_length"].contents()))
