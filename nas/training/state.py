"""Files of a training, and the state that it resumes from.

`nas.training.loop` saves and loads the state; checkpoints are read by `read_tensors` and `fill`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nas.display import shortened
from nas.errors import InputError
from nas.files import check_regular, replacing
from nas.locks import sole_writer
from nas.weights.files import check_finite, read_safetensors, save_tensors


@dataclass(frozen=True)
class TrainingFolder:
    """The paths of a training's folder that the loop uses.

    state.safetensors   weights, optimizer moments, moving averages; its header has the step
    best.safetensors    the weights of the epoch with the highest accuracy on held-out images
    metrics.csv         loss, accuracy, learning rate and images per second by step
    tensorboard/        the same as TensorBoard event files
    .lock               held while a process trains here
    """

    root: Path

    @property
    def state(self) -> Path:
        return self.root / "state.safetensors"

    @property
    def best(self) -> Path:
        return self.root / "best.safetensors"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.csv"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @contextmanager
    def locked(self, main: bool = True) -> Iterator[None]:
        """Context manager: inside, no other process trains in this folder.

        A folder that did not exist, and that an error leaves empty, is removed again.

        Args:
            main: whether this is the process that writes; others of the same training lock nothing.

        Raises:
            NasError: when another process trains here, or the folder cannot be made.
        """
        if not main:
            yield
            return
        # A command locks its training and its scoring, the training locks itself.
        with sole_writer(self.root, "training in this folder", reentrant=True):
            yield


FORMAT = "nas-training-1"
BEST_FORMAT = "nas-best-1"


@dataclass
class Window:
    """Sums over the steps since the last row of metrics.csv.

    They are part of the state, so that a resumed training writes the rows of an uninterrupted one.

    Attributes:
        loss: sum of the steps' mean losses, without those that the scaler skipped.
        losses: number of these steps.
        right: number of right images; see `nas.training.step.Outcome`.
        images: number of images.
        seconds: wall-clock time.
    """

    loss: float = 0.0
    losses: int = 0
    right: float = 0
    images: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Best:
    """The epoch with the highest held-out accuracy so far: the last one, where several tie.

    Attributes:
        epoch: number of the epoch, from 1.
        accuracy: in percent of the task's metric.
    """

    epoch: int
    accuracy: float


@dataclass
class State:
    """Everything that changes during a training.

    Attributes:
        module: the module with its weights and statistics.
        optimizer: over the module's parameters.
        scaler: of the gradients; disabled where the precision needs none.
        averaged: the moving average of the module, if one is kept.
        step: steps done.
        skipped: number of consecutive steps, up to the last one, that the scaler skipped.
        window: sums for the next row of metrics.csv.
        best: the best epoch; None before the first evaluation.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    averaged: AveragedModel | None
    step: int = 0
    skipped: int = 0
    window: Window = field(default_factory=Window)
    best: Best | None = None

    def finite(self) -> bool:
        """Return whether every weight is finite (neither inf nor NaN)."""
        return all(bool(parameter.isfinite().all()) for parameter in self.module.parameters())

    def save(self, path: Path, more: dict[str, Tensor]) -> None:
        """Write the state to a file; the old file stays until the new one is complete.

        Args:
            path: the file.
            more: tensors of the task, by name.
        """
        tensors = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        # By the parameter's name: an optimizer's own state dict has positions in its groups, which
        # would silently shift when a group changes.
        for name, parameter in self.module.named_parameters():
            values = self.optimizer.state.get(parameter, {})
            tensors |= {f"optimizer.{name}.{key}": value for key, value in values.items()}
        if self.averaged is not None:
            tensors |= {
                f"averaged.{name}": tensor for name, tensor in self.averaged.state_dict().items()
            }
        tensors |= {f"task.{name}": tensor for name, tensor in more.items()}
        header = {
            "format": FORMAT,
            "step": str(self.step),
            "skipped": str(self.skipped),
            "scaler": json.dumps(self.scaler.state_dict()),
            # Some optimizers count their steps per group of parameters.
            "groups": json.dumps([group.get("step") for group in self.optimizer.param_groups]),
            "window": json.dumps(asdict(self.window)),
            "best": json.dumps(asdict(self.best) if self.best else None),
        }
        with replacing(path) as temporary:
            save_tensors(temporary, tensors, header)

    def load(self, path: Path) -> dict[str, Tensor]:
        """Restore what `save` wrote; return the tensors of the task.

        Raises:
            InputError: when the file is corrupt or of another network.
        """
        tensors, header = read_tensors(path, FORMAT, "the state of a training")
        # `fill` copies into the tensors of the module, which the optimizer refers to.
        fill(self.module, _part(tensors, "module."), path)
        if self.averaged is not None:
            fill(self.averaged, _part(tensors, "averaged."), path)
        for name, parameter in self.module.named_parameters():
            # One parameter's name may begin another's ("norm" and "norm.weight"). The optimizer's
            # own keys, as exp_avg, have no dot.
            values = {k: v for k, v in _part(tensors, f"optimizer.{name}.").items() if "." not in k}
            if values:
                self.optimizer.state[parameter] = {
                    k: _laid_out_as(parameter, v) for k, v in values.items()
                }
        try:
            self._load_header(header)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path}: its header is damaged ({shortened(str(error))}). Fix: remove this file; the"
                " same command trains from the start"
            ) from None
        return _part(tensors, "task.")

    def _load_header(self, header: Mapping[str, str]) -> None:
        """Take over the numbers in a state's header; raise what `json` and `int` do."""
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(json.loads(header["scaler"]))
        self.step = int(header["step"])
        self.skipped = int(header["skipped"])
        # States of older versions have neither these counts, nor sums, nor a best epoch.
        steps = json.loads(header.get("groups", "[]"))
        for group, step in zip(self.optimizer.param_groups, steps, strict=False):
            if step is not None:
                group["step"] = step
        self.window = Window(**json.loads(header.get("window", "{}")))
        best = json.loads(header.get("best", "null"))
        self.best = Best(**best) if best else None


