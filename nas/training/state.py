"""A training's files and the state it resumes from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nas.errors import InputError
from nas.files import replacing


@dataclass(frozen=True)
class TrainingFolder:
    """The paths of a training's folder, as far as the loop knows them.

    state.safetensors   weights, optimizer moments, moving averages; its header has the step
    metrics.csv         loss, accuracy, rates and images a second by step
    tensorboard/        the same as TensorBoard event files
    """

    root: Path

    @property
    def state(self) -> Path:
        return self.root / "state.safetensors"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.csv"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"


FORMAT = "nas-training-1"


@dataclass
class State:
    """What changes in a training.

    Attributes:
        module: with its weights and statistics.
        optimizer: over the module's parameters.
        scaler: of the gradients; it does nothing where the precision needs none.
        averaged: the moving average of the module, if one is kept.
        step: steps done.
        skipped: how many of the last steps the scaler left out, one after the other.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    averaged: AveragedModel | None
    step: int = 0
    skipped: int = 0

    def finite(self) -> bool:
        """Return whether every weight is a number."""
        return all(bool(parameter.isfinite().all()) for parameter in self.module.parameters())

    def save(self, path: Path) -> None:
        """Write it; the old file stays whole until the new one is."""
        tensors = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            values = self.optimizer.state.get(parameter, {})
            tensors |= {f"optimizer.{name}.{key}": value for key, value in values.items()}
        if self.averaged is not None:
            tensors |= {
                f"averaged.{name}": tensor for name, tensor in self.averaged.state_dict().items()
            }
        header = {
            "format": FORMAT,
            "step": str(self.step),
            "skipped": str(self.skipped),
            "scaler": json.dumps(self.scaler.state_dict()),
        }
        with replacing(path) as temporary:
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, header
            )

    def load(self, path: Path) -> None:
        """Restore what `save` wrote.

        Raises:
            InputError: when the file is corrupt or of another network.
        """
        tensors, header = read_tensors(path, FORMAT, "the state of a training")
        fill(self.module, _part(tensors, "module."), path)
        if self.averaged is not None:
            fill(self.averaged, _part(tensors, "averaged."), path)
        for name, parameter in self.module.named_parameters():
            # A name can start another's ("alpha" never does): the rest of the key has no dot.
            values = {k: v for k, v in _part(tensors, f"optimizer.{name}.").items() if "." not in k}
            if values:
                self.optimizer.state[parameter] = {
                    k: _laid_out_as(parameter, v) for k, v in values.items()
                }
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(json.loads(header["scaler"]))
        self.step = int(header["step"])
        self.skipped = int(header["skipped"])


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)
    }


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """Return the value in the parameter's memory format and place: the fused optimizer walks both
    in memory order."""
    if value.dim() and value.shape == parameter.shape:
        return torch.empty_like(parameter).copy_(value)
    return value.to(parameter.device)


def read_tensors(path: Path, kind: str, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the header of a safetensors file that this project wrote, of format
    `kind`: `what`, in words.

    Raises:
        InputError: when it is unreadable or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not a readable safetensors file: {error}") from None
    if header.get("format") != kind:
        raise InputError(f"{path}: not {what} (its header has no format '{kind}')")
    return tensors, header


def fill(
    module: nn.Module, tensors: dict[str, Tensor], path: Path, what: str = "the network"
) -> None:
    """Put tensors from a file into a module, every one of which must fit.

    Raises:
        InputError: naming the file and the first tensor that does not.
    """
    own = module.state_dict()
    wrong = [
        n
        for n in own.keys() | tensors.keys()
        if n not in own or n not in tensors or own[n].shape != tensors[n].shape
    ]
    if wrong:
        raise InputError(
            f"{path}: {len(wrong)} tensors do not fit {what}, {sorted(wrong)[0]} first"
        )
    module.load_state_dict(tensors)
