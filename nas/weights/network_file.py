"""Reads a network with its weights: from a file of this project, or from a published checkpoint.

Fine-tuning, export and backbones call it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from nas.errors import InputError
from nas.network import Network, build
from nas.space import Architecture
from nas.weights import import_weights, load_state_dict
from nas.weights.files import unwrap
from nas.weights.importing import HUB_CLASSES

CLASSIFIERS = ("head.classifier.", "head.distilled.")
"""Prefixes of a head's tensors that depend on the number of classes."""


def read_network(path: str | Path, arch: Architecture) -> Network:
    """Return the network of `arch` with the weights of a file, and with the file's classes.

    Args:
        path: file of tensors as `nas.build(arch).state_dict()` names them, or of a published
            checkpoint (`nas.import_weights`).
        arch: the architecture; its number of classes may differ from the file's.

    Raises:
        InputError: naming the file, for one that is damaged or of another architecture.
    """
    return load_network(load_state_dict(path), arch, str(path))


def load_network(state_dict: Mapping[str, Any], arch: Architecture, where: str) -> Network:
    """Return the network of `arch` with these tensors, as `read_network`.

    Args:
        state_dict: the tensors by name, perhaps in a wrapper.
        arch: the architecture.
        where: the source of the tensors, with which errors begin.

    Raises:
        InputError: when there are no tensors, or they are of another architecture.
    """
    tensors = unwrap(state_dict)
    # More than half of the names in common mean a file of ours. Its errors name the tensor that
    # does not fit, while `_published` would only report an unknown layout.
    with torch.device("meta"):
        ours = build(arch).state_dict().keys()
    if 2 * len(ours & tensors.keys()) > len(ours):
        return _own(where, tensors, arch)
    return _published(where, tensors, arch)


def _own(path: str, tensors: dict[str, Tensor], arch: Architecture) -> Network:
    """Return the network with tensors under our own names, all of which must fit."""
    classifier = tensors.get("head.classifier.weight")
    network = build(arch if classifier is None else arch.at(classes=len(classifier)))
    state = network.state_dict()
    for name in sorted(state.keys() | tensors.keys()):
        given = tensors.get(name)
        expected = state.get(name)
        if given is None or expected is None or given.shape != expected.shape:
            raise InputError(
                f"{path}: these weights are not of the architecture {_called(arch)}: '{name}' is"
                f" {_shape(given)} in the file, {_shape(expected)} in the architecture"
            )
    network.load_state_dict(tensors)
    return network


def _published(path: str, tensors: dict[str, Tensor], arch: Architecture) -> Network:
    """Return the network with a published checkpoint's weights, and with its number of classes.

    Raises:
        InputError: with the reason for the architecture's own number of classes.
    """
    reasons = []
    for classes in dict.fromkeys((arch.classes, *HUB_CLASSES)):
        network = build(arch.at(classes=classes))
        try:
            import_weights(network, tensors)
        except InputError as error:
            reasons.append(error)
        else:
            return network
    raise InputError(f"{path}: {reasons[0]}")


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


def _called(arch: Architecture) -> str:
    return f"'{arch.name}'" if arch.name else "that was asked for"


def _shape(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{list(tensor.shape)}"


def read_header(path: str | Path) -> dict[str, str]:
    """Return the header of a safetensors file; empty for a file of another kind."""
    if Path(path).suffix != ".safetensors":
        return {}
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})
