"""Narrowing by slicing: which channels stay, and the tensors of a narrower block cut out of a wider
one's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.func import functional_call

from nas.blocks import BlockSpec, Shape
from nas.blocks.build import build_block
from nas.blocks.module import Axis, Block, Repeated

Keep = Mapping[str, Tensor]
"""Channel group (`in`, `out`) to the ascending indices of the channels that stay."""


@dataclass(frozen=True)
class Ranking:
    """The channels of every group, the most important first.

    Attributes:
        streams: those of every residual stream, by stage (stage1 ..) and `stem` where a network has
            one of its own.
        inner: for each block, those of the groups inside it.
    """

    streams: Mapping[str, Tensor]
    inner: Mapping[Block, Mapping[str, Tensor]]


def group_order(tensors: Iterable[tuple[Tensor, int]]) -> Tensor:
    """Return the channels of a group in descending importance: the squared norm of a channel over
    every tensor that holds it.

    Each tensor is divided by its mean first, so that all have one vote (the group norm of DepGraph,
    arXiv:2301.12900). `tensors` are pairs of a tensor and the dimension along which the channels
    lie.
    """
    scores = []
    for tensor, dim in tensors:
        norms = tensor.detach().float().square().transpose(0, dim).flatten(1).sum(dim=1)
        scores.append(norms / norms.mean().clamp_min(1e-12))
    return torch.argsort(torch.stack(scores).sum(dim=0), descending=True, stable=True)


def group_tensors(block: Block, group: str) -> list[tuple[Tensor, int]]:
    """Return a block's weights that hold a channel group, with the dimension; biases and statistics
    do not vote."""
    parameters = dict(block.named_parameters())
    return [
        (part, dim)
        for name, axes in block.axes.items()
        if name in parameters and parameters[name].dim() > 1
        for dim, axis in enumerate(axes)
        if (axis.group if isinstance(axis, Repeated) else axis) == group
        for part in parameters[name].chunk(axis.times if isinstance(axis, Repeated) else 1, dim)
    ]


def inner_orders(block: Block) -> dict[str, Tensor]:
    """Return the order of every channel group that lies inside a block."""
    named = {
        axis.group if isinstance(axis, Repeated) else axis
        for axes in block.axes.values()
        for axis in axes
    }
    tensors = {
        group: group_tensors(block, group) for group in named if group not in (None, "in", "out")
    }
    return {group: group_order(holders) for group, holders in tensors.items() if holders}


def first(order: Tensor, count: int) -> Tensor:
    """Return the `count` most important channels, ascending; fewer are always a subset of more."""
    return order[:count].sort().values


def slice_block(
    wide: Block, narrow: Block, keep: Keep, inner: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors of `narrow`, cut out of those of `wide`; gradients flow back to `wide`.

    `keep` names the channels of the residual streams; inside the block the first of `inner` stay.
    """
    source = {**dict(wide.named_parameters()), **dict(wide.named_buffers())}
    sliced = {}
    for name, target in narrow.state_dict().items():
        tensor = source[name]
        for dim, axis in enumerate(wide.axes.get(name, ())):
            if axis is not None and target.shape[dim] != tensor.shape[dim]:
                tensor = tensor.index_select(
                    dim, kept_channels(axis, tensor.shape[dim], target.shape[dim], keep, inner)
                )
        sliced[name] = tensor
    return sliced


def kept_channels(
    axis: Axis, size: int, wanted: int, keep: Keep, inner: Mapping[str, Tensor]
) -> Tensor:
    """Return which of a dimension's `size` channels stay, so that `wanted` do."""
    assert axis is not None
    group, times = (axis.group, axis.times) if isinstance(axis, Repeated) else (axis, 1)
    channels = keep[group] if group in keep else first(inner[group], wanted // times)
    return torch.cat([channels + run * (size // times) for run in range(times)])


def call_sliced(
    wide: Block, spec: BlockSpec, shape: Shape, keep: Keep, inner: Mapping[str, Tensor], x: Tensor
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the output of the block that `spec` and its input `shape` describe, with the weights
    of a wider one."""
    if wide.built_from == (spec, shape):
        whole: Tensor | tuple[Tensor, Tensor] = wide(x)
        return whole
    narrow = _skeleton(spec, shape).train(wide.training)
    output: Tensor | tuple[Tensor, Tensor] = functional_call(
        narrow, slice_block(wide, narrow, keep, inner), (x,)
    )
    return output


@lru_cache(maxsize=4096)
def _skeleton(spec: BlockSpec, shape: Shape) -> Block:
    """Return a module of the right form that holds no memory: its tensors come with each call."""
    with torch.device("meta"):
        return build_block(spec, shape)
