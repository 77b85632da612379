"""Ask the model of an earlier run: rows of a file, one question, or one line after another."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import attrs

from ftcore.data.keys import made_by
from ftcore.data.prepare import Prepared
from ftcore.display import Display
from ftcore.errors import ProfileError, RunError
from ftcore.evaluation.asking import Question, asked, file_rows, prompt_row
from ftcore.evaluation.judge import prompt_text
from ftcore.evaluation.measuring import Answering, Weights
from ftcore.files import disk_is_full
from ftcore.reopening import STAGES, Opened, Reopened, opened, read_rows, reopen
from ftcore.values import Row

BATCH = 8
TOKENS = 256
PROBE = "?"
"""What stands for a line that is still to come."""


@attrs.frozen(kw_only=True)
class Asking:
    """How to answer: at most `tokens` each, `batch` at once, greedily at `temperature` 0."""

    tokens: int = TOKENS
    batch: int = BATCH
    temperature: float = 0.0

    def __attrs_post_init__(self) -> None:
        for name, value, least in (("max-new-tokens", self.tokens, 1), ("batch-size", self.batch, 1)):
            if value < least:
                raise ProfileError(f"--{name} {value}: write at least {least}")
        if not 0 <= self.temperature < float("inf"):
            raise ProfileError(f"--temperature {self.temperature}: write 0 for the likeliest tokens, or more")


@attrs.frozen(kw_only=True)
class Reply:
    """One row's answer. `seconds` is what its batch of `batch` rows took, all of them together.

    `expected` is the reply that the row has, None if it has none. `tokens` are those of the answer's text. An answer
    is None, and `left_out` says why, for a row that was not asked.
    """

    origin: str
    prompt: str = ""
    answer: str | None = None
    expected: str | None = None
    tokens: int = 0
    seconds: float = 0.0
    batch: int = 0
    left_out: str = ""

    def as_json(self) -> dict[str, Any]:
        """The stable form, which docs/evaluation.md describes."""
        if self.answer is None:
            return {"origin": self.origin, "answer": None, "left_out": self.left_out}
        return {
            "origin": self.origin,
            "prompt": self.prompt,
            "expected": self.expected,
            "answer": self.answer,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 6),
            "batch": self.batch,
            "seconds_per_row": round(self.seconds / self.batch, 6),
        }


class Conversing:
    """An earlier run's model, ready to be asked."""

    def __init__(self, model: Reopened, asking: Asking) -> None:
        self._model, self._asking = model, asking
        self._format = model.prepared.format
        self._maker, _ = made_by(model.opened.plugins, "format_dataset")

    def ask(self, prompt: str, images: Sequence[Path] = ()) -> Reply:
        """The answer to one text. Raises `RunError` for one that the format refuses."""
        [question] = asked(self._format, [prompt_row(self._format, prompt, images, self._maker)], self._maker)
        return next(iter(self.answers([question])))

    def answers(self, questions: Sequence[Question]) -> Iterator[Reply]:
        """The answers to them, in order, as soon as each batch is done."""
        for start in range(0, len(questions), self._asking.batch):
            yield from self._batch(questions[start : start + self._asking.batch])

    def _batch(self, questions: Sequence[Question]) -> Iterator[Reply]:
        examples = [question.example for question in questions if question.example is not None]
        before = time.perf_counter()
        asking = self._asking
        texts = iter(self._model.trainer.generate(examples, asking.tokens, asking.temperature) if examples else [])
        seconds = time.perf_counter() - before
        processor = self._model.prepared.processor
        for question in questions:
            if question.example is None:
                yield Reply(origin=question.origin, left_out=question.left_out)
                continue
            text = next(texts)
            yield Reply(
                origin=question.origin,
                prompt=prompt_text(processor, question.example),
                answer=text,
                expected=question.example.replies[-1] if question.example.replies else None,
                tokens=tokens_in(processor, text),
                seconds=seconds,
                batch=len(examples),
            )


def tokens_in(processor: Any, text: str) -> int:
    """How many tokens the text is, without special ones."""
    tokenizer = getattr(processor, "tokenizer", processor)
    return len(tokenizer.encode(text, add_special_tokens=False))


@contextmanager
def asking_run(
    folder: Path,
    *,
    weights: Weights,
    asking: Asking,
    rows: Path | None = None,
    prompt: str | None = None,
    images: Sequence[Path] = (),
    sets: Sequence[str] = (),
    allow_changes: bool = False,
    display: Display | None = None,
) -> Iterator[tuple[Conversing, Sequence[Question]]]:
    """The model of the run in `folder`, and the questions that it is asked: those of a file, a text, or none yet.

    What is wrong with them is found before the weights are read. Raises `ProfileError` for a file that is not there,
    and `RunError` when the run has no such weights, when another process holds it, or for a row that is not of the
    run's format.
    """
    with opened(folder, sets=sets, allow_changes=allow_changes, display=display) as run:
        held = attrs.evolve(Answering(batch=asking.batch).applied(run), stages=(*STAGES, "answering"))
        place = weights.folder(held)
        raw = file_rows(held, rows) if rows is not None else None
        prepared = read_rows(held)
        questions = _questions(held, prepared, raw, prompt, images)
        model = reopen(held, prepared)
        if place is not None:
            model.put(place)
        held.stage("answering")
        yield Conversing(model, asking), questions


def _questions(
    opened: Opened, prepared: Prepared, raw: Sequence[Row] | None, prompt: str | None, images: Sequence[Path]
) -> Sequence[Question]:
    maker, _ = made_by(opened.plugins, "format_dataset")
    to_come = raw is None and prompt is None
    if raw is None:  # also where lines are to come: they will be asked about the same images
        raw = [prompt_row(prepared.format, PROBE if prompt is None else prompt, images, maker)]
    questions = list(asked(prepared.format, raw, maker))
    if to_come:
        return ()
    _tell_left_out(opened, questions)
    return questions


def _tell_left_out(opened: Opened, questions: Sequence[Question]) -> None:
    for question in questions:
        if question.left_out:
            opened.display.say(f"warning: {question.origin} is not asked: {question.left_out}")
    if questions and all(question.left_out for question in questions):
        raise RunError(f"none of the {len(questions)} rows can be asked; the first: {questions[0].left_out}")


def require_new(path: Path, *, overwrite: bool) -> None:
    """Raise `ProfileError` when answers cannot go there, before a model is loaded for them."""
    if path.is_dir() or not path.parent.is_dir():
        raise ProfileError(f"--output {path}: {'that is a folder' if path.is_dir() else 'no such folder'}")
    if path.exists() and not overwrite:
        raise ProfileError(f"--output {path}: the file is there already; name another one, or pass --overwrite")


@contextmanager
def output_file(path: Path, *, overwrite: bool) -> Iterator[TextIO]:
    """A new file for answers, in the place of an older one if that is allowed."""
    try:
        file = path.open("w" if overwrite else "x", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ProfileError(f"--output {path}: cannot be written: {error.strerror}") from error
    with file:
        yield file


def written(replies: Iterable[Reply], file: TextIO) -> Iterator[Reply]:
    """Each reply, once its line is handed to the system: a kill loses the batch that is being answered, no more."""
    for reply in replies:
        try:
            file.write(json.dumps(reply.as_json(), ensure_ascii=False) + "\n")
            file.flush()
        except OSError as error:
            if disk_is_full(error):
                raise RunError(f"no room for answers in {file.name}; free some, and pass --overwrite") from error
            raise
        yield reply
