"""Rows with images through the SFT trainer: the model's own losses, answers, and gradients that reach the eyes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch

from ftcore.api import MASKED, Decision, Example, Ledger, Loaded, PreparedData, Run, RunError
from ftcore_plugins.common.collate import PadRight
from ftcore_plugins.lora import Lora
from ftcore_plugins.lora import Options as LoraOptions
from ftcore_plugins.sft import Options, Sft
from ftcore_plugins.sft.labelled import LabelledLoss
from ftcore_plugins.tiny_model import Options as TinyOptions
from ftcore_plugins.tiny_model import TinyModel
from tiny_kit import COLOURS, SHORT, FakeControl, make_rows, make_run

SIZE, TOKENS = 28, 4


@attrs.frozen
class Pictures:
    """Pads, and makes a picture of one brightness for each number in the features; -1 is a picture that is lost."""

    pad: PadRight
    image_token: int

    def __call__(self, examples: Sequence[Example]) -> Mapping[str, Any]:
        batch = self.pad(examples)
        numbers = [number for example in examples for number in example.features["pictures"]]
        if -1 in numbers:
            raise RunError("no such image: gone.png")
        pixels = [torch.full((3, SIZE, SIZE), number / 4 - 1) for number in numbers]
        types = (batch["input_ids"] == self.image_token).long()
        return {**batch, "token_type_ids": types, "pixel_values": torch.stack(pixels)}


@attrs.frozen
class Seeing:
    """A tiny Gemma 3, its processor, and rows whose reply depends on a picture alone."""

    run: Run
    processor: Any
    data: PreparedData

    def load(self, **model: Any) -> Loaded:
        run = make_run(self.run.folder, model=model)
        return TinyModel(gemma()).load_model(run, self.processor, None)

    def trainer(self, *, data: PreparedData | None = None, lora: bool = False, **changed: Any) -> Any:
        """Over 12 rows in micro-batches of 4, which differ in length and in number of pictures."""
        loaded = changed.pop("loaded", None) or self.load()
        run = make_run(self.run.folder, train={**SHORT, "max_steps": 4, **changed.pop("train", {})}, **changed)
        if lora:
            loaded = Lora(LoraOptions(dropout=0.1)).adapt(run, loaded)
        return Sft(Options()).make_trainer(run, loaded, data or self.data, {})


def gemma() -> TinyOptions:
    return TinyOptions(architecture="gemma3", image_size=SIZE, image_tokens=TOKENS, vocabulary_size=330)


def to_example(processor: Any, number: int) -> Example:
    """Text, one or two pictures, the question, and the colour of the first picture's brightness."""
    pictures = [number % 8] if number % 3 else [number % 8, (number + 5) % 8]
    image = processor.full_image_sequence
    text = f"<bos><start_of_turn>user\nrow {number} {'x ' * (number % 4)}{image * len(pictures)}which?<end_of_turn>\n"
    prompt = processor.tokenizer.encode(f"{text}<start_of_turn>model\n", add_special_tokens=False)
    reply = processor.tokenizer.encode(f"{COLOURS[number % 8]}<end_of_turn>", add_special_tokens=False)
    return Example(
        input_ids=prompt + reply,
        labels=[MASKED] * len(prompt) + reply,
        replies=(COLOURS[number % 8],),
        origin=f"pictures.jsonl:{number + 1}",
        features={"pictures": pictures},
    )


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Seeing:
    run = make_run(tmp_path_factory.mktemp("seeing"))
    plugin = TinyModel(gemma())
    processor = plugin.load_processor(run, make_rows())
    plugin.load_model(run, processor, None)
    examples = [to_example(processor, number) for number in range(16)]
    tokenizer = processor.tokenizer
    data = PreparedData(
        train=examples[:12],
        validation=examples[12:],
        lengths=[len(example.input_ids) for example in examples[:12]],
        collate=Pictures(PadRight(pad_id=tokenizer.pad_token_id), tokenizer.image_token_id),
        ledger=Ledger(rows=16, trained=12, held_out=4),
        end_of_turn=tokenizer.convert_tokens_to_ids("<end_of_turn>"),
        never_trained=frozenset({tokenizer.image_token_id}),
        packable=False,
    )
    return Seeing(run, processor, data)


def own_loss(model: Any, data: PreparedData, examples: Sequence[Example]) -> float:
    """Mean over the trained tokens, by the model itself, row by row."""
    total, count = 0.0, 0
    for example in examples:
        trained = sum(label != MASKED for label in example.labels)
        total += model(**data.collate([example])).loss.item() * trained
        count += trained
    return total / count


# Losses


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_labelled_logits_give_the_models_own_loss_and_gradients(seeing: Seeing, attention: str) -> None:
    model = seeing.load(attention=attention).model.eval()
    batch = seeing.data.collate(seeing.data.train[:5])
    counted = int((batch["labels"][:, 1:] != MASKED).sum())
    sizes: list[int] = []
    model.lm_head.register_forward_hook(lambda module, given, logits: sizes.append(logits.shape[:-1].numel()))
    found = []
    for loss in (lambda: LabelledLoss(model, enabled=True)(model, batch) / counted, lambda: model(**batch).loss):
        model.zero_grad()
        value = loss()
        value.backward()
        found.append((value.item(), {name: p.grad.clone() for name, p in model.named_parameters()}))
    assert sizes[0] == counted < sizes[1]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for name, gradient in found[1][1].items():
        assert torch.allclose(found[0][1][name], gradient, atol=1e-4 * gradient.abs().max() + 1e-7), name


