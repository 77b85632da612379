"""An MLX folder in MLX itself: `python -m ftcore_plugins.mlx.runtime ARTIFACT REFERENCE RESULT OPTIONS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ftcore_plugins.common.proof.comparison import divergence
from ftcore_plugins.common.proof.process import answer
from ftcore_plugins.common.proof.questions import Distribution
from ftcore_plugins.common.proof.reference import ImageProbe
from ftcore_plugins.mlx.isolation import without_torch
from ftcore_plugins.mlx.recognition import read_config
from ftcore_plugins.mlx.settings import unread_rope

ROUNDINGS = 2
"""Times that a quantized model is rounded again; each costs as much as the comparison itself."""

Asked = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids, and the positions in them that were asked for."""


class MlxRuntime:
    """Answers as mlx-lm does, or mlx-vlm for a model that reads images."""

    def __init__(self, artifact: Path, *, images: bool = False) -> None:
        without_torch()
        _without_compiler()
        load: Callable[[Path], tuple[Any, Any]] = _load_with_images if images else _load
        self._model, self._tokenizer = load(artifact)
        self._answered: dict[Asked, np.ndarray] = {}

    def tokens(self, text: str) -> Sequence[int]:
        """Token ids of a text without special tokens around it."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def chat_tokens(self, messages: Sequence[Mapping[str, str]]) -> Sequence[int]:
        """Token ids of a conversation, ready for the reply."""
        said = [dict(message) for message in messages]
        return list(self._tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False))

    def distributions(self, ids: Sequence[int], positions: Sequence[int]) -> Sequence[Distribution]:
        """What follows `ids[: position + 1]`, for each of the positions, from one forward pass."""
        asked = (tuple(ids), tuple(positions))
        self._answered[asked] = self._log_probabilities(asked)
        return [Distribution(log_probabilities=row) for row in self._answered[asked]]

    def greedy(self, prompt: Sequence[int], count: int) -> Sequence[int]:
        """So many most likely tokens after a prompt, through the cache that mlx-lm generates with.

        It goes on after a stop token: the one who asks knows where the tuned model has ended.
        """
        from mlx_lm.models.cache import make_prompt_cache

        cache, given, found = make_prompt_cache(self._model), list(prompt), list[int]()
        while len(found) < count:
            given = [int(self._logits(given, cache)[-1].argmax().item())]
            found += given
        return found

    def image_distribution(self, probe: ImageProbe, image: Path) -> Distribution:
        """Not answered: mlx-vlm 0.7 does not calculate an image within a text as transformers does.

        Gemma 3's answers were measured to be 0.15 nats off.
        """
        raise NotImplementedError

    def measured(self) -> Mapping[str, float]:
        """`rounding_kl`: the mean divergence that rounding of this size alone makes; nothing for whole weights."""
        from ftcore_plugins.mlx.rounding import rounded_again

        found = [
            divergence(before, Distribution(log_probabilities=after))
            for _ in rounded_again(self._model, ROUNDINGS)
            for asked, rows in self._answered.items()
            for before, after in zip(rows, self._log_probabilities(asked), strict=True)
        ]
        return {"rounding_kl": float(np.mean(found))} if found else {}

    def _log_probabilities(self, asked: Asked) -> np.ndarray:
        """[positions, vocabulary] in float32."""
        import mlx.core as mx

        ids, positions = asked
        logits = self._logits(ids)[mx.array(positions)].astype(mx.float32)
        found: np.ndarray = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        return found

    def _logits(self, ids: Sequence[int], cache: Any = None) -> Any:
        """[tokens, vocabulary]"""
        import mlx.core as mx

        answer = self._model(mx.array([list(ids)]), cache=cache)
        return getattr(answer, "logits", answer)[0]


def _without_compiler() -> None:
    """On Linux MLX compiles what it fuses with g++, if there is one: seconds for each kernel, for the same figures."""
    import mlx.core as mx

    mx.disable_compile()


def _load(folder: Path) -> tuple[Any, Any]:
    from mlx_lm import load

    model, tokenizer = load(str(folder))
    _require_read(read_config(folder), model.args)
    # The wrapper around it adds mlx-lm's own wishes to what a chat template is told.
    return model, tokenizer._tokenizer


def _load_with_images(folder: Path) -> tuple[Any, Any]:
    """The language model of it, which all that is answered here comes from."""
    from mlx_vlm import load

    model, processor = load(str(folder))
    config = read_config(folder)
    _require_read(config.get("text_config", config), model.config.text_config)
    return model.language_model, processor.tokenizer


def _require_read(config: Mapping[str, Any], read: Any) -> None:
    if fault := unread_rope(config, read):
        raise ValueError(fault)


if __name__ == "__main__":
    answer(MlxRuntime)
