"""The primitive layers that blocks are made of, counted by formula.

A block's spec lists its layers once, with a `Trace`; its MACs, its parameters, its output shape and the features
that latency models are fitted to (`nas.latency`) all follow from that list.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nas.specs.shape import Layout, Shape


@dataclass(frozen=True, slots=True)
class Layer:
    """One primitive layer.

    Attributes:
        kind: conv, depthwise, linear, matmul, norm (LayerNorm), folded_norm (a batch norm that deployment folds into
            the convolution before it), activation, softmax, pool, elementwise, gather or reshape.
        macs: multiply-accumulates; only convolutions, linear layers and matrix products have any.
        params: learned parameters.
        read: activation elements read.
        written: activation elements written.
        name: the activation function's name, where the layer is one; "linear" of a product in linear attention.
    """

    kind: str
    macs: int = 0
    params: int = 0
    read: int = 0
    written: int = 0
    name: str = ""


class Trace:
    """Walks through a block's layers from an input shape, one chained call a layer."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.layers: list[Layer] = []

    def conv(self, width: int, kernel: int = 1, stride: int = 1, groups: int = 1, bias: bool = True) -> Trace:
        """A 2-D convolution with `same` padding; depthwise where every channel is a group of its own."""
        before, after = self.shape, replace(self.shape.resized(stride), channels=width)
        weights = width * (before.channels // groups) * kernel * kernel
        kind = "depthwise" if groups == before.channels and groups > 1 else "conv"
        return self._add(kind, after, weights * after.tokens, weights + (width if bias else 0))

    def linear(self, width: int, bias: bool = True) -> Trace:
        """A linear layer over the channels of every token."""
        weights = self.shape.channels * width
        return self._add("linear", replace(self.shape, channels=width), weights * self.shape.tokens,
                         weights + (width if bias else 0))  # fmt: skip

    def batch_norm(self) -> Trace:
        return self._add("folded_norm", self.shape, params=2 * self.shape.channels)

    def layer_norm(self) -> Trace:
        return self._add("norm", self.shape, params=2 * self.shape.channels)

    def activation(self, name: str) -> Trace:
        return self._add("activation", self.shape, name=name)

    def pool(self) -> Trace:
        """A stride-1 average pool."""
        return self._add("pool", self.shape)

    def layer_scale(self) -> Trace:
        return self._add("elementwise", self.shape, params=self.shape.channels)

    def residual(self) -> Trace:
        """An addition (or subtraction) of two activations of this shape."""
        self.layers.append(Layer("elementwise", read=2 * self.shape.elements, written=self.shape.elements))
        return self

    def reshape(self, layout: Layout) -> Trace:
        return self._add("reshape", replace(self.shape, layout=layout))

    def mean(self) -> Trace:
        """The mean over all positions."""
        return self._add("pool", Shape(self.shape.channels, 1, 1, "vector"))

    def extra(self, *layers: Layer) -> Trace:
        """Layers that leave the traced shape as it is (the two products inside an attention, say)."""
        self.layers.extend(layers)
        return self

    def _add(self, kind: str, after: Shape, macs: int = 0, params: int = 0, name: str = "") -> Trace:
        self.layers.append(Layer(kind, macs, params, self.shape.elements, after.elements, name))
        self.shape = after
        return self