def test_the_tokens_of_an_image_see_each_other(seeing: Seeing) -> None:
    """The comparisons above would pass without `token_type_ids` on both sides."""
    model, batch = seeing.load().model.eval(), dict(seeing.data.collate(seeing.data.train[:2]))
    loss = LabelledLoss(model, enabled=True)
    whole = loss(model, batch).item()
    del batch["token_type_ids"]
    assert abs(whole - loss(model, batch).item()) > 1e-3


def test_a_step_and_an_evaluation_have_the_models_own_loss(seeing: Seeing, tmp_path: Path) -> None:
    model = seeing.load().model.eval()
    trainer = seeing.trainer(train={"max_steps": 1, "batch_size": 12, "micro_batch_size": 4})
    assert trainer.evaluate()["eval_loss"] == pytest.approx(
        own_loss(model, seeing.data, seeing.data.validation), rel=1e-5
    )
    control = FakeControl(tmp_path / "c")
    trainer.train(control, None)
    assert control.losses[0] == pytest.approx(own_loss(model, seeing.data, seeing.data.train), rel=1e-5)


# Training


def test_gradients_reach_the_vision_tower(seeing: Seeing, tmp_path: Path) -> None:
    loaded = seeing.load()
    before = {name: weight.detach().clone() for name, weight in loaded.model.named_parameters()}
    seeing.trainer(loaded=loaded, train={"max_steps": 2}).train(FakeControl(tmp_path / "c"), None)
    moved = {name for name, weight in loaded.model.named_parameters() if not torch.equal(weight, before[name])}
    eyes = {name for name in before if "vision_tower" in name or "projector" in name}
    assert eyes
    still = eyes - moved
    assert all(name.endswith("k_proj.bias") for name in still), still  # a key's bias changes no attention


def test_replies_are_learned_from_pictures_and_answered(seeing: Seeing, tmp_path: Path) -> None:
    trainer = seeing.trainer(train={"max_steps": 150, "learning_rate": 2e-3, "max_grad_norm": 1.0})
    trainer.train(FakeControl(tmp_path / "c"), None)
    rows = seeing.data.train[:8]
    answers = trainer.generate(rows, 12)
    assert answers == [example.replies[0] for example in rows]
    assert answers == [trainer.generate([example], 12)[0] for example in rows]  # padding changes nothing
    other = [attrs.evolve(rows[4], features={"pictures": [number]}) for number in (3, 6)]
    assert len(set(trainer.generate(other, 12))) == 2  # it is the picture that is read


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_with_pictures_resumes_bit_for_bit(seeing: Seeing, tmp_path: Path, workers: int) -> None:
    whole = FakeControl(tmp_path / "whole", lambda step: Decision(checkpoint=step.number == 2))
    seeing.trainer(lora=True, hardware={"workers": workers}).train(whole, None)
    np.random.seed(5), torch.manual_seed(5)
    rest = FakeControl(tmp_path / "rest")
    seeing.trainer(lora=True, hardware={"workers": workers}).train(rest, whole.path(2))
    assert rest.losses == whole.losses[2:]


@pytest.mark.parametrize("lora", [False, True])
def test_a_model_in_bfloat16_takes_pictures(seeing: Seeing, tmp_path: Path, lora: bool) -> None:
    loaded = seeing.load(dtype="bfloat16")
    loss = own_loss(loaded.model.eval(), seeing.data, seeing.data.validation)
    trainer = seeing.trainer(loaded=loaded, lora=lora, train={"precision": "bf16", "max_steps": 2})
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss, rel=0.1)
    control = FakeControl(tmp_path / "c")
    trainer.train(control, None)
    assert len(control.losses) == 2
    assert len(trainer.generate(seeing.data.validation, 3)) == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_a_lost_picture_is_one_sentence(seeing: Seeing, tmp_path: Path, workers: int) -> None:
    """In a worker process torch would put its own traceback into it."""
    train = [attrs.evolve(example, features={"pictures": [-1]}) for example in seeing.data.train]
    trainer = seeing.trainer(data=attrs.evolve(seeing.data, train=train), hardware={"workers": workers})
    with pytest.raises(RunError) as caught:
        trainer.train(FakeControl(tmp_path / "c"), None)
    assert str(caught.value) == "no such image: gone.png"


def test_rows_with_pictures_are_not_packed(seeing: Seeing) -> None:
    with pytest.raises(RunError, match=r"train\.packing: .*such as rows with images; set it to false"):
        seeing.trainer(train={"packing": True})


def test_the_processor_is_saved_with_the_model(seeing: Seeing, tmp_path: Path) -> None:
    from transformers import AutoProcessor

    trainer = seeing.trainer()
    trainer.save(tmp_path / "saved")
    again = AutoProcessor.from_pretrained(tmp_path / "saved", backend="pil")
    assert type(again) is type(seeing.processor)
    assert again.image_seq_length == TOKENS
    tokenizer = seeing.processor.tokenizer
    assert trainer.inner.model.generation_config.eos_token_id == [tokenizer.eos_token_id, seeing.data.end_of_turn]
