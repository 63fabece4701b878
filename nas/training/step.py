"""One optimizer step: the gradients of a whole batch, whichever processes and micro-batches share it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nas.blocks import Block
from nas.errors import NasError
from nas.training.batch_norm import SyncedBatchNorm
from nas.training.batches import Batch, shares
from nas.training.memory import largest_fit, out_of_memory, too_large
from nas.training.processes import Processes
from nas.training.settings import Settings
from nas.training.state import State
from nas.training.task import Task

SKIPPED = 20
"""After so many steps in a row that the gradient scaler left out, a training in fp16 stops. A few are normal in the
beginning, while the scale is still too large."""

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Outcome:
    """The mean loss over the images that a step took, and how many of them were classified right.

    `loss` is None for a step that the gradient scaler left out.
    """

    loss: float | None
    right: int
    images: int


class Stepper:
    """Takes the steps of a task. `where` names the training in errors."""

    def __init__(self, task: Task, settings: Settings, processes: Processes, where: str) -> None:
        self.task, self.settings, self.processes, self.where = task, settings, processes, where
        module = task.module.to(processes.device)
        if settings.channels_last:
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.module = module.train()
        self.state = State(
            self.module,
            torch.optim.AdamW(task.parameter_groups(), fused=True),
            torch.amp.GradScaler(processes.device.type, enabled=settings.precision == "fp16"),
            averaged(self.module, settings.ema) if settings.ema else None,
        )
        if settings.compile:
            compile_blocks(self.module)

    def step(self, batch: Batch, generator: torch.Generator, rate: float) -> Outcome:
        """Follows the gradient of the batch's mean loss at `rate` times each group's peak.

        Raises:
            NasError: the loss is no longer a number, or the batch does not fit into memory.
        """
        for group in self.state.optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        kept = [buffer.clone() for buffer in self.module.buffers()] if self.state.scaler.is_enabled() else []
        choices = generator.get_state()
        parts = list(shares(len(batch), self.settings.accumulate, self.processes.index, self.processes.count))
        try:
            totals = self._gradients(batch, parts, generator)
            loss, right = self.processes.sum_(totals).tolist()
            taken = self._update(loss, kept)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        else:
            return Outcome(loss if taken else None, int(right), len(batch))
        raise self._too_large(batch, parts, generator.set_state(choices))

    def _gradients(self, batch: Batch, parts: Sequence[tuple[int, int]], generator: torch.Generator) -> Tensor:
        """Adds up this process's share of the gradients; returns its shares of the loss and of the right answers."""
        self.state.optimizer.zero_grad(set_to_none=True)
        totals = torch.zeros(2, device=self.processes.device)
        choices = generator.get_state()
        with SyncedBatchNorm() if self.processes.count > 1 else nullcontext():
            for start, stop in parts:
                totals += self._backward(batch, start, stop, generator.set_state(choices))
        return totals

    def _backward(self, batch: Batch, start: int, stop: int, generator: torch.Generator) -> Tensor:
        """Forward and backward of a micro-batch, which counts by its share of the batch's images."""
        device = self.processes.device
        images, labels = batch.load(start, stop, device)
        if self.settings.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        dtype = _AUTOCAST.get(self.settings.precision)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            loss, logits = self.task.loss(self.module, images, labels, self.state.step, generator)
        share = loss.float() * ((stop - start) / len(batch))
        self.state.scaler.scale(share).backward()  # type: ignore[no-untyped-call]
        return torch.stack([share.detach(), (logits.argmax(dim=1) == labels).sum().float()])

    def _update(self, loss: float, kept: Sequence[Tensor]) -> bool:
        """Changes the weights; False where the scaler found gradients that are no numbers and left them as they were.

        `kept` are the statistics from before the step, which such a step must not change either.
        """
        state = self.state
        if not math.isfinite(loss) and not state.scaler.is_enabled():
            raise self.no_number(f"the loss is {loss}", state.step + 1)
        self.processes.sum_gradients(self.module)
        scale = state.scaler.get_scale()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        skipped = state.scaler.get_scale() < scale
        state.skipped = state.skipped + 1 if skipped else 0
        if skipped:
            for buffer, value in zip(self.module.buffers(), kept, strict=True):
                buffer.copy_(value)
            if state.skipped >= SKIPPED:
                raise self.no_number(
                    f"fp16 gradients are no numbers for {SKIPPED} steps, up to the one", state.step + 1
                )
        elif state.averaged is not None:
            state.averaged.update_parameters(self.module)
        return not skipped

    def no_number(self, what: str, step: int) -> NasError:
        return NasError(
            f"{self.where}: {what} at step {step}; the state before it is kept, "
            "go on with a lower --learning-rate in a new --out"
        )

    def _too_large(self, batch: Batch, parts: Sequence[tuple[int, int]], generator: torch.Generator) -> NasError:
        """Tries smaller micro-batches, without the other processes, and says which fits."""
        choices = generator.get_state()

        def attempt(size: int) -> None:
            self.state.optimizer.zero_grad(set_to_none=True)
            self._backward(batch, 0, size, generator.set_state(choices))

        self.state.optimizer.zero_grad(set_to_none=True)
        tried = max(stop - start for start, stop in parts)
        fit = largest_fit(attempt, tried)
        return too_large(self.where, tried, fit, len(batch), self.processes.count)


def averaged(module: nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of a module's weights and statistics.

    Over the first steps it is shorter, min(decay, (1 + n) / (10 + n)), or the random weights of the start would weigh
    on a short training.
    """

    @torch.no_grad()
    def update(ours: list[Tensor], theirs: list[Tensor], count: Tensor) -> None:
        n = int(count)
        if ours[0].is_floating_point():
            torch._foreach_lerp_(ours, theirs, 1 - min(decay, (1 + n) / (10 + n)))
        else:
            torch._foreach_copy_(ours, theirs)

    return AveragedModel(module, multi_avg_fn=update, use_buffers=True)  # type: ignore[arg-type]


def compile_blocks(module: nn.Module) -> None:
    """Compiles each block of the vocabulary by itself: alike ones share code, and a supernet may leave some out."""
    for block in module.modules():
        if isinstance(block, Block):
            block.compile()
