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

import torch
from torch import Tensor

from nas.blocks import FAMILIES
from nas.blocks.module import Block, CheckpointLayout, resize_bias
from nas.errors import InputError, check_type
from nas.network import Network
from nas.weights.wrappers import Choice, choose, is_counter

LAYOUTS: dict[str, CheckpointLayout] = {
    layout.name: layout
    for family in FAMILIES
    for layout in getattr(importlib.import_module(f"{family}.module"), "LAYOUTS", ())
}
"""The checkpoint layouts of all families, by name."""

OWN = "nas"
"""Name of the layout of our own files, whose names are those of `nas.build(arch).state_dict()`."""
CLASSIFIER = "head.classifier.weight"
"""Our name of the tensor whose first dimension are the classes."""
CLASSIFIERS = ("head.classifier.", "head.distilled.")
"""Prefixes of a head's tensors that depend on the number of classes."""
HEAD_PARTS = frozenset(("head", "head_dist", "dist_head", "classifier", "fc", "norm"))
"""First parts of the names of heads in checkpoints, for tensors that our head has no place for."""

Names = Mapping[str, str]
"""Names of tensors in a checkpoint by our names."""
Grid = tuple[int, int]
"""Height and width of a grid of tokens."""


class Mismatch(InputError):
    """A checkpoint is of another architecture: a tensor is missing, surplus or of another shape."""


def import_weights(net: Network, state_dict: Mapping[str, Any], *, new_head: bool = False) -> str:
    """Put the weights of a checkpoint into a network of the same architecture, in place.

    The layout is recognised by the names of the tensors, below any keys and prefix (`model`,
    `state_dict`, `module.`, `_orig_mod.`). Of several copies the moving average is taken, with a
    warning. Either every weight of the network is set and every weight of the copy is used, or
    nothing is changed.
    Numbers beside the weights (counters) are ignored. One classifier serves a network with two.
    Attention biases of another grid are resized bilinearly. A warning then names both grids.

    Args:
        net: the network.
        state_dict: the tensors by name, perhaps in wrappers.
        new_head: the head keeps its own values wherever the checkpoint's does not fit.

    Returns:
        The name of the layout, such as 'efficientformer/timm', or 'nas' for our own names.

    Raises:
        InputError: for a checkpoint of an unknown layout, of another architecture, or of another
            number of classes, and for weights that are not finite numbers.
    """
    check_type("net", net, Network)
    check_type("state_dict", state_dict, Mapping, "nas.weights.load_state_dict")
    match = match_weights(net, state_dict, new_head=new_head)
    net.load_state_dict(match.values)
    for note in match.notes:
        warnings.warn(note, stacklevel=2)
    return match.layout


@dataclass(frozen=True)
class Match:
    """A checkpoint in a network's own names and shapes.

    Attributes:
        layout: name of the checkpoint's layout.
        values: the network's state dict.
        copy: the keys and the prefix that lead to the weights in the checkpoint.
        chosen: whether they were chosen among several copies.
        notes: sentences for the user on what was chosen or changed.
    """

    layout: str
    values: dict[str, Tensor]
    copy: str = ""
    chosen: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recognised:
    """The layout of a checkpoint, and the copy of the weights that is taken from it.

    Attributes:
        layout: how the checkpoint names its tensors; None for our own names.
        names: our names of the network's tensors to those in the checkpoint.
        choice: the copy.
    """

    layout: CheckpointLayout | None
    names: Names
    choice: Choice

    @property
    def called(self) -> str:
        return self.layout.name if self.layout else OWN

    @property
    def classes(self) -> int | None:
        """Return the number of classes of the checkpoint, or None where it has no classifier."""
        classifier = self.choice.copy.tensors.get(self.names.get(CLASSIFIER, ""))
        if classifier is None:
            return None
        along = self.layout.classes_dim if self.layout else 0
        return classifier.shape[along] if along < classifier.dim() else None


def match_weights(net: Network, state_dict: Mapping[str, Any], *, new_head: bool = False) -> Match:
    """Return the state dict that `import_weights` would load, without changing the network.

    The network may be on the meta device, unless `new_head` leaves values of its own.

    Raises:
        InputError: as `import_weights`; Mismatch where another architecture may fit.
    """
    return fit(net, recognise(net, state_dict), new_head=new_head)


