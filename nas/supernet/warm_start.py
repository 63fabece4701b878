"""A supernet that begins with the weights of a published member."""

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
    """A checkpoint as a network, and what it is.

    Attributes:
        network: with the checkpoint's weights.
        space: the shipped space that the member belongs to.
        layout: of the checkpoint.
        file, sha256: of the checkpoint.
    """

    network: Network
    space: Space
    layout: str
    file: str
    sha256: str

    def describe(self) -> dict[str, str]:
        """Return what a training's description keeps of it."""
        return {
            "member": self.network.architecture.name,
            "layout": self.layout,
            "sha256": self.sha256,
        }


def load_start(path: str | Path, space: Space, member: str | None = None) -> Start:
    """Return the published member that a checkpoint is of, with its weights.

    Args:
        path: an official or timm file; see `nas.import_weights`.
        space: what is to be trained; members of the space of its name are tried first.
        member: the member that it is, where it cannot be told from the tensors.

    Raises:
        InputError: when it is no member of a shipped space, or another one than `member`.
    """
    tensors = load_state_dict(path)
    reasons = []
    for family in sorted(map(load_space, space_names()), key=lambda each: each.name != space.name):
        for name, arch in family.published.items():
            if member not in (None, name):
                continue
            for classes in dict.fromkeys((*HUB_CLASSES, space.classes)):
                one = arch.at(space.resolution, classes)
                try:
                    with torch.device(
                        "meta"
                    ):  # names and shapes decide; they need no memory and no random weights
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
            f"{path}: {reasons[0] if reasons else f'there is no published member {member!r}'}"
        )
    raise InputError(
        f"{path}: of no published member of a shipped space; --init-member NAME says what is wrong"
        " with it"
    )


@torch.no_grad()
def warm_start(supernet: Supernet, network: Network, family: Space) -> int:
    """Put a network's weights into the supernet, place by place; return how many tensors found one.

    The network's channels become the first ones of a wider supernet. What reads the others starts
    at zero where it feeds the first, so that the slice at the network's own widths is the network
    itself. Of a network that is wider than the supernet the most important channels go in. Local
    blocks take the first positions of their stage and global ones the last, as `Space.place` has
    it; positions that the network lacks keep their random weights.
    """
    orders = _stream_orders(network)
    placed = 0
    for source, target, streams in _pairs(supernet, network, family):
        placed += _copy(source, target, {axis: orders[stream] for axis, stream in streams.items()})
    supernet.rank_channels()
    return placed


def _pairs(
    supernet: Supernet, network: Network, family: Space
) -> Iterator[tuple[Block, Block, dict[str, str]]]:
    """Yield blocks of the network and of the supernet that stand at the same place, and the streams
    in and out of them."""
    arch = network.architecture
    places = {STEM: STEM, HEAD: HEAD}
    for index, stage in enumerate(arch.stages):
        depth = supernet.space.stages[index].depths[1]
        blocks = stage.blocks
        places[Place.entry(index)] = Place.entry(index)
        local = sum(block not in family.stages[index].global_ for block in blocks)
        for position in range(len(blocks)):
            at = position if position < local else depth - len(blocks) + position
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
    """Return the residual streams that an operation reads (`in`) and writes (`out`)."""
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
    """Return the channels of every residual stream of a network, the most important first."""
    holders: dict[str, list[tuple[Tensor, int]]] = {}
    for name, block in network.named_children():
        assert isinstance(block, Block)
        for axis, stream in _streams(Place.parse(name), network.architecture).items():
            holders.setdefault(stream, []).extend(group_tensors(block, axis))
    return {stream: group_order(tensors) for stream, tensors in holders.items() if tensors}


def _copy(source: Block, target: Block, streams: Mapping[str, Tensor]) -> int:
    """Copy what two blocks of a kind have in common; return the number of tensors that found a
    place."""
    inner = inner_orders(source)
    own = target.state_dict()
    placed = 0
    for name, value in source.state_dict().items():
        if name not in own or value.dim() != own[name].dim():
            continue
        axes = source.axes.get(name, ()) or (None,) * value.dim()
        value = _resized(value, own[name], axes)
        if any(
            a is None and s != d
            for a, s, d in zip(axes, value.shape, own[name].shape, strict=False)
        ):
            continue
        _place(value, own[name], axes, {**inner, **streams})
        placed += 1
    return placed


def _resized(value: Tensor, wanted: Tensor, axes: tuple[Axis, ...]) -> Tensor:
    """Return a table of attention biases (heads, H, W) at the grid that is wanted; anything else as
    it is."""
    grids = value.dim() == 3 and value.shape[1:] != wanted.shape[1:] and not any(axes[1:])
    return resize_bias(value, (wanted.shape[1], wanted.shape[2])) if grids else value


def _place(
    value: Tensor, target: Tensor, axes: tuple[Axis, ...], orders: Mapping[str, Tensor]
) -> None:
    """Write `value` into the first channels of `target`, and zeros into what else would feed them."""
    if value.dim() == 0:
        target.copy_(value)
        return
    taken = []
    given = []
    for dim, (there, here) in enumerate(zip(value.shape, target.shape, strict=True)):
        axis = axes[dim] if dim < len(axes) else None
        take, give = _indices(axis, there, here, orders)
        taken.append(take)
        given.append(give)
    rows = given[0]
    if target.dim() > 1:
        target[rows] = 0
    target[torch.meshgrid(*given, indexing="ij")] = value[torch.meshgrid(*taken, indexing="ij")].to(
        target.dtype
    )


def _indices(
    axis: Axis, there: int, here: int, orders: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return which of `there` channels are taken, and which of `here` they become."""
    group, times = (axis.group, axis.times) if isinstance(axis, Repeated) else (axis, 1)
    count = min(there, here) // times
    chosen = torch.arange(count)
    if there > here and group is not None and group in orders:
        chosen = orders[group][:count].sort().values
    runs = range(times)
    take = torch.cat([chosen + run * (there // times) for run in runs])
    give = torch.cat([torch.arange(count) + run * (here // times) for run in runs])
    return take, give
