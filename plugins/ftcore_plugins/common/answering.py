"""A model of transformers as a `Runtime`: what the tuned model answers, and the merged one. Imports torch."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

from ftcore_plugins.common.evaluation import evaluating
from ftcore_plugins.common.proof.comparison import margin
from ftcore_plugins.common.proof.questions import Distribution
from ftcore_plugins.common.proof.reference import ImageProbe


@attrs.frozen(kw_only=True)
class Answering:
    """Answers the questions of a proof. The model is left in the mode that it was in, and no random number is drawn.

    `stops` are the tokens that end an answer.
    """

    model: Any
    processor: Any
    stops: Collection[int] = ()

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, which a processor has inside."""
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    def template(self) -> Any:
        """The chat template, of the tokenizer or of the processor around it; None if neither has one."""
        return self.tokenizer.chat_template or getattr(self.processor, "chat_template", None)

    def tokens(self, text: str) -> Sequence[int]:
        """Token ids of a text without special tokens around it."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def chat_tokens(self, messages: Sequence[Mapping[str, str]]) -> Sequence[int]:
        """Token ids of a conversation, ready for the reply."""
        return list(
            self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=self.template,
                add_generation_prompt=True,
                return_dict=False,
            )
        )

    def distributions(self, ids: Sequence[int], positions: Sequence[int]) -> Sequence[Distribution]:
        """What follows `ids[: position + 1]`, for each of the positions."""
        rows = self._logits({"input_ids": torch.tensor([ids])}, positions)
        return [Distribution(log_probabilities=row) for row in rows]

    def greedy(self, prompt: Sequence[int], count: int) -> Sequence[int]:
        """So many most likely tokens after a prompt, fewer where the model ends."""
        return [token for token, _ in self.continued(prompt, count)]

    def continued(self, prompt: Sequence[int], count: int) -> Sequence[tuple[int, float]]:
        """The same tokens, each with how far ahead of the next best it was, in nats; the last may be a stop token."""
        with evaluating(self.model), torch.no_grad():
            return list(self._continued(prompt, count))

    def image_distribution(self, probe: ImageProbe, image: Path) -> Distribution:
        """What follows a prompt with an image."""
        return self.after_image(probe.prompt, image)

    def after_image(self, prompt: str, image: Path) -> Distribution:
        """The same; `prompt` has the processor's own placeholder in it."""
        from PIL import Image

        with Image.open(image) as opened:
            batch = self.processor(
                text=[prompt], images=[[opened.convert("RGB")]], add_special_tokens=False, return_tensors="pt"
            )
        return Distribution(log_probabilities=self._logits(dict(batch), [batch["input_ids"].shape[1] - 1])[0])

    def _logits(self, batch: Mapping[str, Any], positions: Sequence[int]) -> Any:
        """Log-probabilities [positions, vocabulary] in float32, of one row."""
        wanted = torch.tensor(list(positions), device=self.model.device)
        with evaluating(self.model), torch.no_grad():
            if self._selects():
                logits = self.model(**self._placed(batch), use_cache=False, logits_to_keep=wanted).logits[0]
            else:
                logits = self.model(**self._placed(batch), use_cache=False).logits[0, wanted]
        return _log_probabilities(logits)

    def _selects(self) -> bool:
        # Full logits of a long row and a large vocabulary are more than the whole model.
        inner = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        return "logits_to_keep" in inspect.signature(type(inner).forward).parameters

    def _placed(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value.to(self.model.device) if torch.is_tensor(value) else value for name, value in batch.items()}

    def _continued(self, prompt: Sequence[int], count: int) -> Iterator[tuple[int, float]]:
        ids, cache = list(prompt), None
        last: dict[str, Any] = {"logits_to_keep": 1} if self._selects() else {}
        for _ in range(count):
            inputs = torch.tensor([ids], device=self.model.device)
            answer = self.model(input_ids=inputs, use_cache=True, past_key_values=cache, **last)
            row, cache = _log_probabilities(answer.logits[0, -1]), getattr(answer, "past_key_values", None)
            token = int(row.argmax())
            yield token, margin(row)
            if token in self.stops:
                return
            ids = [token] if cache is not None else [*ids, token]


def _log_probabilities(logits: torch.Tensor) -> Any:
    # In float64, where there is one: what is written is then off by the rounding of float32, and by nothing else.
    return logits.detach().cpu().double().log_softmax(-1).float().numpy()
