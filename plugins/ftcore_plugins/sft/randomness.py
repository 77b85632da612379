"""The state of every random number generator, as tensors and plain numbers: no pickle. Imports torch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np
import torch

from ftcore_plugins.common.evaluation import evaluating


@attrs.frozen(kw_only=True)
class RandomState:
    """`tensors` go into a safetensors file, `numbers` into JSON."""

    tensors: Mapping[str, torch.Tensor]
    numbers: Mapping[str, Any]


def capture() -> RandomState:
    """The state of Python, numpy and torch, on the CPU and on this process's GPU: on the others, others train."""
    version, words, gauss = random.getstate()
    numpy_state: dict[str, Any] = np.random.get_state(legacy=False)
    tensors = {
        "python": torch.tensor(words, dtype=torch.int64),
        "numpy": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
        "torch": torch.get_rng_state(),
        **({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}),
        **({"mps": torch.mps.get_rng_state()} if torch.backends.mps.is_available() else {}),
    }
    numbers = {
        "python": {"version": version, "gauss": gauss},
        "numpy": {key: numpy_state[key] for key in ("bit_generator", "has_gauss", "gauss")},
        "numpy_position": int(numpy_state["state"]["pos"]),
    }
    return RandomState(tensors=tensors, numbers=numbers)


def restore(state: RandomState) -> None:
    """Set every generator. Raises `KeyError` when a state is missing."""
    tensors, numbers = state.tensors, state.numbers
    python = numbers["python"]
    random.setstate((python["version"], tuple(tensors["python"].tolist()), python["gauss"]))
    key = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state({**numbers["numpy"], "state": {"key": key, "pos": numbers["numpy_position"]}})
    torch.set_rng_state(tensors["torch"])
    if torch.backends.mps.is_available():
        torch.mps.set_rng_state(tensors["mps"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])


def move(number: int) -> None:
    """Go on with numbers of one's own: seeded by the state that is there and `number`."""
    torch.manual_seed(int(torch.randint(2**31, ())) + number)


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Look at the model in evaluation mode, and leave random state and every module's mode as they were."""
    state = capture()
    try:
        with evaluating(model):
            yield
    finally:
        restore(state)
