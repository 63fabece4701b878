"""Narrowing by slicing: which channels stay, and the tensors of a narrower block cut out of a wider one's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from nas.blocks import Block

Keep = Mapping[str, Tensor]
"""Channel group (`in`, `out`) to the ascending indices of the channels that stay."""


def group_importance(tensors: Iterable[tuple[Tensor, int]]) -> Tensor:
    """How much each channel of a group matters: its squared norm, over every tensor that holds it.

    Each tensor is divided by its mean first, so that all have one vote (the group norm of DepGraph, arXiv:2301.12900).
    `tensors` are pairs of a tensor and the dimension along which the channels lie.
    """
    scores = []
    for tensor, dim in tensors:
        norms = tensor.detach().float().square().transpose(0, dim).flatten(1).sum(dim=1)
        scores.append(norms / norms.mean().clamp_min(1e-12))
    return torch.stack(scores).sum(dim=0)


def group_tensors(block: Block, group: str) -> list[tuple[Tensor, int]]:
    """A block's weights that hold a channel group, with the dimension; biases and statistics do not vote."""
    parameters = dict(block.named_parameters())
    return [
        (parameters[name], dims.index(group))
        for name, dims in block.axes.items()
        if group in dims and name in parameters and parameters[name].dim() > 1
    ]


def strongest(importance: Tensor, count: int) -> Tensor:
    """The indices of the `count` most important channels, ascending; fewer are always a subset of more."""
    order = torch.argsort(importance, descending=True, stable=True)
    return order[:count].sort().values


def slice_block(wide: Block, narrow: Block, keep: Keep) -> dict[str, Tensor]:
    """The tensors of `narrow`, cut out of those of `wide`; gradients flow back to `wide`.

    Channels inside the block (`hidden`) stay by their own importance; `keep` names those of the residual streams.
    """
    shapes = {name: tensor.shape for name, tensor in narrow.state_dict().items()}
    source = {**dict(wide.named_parameters()), **dict(wide.named_buffers())}
    keep = {**keep, **_inner_groups(wide, shapes, keep)}
    sliced = {}
    for name in shapes:
        tensor = source[name]
        for dim, group in enumerate(wide.axes.get(name, ())):
            if group is not None and len(keep[group]) != tensor.shape[dim]:
                tensor = tensor.index_select(dim, keep[group].to(tensor.device))
        sliced[name] = tensor
    return sliced


def _inner_groups(wide: Block, shapes: Mapping[str, torch.Size], keep: Keep) -> dict[str, Tensor]:
    """For every channel group that lies inside the block, the channels that stay."""
    sizes = {
        group: shapes[name][dim]
        for name, dims in wide.axes.items() if name in shapes
        for dim, group in enumerate(dims) if group is not None and group not in keep
    }  # fmt: skip
    return {group: strongest(group_importance(group_tensors(wide, group)), size) for group, size in sizes.items()}
