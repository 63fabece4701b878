"""Writes weights with a digest, and reads checkpoint files without executing anything in them.

`nas.weights.network_file`, `nas.supernet.warm_start` and `nas.features` read; trainings, searches
and exports write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nas.display import shortened
from nas.errors import InputError
from nas.weight_files import DIGEST, UNKNOWN_DIGEST, check_digest, find_file, kind_of, record_digest
from nas.weights.wrappers import unwrap


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        path: the file, also where a folder was given.
        content: tensors by name, perhaps in wrappers beside plain data (`nas.weights.wrappers`).
    """

    path: Path
    content: Any


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Return the content of a checkpoint: a file, or a folder with one.

    The format is recognised by the first bytes, so a safetensors file may have any suffix.

    Raises:
        InputError: naming the file and the reason, when it is missing, damaged or of another kind,
            or has more than tensors and plain data.
    """
    file = find_file(path)
    kind = kind_of(file)
    return Checkpoint(file, _load_safetensors(file) if kind == "safetensors" else _load_torch(file))


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, without wrappers and their prefixes.

    Args:
        path: a safetensors file, a file of `torch.save`, or a folder with one of them.

    Raises:
        InputError: as `read_checkpoint`, and for a file without tensors.
    """
    checkpoint = read_checkpoint(path)
    try:
        return unwrap(checkpoint.content)
    except InputError as error:
        raise InputError(f"{checkpoint.path}: {error}") from None


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise InputError for weights that are not finite, as a damaged disk or a diverged training
    leaves them: every output of such a network is NaN."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{path}: {shortened(name)}: has values that are not finite (inf or NaN). Fix:"
                " download or save the file again, or train again"
            )


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write tensors to a safetensors file; its header gets the digest by which readers verify it.

    Args:
        path: of a new file; `nas.files.replacing` gives one for a file that may exist.
        tensors: by name, on any device.
        header: metadata of the file.
    """
    laid_out = {name: tensor.contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(laid_out, path, {**header, DIGEST: UNKNOWN_DIGEST})
    record_digest(path)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file, verified where it has a digest.

    Raises:
        InputError: when its content is not the one that was written.
        OSError, SafetensorError, MemoryError: as safetensors does.
    """
    with safetensors.safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        check_digest(path)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    return tensors, header


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return read_safetensors(path)[0]
    except InputError:
        raise
    except (safetensors.SafetensorError, OSError, ValueError, MemoryError) as error:
        raise InputError(
            f"{path}: the safetensors file is damaged or incomplete ({_first_sentence(error)})."
            " Fix: download or save it again"
        ) from None


class _Inert:
    """The stand-in for plain data beside the weights, which nothing reads."""

    def __new__(cls, *args: Any, **options: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _empty_dict(*args: Any) -> dict[Any, Any]:
    return {}


def _empty_list(*args: Any) -> list[Any]:
    return []


_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
_PLAIN: tuple[tuple[Callable[..., Any], str], ...] = (
    # Options of training scripts.
    (_Inert, "argparse.Namespace"),
    (_Inert, "types.SimpleNamespace"),
    # Metrics, which are numpy scalars and arrays; numpy 1 and 2 name their module differently.
    (_Inert, "numpy.dtype"),
    (_Inert, "numpy.ndarray"),
    *(
        (_Inert, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
    # Folders, dates and versions.
    *((_Inert, f"{module}.{name}") for module in ("pathlib", "pathlib._local") for name in _PATHS),
    *((_Inert, f"datetime.{name}") for name in ("datetime", "date", "time", "timedelta")),
    (_Inert, "datetime.timezone"),
    (_Inert, "torch.torch_version.TorchVersion"),
    # Plain containers. The unpickler fills only true lists and dicts.
    (_empty_dict, "collections.defaultdict"),
    (_empty_list, "collections.deque"),
    *((_Inert, f"builtins.{name}") for name in ("frozenset", "list", "range", "slice")),
)
"""Names of plain data in checkpoints, and what is put in their place.

The classes themselves are never called. With weights_only=True torch's unpickler refuses all other
names.
"""


def _load_torch(path: Path) -> Any:
    try:
        # An open file: of a path torch reads the suffix, which may be any.
        with torch.serialization.safe_globals(list(_PLAIN)), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged pickle raises errors of any kind, and the file is wrong in each case.
        refused = re.search(r"GLOBAL (\S+) ", str(error))
        if refused:
            raise InputError(
                f"{path}: has '{refused[1]}' beside tensors and plain data, which nas never loads."
                " Fix: save the state dict alone, as safetensors"
            ) from None
        raise InputError(
            f"{path}: is not a checkpoint of torch.save, or is damaged ({_first_sentence(error)})."
            " Fix: download or save it again"
        ) from None


def _first_sentence(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0].rstrip(".")
