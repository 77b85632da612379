"""Ask the model of a run: the rows of a file, one question, or one line after another, until Ctrl-D."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ftcore.cli.common import add_run, add_sets, complain

if TYPE_CHECKING:
    from ftcore.evaluation.asking import Question
    from ftcore.evaluation.generating import Conversing, Reply

PROMPT = "> "


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ftcore generate`."""
    add_run(parser)
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="rows of the run's format, such as JSONL; they may lack a reply",
    )
    asked.add_argument("--prompt", metavar="TEXT", help="one question (default: lines from the terminal, until Ctrl-D)")
    parser.add_argument(
        "--image",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="an image that the question is about, for formats with images; may be repeated",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--checkpoint", type=int, metavar="STEP", help="ask this step's checkpoint")
    which.add_argument("--base", action="store_true", help="ask the model as it was before the first step")
    parser.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="most tokens of an answer")
    parser.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="0 takes the likeliest tokens (default); 1 draws"
    )
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="rows that are answered at once")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the answers there, as JSON lines")
    parser.add_argument("--overwrite", action="store_true", help="replace the file that --output names")
    add_sets(parser)
    parser.add_argument(
        "--allow-changes", action="store_true", help="answer although profile, data or base model changed"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument("--json", action="store_true", help="print JSON lines, also for a question")


def main(parsed: argparse.Namespace) -> int:
    """Generate."""
    from ftcore.display import choose_display
    from ftcore.errors import ProfileError
    from ftcore.evaluation.generating import Asking, asking_run, require_new
    from ftcore.evaluation.measuring import Weights

    if parsed.image and parsed.data:
        raise ProfileError("--image goes with --prompt; rows of a file name their own images")
    if parsed.output:
        require_new(parsed.output, overwrite=parsed.overwrite)
    with asking_run(
        parsed.run,
        weights=Weights(base=parsed.base, checkpoint=parsed.checkpoint),
        asking=Asking(tokens=parsed.max_new_tokens, batch=parsed.batch_size, temperature=parsed.temperature),
        rows=parsed.data,
        prompt=parsed.prompt,
        images=parsed.image,
        sets=parsed.sets,
        allow_changes=parsed.allow_changes,
        display=choose_display(quiet=parsed.quiet),
    ) as (model, questions):
        _answer(parsed, _replies(parsed, model, questions))
    return 0


def _replies(parsed: argparse.Namespace, model: Conversing, questions: Sequence[Question]) -> Iterator[Reply]:
    asked = parsed.data is not None or parsed.prompt is not None
    return model.answers(questions) if asked else _conversation(parsed, model)


def _conversation(parsed: argparse.Namespace, model: Conversing) -> Iterator[Reply]:
    """The answer to each line. What the format refuses is said, and the next line is asked for."""
    from ftcore.errors import RunError

    for line in _lines():
        try:
            yield model.ask(line, parsed.image)
        except RunError as error:
            complain(str(error))


def _lines() -> Iterator[str]:
    """Lines with something in them: edited in a terminal, or as they come through a pipe."""
    from ftcore.display import is_terminal

    if not is_terminal(sys.stdin):
        yield from (line.rstrip("\n") for line in sys.stdin or () if line.strip())
        return
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # `input` edits lines with it
    with contextlib.suppress(EOFError):
        while True:
            line = input(PROMPT)
            if line.strip():
                yield line
    print()


def _answer(parsed: argparse.Namespace, replies: Iterator[Reply]) -> None:
    from ftcore.evaluation.generating import output_file, written

    if parsed.output:
        with output_file(parsed.output, overwrite=parsed.overwrite) as file:
            for reply in written(replies, file):
                if not parsed.data and not parsed.quiet:
                    _show(reply)
    elif parsed.json or parsed.data:
        for _ in written(replies, sys.stdout):
            pass
    else:
        for reply in replies:
            _show(reply)


def _show(reply: Reply) -> None:
    from ftcore.errors import printable

    if reply.answer is None:
        complain(f"not asked: {reply.left_out}")
    else:
        print(printable(reply.answer, keep="\n\t"), flush=True)
