"""The SFT trainer's losses and answers against plain transformers, and what it saves."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftcore.api import MASKED
from ftcore_plugins.lora import Options as LoraOptions
from ftcore_plugins.sft import Options, Sft
from ftcore_plugins.sft.answers import left_padded
from ftcore_plugins.sft.labelled import LabelledLoss
from tiny_kit import SHORT, FakeControl, Tiny, plain_loss

# Loss at labelled positions


@pytest.mark.parametrize("lora", [None, LoraOptions(), LoraOptions(modules_to_save=("lm_head",))], ids=str)
def test_labelled_logits_give_the_same_loss_and_gradients(tiny: Tiny, tmp_path: Path, lora: LoraOptions | None) -> None:
    model = tiny.trainer(tiny.run(tmp_path, train=SHORT), lora=lora).inner.model.eval()
    batch = tiny.data.collate(tiny.data.train[:5])
    found = []
    for enabled in (True, False):
        model.zero_grad()
        loss = LabelledLoss(model, enabled=enabled)(model, batch)
        loss.backward()
        found.append((loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-4)
    reference = model(**batch, num_items_in_batch=1).loss.item()
    assert found[0][0] == pytest.approx(reference, rel=1e-6)


def test_labelled_logits_skip_the_rest(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny.load(tiny.run(tmp_path)).model
    seen: list[int] = []
    model.lm_head.register_forward_hook(lambda module, given, logits: seen.append(logits.shape[:-1].numel()))
    batch = tiny.data.collate(tiny.data.train[:5])
    LabelledLoss(model, enabled=True)(model, batch)
    LabelledLoss(model, enabled=False)(model, batch)
    assert seen == [int((batch["labels"] != MASKED).sum()), batch["labels"].numel()]
    assert not model.lm_head._forward_pre_hooks


def test_a_model_that_hides_its_hidden_states_falls_back(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny.load(tiny.run(tmp_path)).model

    class Flat(torch.nn.Module):
        """Calls the output layer on a flat sequence, which the selection must leave alone."""

        def get_output_embeddings(self) -> Any:
            return model.lm_head

        def forward(self, input_ids: Any, attention_mask: Any, use_cache: bool) -> Any:
            hidden = model.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            logits = model.lm_head(hidden.flatten(0, 1)).view(*input_ids.shape, -1)
            return attrs.make_class("Output", ["logits"])(logits)

    batch = tiny.data.collate(tiny.data.train[:3])
    flat = Flat()
    assert LabelledLoss(flat, enabled=True)(flat, batch).item() == pytest.approx(
        LabelledLoss(model, enabled=True)(model, batch).item(), rel=1e-6
    )


# Evaluation and answers


def test_evaluation_is_the_mean_over_held_out_tokens(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny.run(tmp_path, train=SHORT)
    expected = plain_loss(tiny, tiny.load(run).model, list(tiny.data.validation))
    assert tiny.trainer(run).evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-6)


def test_without_held_out_rows_there_is_no_loss(tiny: Tiny, tmp_path: Path) -> None:
    data = attrs.evolve(tiny.data, validation=[])
    assert tiny.trainer(tiny.run(tmp_path, train=SHORT), data=data).evaluate() == {}


@pytest.mark.parametrize("labelled_logits", [True, False])
def test_the_losses_of_rows_are_those_of_each_row_alone(tiny: Tiny, tmp_path: Path, labelled_logits: bool) -> None:
    options = Options(labelled_logits=labelled_logits)
    trainer = tiny.trainer(tiny.run(tmp_path, train=SHORT), sft=options)
    rows = list(tiny.data.train)
    found = trainer.losses(rows)
    assert [loss.tokens for loss in found] == [sum(label != MASKED for label in row.labels[1:]) for row in rows]
    alone = [plain_loss(tiny, trainer.inner.model, [row]) for row in rows]
    assert [loss.nats / loss.tokens for loss in found] == pytest.approx(alone, rel=1e-5)
    held_out = trainer.losses(tiny.data.validation)
    mean = sum(loss.nats for loss in held_out) / sum(loss.tokens for loss in held_out)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(mean, rel=1e-12)
    assert trainer.losses([]) == []
    assert trainer.losses([attrs.evolve(rows[0], labels=[MASKED] * len(rows[0].labels))])[0].tokens == 0


def test_looking_leaves_random_state_and_mode_alone(tiny: Tiny, tmp_path: Path) -> None:
    trainer = tiny.trainer(tiny.run(tmp_path, train=SHORT), lora=LoraOptions(dropout=0.5))
    model = trainer.inner.model
    model.train()
    model.base_model.model.model.norm.eval()  # a mixed mode comes back as it was
    before = [module.training for module in model.modules()]
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    first = trainer.evaluate()
    trainer.generate(tiny.data.validation, 4)
    trainer.generate(tiny.data.validation, 4, 2.0)
    trainer.losses(tiny.data.validation)
    assert trainer.evaluate() == first  # no dropout
    assert [module.training for module in model.modules()] == before
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])


def test_answers_are_greedy_and_end_at_the_end_of_turn(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny.run(tmp_path, train={**SHORT, "max_steps": 120, "learning_rate": 5e-3})
    trainer = tiny.trainer(run)
    trainer.train(FakeControl(tmp_path / "c"), None)
    answers = trainer.generate(tiny.data.train[:7], 16)
    assert answers == [example.replies[-1] for example in tiny.data.train[:7]]
    assert trainer.generate([], 16) == []
    short = trainer.generate(tiny.data.train[:1], 1)[0]
    assert answers[0].startswith(short)
    assert len(short) < len(answers[0])


def test_padding_changes_no_answer(tiny: Tiny, tmp_path: Path) -> None:
    trainer = tiny.trainer(tiny.run(tmp_path, train=SHORT))
    rows = tiny.data.train[:7]  # more than a micro-batch, of differing length
    assert len({len(example.prompt_ids) for example in rows}) > 3
    alone = [trainer.generate([example], 12)[0] for example in rows]
    assert trainer.generate(rows, 12) == alone
    assert len(set(alone)) == len(rows)


def test_answers_are_drawn_at_a_temperature(tiny: Tiny, tmp_path: Path) -> None:
    same = [tiny.data.train[0]] * 40
    trainer, twin = (tiny.trainer(tiny.run(tmp_path / name, train=SHORT)) for name in ("a", "b"))
    first, second = (trainer.generate(same, 1, 1.0) for _ in range(2))
    assert len(set(first)) > 1
    assert first != second  # asked again, it draws again
    assert [twin.generate(same, 1, 1.0) for _ in range(2)] == [first, second]  # by the run's seed
    assert set(trainer.generate(same, 1, 1e-4)) == set(trainer.generate(same, 1))  # cold is greedy


def test_the_batch_of_an_evaluation_is_what_the_profile_says(tiny: Tiny, tmp_path: Path) -> None:
    def widths(train: dict[str, Any]) -> tuple[set[int], dict[str, float], list[str]]:
        trainer = tiny.trainer(tiny.run(tmp_path, train={**SHORT, **train}))
        seen: set[int] = set()
        trainer.inner.model.register_forward_pre_hook(
            lambda _, args, given: seen.add(len(given["input_ids"])), with_kwargs=True
        )
        return seen, trainer.evaluate(), trainer.generate(tiny.data.train, 4)

    small, loss, answers = widths({})
    assert max(small) == SHORT["micro_batch_size"]
    large, again, others = widths({"eval_batch_size": 16})
    assert max(large) == 16
    assert again["eval_loss"] == pytest.approx(loss["eval_loss"], rel=1e-6)
    assert others == answers


@pytest.mark.parametrize("lora", [None, LoraOptions()], ids=["full", "lora"])
def test_answers_ignore_how_the_model_would_sample(
    tiny: Tiny, tmp_path: Path, lora: LoraOptions | None, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = tiny.trainer(tiny.run(tmp_path, train=SHORT), lora=lora)
    config = trainer.inner.model.generation_config
    greedy = trainer.generate(tiny.data.validation, 12)
    config.update(do_sample=True, temperature=2.0, top_p=0.5, repetition_penalty=3.0, max_length=20)
    kept = config.to_dict()
    assert trainer.generate(tiny.data.validation, 12) == greedy
    assert trainer.inner.model.generation_config.to_dict() == kept
    assert caplog.records == []


def test_a_generation_config_that_cannot_be_saved_is_mended(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny.run(tmp_path, train=SHORT)
    loaded = tiny.load(run)
    loaded.model.generation_config.temperature = 0.6  # without sampling, as some models on the hub have it
    Sft(Options()).make_trainer(run, loaded, tiny.data, {}).save(tmp_path / "saved")
    assert "temperature" not in json.loads((tmp_path / "saved/generation_config.json").read_text())


def test_padding_moves_to_the_left() -> None:
    batch = {
        "input_ids": torch.tensor([[5, 6, 0], [7, 8, 9], [0, 3, 4]]),
        "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]]),
        "pixel_values": torch.zeros(1, 2),
    }
    moved = left_padded(batch)
    assert moved["input_ids"].tolist() == [[0, 5, 6], [7, 8, 9], [0, 3, 4]]
    assert moved["attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1], [0, 1, 1]]
    assert moved["pixel_values"] is batch["pixel_values"]


# Saving


def test_an_adapter_loads_in_plain_peft(tiny: Tiny, tmp_path: Path) -> None:
    from peft import PeftModel

    run = tiny.run(tmp_path, train=SHORT)
    trainer = tiny.trainer(run, lora=LoraOptions(dropout=0.1, modules_to_save=("lm_head",)))
    trainer.train(FakeControl(tmp_path / "c"), None)
    trainer.save(tmp_path / "adapter")
    trainer.save(tmp_path / "adapter")  # again, as a resumed run does
    base = json.loads((tmp_path / "adapter/adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == str(tmp_path / "base")
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter").eval()
    assert_same_logits(tiny, plain, trainer.inner.model.eval())
    with pytest.raises(AssertionError):  # the comparison can fail
        assert_same_logits(tiny, AutoModelForCausalLM.from_pretrained(base), trainer.inner.model)


def test_a_whole_model_loads_in_plain_transformers(tiny: Tiny, tmp_path: Path) -> None:
    trainer = tiny.trainer(tiny.run(tmp_path, train=SHORT))
    trainer.train(FakeControl(tmp_path / "c"), None)
    trainer.save(tmp_path / "model")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert_same_logits(tiny, plain, trainer.inner.model.eval())


@pytest.mark.parametrize("lora", [None, LoraOptions()], ids=["full", "lora"])
def test_what_is_saved_is_complete_and_safe(tiny: Tiny, tmp_path: Path, lora: LoraOptions | None) -> None:
    end = tiny.tokenizer.convert_tokens_to_ids("<|end_header_id|>")
    call, inner = tiny.tokenizer.convert_tokens_to_ids(["<|start_header_id|>", "<|begin_of_text|>"])
    # Not the tokenizer's own end, and one more of calls; that of earlier replies is none to stop at.
    data = attrs.evolve(tiny.data, end_of_turn=end, other_ends=frozenset({call}), inner_ends=frozenset({inner}))
    trainer = tiny.trainer(tiny.run(tmp_path, train=SHORT), lora=lora, data=data)
    trainer.save(tmp_path / "saved")
    kinds = {path.suffix for path in (tmp_path / "saved").iterdir()}
    assert kinds == {".json", ".safetensors", ".jinja"}
    stops = json.loads((tmp_path / "saved/generation_config.json").read_text())["eos_token_id"]
    assert stops == [tiny.tokenizer.eos_token_id, end, call]
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").chat_template == tiny.tokenizer.chat_template


def assert_same_logits(tiny: Tiny, first: Any, second: Any) -> None:
    batch = {k: v for k, v in tiny.data.collate(tiny.data.validation).items() if k != "labels"}
    with torch.no_grad():
        assert torch.allclose(first(**batch).logits, second(**batch).logits, atol=1e-5)
