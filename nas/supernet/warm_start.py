"""Warm start: puts the weights of a member into a supernet, or into another member.

`nas.supernet.command` loads the member (--init) and `nas.supernet.train` places its weights;
fine-tuning starts a found network from another member's weights by `transfer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.blocks import BlockSpec
from nas.blocks.module import Axis, Block, Repeated, Window, group_of, resize_bias
from nas.errors import InputError
from nas.files import file_sha256
from nas.network import Network, build
from nas.runs.resolve import Initial, find_initial
from nas.runs.trained_on import listed, read_trained_on, same_names
from nas.space import Architecture, Space, load_space, space_names
from nas.space.place import HEAD, STEM, Place
from nas.supernet.slicing import centre, group_order, group_tensors, inner_orders
from nas.supernet.supernet import Supernet
from nas.weights.files import read_checkpoint
from nas.weights.importing import Mismatch, fit, recognise
from nas.weights.network_file import load_network, reorder_classes, with_new_head


@dataclass(frozen=True)
class Start:
    """A member with its weights, and where they are from.

    Attributes:
        network: the member, with the checkpoint's weights.
        space: the space that the member belongs to.
        layout: layout of the checkpoint, as in `nas.weights.LAYOUTS`, or `nas` for our own.
        file, sha256: path and checksum of the checkpoint.
        notes: sentences for the user on what was chosen or changed.
        has_classifier: whether the checkpoint has a classifier; without one it is random.
        copy: the keys that lead to the weights, where the checkpoint has several copies of them.
    """

    network: Network
    space: Space
    layout: str
    file: str
    sha256: str
    notes: tuple[str, ...] = ()
    has_classifier: bool = True
    copy: str = ""

    def describe(self) -> dict[str, str]:
        """Return the entries for a training's description."""
        return {
            "member": self.network.architecture.name,
            "layout": self.layout,
            "sha256": self.sha256,
            **({"copy": self.copy} if self.copy else {}),
        }


def load_start(
    path: str | Path,
    space: Space,
    member: str | None = None,
    classes: Sequence[str] | None = None,
) -> Start:
    """Return the member whose weights a checkpoint holds, for a supernet of `space`.

    Args:
        path: as `nas.runs.resolve.find_initial` takes it: an official or timm file of a published
            member, a run, or an architecture's file with its weights.
        space: the space to train; its own members are tried first.
        member: name of the published member; by default it is found by names and shapes of the
            tensors.
        classes: names of the data's classes. Where the weights know theirs, the head is reordered
            to these, or stays random where they have other names.

    Raises:
        InputError: when the checkpoint is not of a member of a known space, or not of `member`, and
            for weights that are not finite numbers.
    """
    initial = find_initial(path)
    start = load_initial(initial, space, member)
    _check_kinds(initial.file, start.network.architecture, space)
    known = read_trained_on(initial.file).classes
    if known is None or classes is None or not start.has_classifier or known == tuple(classes):
        return start
    if same_names(known, classes):
        reorder_classes(start.network, known, classes)
        note = "the outputs of its head are reordered to the classes of the data"
        return replace(start, notes=(*start.notes, note))
    note = (
        f"its classes are {listed(known)}, those of the data {listed(classes)}: the head starts"
        " with random weights"
    )
    network = with_new_head(start.network, len(classes))
    return replace(start, network=network, notes=(*start.notes, note), has_classifier=False)


def load_initial(initial: Initial, space: Space, member: str | None = None) -> Start:
    """Return the member that weights are of, at the resolution of `space`.

    Its head may be missing or have other classes; then it is random.

    Raises:
        Mismatch: when the weights are not of a member of a known space.
        InputError: for weights that are not finite numbers.
    """
    where = str(initial.file)
    content = read_checkpoint(initial.file).content
    if initial.architecture is not None and member is None:
        arch = initial.architecture
        family = space_of(arch, space)
        if family is None:
            raise Mismatch(
                f"{where}: is of the space '{arch.space}', which is not known here. Fix: give a"
                f" member of '{space.name}'"
            )
    else:
        family, arch = _published(where, content, space, member)
    loaded = load_network(content, arch.at(space.resolution), where, new_head=True)
    return Start(
        loaded.network,
        family,
        loaded.match.layout,
        file=where,
        sha256=file_sha256(initial.file),
        notes=loaded.match.notes,
        has_classifier=loaded.has_classifier,
        copy=loaded.match.copy if loaded.match.chosen else "",
    )


