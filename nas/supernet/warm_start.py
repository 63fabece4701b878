"""Warm start: puts the weights of a published member into a supernet before its training.

`nas.supernet.command` loads the member (--init), `nas.supernet.train` places its weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nas.blocks.module import Axis, Block, Repeated, resize_bias
from nas.errors import InputError
from nas.files import file_sha256
from nas.network import Network, build
from nas.space import Architecture, Space, load_space, space_names
from nas.space.place import HEAD, STEM, Place
from nas.supernet.slicing import group_order, group_tensors, inner_orders
from nas.supernet.supernet import Supernet
from nas.weights import import_weights
from nas.weights.files import load_state_dict
from nas.weights.importing import HUB_CLASSES, match_weights


@dataclass(frozen=True)
class Start:
    """A published member with its weights, and where they are from.

    Attributes:
        network: the member, with the checkpoint's weights.
        space: the shipped space that the member belongs to.
        layout: layout of the checkpoint, as in `nas.weights.LAYOUTS`.
        file, sha256: path and checksum of the checkpoint.
    """

    network: Network
    space: Space
    layout: str
    file: str
    sha256: str

    def describe(self) -> dict[str, str]:
        """Return the entries for a training's description."""
        return {
            "member": self.network.architecture.name,
            "layout": self.layout,
            "sha256": self.sha256,
        }


def load_start(path: str | Path, space: Space, member: str | None = None) -> Start:
    """Return the published member whose weights a checkpoint holds.

    Args:
        path: an official or timm file; see `nas.import_weights`.
        space: the space to train; members of the shipped space of its name are tried first.
        member: name of the member; by default it is found by names and shapes of the tensors.

    Raises:
        InputError: when the checkpoint is not of a member of a shipped space, or not of `member`.
    """
    tensors = load_state_dict(path)
    reasons = []
    # Every published member is tried, at the usual numbers of classes and at that of the space,
    # until one matches all tensors.
    for family in sorted(map(load_space, space_names()), key=lambda each: each.name != space.name):
        for name, arch in family.published.items():
            if member not in (None, name):
                continue
            for classes in dict.fromkeys((*HUB_CLASSES, space.classes)):
                one = arch.at(space.resolution, classes)
                try:
                    # Names and shapes decide. They need no memory and no random weights.
                    with torch.device("meta"):
                        candidate = build(one)
                    match_weights(candidate, tensors)
                except InputError as error:
                    reasons.append(f"{name}: {error}")
                    continue
                network = build(one)
                layout = import_weights(network, tensors)
                digest = file_sha256(path)
                return Start(network, family, layout, str(path), digest)
    if member is not None:
        raise InputError(
            f"{path}: {reasons[0] if reasons else f'{member!r} is not a published member'}"
        )
    raise InputError(
        f"{path}: does not match a published member of a shipped space. Fix: --init-member NAME"
        " gives the reason"
    )


@torch.no_grad()
def warm_start(supernet: Supernet, network: Network, family: Space) -> int:
    """Put a network's weights into the supernet, place by place; return the number of tensors.

    The network's channels become the first channels of a wider supernet. Weights from the other
    channels into these are set to zero, so that the network's own channels compute what they did.
    If the network is wider than the supernet, its most important channels are taken.

    Local blocks take the first positions of their stage and global ones the last, as in
    `Space.place`. Positions that the network lacks keep their random weights.
    """
    # One order per stream serves all its blocks: they must agree on which channels are taken.
    orders = _stream_orders(network)
    placed = 0
    for source, target, streams in _pairs(supernet, network, family):
        placed += _copy(source, target, {axis: orders[stream] for axis, stream in streams.items()})
    # The ranking that was made of the random weights is out of date.
    supernet.rank_channels()
    return placed


def _pairs(
    supernet: Supernet, network: Network, family: Space
) -> Iterator[tuple[Block, Block, dict[str, str]]]:
    """Yield pairs of blocks of the network and the supernet at the same place, and their streams.

    The streams are those of `_streams`.
    """
    arch = network.architecture
    places = {STEM: STEM, HEAD: HEAD}
    for index, stage in enumerate(arch.stages):
        depth = supernet.space.stages[index].depths[1]
        blocks = stage.blocks
        places[Place.entry(index)] = Place.entry(index)
        local = sum(block not in family.stages[index].global_ for block in blocks)
        for position in range(len(blocks)):
            # Local blocks are counted from the stage's first position, global ones from its last.
            at = position if position < local else depth - len(blocks) + position
            # In a stage that is shallower than the network's the two would meet. Then the global
            # blocks keep their positions and the last local ones are left out.
            if 0 <= at < depth and (position >= local or at < depth - (len(blocks) - local)):
                places[Place.block(index, position)] = Place.block(index, at)
    for operation in arch.operations():
        place = Place.parse(operation.name)
        target = supernet.holding(str(places[place]), operation.spec) if place in places else None
        if target is not None:
            source = network.get_submodule(operation.name)
            assert isinstance(source, Block)
            yield source, target, _streams(place, arch)


