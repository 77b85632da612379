"""Settings that contradict each other are errors; those that are legal but rarely meant are warnings."""

from __future__ import annotations

import pytest

from ftcore.sensible import contradictions, doubts
from ftcore.tables import DataTable, HardwareTable, RunTable, TrainTable
from ftcore.values import Profile


def profile(*, run=None, hardware=None, data=None, train=None):
    return Profile(
        run=RunTable(**(run or {})),
        hardware=HardwareTable(**(hardware or {})),
        data=DataTable(**(data or {})),
        train=TrainTable(**(train or {})),
    )


def keys(findings):
    return [".".join(key) for key, _ in findings]


def test_the_defaults_are_sensible():
    assert list(contradictions(Profile())) == []
    assert list(doubts(Profile())) == []


@pytest.mark.parametrize(
    ("tables", "key"),
    [
        ({"train": {"micro_batch_size": 3, "batch_size": 8}}, "train.micro_batch_size"),
        ({"train": {"warmup": 30, "max_steps": 20}}, "train.warmup"),
        ({"train": {"eval_steps": 5}, "data": {"validation": 0}}, "train.eval_steps"),
        ({"data": {"validation_path": "x", "validation_split": "test"}}, "data.validation_split"),
        ({"data": {"weights": [1.0, 0.0]}}, "data.weights"),
        ({"data": {"weights": [1e9]}}, "data.weights"),
        ({"train": {"precision": "fp16"}, "hardware": {"device": "cpu"}}, "train.precision"),
        ({"train": {"precision": "fp16"}, "hardware": {"device": "mps"}}, "train.precision"),
        ({"run": {"name": "a/b"}}, "run.name"),
        ({"run": {"name": ".."}}, "run.name"),
        ({"run": {"name": "x" * 129}}, "run.name"),
    ],
)
def test_what_can_never_work(tables, key):
    assert keys(contradictions(profile(**tables))) == [key]


@pytest.mark.parametrize(
    "tables",
    [
        {"train": {"micro_batch_size": 4, "batch_size": 8}},
        {"train": {"micro_batch_size": 8, "batch_size": 8}},
        {"train": {"micro_batch_size": 16, "batch_size": 8}},  # the device holds more than the batch
        {"train": {"warmup": 20, "max_steps": 20}},
        {"train": {"warmup": 0.99, "max_steps": 1}},
        {"train": {"warmup": 500}},
        {"train": {"precision": "fp16"}, "hardware": {"device": "cuda"}},
        {"train": {"precision": "fp16"}},
        {"data": {"validation": 0}},
        {"run": {"name": "x" * 128}},
        {"run": {"name": "gemma 3 ü"}},
    ],
)
def test_what_can(tables):
    assert keys(contradictions(profile(**tables))) == []


@pytest.mark.parametrize(
    ("tables", "key"),
    [
        ({"train": {"learning_rate": 0.02}}, "train.learning_rate"),
        ({"train": {"learning_rate": 1e-8}}, "train.learning_rate"),
        ({"train": {"epochs": 60}}, "train.epochs"),
        ({"train": {"batch_size": 5000}}, "train.batch_size"),
        ({"train": {"max_grad_norm": 0}}, "train.max_grad_norm"),
        ({"data": {"validation": 0}}, "data.validation"),
    ],
)
def test_what_is_probably_a_slip(tables, key):
    assert keys(doubts(profile(**tables))) == [key]


def test_many_epochs_are_no_slip_when_steps_decide():
    assert keys(doubts(profile(train={"epochs": 60, "max_steps": 10}))) == []


@pytest.mark.parametrize("brought", [{"validation_path": "held.jsonl"}, {"validation_split": "test"}])
def test_rows_that_the_data_brings_are_held_out_rows(brought):
    made = profile(data={"validation": 0, **brought}, train={"eval_steps": 5})
    assert keys(contradictions(made)) == keys(doubts(made)) == []
