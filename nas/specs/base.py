"""What every entry of the block vocabulary tells about itself without torch."""

from __future__ import annotations

import abc
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, ClassVar, Literal, get_args

from nas.specs.layers import Layer, Trace
from nas.specs.shape import Layout, Shape

Activation = Literal["relu", "gelu", "gelu_tanh", "hardswish", "silu"]
ACTIVATIONS: tuple[str, ...] = get_args(Activation)
Task = Literal["classification", "segmentation"]
Mixer = Literal["convolution", "pool", "attention", "none"]


@dataclass(frozen=True)
class BlockSpec(abc.ABC):
    """The hyperparameters of one block; a subclass a kind, its fields the hyperparameters.

    A subclass names its `kind`, the `layout` it takes, and lists its layers in `trace`. Rules that hold for any input
    belong in `__post_init__`, rules that depend on the input shape in `check`; both raise ValueError with the reason.
    """

    kind: ClassVar[str]
    layout: ClassVar[Layout] = "map"
    module: ClassVar[str] = ""
    """Where the block's module is, as package.module:Class. Empty only where a block is never built."""
    mixer: ClassVar[Mixer] = "convolution"
    """What mixes the positions of a map, as the accuracy law tells blocks apart (`nas.accuracy.law`)."""
    counts_as_block: ClassVar[bool] = False
    """Of a block that enters a stage: whether it computes as much as one of the stage's own, for the accuracy law."""
    breakdown: ClassVar[str] = ""
    """The part of published latency breakdowns that all of its layers belong to; empty where each layer's own kind says
    it. Asked when estimates are made."""
    changes_layout: ClassVar[bool] = False
    """Whether it only turns a map into tokens or back: it has no weights, stands at no place of a space, and what comes
    out is what came in. Asked by the supernet, which slices nothing for it, and by `nas.network`."""
    elastic: ClassVar[tuple[str, ...]] = ("expansion", "activation")
    """Hyperparameters in which blocks may differ and still share one set of weights: the block with the largest values
    holds those of all others as slices, by the axes of its module."""

    @abc.abstractmethod
    def trace(self, shape: Shape) -> Trace:
        """Walks through the block's layers from its input `shape`."""

    def check(self, shape: Shape) -> None:  # noqa: B027 (most blocks take any shape)
        """Raises ValueError when the block cannot take an input of this shape."""

    def layers(self, shape: Shape) -> tuple[Layer, ...]:
        return _traced(self, shape)[0]

    def output_shape(self, shape: Shape) -> Shape:
        return _traced(self, shape)[1]

    def macs(self, shape: Shape) -> int:
        """Multiply-accumulates of one forward pass at batch size 1."""
        return sum(layer.macs for layer in self.layers(shape))

    def params(self, shape: Shape) -> int:
        """Learned parameters."""
        return sum(layer.params for layer in self.layers(shape))

    def hyperparameters(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to_dict(self) -> dict[str, Any]:
        """`kind` and hyperparameters as plain data; `nas.specs.from_dict` is the inverse."""
        return {"kind": self.kind, **self.hyperparameters()}

    def texts(self) -> dict[str, str]:
        """Return the hyperparameters as text, as `str` and the rows of tables have them."""
        return {name: _plain(value) for name, value in self.hyperparameters().items()}

    def __str__(self) -> str:
        return ";".join(f"{name}={text}" for name, text in self.texts().items())


@dataclass(frozen=True)
class EntrySpec(BlockSpec):
    """A block that enters a stage or stands before stage 1: it sets the channels of what follows.

    Attributes:
        width: output channels. A space replaces it by each of a stage's widths.
    """

    breakdown: ClassVar[str] = "patch_embedding"

    width: int


@dataclass(frozen=True)
class HeadSpec(BlockSpec):
    """The last block of a network: it turns features into a score for each class.

    Attributes:
        classes: how many there are. `Architecture.at` and `Space.at` replace it.
    """

    task: ClassVar[Task] = "classification"
    """What the scores are of: the image (classification) or each position (segmentation). Asked by the commands, which
    name such a head by --classes or --segment."""

    classes: int

    @property
    def levels(self) -> int:
        """How many of the last stages it takes the maps of; 0 for one that takes the last output alone.

        One with the layout "pyramid" has it as a hyperparameter, with a default.
        """
        return 0


@lru_cache(maxsize=65536)
def _traced(spec: BlockSpec, shape: Shape) -> tuple[tuple[Layer, ...], Shape]:
    trace = spec.trace(shape)
    return tuple(trace.layers), trace.shape


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def require(condition: bool, reason: str) -> None:
    """Raises ValueError with `reason` unless `condition` holds."""
    if not condition:
        raise ValueError(reason)