def _check_kinds(path: Path, arch: Architecture, space: Space) -> None:
    """Raise InputError for a network none of whose blocks may stand in the space."""
    there = {block.kind for stage in arch.stages for block in stage.present}
    here = {block.kind for stage in space.stages for block in (*stage.local, *stage.global_)}
    if there and not there & here:
        raise InputError(
            f"{path}: is of '{arch.name or arch.space}', whose blocks ({', '.join(sorted(there))})"
            f" are not in the space '{space.name}' ({', '.join(sorted(here))})"
        )


def space_of(arch: Architecture, space: Space | None = None) -> Space | None:
    """Return the space of an architecture: `space` if it has the name, or a known one, or None."""
    if space is not None and space.name == arch.space:
        return space
    return load_space(arch.space) if arch.space in space_names() else None


def _published(
    where: str, content: Any, space: Space, member: str | None
) -> tuple[Space, Architecture]:
    """Return the published member whose tensors a checkpoint has, and its space.

    Raises:
        InputError: when there is none.
    """
    # The space to train comes first, so that a member of several spaces becomes one of its own.
    families = [space, *(load_space(name) for name in space_names() if name != space.name)]
    reasons = []
    # Every published member is tried until one matches all tensors but those of its head.
    for family in families:
        for name, arch in family.published.items():
            if member not in (None, name):
                continue
            try:
                # Names and shapes decide. They need no memory and no random weights.
                with torch.device("meta"):
                    candidate = build(arch.at(space.resolution))
            except InputError as error:
                reasons.append(f"{name}: {error}")
                continue
            try:
                fit(candidate, recognise(candidate, content), new_head=True)
            except Mismatch as error:
                reasons.append(f"{name}: {error}")
                continue
            except InputError as error:
                raise InputError(f"{where}: {error}") from None
            return family, arch
    if member is not None:
        raise Mismatch(
            f"{where}: {reasons[0] if reasons else f'{member!r} is not a published member'}"
        )
    raise Mismatch(
        f"{where}: does not match a published member of a known space. Fix: --init-member NAME"
        " gives the reason; for another network give its architecture's YAML file, with the weights"
        " beside it"
    )


@torch.no_grad()
def transfer(target: Network, source: Network, family: Space) -> int:
    """Put the weights of one member into another; return the number of tensors of the target.

    Places are paired by their order: the n-th local block of a stage with the n-th local one, and
    global blocks counted from the last. Wider networks are sliced and narrower ones padded as in
    `warm_start`. What the source lacks keeps its random weights.
    """
    orders = _stream_orders(source)
    there = source.architecture
    here = target.architecture
    places = {STEM: STEM, HEAD: HEAD}
    for index, (old, new) in enumerate(zip(there.stages, here.stages, strict=False)):
        places[Place.entry(index)] = Place.entry(index)
        is_global = _role(family, index)
        for position, at in _paired(old.blocks, new.blocks, is_global):
            places[Place.block(index, position)] = Place.block(index, at)
    blocks = dict(target.named_children())
    placed = 0
    for operation in there.operations():
        place = Place.parse(operation.name)
        theirs = source.get_submodule(operation.name)
        ours = blocks.get(str(places[place])) if place in places else None
        if not isinstance(theirs, Block) or not isinstance(ours, Block):
            continue
        # Blocks of different kinds may have tensors of one name that mean different things.
        if type(ours) is type(theirs):
            streams = _streams(place, there)
            placed += _copy(theirs, ours, {axis: orders[name] for axis, name in streams.items()})
    return placed


def _role(family: Space, index: int) -> Callable[[BlockSpec], bool]:
    """Return a function that tells whether a block of a stage is global."""
    return lambda block: block in family.stages[index].global_


def _paired(
    old: Sequence[BlockSpec], new: Sequence[BlockSpec], is_global: Callable[[BlockSpec], bool]
) -> Iterator[tuple[int, int]]:
    """Yield the positions of paired blocks of a stage, in the source and in the target."""
    for wanted in (False, True):
        one, other = (
            [i for i, b in enumerate(blocks) if b.kind != "identity" and is_global(b) is wanted]
            for blocks in (old, new)
        )
        # Global blocks are the last ones of a stage, so the last are paired with the last.
        yield from zip(reversed(one), reversed(other)) if wanted else zip(one, other)  # noqa: B905


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
    # A small window becomes the centre of a larger one, with zeros around it.
    if isinstance(axis, Window):
        side = min(there, here)
        return centre(there, side), centre(here, side)
    group = group_of(axis)
    times = axis.times if isinstance(axis, Repeated) else 1
    count = min(there, here) // times
    # All channels in their order, or the most important ones where there is no room for all.
    chosen = torch.arange(count)
    if there > here and group is not None and group in orders:
        chosen = orders[group][:count].sort().values
    given = torch.arange(count)
    if isinstance(axis, Repeated):
        return axis.positions(chosen, there), axis.positions(given, here)
    return chosen, given