def _streams(place: Place, arch: Architecture) -> dict[str, str]:
    """Return the streams of an operation by channel group: `in` is read, `out` is written.

    A head has every stage under the stage's own name, too.
    """
    stages = [str(Place.whole(index)) for index in range(len(arch.stages))]
    if place.part == "head":
        return {"in": stages[-1]} | {stage: stage for stage in stages}
    if place.stage is None:
        return {"out": stages[0] if arch.stem is None else str(STEM)}
    streams = {"out": stages[place.stage]}
    if place.stage > 0:
        streams["in"] = stages[place.stage - 1]
    elif arch.stem is not None:
        streams["in"] = str(STEM)
    return streams


def _stream_orders(network: Network) -> dict[str, Tensor]:
    """Return the channels of every residual stream of a network, the most important first.

    As in `Supernet.rank_channels`, all blocks that read or write a stream vote.
    """
    holders: dict[str, list[tuple[Tensor, int]]] = {}
    for name, block in network.named_children():
        assert isinstance(block, Block)
        for axis, stream in _streams(Place.parse(name), network.architecture).items():
            holders.setdefault(stream, []).extend(group_tensors(block, axis))
    return {stream: group_order(tensors) for stream, tensors in holders.items() if tensors}


def _copy(source: Block, target: Block, streams: Mapping[str, Tensor]) -> int:
    """Copy the tensors that two blocks of a kind have in common; return their number."""
    inner = inner_orders(source)
    own = target.state_dict()
    placed = 0
    for name, value in source.state_dict().items():
        if name not in own or value.dim() != own[name].dim():
            continue
        axes = source.axes.get(name, ()) or (None,) * value.dim()
        value = _resized(value, own[name], axes)
        # A dimension that is not one of channels, as a kernel's side, cannot be cut or filled up:
        # a tensor that differs there keeps its random values.
        if any(
            a is None and s != d
            for a, s, d in zip(axes, value.shape, own[name].shape, strict=False)
        ):
            continue
        _place(value, own[name], axes, {**inner, **streams})
        placed += 1
    return placed


def _resized(value: Tensor, wanted: Tensor, axes: tuple[Axis, ...]) -> Tensor:
    """Return a table of attention biases (heads, H, W) at the grid of `wanted`, else the value."""
    # Such a table is known by its shape: three dimensions, of which the last two hold no channels.
    grids = value.dim() == 3 and value.shape[1:] != wanted.shape[1:] and not any(axes[1:])
    return resize_bias(value, (wanted.shape[1], wanted.shape[2])) if grids else value


def _place(
    value: Tensor, target: Tensor, axes: tuple[Axis, ...], orders: Mapping[str, Tensor]
) -> None:
    """Write `value` into the first channels of `target`, and zeros into other inputs of these."""
    if value.dim() == 0:
        target.copy_(value)
        return
    # For each dimension the indices in `value` and those in `target`; both lists are equally long.
    taken = []
    given = []
    for dim, (there, here) in enumerate(zip(value.shape, target.shape, strict=True)):
        axis = axes[dim] if dim < len(axes) else None
        take, give = _indices(axis, there, here, orders)
        taken.append(take)
        given.append(give)
    # The first dimension holds output channels. All inputs of the written outputs become 0 before
    # the known ones are copied, or random weights of the new inputs would change these outputs.
    rows = given[0]
    if target.dim() > 1:
        target[rows] = 0
    target[torch.meshgrid(*given, indexing="ij")] = value[torch.meshgrid(*taken, indexing="ij")].to(
        target.dtype
    )


def _indices(
    axis: Axis, there: int, here: int, orders: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the indices taken of `there` channels, and those that they become of `here`.

    Both are (min(there, here),), run by run where the axis repeats its channels.
    """
    group, times = (axis.group, axis.times) if isinstance(axis, Repeated) else (axis, 1)
    count = min(there, here) // times
    # All channels in their order, or the most important ones where there is no room for all.
    chosen = torch.arange(count)
    if there > here and group is not None and group in orders:
        chosen = orders[group][:count].sort().values
    # Run r of the queries, keys and values begins at r * (there // times).
    runs = range(times)
    take = torch.cat([chosen + run * (there // times) for run in runs])
    give = torch.cat([torch.arange(count) + run * (here // times) for run in runs])
    return take, give
