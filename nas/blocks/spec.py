"""The torch-free description of blocks: shapes, layers, hyperparameters, and `Operation`.

A block's spec lists its layers once, with a `Trace`. Its MACs, its parameters, its output shape and
the features that latency models are fitted to (`nas.latency`) all follow from that list.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, ClassVar, Literal, get_args

from nas.blocks.shape import Layout as Layout
from nas.blocks.shape import Shape as Shape
from nas.blocks.shape import pyramid as pyramid


@dataclass(frozen=True, slots=True)
class Layer:
    """One primitive layer.

    Attributes:
        kind: conv, depthwise, linear, matmul, norm (LayerNorm), folded_norm (a batch norm that
            deployment folds into the convolution before it), activation, softmax, pool,
            elementwise, gather or reshape.
        macs: multiply-accumulates; only convolutions, linear layers and matrix products have any.
        params: learned parameters.
        read: activation elements read.
        written: activation elements written.
        name: the activation function's name, where the layer is one; "linear" of a product in
            linear attention.
    """

    kind: str
    macs: int = 0
    params: int = 0
    read: int = 0
    written: int = 0
    name: str = ""


class Trace:
    """A walk through a block's layers from an input shape, one chained call per layer.

    With `deployed` it walks through the block's form in inference (`branches`).
    """

    def __init__(self, shape: Shape, deployed: bool = False) -> None:
        self.shape = shape
        self.layers: list[Layer] = []
        self.deployed = deployed

    def conv(
        self, width: int, kernel: int = 1, stride: int = 1, groups: int = 1, bias: bool = True
    ) -> Trace:
        """Add a 2-D convolution with `same` padding, depthwise if `groups` are the channels."""
        before = self.shape
        sized = self.shape.resized(stride)
        after = Shape(width, sized.height, sized.width, sized.layout, sized.finer)
        # A kernel is (out, in / groups, k, k). Every output position takes each of its weights
        # once.
        weights = width * (before.channels // groups) * kernel * kernel
        # Devices run depthwise convolutions by other kernels, which memory limits. So they are a
        # kind of layer of their own in latency models.
        kind = "depthwise" if groups == before.channels and groups > 1 else "conv"
        return self._add(kind, after, weights * after.tokens, weights + (width if bias else 0))

    def branches(
        self,
        width: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        small: int = 0,
        identity: bool = False,
    ) -> Trace:
        """Add parallel convolutions that inference folds into one with a bias.

        Args:
            width, kernel, stride, groups: of the convolution that remains, as of `conv`.
            small: kernel of a second convolution beside it; 0 without one.
            identity: whether the input itself is a further branch. Each branch has a batch norm.
        """
        if self.deployed:
            return self.conv(width, kernel, stride, groups)
        before = self.shape
        self.conv(width, kernel, stride, groups, bias=False).batch_norm()
        if small:
            beside = Trace(before).conv(width, small, stride, groups, bias=False).batch_norm()
            self.extra(*beside.layers).residual()
        if identity:
            self.extra(*Trace(before).batch_norm().layers).residual()
        return self

    def squeeze_excite(self, squeezed: int) -> Trace:
        """Add squeeze-and-excitation (arXiv:1709.01507) with ReLU and a sigmoid gate."""
        channels, elements = self.shape.channels, self.shape.elements
        # The gate works on the mean over all positions and gives one factor per channel.
        gate = Trace(Shape(channels, 1, 1)).conv(squeezed).activation("relu")
        gate.conv(channels).activation("sigmoid")
        return self.extra(
            Layer("pool", read=elements, written=channels),
            *gate.layers,
            Layer("elementwise", read=elements + channels, written=elements),
        )

    def folded_scale(self) -> Trace:
        """Add a layer scale behind a convolution, into which deployment folds it as a batch norm."""
        return self._add("folded_norm", self.shape, params=self.shape.channels)

    def linear(self, width: int, bias: bool = True) -> Trace:
        """Add a linear layer over the channels of every token."""
        weights = self.shape.channels * width
        return self._add(
            "linear",
            replace(self.shape, channels=width),
            weights * self.shape.tokens,
            weights + (width if bias else 0),
        )

    def batch_norm(self) -> Trace:
        # Scale and shift. The running statistics are not learned and do not count as parameters.
        return self._add("folded_norm", self.shape, params=2 * self.shape.channels)

    def layer_norm(self) -> Trace:
        return self._add("norm", self.shape, params=2 * self.shape.channels)

    def activation(self, name: str) -> Trace:
        return self._add("activation", self.shape, name=name)

    def pool(self) -> Trace:
        """Add a stride-1 average pool."""
        return self._add("pool", self.shape)

    def layer_scale(self) -> Trace:
        return self._add("elementwise", self.shape, params=self.shape.channels)

    def residual(self) -> Trace:
        """Add an addition (or subtraction) of two activations of this shape."""
        # Not by `_add`, whose layers read one activation: an addition reads two.
        self.layers.append(
            Layer("elementwise", read=2 * self.shape.elements, written=self.shape.elements)
        )
        return self

    def reshape(self, layout: Layout) -> Trace:
        return self._add("reshape", replace(self.shape, layout=layout))

    def mean(self) -> Trace:
        """Add the mean over all positions."""
        return self._add("pool", Shape(self.shape.channels, 1, 1, "vector"))

    def extra(self, *layers: Layer) -> Trace:
        """Add layers that keep the traced shape, such as the two products inside an attention."""
        self.layers.extend(layers)
        return self

    def _add(
        self, kind: str, after: Shape, macs: int = 0, params: int = 0, name: str = ""
    ) -> Trace:
        self.layers.append(Layer(kind, macs, params, self.shape.elements, after.elements, name))
        self.shape = after
        return self


def softmax_attention(
    queries: int,
    keys: int,
    heads: int,
    key_dim: int,
    value_dim: int,
    biases: int = 0,
    talking: bool = False,
) -> tuple[Layer, ...]:
    """Return the layers from projected queries, keys and values to mixed values.

    Args:
        queries, keys: number of each.
        heads, key_dim, value_dim: number of heads, and channels of a key and of a value per head.
        biases: entries of each head's bias table; 0 without one.
        talking: whether heads are mixed linearly before and after the softmax (arXiv:2003.02436).
    """
    # Q K^T gives one score per head, query and key. The scores are the weights of V.
    scores = heads * queries * keys
    keyed = heads * key_dim
    valued = heads * value_dim
    # Deployment spreads the bias table over all pairs of positions (`BiasedBlock.deploy`), so the
    # addition reads two maps of scores.
    bias = Layer("elementwise", params=heads * biases, read=2 * scores, written=scores)
    # A 1x1 convolution over the heads: (heads, heads) weights on the scores (heads, queries, keys).
    mix = Layer("conv", heads * scores, heads * heads + heads, scores, scores)
    return (
        Layer("matmul", queries * keys * keyed, read=(queries + keys) * keyed, written=scores),
        *((bias,) if biases else ()),
        *((mix,) if talking else ()),
        Layer("softmax", read=scores, written=scores),
        *((mix,) if talking else ()),
        Layer(
            "matmul", queries * keys * valued, read=scores + keys * valued, written=queries * valued
        ),
    )


Activation = Literal["relu", "gelu", "gelu_tanh", "hardswish", "silu"]
ACTIVATIONS: tuple[str, ...] = get_args(Activation)
Expansion = int | float
"""Hidden width of a block over its channels; a whole one stays an int, so that it reads as one."""
LEAST_EXPANSION = 0.25
Mixer = Literal["convolution", "pool", "attention", "none"]
Examples = tuple[tuple[str, str], ...]
"""Small blocks as (hyperparameters, input shape), both as in a row of a latency table."""


@dataclass(frozen=True)
class BlockSpec(abc.ABC):
    """The hyperparameters of one block: a subclass is a kind, and has them as fields.

    A subclass names its `kind` and the `layout` that it takes, and lists its layers in `trace`.
    Rules that hold for any input belong in `__post_init__`, rules on the input shape in `check`.
    Both raise ValueError with the reason.
    """

    kind: ClassVar[str]
    layout: ClassVar[Layout] = "map"
    module: ClassVar[str] = ""
    """The block's module, as package.module:Class; empty for a block that is never built."""
    examples: ClassVar[Examples] = ()
    """Small blocks of this kind on small inputs, the typical one first.

    Every test over all kinds builds, runs, slices or converts them (`nas.testing.blocks`)."""
    mixer: ClassVar[Mixer] = "convolution"
    """The layer that mixes the positions of a map, which the accuracy law depends on
    (`nas.accuracy.law`)."""
    counts_as_block: ClassVar[bool] = False
    """Whether a block that enters a stage computes as much as one of the stage's own blocks.

    The accuracy law depends on it."""
    breakdown: ClassVar[str] = ""
    """The part of published latency breakdowns that all of its layers belong to; empty where it
    follows from each layer's own kind. Latency estimates use it."""
    changes_layout: ClassVar[bool] = False
    """Whether it only turns a map into tokens or back.

    Such a block has no weights, is a candidate at no place of a space, and keeps the values of its
    input. The supernet, which slices nothing for it, and `nas.network` use it."""
    elastic: ClassVar[tuple[str, ...]] = ("expansion", "activation")
    """Hyperparameters in which blocks may differ and still share one set of weights.

    The block with the largest values holds the weights of all others as slices, by the axes of its
    module."""

    @abc.abstractmethod
    def trace(self, shape: Shape) -> Trace:
        """Return the walk through the block's layers from its input `shape`."""

    def deployed_trace(self, shape: Shape) -> Trace:
        """Return the walk through the layers that run in inference, by default that of `trace`."""
        return self.trace(shape)

    def check(self, shape: Shape) -> None:  # noqa: B027 (most blocks take any shape)
        """Raise ValueError when the block cannot take an input of this shape."""

    def parts(self, shape: Shape) -> tuple[tuple[BlockSpec, Shape], ...]:
        """Return the blocks, with their inputs, that latency tables have rows of in its place.

        By default itself. A block whose latency depends on several widths that are chosen
        independently returns parts that depend on one each: a row per width rather than one per
        combination of widths. The layers of the parts must be those of the block.
        """
        return ((self, shape),)

    def layers(self, shape: Shape) -> tuple[Layer, ...]:
        """Return the layers as they are trained; parameters and MACs are counted in them."""
        return _traced(self, shape)[0]

    def deployed_layers(self, shape: Shape) -> tuple[Layer, ...]:
        """Return the layers that run in inference; latency and memory depend on them."""
        return _deployed(self, shape)

    def output_shape(self, shape: Shape) -> Shape:
        return _traced(self, shape)[1]

    def macs(self, shape: Shape) -> int:
        """Return the multiply-accumulates of one forward pass at batch size 1."""
        return sum(layer.macs for layer in self.layers(shape))

    def params(self, shape: Shape) -> int:
        """Return the number of learned parameters."""
        return sum(layer.params for layer in self.layers(shape))

    def hyperparameters(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to_dict(self) -> dict[str, Any]:
        """Return `kind` and hyperparameters as plain data; `nas.blocks.from_dict` is the inverse."""
        return {"kind": self.kind, **self.hyperparameters()}

    def texts(self) -> dict[str, str]:
        """Return the hyperparameters as text, in the form of `str` and of table rows."""
        return {name: _plain(value) for name, value in self.hyperparameters().items()}

    def __str__(self) -> str:
        return ";".join(f"{name}={text}" for name, text in self.texts().items())


@dataclass(frozen=True)
class TwoForms(BlockSpec):
    """A block with branches in training that inference folds into single layers.

    A subclass lists both forms by one `walk`, in which `Trace.branches` stands for such a layer.
    """

    @abc.abstractmethod
    def walk(self, trace: Trace) -> Trace:
        """Return the walk through the block's layers in the form of the trace."""

    def trace(self, shape: Shape) -> Trace:
        return self.walk(Trace(shape))

    def deployed_trace(self, shape: Shape) -> Trace:
        return self.walk(Trace(shape, deployed=True))


@dataclass(frozen=True)
class EntrySpec(BlockSpec):
    """A block that enters a stage or comes before stage 1: it sets the channels of what follows.

    Attributes:
        width: output channels. A space replaces it by each of a stage's widths.
    """

    breakdown: ClassVar[str] = "patch_embedding"

    width: int


@dataclass(frozen=True)
class HeadSpec(BlockSpec):
    """The last block of a network: it turns features into one score per class.

    Attributes:
        classes: number of classes. `Architecture.at` and `Space.at` replace it.
    """

    task: ClassVar[str] = "classification"
    """What is scored: the image (classification), each position (segmentation), or another task of
    `nas.tasks`.

    The commands use it to name such a head by --classes or --segment."""

    classes: int

    @property
    def levels(self) -> int:
        """Return the number of last stages whose maps it takes; 0 if only the last output.

        A head with the layout "pyramid" has it as a hyperparameter with a default.
        """
        return 0


# Searches ask for layers, shapes, MACs and parameters of the same pairs again and again. One walk
# answers all four questions.
@lru_cache(maxsize=65536)
def _traced(spec: BlockSpec, shape: Shape) -> tuple[tuple[Layer, ...], Shape]:
    trace = spec.trace(shape)
    return tuple(trace.layers), trace.shape


@lru_cache(maxsize=65536)
def _deployed(spec: BlockSpec, shape: Shape) -> tuple[Layer, ...]:
    return tuple(spec.deployed_trace(shape).layers)


def _plain(value: Any) -> str:
    # These texts are keys of table rows. `:g` writes 4.0 as 4, so that an expansion has one text
    # whether it was given as int or as float: the two specs are equal.
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def eights(channels: float) -> int:
    """Return the multiple of 8 next to a number of channels, at least 8."""
    return max(8, int(channels + 4) // 8 * 8)


def hidden_width(expansion: float, channels: int) -> int:
    """Return the hidden channels of a block: exact for a whole expansion, else a multiple of 8.

    Kernels of phones compute channels in blocks of 8, so a fraction of a block would take as long
    as a whole one.
    """
    return (
        int(expansion) * channels if expansion == int(expansion) else eights(expansion * channels)
    )


def require(condition: bool, reason: str) -> None:
    """Raise ValueError with `reason` unless `condition` holds."""
    if not condition:
        raise ValueError(reason)


def require_expansion(expansion: float) -> None:
    """Raise ValueError unless a hidden width can be `expansion` times the channels."""
    require(
        LEAST_EXPANSION <= expansion < math.inf,
        f"expansion {expansion:g} must be at least {LEAST_EXPANSION:g}, and finite",
    )


def require_activation(activation: str) -> None:
    """Raise ValueError unless there is an activation function of this name."""
    require(
        activation in ACTIVATIONS,
        f"activation '{activation}' is not one of {', '.join(ACTIVATIONS)}",
    )


@dataclass(frozen=True)
class Operation:
    """One child module of the network, one row of a latency table, one bar of a breakdown.

    Attributes:
        name: its place in the network: stem, stage2_entry, stage3_block5, stage4_flatten, head.
            Where a network has no stem of its own, the block that enters stage 1 is its stem.
        spec: kind and hyperparameters.
        input: the input shape; the output shape follows from both.
    """

    name: str
    spec: BlockSpec
    input: Shape

    @property
    def output(self) -> Shape:
        return self.spec.output_shape(self.input)

    @property
    def macs(self) -> int:
        return self.spec.macs(self.input)

    @property
    def params(self) -> int:
        return self.spec.params(self.input)

    @property
    def parts(self) -> tuple[Operation, ...]:
        """Return the operations that a latency table has rows of; see `BlockSpec.parts`."""
        return _parts(self)

    @property
    def key(self) -> tuple[str, str, str]:
        """Return the kind, hyperparameters and input shape, which its latency depends on."""
        return _key(self.spec, self.input)

    def __str__(self) -> str:
        kind, hyperparameters, shape = self.key
        return f"{kind}({hyperparameters}) on {shape}"


@lru_cache(maxsize=65536)
def _parts(operation: Operation) -> tuple[Operation, ...]:
    return tuple(
        Operation(operation.name, spec, shape)
        for spec, shape in operation.spec.parts(operation.input)
    )


@lru_cache(maxsize=65536)
def _key(spec: BlockSpec, shape: Shape) -> tuple[str, str, str]:
    return spec.kind, str(spec), str(shape)
