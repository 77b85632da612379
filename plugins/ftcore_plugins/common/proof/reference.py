"""How the tuned model answers, as files: `reference.json` beside `reference.safetensors` and images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ftcore.api import RunError

FILE, ARRAYS = "reference.json", "reference.safetensors"
FORMAT = 1


@attrs.frozen(kw_only=True)
class TextProbe:
    """A text, and its token ids without the special tokens that a tokenizer may put around it."""

    text: str
    ids: tuple[int, ...]


@attrs.frozen(kw_only=True)
class ChatProbe:
    """A conversation, and its token ids as the chat template writes them, ready for the model's reply."""

    messages: tuple[Mapping[str, str], ...]
    ids: tuple[int, ...]


@attrs.frozen(kw_only=True, eq=False)
class Passage:
    """Text as token ids, and what the model expects after some of them.

    Row i of `log_probabilities` [positions, vocabulary] (float32, natural logarithm) is the distribution of the
    token that follows `ids[: positions[i] + 1]`.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    log_probabilities: np.ndarray


@attrs.frozen(kw_only=True)
class Continuation:
    """Greedy tokens after a prompt, each with how far ahead of the next best it was, in nats.

    It ends with a stop token where the model has ended there.
    """

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    margins: tuple[float, ...]


@attrs.frozen(kw_only=True, eq=False)
class ImageProbe:
    """A prompt with one square image, and the distribution [vocabulary] of the token that follows it.

    `image` is the name of a PNG in the reference's folder. `prompt` is text with control tokens in which
    `placeholder` stands where the image goes.
    """

    image: str
    prompt: str
    placeholder: str
    log_probabilities: np.ndarray


@attrs.frozen(kw_only=True, eq=False)
class Reference:
    """All that a runtime is asked, with the tuned model's answers.

    `vocabulary` is the width of a distribution. `exact` says that the answers were calculated in float32 from whole
    weights, so that rounding is no excuse. `stops` are the tokens that end an answer. `day` is the date, such as
    2026-11-21, that the chat template has written into the chats; empty if it writes none. `unasked` names what
    could not be asked of the tuned model, such as images, and so is proved of no artifact. `sensitivity` is by how many
    nats the answers diverge on average when every linear layer is off by a 256th of its output; 0 if it is not known.
    """

    vocabulary: int
    exact: bool
    stops: tuple[int, ...] = ()
    day: str = ""
    unasked: tuple[str, ...] = ()
    sensitivity: float = 0.0
    texts: tuple[TextProbe, ...] = ()
    chats: tuple[ChatProbe, ...] = ()
    passages: tuple[Passage, ...] = ()
    continuations: tuple[Continuation, ...] = ()
    images: tuple[ImageProbe, ...] = ()


def write_reference(folder: Path, reference: Reference) -> None:
    """Write it into `folder`, which is there, beside the images that it names."""
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in _arrays(reference).items()}
    save_file(arrays, folder / ARRAYS)
    left_out = attrs.filters.exclude("log_probabilities")
    document = {"format": FORMAT, **attrs.asdict(reference, filter=left_out)}
    (folder / FILE).write_text(json.dumps(document, ensure_ascii=False, indent=1), "utf-8")


def read_reference(folder: Path) -> Reference:
    """Read it. Raises `RunError` when it is not there, damaged, or of another version."""
    try:
        document = json.loads((folder / FILE).read_text("utf-8"))
        if document["format"] != FORMAT:
            raise RunError(f"{folder / FILE} is of another version of ftcore; export again")
        reference = _built(document, load_file(folder / ARRAYS))
        _require_whole(reference, folder)
    except FileNotFoundError as error:
        lacking = Path(error.filename or ARRAYS).name
        raise RunError(f"{folder} has no {lacking}; it is written at the end of a run with an exporter") from None
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise RunError(f"{folder} is damaged ({_line(error)}); export again") from None
    return reference


def _arrays(reference: Reference) -> dict[str, Any]:
    passages = {f"passage-{number}": each.log_probabilities for number, each in enumerate(reference.passages)}
    images = {f"image-{number}": each.log_probabilities for number, each in enumerate(reference.images)}
    return {**passages, **images}


def _built(document: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Reference:
    return Reference(
        vocabulary=document["vocabulary"],
        exact=document["exact"],
        stops=tuple(document["stops"]),
        day=document["day"],
        unasked=tuple(document["unasked"]),
        sensitivity=document.get("sensitivity", 0.0),
        texts=tuple(TextProbe(**_tupled(probe)) for probe in document["texts"]),
        chats=tuple(ChatProbe(**_tupled(probe)) for probe in document["chats"]),
        passages=_with_arrays(Passage, "passage", document["passages"], arrays),
        continuations=tuple(Continuation(**_tupled(probe)) for probe in document["continuations"]),
        images=_with_arrays(ImageProbe, "image", document["images"], arrays),
    )


def _with_arrays(
    kind: Any, name: str, documents: Sequence[Mapping[str, Any]], arrays: Mapping[str, np.ndarray]
) -> tuple[Any, ...]:
    numbered = enumerate(documents)
    return tuple(kind(**_tupled(probe), log_probabilities=arrays[f"{name}-{number}"]) for number, probe in numbered)


def _tupled(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _require_whole(reference: Reference, folder: Path) -> None:
    for passage in reference.passages:
        _require_shape(passage.log_probabilities, (len(passage.positions), reference.vocabulary))
        if passage.positions and not 0 <= min(passage.positions) <= max(passage.positions) < len(passage.ids):
            raise ValueError("a position lies outside of its passage")
    for probe in reference.images:
        _require_shape(probe.log_probabilities, (reference.vocabulary,))
        if not (folder / probe.image).is_file():
            raise ValueError(f"{probe.image} is gone")


def _require_shape(array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"log-probabilities of shape {array.shape} where {shape} belongs")


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
