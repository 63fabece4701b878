"""The weights that a network starts from: a file of this project or a published checkpoint, under
the right head."""

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
"""What of a head depends on the classes."""


def read_network(path: str | Path, arch: Architecture) -> Network:
    """Return the network of `arch` with the weights of a file, with as many classes as the file
    has.

    Args:
        path: tensors as `nas.build(arch).state_dict()` names them, or a published checkpoint
            (`nas.import_weights`).
        arch: its number of classes may be another than the file's.

    Raises:
        InputError: naming the file, for one that is damaged or of another architecture.
    """
    return load_network(load_state_dict(path), arch, str(path))


def load_network(state_dict: Mapping[str, Any], arch: Architecture, where: str) -> Network:
    """Return the network of `arch` with these tensors, as `read_network` does; messages begin with
    `where`.

    Raises:
        InputError: for what holds no tensors, or those of another architecture.
    """
    tensors = unwrap(state_dict)
    with torch.device("meta"):
        ours = build(arch).state_dict().keys()
    if 2 * len(ours & tensors.keys()) > len(ours):
        return _own(where, tensors, arch)
    return _published(where, tensors, arch)


def _own(path: str, tensors: dict[str, Tensor], arch: Architecture) -> Network:
    classifier = tensors.get("head.classifier.weight")
    network = build(arch if classifier is None else arch.at(classes=len(classifier)))
    wanted = network.state_dict()
    for name in sorted(wanted.keys() | tensors.keys()):
        there = tensors.get(name)
        here = wanted.get(name)
        if there is None or here is None or there.shape != here.shape:
            raise InputError(
                f"{path}: these weights are not of the architecture {_called(arch)}: '{name}' is "
                f"{_shape(there)} there, {_shape(here)} in the architecture"
            )
    network.load_state_dict(tensors)
    return network


def _published(path: str, tensors: dict[str, Tensor], arch: Architecture) -> Network:
    """Return the checkpoint in a network with the classes that it fits; the first reason where it
    fits none."""
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
    """Return the network with a classifier for other classes, freshly initialised; all else keeps
    its weights."""
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
    """Return what a safetensors file says of itself; nothing for a file of another kind."""
    if Path(path).suffix != ".safetensors":
        return {}
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})
