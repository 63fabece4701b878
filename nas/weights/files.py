"""Reads checkpoint files; nothing in them is ever executed.

`nas.weights.network_file`, `nas.supernet.warm_start` and `nas.features` call it.
"""

from __future__ import annotations

import argparse
import pickle  # for the name of its error alone
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nas.errors import InputError

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar")
WRAPPERS = ("model", "state_dict")
"""Keys under which training scripts store the state dict: the authors' and timm's."""


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint file by name.

    The file is a .safetensors file, or a .pth, .pt, .bin or .tar file of `torch.save`.

    Raises:
        InputError: naming the file and the reason, when it is missing, of another kind, damaged, or
            holds more than tensors and plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such checkpoint file")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    if path.suffix in TORCH_SUFFIXES:
        return _load_torch(path)
    raise InputError(f"{path}: a checkpoint ends in .safetensors, {', '.join(TORCH_SUFFIXES)}")


def unwrap(checkpoint: Any) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint, without wrappers and the prefix of data parallelism.

    Raises:
        InputError: when there is none.
    """
    tensors = checkpoint
    # One key after the other: wrappers may be nested, as {"model": {"state_dict": ...}}.
    for key in WRAPPERS:
        if isinstance(tensors, Mapping) and isinstance(tensors.get(key), Mapping):
            tensors = tensors[key]
    if not isinstance(tensors, Mapping) or not tensors:
        raise InputError(f"no state dict in this checkpoint; it holds {_contents(tensors)}")
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"no state dict in this checkpoint: '{name}' is no tensor but"
                f" {type(value).__name__}"
            )
    # DataParallel and DistributedDataParallel put "module." before every name.
    shared = "module." if all(str(name).startswith("module.") for name in tensors) else ""
    return {str(name).removeprefix(shared): tensor for name, tensor in tensors.items()}


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: is no safetensors file, or damaged: {_first_sentence(error)}"
        ) from None
    return _named(path, tensors)


def _load_torch(path: Path) -> dict[str, Tensor]:
    try:
        # The authors' training script stores its options beside the weights: plain data in an
        # argparse.Namespace. With weights_only=True torch's unpickler refuses all other classes.
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError, OSError) as error:
        refused = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        if refused:
            raise InputError(
                f"{path}: holds '{refused[1]}' beside tensors and plain data, which nas never"
                " loads; save the state dict alone, as safetensors"
            ) from None
        raise InputError(
            f"{path}: is no checkpoint of torch.save, or damaged: {_first_sentence(error)}"
        ) from None
    return _named(path, checkpoint)


def _named(path: Path, checkpoint: Any) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint; errors name the file."""
    try:
        return unwrap(checkpoint)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _contents(checkpoint: Any) -> str:
    if not isinstance(checkpoint, Mapping):
        return f"one {type(checkpoint).__name__}"
    return ", ".join(repr(str(key)) for key in list(checkpoint)[:4]) or "nothing"


def _first_sentence(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
