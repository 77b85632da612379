"""Packed rows: best-fit bins, a batch whose rows do not see each other, and the same losses as unpacked."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch

from ftcore.api import MASKED, Decision, Example, RunError
from ftcore_plugins.lora import Options as LoraOptions
from ftcore_plugins.sft import Options
from ftcore_plugins.sft.batches import ITEMS, PackedBatch, origins_of
from ftcore_plugins.sft.labelled import LabelledLoss
from ftcore_plugins.sft.packing import Packed, best_fit
from ftcore_plugins.sft.packing_proof import prove_packing
from ftcore_plugins.tiny_model import Options as TinyOptions
from ftcore_plugins.tiny_model import TinyModel
from tiny_kit import SHORT, FakeControl, Tiny, make_rows, make_run, plain_loss, train_tiny

PACKED = {"packing": True, "max_length": 128, "batch_size": 2, "micro_batch_size": 1, "learning_rate": 5e-3}

# Bins


def naive_rooms(lengths: Sequence[int], capacity: int) -> list[int]:
    """Room left in each bin, by the textbook: each row, the longest first, into the fullest bin that takes it."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [(room, place) for place, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting)[1]] -= length
        else:
            rooms.append(capacity - length)
    return sorted(rooms)


def test_bins_are_those_of_best_fit_decreasing() -> None:
    draw = np.random.default_rng(0)
    for case in range(100):
        capacity, count = int(draw.integers(1, 60)), int(draw.integers(0, 200))
        short = np.minimum(capacity, draw.geometric(0.2, count))
        lengths = short if case % 2 else draw.integers(1, capacity + 1, count)
        bins = best_fit(lengths.tolist(), capacity, case)
        assert sorted(bins.rows.tolist()) == list(range(count))
        parts = [lengths[part] for part in np.split(bins.rows, bins.starts[1:-1])] if count else []
        assert [part.sum() for part in parts] == bins.lengths.tolist()
        assert all(part.tolist() == sorted(part, reverse=True) for part in parts)
        assert sorted(capacity - bins.lengths) == naive_rooms(lengths, capacity)


def test_the_seed_says_which_of_equal_rows_go_together() -> None:
    lengths = [3, 4, 5, 6] * 50
    first, again, other = (best_fit(lengths, 10, seed) for seed in (1, 1, 2))
    assert first.rows.tolist() == again.rows.tolist() != other.rows.tolist()
    assert first.lengths.tolist() == other.lengths.tolist()


def test_many_rows_are_packed_at_once() -> None:
    lengths = np.clip(np.random.default_rng(0).lognormal(5.3, 1, 300_000).astype(int), 8, 2048)
    bins = best_fit(lengths, 2048, 0)
    assert 1 - lengths.sum() / (2048 * len(bins.lengths)) < 0.001
    assert sum(column.nbytes for column in attrs.astuple(bins)) < 8 * len(lengths)


def test_a_bin_reads_its_rows_when_asked_and_travels_to_a_loader_worker() -> None:
    rows = random_rows(30, 21, 10, 5)
    packed = Packed(rows, best_fit([len(row.input_ids) for row in rows], 35, 0))
    assert sorted(len(packed[number]) for number in range(len(packed))) == [2, 2]
    assert pickle.loads(pickle.dumps(packed))[1] == packed[1] == [rows[1], rows[2]]


# Batches


def example(*ids: int, origin: str = "x:1") -> Example:
    return Example(input_ids=list(ids), labels=list(ids), replies=("",), origin=origin)


def test_rows_lie_end_to_end_and_positions_start_again() -> None:
    bins = [[example(5, 6, 7, origin="x:1"), example(8, 9, origin="x:2")], [example(3, origin="x:3")]]
    batch = PackedBatch(False)(bins)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9], [3, 0, 0, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]]
    # Every token but each row's first is trained here; padding is not.
    assert batch["labels"].tolist() == [[MASKED, 6, 7, MASKED, 9], [MASKED] * 5]
    assert origins_of(batch[ITEMS]) == ["x:1", "x:2", "x:3"]
    assert set(batch) == {"input_ids", "position_ids", "labels", ITEMS}  # an attention mask would undo it
    flat = pickle.loads(pickle.dumps(PackedBatch(True)))(bins)
    assert flat["input_ids"].tolist() == [[5, 6, 7, 8, 9, 3]]
    assert flat["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0]]


def tiny_models() -> dict[str, Any]:
    """Models with random weights that keep packed rows apart, by name."""
    import transformers

    shape = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "num_hidden_layers": 2, "head_dim": 16, "initializer_range": 0.2}
    kinds = ["sliding_attention", "full_attention"]
    return {
        "llama": transformers.LlamaConfig(**shape),
        "gemma3": transformers.Gemma3TextConfig(**shape, sliding_window=8, layer_types=kinds),
        "mistral": transformers.MistralConfig(**shape, sliding_window=8),
    }


