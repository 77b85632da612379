"""What can be written, under the names that models for MLX go by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

WHOLE_BYTES = 2
SCALE_BITS = 32
"""Of a group of quantized weights: a scale and an offset in 16 bits each."""


@attrs.frozen(kw_only=True)
class Format:
    """`dtype` is that of weights that are not quantized; `bits` is None where none are."""

    name: str
    dtype: str = "bfloat16"
    bits: int | None = None

    def bits_a_weight(self, group_size: int) -> float:
        """With its share of the group's scale."""
        return 8 * WHOLE_BYTES if self.bits is None else self.bits + SCALE_BITS / group_size


FORMATS: Mapping[str, Format] = {
    format.name: format
    for format in (
        Format(name="bf16"),
        Format(name="fp16", dtype="float16"),
        Format(name="8bit", bits=8),
        Format(name="6bit", bits=6),
        Format(name="4bit", bits=4),
    )
}


def source_is_kept(formats: Sequence[Format]) -> bool:
    """Whether whole weights are written on the way: where all are quantized, to prove what they are quantized from."""
    return all(format.bits for format in formats)


def bytes_written(parameters: int, names: Sequence[str], group_size: int) -> int:
    """Bytes below `exports`, with those that are there for a while only: the merged model, and whole weights."""
    formats = [FORMATS[name] for name in dict.fromkeys(names)]
    on_the_way = WHOLE_BYTES * (1 + source_is_kept(formats))
    written = sum(format.bits_a_weight(group_size) for format in formats) / 8
    return round(parameters * (on_the_way + written))