def save_best(path: Path, module: nn.Module, best: Best) -> None:
    """Write the weights of the best epoch; its header says which one it is, and how good."""
    header = {"format": BEST_FORMAT, "epoch": str(best.epoch), "accuracy": repr(best.accuracy)}
    with replacing(path) as temporary:
        save_tensors(temporary, module.state_dict(), header)


def load_best(path: Path, module: nn.Module) -> Best:
    """Put the weights that `save_best` wrote into a module; return the epoch.

    Raises:
        InputError: when the file is corrupt or of another network.
    """
    tensors, header = read_tensors(path, BEST_FORMAT, "the best weights of a training")
    check_finite(path, tensors)
    fill(module, tensors, path)
    return Best(int(header["epoch"]), float(header["accuracy"]))


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)
    }


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """Return the value in the parameter's memory format and on its device.

    The fused optimizer walks both in memory order, so that moments in another format would meet the
    wrong weights.
    """
    # A file holds contiguous tensors; empty_like keeps the parameter's strides (channels last).
    if value.dim() and value.shape == parameter.shape:
        return torch.empty_like(parameter).copy_(value)
    return value.to(parameter.device)


def read_tensors(path: Path, kind: str, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the header of a safetensors file that this project wrote.

    Args:
        path: the file.
        kind: its format, as in the header.
        what: name of the format for errors.

    Raises:
        InputError: when it is unreadable, damaged or of another format.
    """
    check_regular(path)
    try:
        tensors, header = read_safetensors(path)
    except (OSError, SafetensorError, MemoryError) as error:
        raise InputError(f"{path}: is not a readable safetensors file ({error})") from None
    if header.get("format") != kind:
        raise InputError(f"{path}: is not {what} (its header has no format '{kind}')")
    return tensors, header


def fill(
    module: nn.Module,
    tensors: dict[str, Tensor],
    path: Path,
    what: str = "the network",
    assign: bool = False,
) -> None:
    """Put the tensors of a file into a module; names and shapes must be exactly the module's.

    Args:
        module: the module, changed in place.
        tensors: by name.
        path: the file, for errors.
        what: name of the module for errors.
        assign: whether the tensors take the place of the module's, without a copy.

    Raises:
        InputError: naming the file and the first tensor that does not fit.
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
    module.load_state_dict(tensors, assign=assign)