def recognise(net: Network, state_dict: Mapping[str, Any]) -> Recognised:
    """Return the layout with the most names in common with the checkpoint.

    The network may be on the meta device and have any number of classes.

    Raises:
        InputError: when there are no tensors.
        Mismatch: when no layout fits.
    """
    own = {name: name for name in net.state_dict()}
    published = [(layout, names_in(net, layout)) for layout in LAYOUTS.values()]
    known: list[tuple[CheckpointLayout | None, Names]] = [(None, own)]
    known += [(layout, names) for layout, names in published if names]
    found = [Recognised(*each, choose(state_dict, set(each[1].values()))) for each in known]
    best = max(found, key=lambda each: each.choice.matched)
    # Fewer than half of the names in common mean an unknown layout. More mean a known layout of
    # another architecture, or a damaged file; `fit` then names the tensor.
    tensors = best.choice.copy.tensors
    if 2 * best.choice.matched < min(len(best.names), len(tensors)):
        layouts = " or ".join(f"{each.called} ({_some(each.names.values())})" for each in found[1:])
        if not layouts:
            raise Mismatch(
                f"the blocks of '{net.architecture.name}' have no known published layout"
            )
        raise Mismatch(
            f"unknown checkpoint layout (got tensors named {_some(tensors)}, expected {layouts})"
        )
    return best


def fit(net: Network, found: Recognised, *, new_head: bool = False) -> Match:
    """Return the tensors of a recognised checkpoint in the network's names and shapes.

    Raises:
        Mismatch: when they are of another architecture or number of classes.
        InputError: when they are not finite numbers.
    """
    names = found.names
    # Tensors without learned values, such as indices of attention biases, have none in ours.
    ignored = found.layout.ignored if found.layout else ()
    tensors = {
        name: tensor
        for name, tensor in found.choice.copy.tensors.items()
        if name.rpartition(".")[2] not in ignored
    }
    operations = {operation.name: operation for operation in net.architecture.operations()}
    own = net.state_dict()
    values = dict[str, Tensor]()
    resized = set[tuple[Grid, Grid]]()
    zeros = found.layout.zeros if found.layout else ()
    for ours, current in own.items():
        if ours in zeros:
            values[ours] = torch.zeros(current.shape, dtype=current.dtype)
            continue
        value = tensors.get(names[ours])
        if value is None:
            continue
        operation, _, name = ours.partition(".")
        if found.layout:
            value = found.layout.convert(operations[operation], name, value)
        fitted, grids = _fitted(value, current)
        if fitted.shape == current.shape:
            values[ours] = fitted
            resized.update(grids)
        elif not (new_head and ours.startswith("head.")):
            raise Mismatch(_mismatch(net, ours, names[ours], tensors[names[ours]], current))
    taken = [ours for ours in values if ours in names]
    notes = [found.choice.note] if found.choice.note else []
    notes += _share_classifier(names, values)
    for ours, current in own.items():
        # Counters of batch norms are missing in some checkpoints, and a new head is wanted; ours
        # stay. Other missing tensors are refused together below.
        kept = ours.endswith(".num_batches_tracked") or (new_head and ours.startswith("head."))
        if kept and ours not in values:
            values[ours] = current
    _refuse_difference(found.called, names, tensors, values, new_head=new_head)
    for ours in taken:
        values[ours] = _numbers(names[ours], values[ours], own[ours].dtype)
    notes += [
        f"attention biases were resized from a {before[0]}x{before[1]} grid to"
        f" {after[0]}x{after[1]}. Fix: fine-tune at this resolution"
        for before, after in sorted(resized)
    ]
    copy = found.choice.copy.where
    return Match(
        found.called, values, copy=copy, chosen=bool(found.choice.note), notes=tuple(notes)
    )


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
            own = f"{operation}.{name}"
            if own in layout.zeros:
                continue
            # The dots make a prefix match whole parts of a name: "fc1" is not one of "fc10.weight".
            ours = next(
                (prefix for prefix in published if f"{name}.".startswith(f"{prefix}.")), None
            )
            if ours is None:
                return None
            theirs = published[ours] + name.removeprefix(ours)
            # An operation's prefix is empty where its tensors are at the checkpoint's top level.
            names[own] = f"{layout.prefix_of(prefixes, own)}.{theirs}".lstrip(".")
    return names


