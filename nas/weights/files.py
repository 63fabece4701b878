"""Reads checkpoint files without ever executing anything in them.

`nas.weights.network_file`, `nas.supernet.warm_start` and `nas.features` call it.
"""

from __future__ import annotations

import argparse
import pickle  # only for its error class
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
"""Keys under which training scripts (the authors' and timm's) store the state dict."""


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint file by name.

    The file is a .safetensors file, or a .pth, .pt, .bin or .tar file of `torch.save`.

    Raises:
        InputError: naming the file and the reason, when it is missing, damaged or of another kind,
            or has more than tensors and plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such checkpoint file")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    if path.suffix in TORCH_SUFFIXES:
        return _load_torch(path)
    raise InputError(
        f"{path}: is not a checkpoint file (got the suffix '{path.suffix}', expected .safetensors,"
        f" {', '.join(TORCH_SUFFIXES)})"
    )


def unwrap(checkpoint: Any) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint, without wrappers and the prefix of data parallelism.

    Raises:
        InputError: when the checkpoint has no state dict.
    """
    tensors = checkpoint
    # Each key in turn, as wrappers may be nested: {"model": {"state_dict": ...}}.
    for key in WRAPPERS:
        if isinstance(tensors, Mapping) and isinstance(tensors.get(key), Mapping):
            tensors = tensors[key]
    if not isinstance(tensors, Mapping) or not tensors:
        raise InputError(f"this checkpoint has no state dict (got {_contents(tensors)})")
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"this checkpoint has no state dict: '{name}' is not a tensor (got"
                f" {type(value).__name__})"
            )
    # DataParallel and DistributedDataParallel put "module." before every name.
    shared = "module." if all(str(name).startswith("module.") for name in tensors) else ""
    return {str(name).removeprefix(shared): tensor for name, tensor in tensors.items()}


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: is not a safetensors file, or is damaged ({_first_sentence(error)})"
        ) from None
    return _named(path, tensors)


def _load_torch(path: Path) -> dict[str, Tensor]:
    try:
        # The authors' training script stores its options beside the weights, as plain data in an
        # argparse.Namespace. With weights_only=True torch's unpickler refuses all other classes,
        # which could execute code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError, OSError) as error:
        refused = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        if refused:
            raise InputError(
                f"{path}: has '{refused[1]}' beside tensors and plain data, which nas never loads."
                " Fix: save the state dict alone, as safetensors"
            ) from None
        raise InputError(
            f"{path}: is not a checkpoint of torch.save, or is damaged ({_first_sentence(error)})"
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
