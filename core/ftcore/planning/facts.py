"""What is known of a model without its weights."""

from __future__ import annotations

from enum import StrEnum

import attrs

from ftcore.values import SavedAs


class Part(StrEnum):
    """Where in a model a layer lies."""

    TEXT = "text"
    VISION = "vision"
    PROJECTOR = "projector"
    OUTPUT = "output"


@attrs.frozen(kw_only=True)
class Layer:
    """One linear layer. `name` is its name before adapters were put on it, as a loader knows it.

    `rank` is that of its adapter, 0 without one; `adapter` counts the adapter's parameters. `block` numbers the
    transformer layer that it belongs to, and is None for a layer outside of them. `drops` says whether its adapter has
    dropout. `share` is the share of tokens that go through it, below 1 for one expert of several.
    """

    name: str
    inputs: int
    outputs: int
    bias: bool
    part: Part
    block: int | None = None
    rank: int = 0
    adapter: int = 0
    trained: bool = False
    drops: bool = False
    share: float = 1.0

    @property
    def weights(self) -> int:
        """Weights, without the bias."""
        return self.inputs * self.outputs

    @property
    def parameters(self) -> int:
        """Weights and bias, without the adapter's."""
        return self.weights + (self.outputs if self.bias else 0)

    @property
    def learns(self) -> bool:
        """Whether a gradient ends here."""
        return self.trained or self.rank > 0


@attrs.frozen(kw_only=True)
class Tower:
    """A stack of equal transformer layers, by its configuration.

    `queries` and `keys` are the widths of a token's queries and of its keys over all heads. `norms` are the
    normalizations of one layer that are `width` wide; `head_norms` says whether queries and keys have their own.
    `experts` are the weights that a token meets in one layer's experts, where these are no linear layers of their
    own; `inner` is then the width of all that it meets. `learns_from` is the first layer that a gradient must reach;
    it is `blocks` for a tower that learns nothing.
    """

    width: int
    inner: int
    blocks: int
    heads: int
    queries: int
    keys: int
    norms: int = 2
    head_norms: bool = False
    gated: bool = True
    experts: float = 0.0
    learns_from: int = 0

    @property
    def learning_blocks(self) -> int:
        """Layers that keep activations for the backward pass."""
        return self.blocks - self.learns_from


@attrs.frozen(kw_only=True)
class ModelFacts:
    """Counts of a model, tied parameters once.

    `base` is its own parameters, `added` those that adapters brought, and `trained` those of both that learn.
    `trained_base` are the model's own among them. `patches` are what the vision tower sees of one picture, and
    `image_tokens` what the language model gets from it; both are 0 for a model that reads text only. `positions` is
    the longest row that the model can read, 0 if its configuration does not say. `saved` is how the base's weights
    are saved, if they are quantized.
    """

    base: int
    added: int
    trained: int
    trained_base: int
    layers: tuple[Layer, ...]
    text: Tower
    vision: Tower | None = None
    vocabulary: int = 0
    patches: int = 0
    image_tokens: int = 0
    positions: int = 0
    adapter: str = ""
    saved: SavedAs | None = None

    @property
    def total(self) -> int:
        """All parameters, those of adapters among them."""
        return self.base + self.added

    @property
    def frozen(self) -> int:
        """Parameters that stay as they are."""
        return self.total - self.trained

    def linear(self, *parts: Part) -> tuple[Layer, ...]:
        """The linear layers of these parts of the model."""
        return tuple(layer for layer in self.layers if layer.part in parts)