def _fitted(value: Tensor, current: Tensor) -> tuple[Tensor, set[tuple[Grid, Grid]]]:
    """Return the value in our shape, and the grids before and after where it was resized."""
    if current.dim() != 3 or value.dim() not in (2, 3) or len(value) != len(current):
        return value, set()
    after = (current.shape[1], current.shape[2])
    if value.dim() == 3:
        before = (value.shape[1], value.shape[2])
    elif value.shape[1] == after[0] * after[1]:
        # A table that fits is taken as it is: 36 entries of a 4x9 grid are not a 6x6 grid's.
        before = after
    else:
        # Published networks have square grids, so the number of entries gives the grid.
        side = math.isqrt(value.shape[1])
        if side * side != value.shape[1]:
            return value, set()
        before = (side, side)
    table = value.reshape(len(value), *before)  # (heads, H, W)
    if before == after:
        return table, set()
    return resize_bias(table.float(), after), {(before, after)}


def _share_classifier(names: Names, values: dict[str, Tensor]) -> list[str]:
    """Give both classifiers of a network the only one of a checkpoint; return a note where done.

    In eval mode a network answers with the mean of its classifiers, so two equal ones answer as
    the single one does.
    """
    single, second = CLASSIFIERS
    missing = [name for name in names if name.startswith(second)]
    pairs = {name: name.replace(second, single, 1) for name in missing}
    if not missing or any(name in values for name in missing):
        return []
    if any(one not in values for one in pairs.values()):
        return []
    values.update({name: values[one].clone() for name, one in pairs.items()})
    return ["the checkpoint has one classifier: both classifiers of the network begin with it"]


def _numbers(name: str, value: Tensor, kind: torch.dtype) -> Tensor:
    """Return a tensor in the network's type.

    Raises:
        InputError: when it holds NaN or infinite values, or no floating-point numbers.
    """
    if not kind.is_floating_point:
        return value
    if not value.is_floating_point():
        raise InputError(
            f"'{name}' is not a weight (got {value.dtype}, expected floating-point numbers). Fix:"
            " save the weights before they are quantised"
        )
    # Finite numbers of a wider type may overflow in the network's.
    converted = value.to(kind)
    wrong = converted.numel() - int(converted.isfinite().sum())
    if wrong:
        raise InputError(
            f"'{name}' has NaN or infinite values ({wrong} of {value.numel()}). Fix: give a"
            " checkpoint from before the training diverged"
        )
    return converted


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
    here = f" (here {ours})" if theirs != ours else ""
    return f"the checkpoint is of another architecture: '{theirs}'{here} is {shapes}"


def _refuse_difference(
    layout: str,
    names: Names,
    tensors: Mapping[str, Tensor],
    values: Container[str],
    *,
    new_head: bool,
) -> None:
    """Raise Mismatch for tensors of the network or of the checkpoint that the other lacks."""
    missing = [names[ours] for ours in names if ours not in values]
    if missing and all(ours in values or ours.startswith("head.") for ours in names):
        raise Mismatch(
            f"the checkpoint ({layout}) has no classifier, or not all of the head: it lacks"
            f" {_some(missing)}. Fix: nas finetune --init FILE --new-head, or"
            " nas.import_weights(..., new_head=True)"
        )
    if missing:
        raise Mismatch(
            f"the checkpoint ({layout}) is of another architecture, or not whole: it lacks"
            f" {_some(missing)}, {len(missing)} of {len(names)} tensors"
        )
    known = set(names.values())
    surplus = [
        name
        for name, tensor in tensors.items()
        if name not in known
        and not is_counter(name, tensor)
        and not (new_head and name.partition(".")[0] in HEAD_PARTS)
    ]
    if surplus:
        raise Mismatch(
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
        if ours in target.zeros:
            if value.any():
                raise InputError(f"{ours} is not 0, and the layout {layout} has no place for it")
            continue
        # A table of attention biases (heads, H, W) is flat in all published code: (heads, H*W).
        flat = value.flatten(1) if value.dim() == 3 else value
        tensors[names[ours]] = target.publish(operations[operation], name, flat)
    return tensors
