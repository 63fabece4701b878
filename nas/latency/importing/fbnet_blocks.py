"""Blocks of ours as sums of FBNet's operators."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from nas.specs import BlockSpec, ConvEmbedding, DSConv, MBConv, MBConvDown, Shape


@dataclass(frozen=True)
class Add:
    """The sum of two maps."""

    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"the sum of two {self.channels}x{self.height}x{self.width}"


@dataclass(frozen=True)
class Conv:
    """A convolution of a map of `channels` x `height` x `width` to `out` channels, with ReLU or without."""

    channels: int
    height: int
    width: int
    out: int
    kernel: int
    stride: int
    groups: int
    relu: bool

    @property
    def depthwise(self) -> bool:
        return self.groups == self.channels == self.out

    @property
    def pointwise(self) -> bool:
        return self.kernel == self.stride == self.groups == 1

    @property
    def input(self) -> Shape:
        return Shape(self.channels, self.height, self.width)

    @property
    def output(self) -> Shape:
        return Shape(self.out, -(-self.height // self.stride), -(-self.width // self.stride))

    def __str__(self) -> str:
        return (f"{self.kernel}x{self.kernel} convolution{' with ReLU' if self.relu else ''}, stride {self.stride}, "
                f"groups {self.groups}, {self.input} to {self.output}")  # fmt: skip


Operator: TypeAlias = Conv | Add
Block: TypeAlias = tuple[BlockSpec, Shape, tuple[Operator, ...]]


def blocks(operators: Iterable[Operator]) -> Iterator[Block]:
    """Every conv_embedding, dsconv, mbconv and mbconv_down whose operators are all there, with its input and them."""
    known = set(operators)
    convs = [operator for operator in known if isinstance(operator, Conv)]
    convs.sort(key=str)  # a set has no order, a table's file should
    into, out_of = defaultdict(list), defaultdict(list)
    for conv in convs:
        if conv.pointwise and conv.relu:
            into[conv.output].append(conv)
        elif conv.pointwise:
            out_of[conv.input].append(conv)
    for conv in convs:
        if (conv.kernel, conv.stride, conv.groups, conv.relu) == (3, 2, 1, False):
            yield ConvEmbedding(conv.out), conv.input, (conv,)
        if conv.depthwise and conv.relu and conv.kernel % 2 and conv.stride in (1, 2):
            for project in out_of[conv.output]:
                yield from _around(conv, into[conv.input], project, known)


def _around(depthwise: Conv, expands: Iterable[Conv], project: Conv, known: set[Operator]) -> Iterator[Block]:
    """The blocks with this depthwise convolution and this one after it."""
    kernel, skip = depthwise.kernel, Add(project.out, depthwise.height, depthwise.width)
    if depthwise.stride == 1 and project.out == depthwise.channels and skip in known:
        yield DSConv(kernel, "relu"), depthwise.input, (depthwise, project, skip)
    for expand in expands:
        expansion, rest = divmod(expand.out, expand.channels)
        parts = (expand, depthwise, project)
        if rest:
            continue
        if depthwise.stride == 2:
            yield MBConvDown(project.out, expansion, kernel, activation="relu"), expand.input, parts
        elif project.out == expand.channels and skip in known:
            yield MBConv(expansion, kernel, activation="relu"), expand.input, (*parts, skip)
