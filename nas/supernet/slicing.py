"""Slicing: ranks the channels of a supernet and cuts narrower blocks out of wider ones.

`nas.supernet.supernet` calls it for every member; `nas.supernet.warm_start` uses the ranking alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from threading import get_ident

import torch
from torch import Tensor
from torch.func import functional_call

from nas.blocks import BlockSpec, Shape
from nas.blocks.build import build_block
from nas.blocks.module import Axis, Block, Repeated, Window, group_of

Keep = Mapping[str, Tensor]
"""Channel group (`in`, `out`, or a stream's name) to the ascending indices of its kept channels."""


@dataclass(frozen=True)
class Ranking:
    """The channels of every group, the most important first.

    Attributes:
        streams: the channels of every residual stream, by its name: stage1, stage2, and so on, and
            `stem` where the stem has a stream of its own.
        inner: for each block, the channels of the groups inside it.
    """

    streams: Mapping[str, Tensor]
    inner: Mapping[Block, Mapping[str, Tensor]]


def group_order(tensors: Iterable[tuple[Tensor, int]]) -> Tensor:
    """Return the channels of a group (C,) in descending order of importance.

    A channel's importance is its squared norm, summed over every tensor of the group: the group
    norm of DepGraph (arXiv:2301.12900). Each tensor's norms are divided by their mean first, so
    that every tensor has one vote.

    Args:
        tensors: pairs of a tensor and the dimension along which the channels lie.
    """
    scores = []
    for tensor, dim in tensors:
        # The channels come first, all else becomes one dimension: (C, rest) to (C,).
        norms = tensor.detach().float().square().transpose(0, dim).flatten(1).sum(dim=1)
        # A tensor of zeros has a mean of 0. The floor makes it vote for no channel, instead of NaN.
        scores.append(norms / norms.mean().clamp_min(1e-12))
    # (tensors, C) to (C,). Stable: channels that tie keep their order.
    return torch.argsort(torch.stack(scores).sum(dim=0), descending=True, stable=True)


def group_tensors(block: Block, group: str) -> list[tuple[Tensor, int]]:
    """Return a block's weights that hold a channel group, each with the dimension of its channels.

    Tensors of one dimension (biases, scales) and batch-norm statistics do not vote.
    """
    parameters = dict(block.named_parameters())
    return [
        (part, dim)
        for name, axes in block.axes.items()
        if name in parameters and parameters[name].dim() > 1
        for dim, axis in enumerate(axes)
        if group_of(axis) == group
        # Stacked queries, keys and values (3 C, ...) are three tensors of C channels here.
        for part in (
            axis.parts(parameters[name], dim) if isinstance(axis, Repeated) else [parameters[name]]
        )
    ]


def inner_orders(block: Block) -> dict[str, Tensor]:
    """Return the order (C,) of every channel group that lies inside a block, by its name."""
    named = {group_of(axis) for axes in block.axes.values() for axis in axes}
    # `in` and `out` are residual streams. Several blocks share them, so one block cannot rank them.
    tensors = {
        group: group_tensors(block, group) for group in named if group not in (None, "in", "out")
    }
    return {group: group_order(holders) for group, holders in tensors.items() if holders}


def first(order: Tensor, count: int) -> Tensor:
    """Return the `count` most important channels, as ascending indices (count,)."""
    # A prefix of one order: the channels of a narrower member are a subset of a wider one's, so
    # members share weights. Ascending, so that the full width is the block itself, unpermuted.
    return order[:count].sort().values


def slice_block(
    wide: Block, narrow: Block, keep: Keep, inner: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors of `narrow`, cut out of those of `wide`; gradients flow back to `wide`.

    Args:
        wide: the block that holds the weights.
        narrow: a block of the wanted shapes, which may be on the meta device.
        keep: the channels of the residual streams that stay.
        inner: the order of each channel group inside `wide`, whose first channels stay.
    """
    source = {**dict(wide.named_parameters()), **dict(wide.named_buffers())}
    sliced = {}
    for name, target in narrow.state_dict().items():
        tensor = source[name]
        # A kernel (out, in, k, k) is cut along one dimension after the other.
        for dim, axis in enumerate(wide.axes.get(name, ())):
            if target.shape[dim] == tensor.shape[dim]:
                continue
            if isinstance(axis, Window):
                # The same cut as `kept_channels`, without a copy of indices to the device.
                before = (tensor.shape[dim] - target.shape[dim]) // 2
                tensor = tensor.narrow(dim, before, target.shape[dim])
            elif axis is not None:
                # A cut tensor is a copy. A batch norm in training mode writes running statistics of
                # a narrowed block into the copy, where they are lost. Members are recalibrated
                # before they are evaluated (`nas.training.evaluate`).
                tensor = tensor.index_select(
                    dim, kept_channels(axis, tensor.shape[dim], target.shape[dim], keep, inner)
                )
        sliced[name] = tensor
    return sliced


def centre(size: int, wanted: int) -> Tensor:
    """Return the indices (wanted,) of the middle of `size` positions."""
    before = (size - wanted) // 2
    return torch.arange(before, before + wanted)


def kept_channels(
    axis: Axis, size: int, wanted: int, keep: Keep, inner: Mapping[str, Tensor]
) -> Tensor:
    """Return the indices (wanted,) that stay of a dimension's `size` channels or window's side."""
    if isinstance(axis, Window):
        return centre(size, wanted)
    group = group_of(axis)
    assert group is not None
    times = axis.times if isinstance(axis, Repeated) else 1
    channels = keep[group] if group in keep else first(inner[group], wanted // times)
    # The same channels stay in every run, so that query i still meets key i.
    return axis.positions(channels, size) if isinstance(axis, Repeated) else channels


def caller(
    wide: Block, spec: BlockSpec, shape: Shape, keep: Keep, inner: Mapping[str, Tensor]
) -> Callable[[Tensor], Tensor | tuple[Tensor, Tensor]]:
    """Return a function that runs the block of `spec` and input `shape` by a wider one's weights.

    The weights are cut once, here. Gradients reach `wide`. Several threads may call the function.
    """
    # The full width needs no slicing; the block itself also keeps its batch-norm statistics.
    if wide.built_from == (spec, shape):
        return wide
    tensors = slice_block(wide, _skeleton(spec, shape, get_ident()), keep, inner)

    def call(x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        # The skeleton is stateless: every tensor that it computes with is passed in here.
        # `functional_call` puts them into it meanwhile, so each thread needs a skeleton of its own.
        narrow = _skeleton(spec, shape, get_ident()).train(wide.training)
        output: Tensor | tuple[Tensor, Tensor] = functional_call(narrow, tensors, (x,))
        return output

    return call


@lru_cache(maxsize=4096)
def _skeleton(spec: BlockSpec, shape: Shape, thread: int) -> Block:
    """Return a block on the meta device, which holds no memory: its tensors come with each call."""
    with torch.device("meta"):
        return build_block(spec, shape)