def made(config: Any, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, **options).eval()


def random_rows(*lengths: int) -> list[Example]:
    draw = np.random.default_rng(0)
    return [example(*draw.integers(5, 300, length).tolist()) for length in lengths]


@pytest.mark.parametrize("flat", [False, True], ids=["rows", "flat"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", tiny_models())
def test_packed_rows_have_the_losses_and_gradients_of_the_rows_alone(name: str, attention: str, flat: bool) -> None:
    model = made(tiny_models()[name], attn_implementation=attention)
    rows = random_rows(30, 21, 9, 26, 1, 17)
    batch = PackedBatch(flat)([rows[:3], rows[3:]])  # the second bin ends in padding
    del batch[ITEMS]
    found = []
    for batches in ([batch], [alone(row) for row in rows]):
        model.zero_grad()
        losses = [LabelledLoss(model, enabled=True)(model, inputs, reduction="none") for inputs in batches]
        torch.cat(losses).sum().backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        found.append((torch.cat(losses), gradient))
    assert len(found[0][0]) == sum(len(row.input_ids) - 1 for row in rows)
    assert torch.allclose(found[0][0], found[1][0], atol=1e-4)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-4 * found[1][1].abs().max())


def test_a_vision_model_takes_packed_rows_of_text(tmp_path: Path) -> None:
    plugin = TinyModel(TinyOptions(architecture="gemma3", image_size=28, image_tokens=4, vocabulary_size=330))
    run = make_run(tmp_path)
    model = plugin.load_model(run, plugin.load_processor(run, make_rows()), None).model.eval()
    rows = random_rows(30, 21, 9)
    batch = PackedBatch(False)([rows[:2], rows[2:]])
    del batch[ITEMS]
    packed = LabelledLoss(model, enabled=True)(model, batch).item()
    assert packed == pytest.approx(sum(LabelledLoss(model, enabled=True)(model, alone(row)).item() for row in rows))


def alone(row: Example) -> dict[str, torch.Tensor]:
    ids = torch.tensor([row.input_ids])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


# The proof


def prove(model: Any, rows: Sequence[Example], capacity: int = 100) -> None:
    bins = best_fit([len(row.input_ids) for row in rows], capacity, 0)
    with torch.no_grad():
        prove_packing(model, LabelledLoss(model, enabled=False), Packed(rows, bins), PackedBatch(False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_models_that_keep_rows_apart_pass(dtype: torch.dtype) -> None:
    for config in tiny_models().values():
        prove(made(config, dtype=dtype), random_rows(40, 30))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_models_that_look_back_are_refused(dtype: torch.dtype) -> None:
    """A short convolution that knows nothing of rows, in a model whose attention does; and no positions at all."""
    import transformers

    shape = {"vocab_size": 300, "hidden_size": 64, "initializer_range": 0.2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "intermediate_size": 128}
    mixed = transformers.Lfm2Config(**shape, **heads, layer_types=["conv", "full_attention"])
    alibi = transformers.BloomConfig(**shape, n_layer=2, n_head=4)
    for config in (mixed, alibi):
        with pytest.raises(RunError, match=r"train\.packing: this model .*packed rows.*set it to false"):
            prove(made(config, dtype=dtype), random_rows(40, 30))


def test_without_two_rows_in_a_bin_there_is_nothing_to_prove() -> None:
    prove(None, random_rows(40, 30), capacity=50)


# Training


def packed_trainer(tiny: Tiny, folder: Path, **changed: Any) -> Any:
    train = {**PACKED, "max_steps": 5, **changed.pop("train", {})}
    return tiny.trainer(tiny.run(folder, train=train, **changed.pop("tables", {})), **changed)


def test_a_bin_counts_as_one_row_of_the_batch(tiny: Tiny, tmp_path: Path) -> None:
    trainer = packed_trainer(tiny, tmp_path, train={"max_steps": None, "epochs": 2.0})
    bins = len(trainer.inner.train_dataset)
    assert sum(tiny.data.lengths) / 128 <= bins < len(tiny.data.train) / 2
    assert trainer.total_steps == 2 * -(-bins // 2)
    origins: list[str] = []
    control = FakeControl(tmp_path / "c", lambda step: origins.extend(trainer.inner._tally.origins) or Decision())
    trainer.train(control, None)
    assert sorted(origins) == sorted(2 * [row.origin for row in tiny.data.train])
    counted = sum(label != MASKED for row in tiny.data.train for label in row.labels)
    assert sum(step.metrics["tokens"] for step in control.steps) == 2 * counted


@pytest.mark.parametrize("labelled", [True, False])
def test_the_loss_of_a_packed_step_is_that_of_its_rows(tiny: Tiny, tmp_path: Path, labelled: bool) -> None:
    options = Options(labelled_logits=labelled)
    trainer = packed_trainer(tiny, tmp_path, sft=options, train={"max_steps": 1, "batch_size": 12})
    expected = plain_loss(tiny, tiny.load(tiny.run(tmp_path)).model, list(tiny.data.train))
    assert trainer.evaluate()["eval_loss"] > 0  # held-out rows stay unpacked
    control = FakeControl(tmp_path / "c")
    trainer.train(control, None)
    assert control.losses[0] == pytest.approx(expected, rel=1e-5)


def test_everything_but_the_first_token_of_each_row_is_trained(tiny: Tiny, tmp_path: Path) -> None:
    train = [attrs.evolve(row, labels=list(row.input_ids)) for row in tiny.data.train]
    data = attrs.evolve(tiny.data, train=train, trains="everything")
    trainer = packed_trainer(tiny, tmp_path, data=data, train={"max_steps": 1, "batch_size": 12})
    expected = plain_loss(attrs.evolve(tiny, data=data), tiny.load(tiny.run(tmp_path)).model, train)
    control = FakeControl(tmp_path / "c")
    trainer.train(control, None)
    assert control.steps[0].metrics["tokens"] == sum(data.lengths) - len(train)
    # `plain_loss` divides by the first tokens too.
    assert control.losses[0] == pytest.approx(expected * sum(data.lengths) / (sum(data.lengths) - len(train)), rel=1e-5)


@pytest.mark.parametrize("labelled", [True, False], ids=["labelled", "full logits"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_packed_training_resumes_bit_for_bit(tiny: Tiny, tmp_path: Path, labelled: bool, workers: int) -> None:
    def trainer() -> Any:
        options = {"lora": LoraOptions(dropout=0.2), "sft": Options(labelled_logits=labelled)}
        return packed_trainer(tiny, tmp_path / "a", tables={"hardware": {"workers": workers}}, **options)

    whole = FakeControl(tmp_path / "whole", lambda step: Decision(checkpoint=step.number == 3))
    first = trainer()
    first.train(whole, None)
    torch.manual_seed(99)
    second, rest = trainer(), FakeControl(tmp_path / "rest")
    second.train(rest, whole.path(3))
    assert rest.losses == whole.losses[3:]
    pairs = zip(first.inner.model.parameters(), second.inner.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_packing_is_drawn_from_the_seed(tiny: Tiny, tmp_path: Path) -> None:
    def losses(seed: int) -> list[float]:
        return train_tiny(tiny, tmp_path, train={**PACKED, "max_steps": 2}, run={"seed": seed}).losses

    assert losses(1) == losses(1) != losses(2)


def test_rows_that_cannot_be_packed_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"train\.packing: .*cannot be packed.*set it to false"):
        packed_trainer(tiny, tmp_path, data=attrs.evolve(tiny.data, packable=False))
    tiny.trainer(tiny.run(tmp_path, train=SHORT), data=attrs.evolve(tiny.data, packable=False))


def test_a_model_that_mixes_rows_is_refused_before_the_first_step(tiny: Tiny, tmp_path: Path) -> None:
    trainer = packed_trainer(tiny, tmp_path)
    forward = trainer.inner.model.forward
    trainer.inner.model.forward = lambda position_ids=None, **inputs: forward(**inputs)
    before = trainer.inner.model.lm_head.weight.detach().clone()
    control = FakeControl(tmp_path / "c")
    with pytest.raises(RunError, match="lets packed rows see each other"):
        trainer.train(control, None)
    assert control.steps == []
    assert torch.equal(trainer.inner.model.lm_head.weight, before)
