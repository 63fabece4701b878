"""The weights that a found architecture inherits from its supernet."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from nas.blocks.attention_bias import resize_bias
from nas.files import replacing
from nas.network import build
from nas.runs.schema import WEIGHTS_FORMAT
from nas.space import Architecture
from nas.supernet.checkpoint import load_supernet
from nas.supernet.supernet import Supernet


def inherited(supernet: Supernet, arch: Architecture) -> dict[str, Tensor]:
    """The state dict of `nas.build(arch)`, sliced out of the supernet.

    `arch` may be for another input size than the supernet's: attention biases are resized to its grids.

    Raises:
        ValueError: when `arch` is no member of the supernet's space or has another number of classes.
    """
    if arch.classes != supernet.space.classes:
        raise ValueError(f"{arch.classes} classes, the supernet has {supernet.space.classes}")
    state = supernet.extract(arch.at(supernet.space.resolution)).state_dict()
    with torch.device("meta"):
        wanted = build(arch).state_dict()
    return {name: _fitted(tensor, wanted[name]) for name, tensor in state.items()}


def _fitted(tensor: Tensor, wanted: Tensor) -> Tensor:
    """The tensor as it is, or resized where it is a bias table (heads, H, W): only those depend on the input size."""
    return tensor if tensor.shape == wanted.shape else resize_bias(tensor, (wanted.shape[1], wanted.shape[2]))


def extract_to(root: str | Path, arch: Architecture, path: str | Path) -> None:
    """Writes the inherited weights of `arch` from a training's folder as a safetensors file.

    Raises:
        InputError: when the folder holds no finished training.
    """
    supernet, _ = load_supernet(root)
    state = {name: tensor.contiguous() for name, tensor in inherited(supernet, arch).items()}
    with replacing(path) as temporary:
        save_file(state, temporary, {"format": WEIGHTS_FORMAT, "supernet": str(root), "architecture": arch.name})
