"""Rows to tokens, as `Gemma3Processor` makes them. Imports neither torch nor transformers: worker processes do this."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import attrs
from PIL import Image
from tokenizers import Tokenizer

from ftcore.api import MASKED, TOO_LONG, Drop, Example, Row, RowError
from ftcore_plugins.common.images import ImageError, Limits, open_image
from ftcore_plugins.common.length import is_far_too_long
from ftcore_plugins.common.unfit import refusal_of
from ftcore_plugins.gemma_grid.columns import Columns, Turn
from ftcore_plugins.gemma_grid.crops import PanAndScan
from ftcore_plugins.gemma_grid.layout import Layout, LayoutError
from ftcore_plugins.gemma_grid.prompt import ChatTurn, question_of

__all__ = ["CONTENT", "CROPS", "IMAGES", "GridEncoder", "Pictures", "content_of"]

IMAGES, CROPS, CONTENT = "images", "crops", "content"
"""Features of an example: the paths of four frames or of one grid, the crops that the grid gets, and a hash of the
pixels, which two rows share that show the same from different files."""


@attrs.frozen(kw_only=True)
class Pictures:
    """Opens the pictures of a row: four frames, which it puts together, or a ready grid, which stays as it is."""

    layout: Layout
    limits: Limits

    def open(self, folder: Path | None, images: Sequence[str]) -> list[Image.Image]:
        """The pictures, decoded, in RGB. Raises `ImageError`."""
        once = {name: open_image(folder, name, self.limits, self.layout.background) for name in dict.fromkeys(images)}
        return [once[name] for name in images]

    def size(self, opened: Sequence[Image.Image]) -> tuple[int, int]:
        """Width and height of the grid. Raises `LayoutError` when frames do not fit together."""
        return self.layout.size([picture.size for picture in opened]) if len(opened) > 1 else opened[0].size

    def grid(self, opened: Sequence[Image.Image]) -> Image.Image:
        """The grid. Raises `LayoutError` as `size` does."""
        return self.layout.compose(opened) if len(opened) > 1 else opened[0]


def content_of(opened: Sequence[Image.Image]) -> str:
    """A hash of what the pictures show, whatever their files and formats are."""
    digest = hashlib.blake2b(digest_size=16)
    for picture in opened:
        digest.update(b"%dx%d " % picture.size)
        digest.update(picture.tobytes())
    return digest.hexdigest()


@attrs.frozen(kw_only=True)
class _Texts:
    turn: Turn
    origin: str
    folder: Path | None
    crops: int
    content: str
    prompt: str


@attrs.frozen(kw_only=True)
class GridEncoder:
    """A batch of rows to examples. It pickles: it holds settings, and a tokenizer without its Python side.

    `image_texts` are what stands for an image with 0, 1, 2, ... crops; `control` finds tokens that no row may spell.
    A row that is sure to have more than `most` tokens is dropped before it has them all.
    """

    columns: Columns
    prompt: str
    pictures: Pictures
    pan_and_scan: PanAndScan
    tokenizer: Tokenizer
    chat: ChatTurn
    image_texts: tuple[str, ...]
    control: re.Pattern[str]
    most: int = 0

    def __call__(self, rows: Sequence[Row]) -> list[Example | Drop]:
        """One example or drop each, in order. Raises `RowError` for a row with a wrong column or a bad image."""
        read = [self._read(row) for row in rows]
        kept = [texts for texts in read if isinstance(texts, _Texts)]
        prompts = self._tokens([texts.prompt for texts in kept])
        replies = self._tokens([texts.turn.reply for texts in kept])
        examples = map(self._example, kept, prompts, replies)
        return [texts if isinstance(texts, Drop) else next(examples) for texts in read]

    def _read(self, row: Row) -> _Texts | Drop:
        turn = self.columns.turn(row)
        text = question_of(self.prompt, turn.context, turn.question)
        for said in (text, turn.reply):
            if reason := refusal_of(said, self.control):
                return Drop(origin=row.origin, reason=reason)
        if is_far_too_long(self._tokens, [text, turn.reply], self.most):
            return Drop(origin=row.origin, reason=TOO_LONG)
        crops, content = self._looked_at(row, turn)
        prompt = self.chat.prompt(self.image_texts[crops], text)
        return _Texts(turn=turn, origin=row.origin, folder=row.folder, crops=crops, content=content, prompt=prompt)

    def _looked_at(self, row: Row, turn: Turn) -> tuple[int, str]:
        """How many crops the grid gets, and what it shows. Every file is decoded, to find the broken ones."""
        try:
            opened = self.pictures.open(row.folder, turn.images)
            return self.pan_and_scan.crops(*self.pictures.size(opened)), content_of(opened)
        except (ImageError, LayoutError) as error:
            raise RowError(str(error), origin=row.origin) from error

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def _example(self, texts: _Texts, prompt: list[int], reply: list[int]) -> Example | Drop:
        """Prompt and reply are tokenized apart, as they are when the model answers."""
        if self.tokenizer.decode(reply, skip_special_tokens=False) != texts.turn.reply:
            return Drop(origin=texts.origin, reason="reply does not survive the tokenizer")
        said = [*reply, self.chat.end_of_turn]
        return Example(
            input_ids=[*prompt, *said],
            labels=[MASKED] * len(prompt) + said,
            replies=(texts.turn.reply,),
            origin=texts.origin,
            features={IMAGES: list(texts.turn.images), CROPS: texts.crops, CONTENT: texts.content},
            folder=texts.folder,
        )
