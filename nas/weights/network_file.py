"""Reads a network with its weights: from a file of this project, or from a published checkpoint.

Fine-tuning, warm starts, export and backbones call it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nas.blocks import HeadSpec
from nas.errors import InputError
from nas.network import Network, build
from nas.space import Architecture
from nas.weights.files import read_checkpoint
from nas.weights.importing import CLASSIFIERS, Match, Mismatch, fit, recognise


@dataclass(frozen=True)
class Loaded:
    """A network with the weights of a checkpoint.

    Attributes:
        network: the network, with the checkpoint's number of classes.
        match: the layout and the copy of the weights.
        has_classifier: whether the checkpoint has a classifier; without one it is random.
    """

    network: Network
    match: Match
    has_classifier: bool


def read_network(path: str | Path, arch: Architecture) -> Network:
    """Return the network of `arch` with the weights of a file, and with the file's classes.

    What was chosen or changed on the way is said by warnings.

    Args:
        path: a file or a folder with tensors as `nas.build(arch).state_dict()` names them, or of a
            published checkpoint (`nas.import_weights`).
        arch: the architecture; its number of classes may differ from the file's.

    Raises:
        InputError: naming the file, for one that is damaged, of another architecture, without a
            classifier, or with values that are not finite.
    """
    checkpoint = read_checkpoint(path)
    loaded = load_network(checkpoint.content, arch, str(checkpoint.path))
    tell(loaded, str(checkpoint.path))
    return loaded.network


def load_network(
    content: Mapping[str, Any], arch: Architecture, where: str, *, new_head: bool = False
) -> Loaded:
    """Return the network of `arch` with the tensors of a checkpoint, as `read_network`.

    Args:
        content: the tensors by name, perhaps in wrappers.
        arch: the architecture.
        where: the source of the tensors, with which errors begin.
        new_head: the head stays random wherever the checkpoint's is missing or does not fit.

    Raises:
        InputError: when there are no tensors, or values that are not finite.
        Mismatch: when they are of another architecture, or have no classifier.
    """
    try:
        # Names do not depend on the number of classes, and need neither memory nor random weights.
        with torch.device("meta"):
            unloaded = build(arch)
        found = recognise(unloaded, content)
        network = build(arch if found.classes is None else arch.at(classes=found.classes))
        match = fit(network, found, new_head=new_head)
    except Mismatch as error:
        raise Mismatch(f"{where}: {error}") from None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    network.load_state_dict(match.values)
    return Loaded(network, match, found.classes is not None)


def tell(loaded: Loaded, where: str) -> None:
    """Warn of what was chosen or changed when a checkpoint was loaded."""
    for note in loaded.match.notes:
        warnings.warn(f"{where}: {note}", stacklevel=3)


def with_new_head(network: Network, classes: int) -> Network:
    """Return the network with a new classifier for other classes; other weights are kept."""
    fresh = build(network.architecture.at(classes=classes))
    kept = {
        name: value
        for name, value in network.state_dict().items()
        if not name.startswith(CLASSIFIERS)
    }
    fresh.load_state_dict(kept, strict=False)
    return fresh


def with_other_head(network: Network, head: HeadSpec) -> Network:
    """Return the network with another head, whose weights are random; other weights are kept."""
    fresh = build(network.architecture.with_head(head))
    kept = {
        name: value for name, value in network.state_dict().items() if not name.startswith("head.")
    }
    fresh.load_state_dict(kept, strict=False)
    return fresh


@torch.no_grad()
def reorder_classes(network: Network, before: Sequence[str], after: Sequence[str]) -> None:
    """Reorder the outputs of a network's classifiers, in place.

    Args:
        network: with one output per class.
        before: names of its classes.
        after: the same names in the order that they shall have.
    """
    order = torch.tensor([list(before).index(name) for name in after])
    for name, tensor in network.state_dict().items():
        if name.startswith(CLASSIFIERS):
            tensor.copy_(tensor[order.to(tensor.device)])
