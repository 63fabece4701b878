"""Weights and images that anybody can make again from their names: what the reference outputs were
recorded with.

Only the raw 64-bit stream of NumPy's PCG64 is used, which NumPy promises to keep (its distributions
it does not).
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

TensorType = tuple[tuple[int, ...], str]
"""A tensor's shape and its dtype as NumPy abbreviates it: f4, i8."""
CELL = 32
"""Pixels of the images' coarse cells: the reduction of a network's last stage."""
DAMPED = (
    # EfficientFormerV2
    "mid_norm.weight",
    "mid.bn.weight",
    "v_local.1.weight",
    "v_local.bn.weight",
    # FastViT
    "mlp.conv.bn.weight",
    "mixer.conv_kxk.0.bn.weight",
    "mixer.conv_scale.bn.weight",
    "mixer.identity.weight",
    "norm.identity.weight",
    "large_conv.bn.weight",
    "small_conv.bn.weight",
    "convffn.conv.bn.weight",
    "mixer.rbr_conv.0.bn.weight",
    "mixer.rbr_scale.bn.weight",
    "mixer.rbr_skip.weight",
    "norm.rbr_skip.weight",
    "lkb_origin.bn.weight",
    # RepViT
    "token_mixer.bn.weight",
    "token_mixer.0.bn.weight",
    "channel_mixer.conv2.bn.weight",
    "channel_mixer.m.2.bn.weight",
)
"""Scales inside branches that are about 0.25, as the up to 48 blocks of these families would amplify
too much."""


def state_dict(types: Mapping[str, TensorType]) -> dict[str, Tensor]:
    """A value for every tensor, scaled so that activations stay near 1 and every branch of a
    network matters."""
    return {name: _tensor(name, shape, dtype) for name, (shape, dtype) in types.items()}


def images(size: Sequence[int], name: str = "images") -> Tensor:
    """Images (B, 3, H, W), H and W multiples of 32: noise a pixel and noise a cell, so that the
    last tokens differ."""
    batch, channels, height, width = size
    coarse = _uniform(
        f"{name}.cells", (batch, channels, height // CELL, width // CELL), mean=0.0, std=1.5
    )
    cells = coarse.repeat_interleave(CELL, 2).repeat_interleave(CELL, 3)
    return cells + _uniform(f"{name}.pixels", size, mean=0.0, std=1.0)


def dtype(tensor: Tensor) -> str:
    return tensor.numpy().dtype.str[1:]


def write_types(path: Path, types: Mapping[str, TensorType]) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("tensor", "shape", "dtype"))
        rows.writerows(
            (name, "x".join(map(str, shape)), dtype) for name, (shape, dtype) in types.items()
        )


def read_types(path: Path) -> dict[str, TensorType]:
    with path.open(newline="") as file:
        return {
            row["tensor"]: (
                tuple(int(side) for side in row["shape"].split("x") if side),
                row["dtype"],
            )
            for row in csv.DictReader(file)
        }


def _tensor(name: str, shape: Sequence[int], dtype: str) -> Tensor:
    if not dtype.startswith("f"):
        return torch.from_numpy(np.zeros(tuple(shape), dtype))
    last = name.rpartition(".")[2]
    if last == "running_var":
        return _uniform(name, shape, mean=1.0, std=0.25)
    if "layer_scale" in name or last == "gamma":
        return _uniform(name, shape, mean=0.55, std=0.25)
    if last == "attention_biases":
        return _uniform(name, shape, mean=0.0, std=1.0)
    if name.endswith(DAMPED):
        return _uniform(name, shape, mean=0.25, std=0.1)
    if name.endswith(
        "talking_head2.bias"
    ):  # it is added to the weight of every token, of which there are many
        return _uniform(name, shape, mean=0.0, std=0.01)
    if len(shape) > 1:
        return _uniform(name, shape, mean=0.0, std=1.0 / math.sqrt(math.prod(shape[1:])))
    return _uniform(name, shape, mean=1.0 if last == "weight" else 0.0, std=0.1)


def _uniform(name: str, shape: Sequence[int], mean: float, std: float) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    raw = np.random.PCG64(seed).random_raw(math.prod(shape))
    unit = (raw >> np.uint64(40)).astype(np.float32) / np.float32(2**24)
    values = (unit - np.float32(0.5)) * np.float32(std * math.sqrt(12.0)) + np.float32(mean)
    return torch.from_numpy(values.astype(np.float32)).reshape(tuple(shape))
