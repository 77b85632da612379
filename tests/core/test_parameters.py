"""How many weights a model has, whatever form they are kept in."""

from __future__ import annotations

from types import SimpleNamespace

from ftcore.parameters import count_parameters


class Weight:
    """As much of a torch parameter as is looked at; `more` is what ZeRO-3 or bitsandbytes put on it."""

    def __init__(self, count, *, trained=False, **more):
        self.requires_grad = trained
        self._count = count
        vars(self).update(more)

    def numel(self):
        return self._count


def model(*weights):
    return SimpleNamespace(parameters=lambda: iter(weights))


def test_all_and_trained_weights_are_counted():
    assert count_parameters(model(Weight(10), Weight(5, trained=True))) == {"total": 15, "trainable": 5}
    assert count_parameters(model()) == {"total": 0, "trainable": 0}


def test_a_part_of_a_weight_counts_as_the_whole():
    assert count_parameters(model(Weight(0, trained=True, ds_numel=12))) == {"total": 12, "trainable": 12}


def test_packed_weights_count_as_what_they_stand_for():
    packed = Weight(32, quant_state=SimpleNamespace(shape=(8, 8)))
    assert count_parameters(model(packed, Weight(3, quant_state=None))) == {"total": 67, "trainable": 0}


def test_a_model_of_another_kind_is_not_counted():
    assert count_parameters({"weight": 1.0}) == {}
