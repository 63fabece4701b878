"""Maps published weights onto a network and back; recognises a checkpoint's layout by its names.

`nas.import_weights`, `nas.weights.network_file` and warm starts import weights. The export target
`timm` exports them.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nas.blocks import FAMILIES
from nas.blocks.module import Block, CheckpointLayout, resize_bias
from nas.errors import InputError
from nas.network import Network
from nas.weights.files import unwrap

LAYOUTS: dict[str, CheckpointLayout] = {
    layout.name: layout
    for family in FAMILIES
    for layout in getattr(importlib.import_module(f"{family}.module"), "LAYOUTS", ())
}
"""The checkpoint layouts of all families, by name."""

HUB_CLASSES = (1000, 21841)
"""Numbers of classes of published checkpoints: ImageNet-1k and ImageNet-21k."""

Names = Mapping[str, str]
"""Names of tensors in a checkpoint by our names."""
Grid = tuple[int, int]
"""Height and width of a grid of tokens."""


def import_weights(net: Network, state_dict: Mapping[str, Any]) -> str:
    """Put the weights of a published checkpoint into a network of the same architecture, in place.

    The layout is recognised by the names of the tensors. A wrapper such as {"model": ...} or
    {"state_dict": ...} and the prefix "module." are removed. Either every weight of the network is
    set and every weight of the checkpoint is used, or nothing is changed. Attention biases of
    another grid are resized bilinearly. A warning then names both grids.

    Returns:
        The name of the layout, such as 'efficientformer/timm'.

    Raises:
        InputError: for a checkpoint of an unknown layout, of another architecture, or of another
            number of classes.
    """
    match = match_weights(net, state_dict)
    net.load_state_dict(match.values)
    for before, after in sorted(match.resized):
        warnings.warn(
            f"attention biases were resized from a {before[0]}x{before[1]} grid to"
            f" {after[0]}x{after[1]}. Fix: fine-tune at this resolution",
            stacklevel=2,
        )
    return match.layout


@dataclass(frozen=True)
class Match:
    """A checkpoint in a network's own names and shapes.

    Attributes:
        layout: name of the checkpoint's layout.
        values: the network's state dict.
        resized: grids of resized attention biases, before and after.
    """

    layout: str
    values: dict[str, Tensor]
    resized: set[tuple[Grid, Grid]]


def match_weights(net: Network, state_dict: Mapping[str, Any]) -> Match:
    """Return the state dict that `import_weights` would load, without changing the network.

    The network may be on the meta device.

    Raises:
        InputError: as `import_weights`.
    """
    tensors = unwrap(state_dict)
    layout, names = _recognise(net, tensors)
    # Tensors without learned values, such as indices of attention biases, have none in ours.
    tensors = {
        name: t for name, t in tensors.items() if name.rpartition(".")[2] not in layout.ignored
    }
    operations = {operation.name: operation for operation in net.architecture.operations()}
    values = dict[str, Tensor]()
    resized = set[tuple[Grid, Grid]]()
    for ours, current in net.state_dict().items():
        # Counters of batch norms are missing in some checkpoints, so ours are kept then. All other
        # missing tensors are refused together below.
        value = tensors.get(names[ours], current if ours.endswith(".num_batches_tracked") else None)
        if value is None:
            continue
        operation, _, name = ours.partition(".")
        values[ours], grids = _fitted(layout.convert(operations[operation], name, value), current)
        if values[ours].shape != current.shape:
            raise InputError(_mismatch(net, ours, names[ours], value, current))
        resized.update(grids)
    _refuse_difference(layout.name, names, tensors, values)
    return Match(layout.name, values, resized)


def _recognise(net: Network, tensors: Mapping[str, Tensor]) -> tuple[CheckpointLayout, Names]:
    """Return the layout with the most names in common with the checkpoint, and its names.

    Raises:
        InputError: when no layout fits.
    """
    known = [(layout, names) for layout in LAYOUTS.values() if (names := names_in(net, layout))]
    if not known:
        raise InputError(f"the blocks of '{net.architecture.name}' have no known published layout")
    shared = [len(tensors.keys() & set(names.values())) for _, names in known]
    best = shared.index(max(shared))
    layout, names = known[best]
    # Fewer than half of the names in common mean an unknown layout. More mean a known layout of
    # another architecture, or a damaged file; `match_weights` then names the tensor.
    if 2 * shared[best] < min(len(names), len(tensors)):
        layouts = " or ".join(f"{layout.name} ({_some(names.values())})" for layout, names in known)
        raise InputError(
            f"unknown checkpoint layout (got tensors named {_some(tensors)}, expected {layouts})"
        )
    return layout, names


def names_in(net: Network, layout: CheckpointLayout) -> Names | None:
    """Return the names of the network's tensors in a layout.

    Return None where one of its blocks was never published in this layout.
    """
    prefixes = layout.prefixes(net.architecture.operations())
    names: dict[str, str] = {}
    for operation, block in net.named_children():
        assert isinstance(block, Block)
        published = layout.published_names(block)
        for name in block.state_dict():
            # The dots make a prefix match whole parts of a name: "fc1" is not one of "fc10.weight".
            ours = next(
                (prefix for prefix in published if f"{name}.".startswith(f"{prefix}.")), None
            )
            if ours is None:
                return None
            theirs = published[ours] + name.removeprefix(ours)
            # An operation's prefix is empty where its tensors are at the checkpoint's top level.
            names[f"{operation}.{name}"] = f"{prefixes[operation]}.{theirs}".lstrip(".")
    return names


def _fitted(value: Tensor, current: Tensor) -> tuple[Tensor, set[tuple[Grid, Grid]]]:
    """Return the value in our shape, and the grids before and after where it was resized.

    A flat table of attention biases (heads, H*W) becomes (heads, H, W), resized to our grid. Other
    tensors are returned unchanged. Published networks have square grids, so the number of entries
    gives the grid.
    """
    if not (value.dim() == 2 and current.dim() == 3 and len(value) == len(current)):
        return value, set()
    after = (current.shape[1], current.shape[2])
    side = math.isqrt(value.shape[1])
    # A number of entries that is not a square may still fit our grid, which need not be square.
    before = (side, side) if side * side == value.shape[1] else after
    if before[0] * before[1] != value.shape[1]:
        return value, set()
    table = value.reshape(len(value), *before)  # (heads, H, W)
    return (
        (table, set())
        if before == after
        else (resize_bias(table.float(), after), {(before, after)})
    )


def _mismatch(net: Network, ours: str, theirs: str, value: Tensor, current: Tensor) -> str:
    """Return the message on a tensor of another shape, with a remedy for a head of other classes."""
    shapes = f"{list(value.shape)} in the checkpoint, {list(current.shape)} in this network"
    classes = net.architecture.classes
    if (
        ours.startswith("head.")
        and len(current) == classes
        and value.shape[1:] == current.shape[1:]
    ):
        return (
            f"'{theirs}' has {len(value)} classes in the checkpoint (expected {classes}, as this"
            f" network). Fix: build it with arch.at(classes={len(value)}), import, then replace the"
            " head"
        )
    return f"the checkpoint is of another architecture: '{theirs}' (here {ours}) is {shapes}"


def _refuse_difference(
    layout: str, names: Names, tensors: Iterable[str], values: Container[str]
) -> None:
    """Raise InputError for tensors of the network or of the checkpoint that the other lacks."""
    missing = [names[ours] for ours in names if ours not in values]
    if missing:
        raise InputError(
            f"the checkpoint ({layout}) is of another architecture, or incomplete: it lacks"
            f" {_some(missing)}, {len(missing)} of {len(names)} tensors"
        )
    known = set(names.values())
    surplus = [name for name in tensors if name not in known]
    if surplus:
        raise InputError(
            f"the checkpoint ({layout}) is of another architecture: this network has no place for "
            f"{_some(surplus)}, {len(surplus)} of its tensors"
        )


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(f"'{name}'" for name in listed[:3]) + (", .." if len(listed) > 3 else "")


def export_weights(net: Network, layout: str) -> dict[str, Tensor]:
    """Return the network's tensors in a layout of `LAYOUTS`, the inverse of `import_weights`.

    Tensors without learned values, such as indices of attention biases, are left to the caller.

    Raises:
        InputError: naming the operation that was never published in this layout.
    """
    target = LAYOUTS[layout]
    names = names_in(net, target)
    operations = {operation.name: operation for operation in net.architecture.operations()}
    if names is None:
        blocks = {name: block for name, block in net.named_children() if isinstance(block, Block)}
        unpublished = next(
            operation
            for operation in operations.values()
            if operation.params and not target.published_names(blocks[operation.name])
        )
        raise InputError(
            f"{unpublished.name}, {unpublished}, was never published in the layout {layout}"
        )
    tensors = {}
    for ours, value in net.state_dict().items():
        operation, _, name = ours.partition(".")
        # A table of attention biases (heads, H, W) is flat in all published code: (heads, H*W).
        flat = value.flatten(1) if value.dim() == 3 else value
        tensors[names[ours]] = target.publish(operations[operation], name, flat)
    return tensors
