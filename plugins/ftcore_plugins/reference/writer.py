"""Asks the tuned model, and writes its answers. Imports torch and transformers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError

from ftcore.api import Loaded, PreparedData, Run, RunError
from ftcore_plugins.common.answering import Answering
from ftcore_plugins.common.devices import precision_of
from ftcore_plugins.common.generation import own_stops, stop_tokens
from ftcore_plugins.common.hub import reads_images
from ftcore_plugins.common.proof.reference import (
    ChatProbe,
    Continuation,
    ImageProbe,
    Passage,
    Reference,
    TextProbe,
    write_reference,
)
from ftcore_plugins.reference import Options
from ftcore_plugins.reference.pictures import NAME, draw, prompt_with_image
from ftcore_plugins.reference.positions import END_TO_END, Asked, as_asked, asked_at, end_to_end, rows_to_ask
from ftcore_plugins.reference.probes import conversations, texts
from ftcore_plugins.reference.sensitivity import sensitivity

PROMPTS = 2
"""Chats, and as many rows, that are continued."""

SHOWN = 400
"""Characters of a row that are taken apart once more."""


def write(folder: Path, *, config: Options, run: Run, loaded: Loaded, data: PreparedData | None) -> None:
    """Ask everything and write it into `folder`. Raises `RunError` when the model answers with what is no number."""
    tuned = Answering(model=loaded.model, processor=loaded.processor, stops=_stops(loaded, data))
    rows = _rows(tuned, data)
    chats = list(_chats(tuned))
    passages = tuple(_passages(tuned, rows or _own_rows(tuned, chats), config.positions))
    images, unasked = _images(tuned, folder)
    _require_numbers(probe.log_probabilities for probe in passages)
    _require_numbers(probe.log_probabilities for probe in images)
    reference = Reference(
        vocabulary=passages[0].log_probabilities.shape[-1],
        exact=_is_exact(run, loaded.model),
        stops=tuple(tuned.stops),
        day=_day(tuned),
        unasked=unasked,
        sensitivity=sensitivity(tuned, passages),
        texts=tuple(_texts(tuned, rows)),
        chats=tuple(chats),
        passages=passages,
        continuations=tuple(_continuations(tuned, _prompts(rows, chats, passages), config.greedy_tokens)),
        images=images,
    )
    write_reference(folder, reference)


def _stops(loaded: Loaded, data: PreparedData | None) -> Sequence[int]:
    return own_stops(loaded.model) if data is None else stop_tokens(loaded.model, data.stops)


def _is_exact(run: Run, model: Any) -> bool:
    """Whether the model calculates in float32 with whole weights."""
    whole = {parameter.dtype for parameter in model.parameters()} <= {torch.float32}
    return whole and precision_of(run) == "fp32"


def _rows(tuned: Answering, data: PreparedData | None) -> Sequence[Asked]:
    if data is None:
        return ()
    images = _image_tokens(tuned.model.config)
    return [asked for example in rows_to_ask(data) if (asked := as_asked(example, images)).ids]


def _own_rows(tuned: Answering, chats: Sequence[ChatProbe]) -> Sequence[Asked]:
    """The probes themselves, where no rows are known: the chats, and the texts as the tokenizer opens a text."""
    opened = [tuple(tuned.tokenizer(text)["input_ids"]) for text in texts(tuned.tokenizer)]
    return [Asked(ids=ids, trained=()) for ids in [*(chat.ids for chat in chats), *opened] if ids]


def _image_tokens(config: Any) -> frozenset[int]:
    names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index", "audio_token_id")
    return frozenset(token for name in names if isinstance(token := getattr(config, name, None), int))


def _texts(tuned: Answering, rows: Sequence[Asked]) -> Iterator[TextProbe]:
    own = (str(tuned.tokenizer.decode(list(row.ids), skip_special_tokens=False))[:SHOWN] for row in rows)
    for text in dict.fromkeys([*texts(tuned.tokenizer), *own]):
        yield TextProbe(text=text, ids=tuple(tuned.tokens(text)))


def _chats(tuned: Answering) -> Iterator[ChatProbe]:
    for messages in conversations() if tuned.template else ():
        try:
            yield ChatProbe(messages=tuple(messages), ids=tuple(tuned.chat_tokens(messages)))
        except TemplateError:  # it takes no system prompt, say, and tells so by raising
            continue


def _day(tuned: Answering) -> str:
    """Today, if the chat template asks for the date by transformers' name for it, as Llama 3.2's does."""
    return date.today().isoformat() if "strftime_now" in str(tuned.template) else ""


def _passages(tuned: Answering, rows: Sequence[Asked], count: int) -> Iterator[Passage]:
    readable = _readable(tuned)
    fitting = [row.cut(readable) for row in rows]
    for row, positions in asked_at(fitting, end_to_end(fitting, readable), count):
        ids = row.ids[: positions[-1] + 1]
        found = tuned.distributions(ids, positions)
        together = np.stack([distribution.log_probabilities for distribution in found])
        yield Passage(ids=ids, positions=positions, log_probabilities=together)


def _readable(tuned: Answering) -> int:
    """Tokens that the model can read, but one: llama.cpp wants room for the token that follows."""
    most = getattr(tuned.model.config.get_text_config(), "max_position_embeddings", None) or END_TO_END
    return int(most) - 1


def _prompts(
    rows: Sequence[Asked], chats: Sequence[ChatProbe], passages: Sequence[Passage]
) -> Sequence[tuple[int, ...]]:
    trained = [row.ids[: row.trained[0] + 1] for row in rows if row.trained]
    prompts = [*(chat.ids for chat in chats[:PROMPTS]), *trained[:PROMPTS]]
    return prompts or [passage.ids for passage in passages[:PROMPTS]]


def _continuations(tuned: Answering, prompts: Sequence[tuple[int, ...]], count: int) -> Iterator[Continuation]:
    fitting = [prompt for prompt in prompts if len(prompt) + count <= _readable(tuned)]
    for prompt in fitting if count else ():
        found = tuned.continued(prompt, count)
        tokens, margins = zip(*found, strict=True)
        yield Continuation(prompt=prompt, ids=tokens, margins=margins)


def _images(tuned: Answering, folder: Path) -> tuple[tuple[ImageProbe, ...], tuple[str, ...]]:
    """One image for a model that reads some; a processor that cannot be asked leaves a name."""
    if not reads_images(tuned.model.config):
        return (), ()
    try:
        prompt, placeholder = prompt_with_image(tuned.processor)
        draw(folder / NAME, tuned.processor)
        answer = tuned.after_image(prompt, folder / NAME)
    except (NotImplementedError, TypeError, ValueError, AttributeError, TemplateError):
        # Each family has a processor of its own; what is not compared is named in every proof.
        return (), ("images",)
    probe = ImageProbe(image=NAME, prompt=prompt, placeholder=placeholder, log_probabilities=answer.log_probabilities)
    return (probe,), ()


def _require_numbers(answers: Iterable[Any]) -> None:
    if any(np.isnan(answer).any() for answer in answers):
        raise RunError(
            "the tuned model answers with what is no number (NaN); train again, slower (train.learning_rate)"
        )
