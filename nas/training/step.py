"""One optimizer step of a training, its gradients over micro-batches, and advice when memory runs out.

`nas.training.loop` takes the steps of a training one after the other with a `Stepper`.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nas.blocks.drop_path import DropPath, dropping
from nas.blocks.module import Block
from nas.errors import NasError
from nas.extras import need
from nas.network import checkpointing
from nas.signals import Request
from nas.training.batches import Batch, shares
from nas.training.distributed import GradientSums, Processes, SyncedBatchNorm
from nas.training.settings import Settings
from nas.training.state import State
from nas.training.task import Task

_MESSAGES = ("out of memory", "not enough memory", "DefaultCPUAllocator: can't allocate")
"""Phrases in the RuntimeErrors of allocators other than CUDA's, whose error has its own class."""


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def largest_fit(attempt: Callable[[int], None], size: int) -> int:
    """Return the first of size / 2, size / 4, ... images that `attempt` completes, or 0."""
    while size := size // 2:
        # This frees tensors of the failed attempt that reference cycles keep alive.
        gc.collect()
        torch.cuda.empty_cache()
        try:
            attempt(size)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        else:
            return size
    return 0


def too_large(where: str, images: int, fit: int, batch: int, processes: int) -> NasError:
    """Return the error for a micro-batch that does not fit into memory.

    Args:
        where: the training, to begin the message with.
        images: images of the micro-batch in one process.
        fit: number of images that fit, 0 if none.
        batch: images of a step over all processes.
        processes: number of processes.
    """
    if not fit:
        return NasError(
            f"{where}: out of memory with a single image. Fix: a smaller --resolution or a smaller"
            " space"
        )
    # The number of micro-batches of at most `fit` images per process, rounded up.
    accumulate = -(-batch // (fit * processes))
    return NasError(
        f"{where}: out of memory with {images} images at once ({fit} fit). Fix: --batch"
        f" {fit * processes}, or --accumulate {accumulate} to keep the batch of {batch}"
    )


SKIPPED = 20
"""Number of consecutive steps skipped by the gradient scaler after which an fp16 training stops.

A few are normal at the start: the first scale is too large and is halved until gradients fit.
"""

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Outcome:
    """The result of a step.

    Attributes:
        loss: mean loss over the step's images; None for a step that the gradient scaler skipped.
        right: number of right images, to which an image with a mask adds its share of right pixels.
        images: number of images.
        stop: whether a signal asked any of the processes to stop after this step.
    """

    loss: float | None
    right: float
    images: int
    stop: bool = False


class Stepper:
    """The optimizer of a task with its state.

    `where` names the training in errors.
    """

    def __init__(self, task: Task, settings: Settings, processes: Processes, where: str) -> None:
        self.task = task
        self.settings = settings
        self.processes = processes
        self.where = where
        module = task.module.to(processes.device)
        if settings.channels_last:
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.module = module.train()
        self.state = State(
            self.module,
            make_optimizer(settings.optimizer, task.parameter_groups()),
            torch.amp.GradScaler(processes.device.type, enabled=settings.precision == "fp16"),
            averaged(self.module, settings.ema) if settings.ema else None,
        )
        # After the moving average has copied the module, which must not copy hooks.
        self.sums = GradientSums(self.module, processes)
        if settings.compile:
            compile_blocks(self.module)

    def close(self) -> None:
        """Leave the module as an ordinary one; no step may follow."""
        self.sums.close()

    def step(
        self, batch: Batch, generator: torch.Generator, rate: float, request: Request | None = None
    ) -> Outcome:
        """Take a step along the gradient of the batch's mean loss.

        Args:
            batch: images of the step, over all processes.
            generator: of the step's random choices.
            rate: learning rate as a share of each group's peak.
            request: of this process to stop, if one arrives; all learn of it in this step.

        Raises:
            NasError: the loss is NaN or infinite, or the batch does not fit into memory.
        """
        for group in self.state.optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        # Only a scaler can skip a step, and then the batch-norm statistics must be restored.
        kept = (
            [buffer.clone() for buffer in self.module.buffers()]
            if self.state.scaler.is_enabled()
            else []
        )
        choices = generator.get_state()
        parts = list(
            shares(len(batch), self.settings.accumulate, self.processes.index, self.processes.count)
        )
        # Memory may run out in one process alone. The error is handled after the `except` block,
        # where the traceback no longer holds the tensors of the failed step.
        try:
            totals = self._gradients(batch, parts, generator)
            checksum = self.sums.launch_rest()
            # One exchange for all: processes that stopped at different steps would wait for ever.
            stop = request is not None and request.number > 0
            totals = torch.cat([totals, totals.new_tensor([float(stop), float(checksum)])])
            loss, right, stops, checksums = self.processes.sum_(totals).tolist()
            # Before the scaler looks at them: an overflow in one process then reaches all, and all
            # skip the same step.
            self.sums.finish(checksum, checksums)
            taken = self._update(loss, kept)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        else:
            return Outcome(loss if taken else None, right, len(batch), stops > 0)
        raise self._too_large(batch, parts, generator.set_state(choices))

    def _gradients(
        self, batch: Batch, parts: Sequence[tuple[int, int]], generator: torch.Generator
    ) -> Tensor:
        """Accumulate this process's share of the gradients.

        Returns:
            (2,): its share of the mean loss, and its number of right images.
        """
        self.state.optimizer.zero_grad(set_to_none=True)
        totals = torch.zeros(2, device=self.processes.device)
        choices = generator.get_state()
        with self._synced():
            # Every micro-batch starts from the same generator state. All draw the same path of a
            # supernet, so their gradients add up to that of one batch, in all processes alike.
            for number, (start, stop) in enumerate(parts, start=1):
                # Gradients are complete in the last micro-batch only.
                last = number == len(parts)
                with self.sums.collecting() if last else nullcontext():
                    totals += self._backward(batch, start, stop, generator.set_state(choices))
        return totals

    def _synced(self) -> AbstractContextManager[Any]:
        """Return the context in which batch norms share their statistics, where they do."""
        synced = self.processes.count > 1 and self.settings.sync_bn
        return SyncedBatchNorm() if synced else nullcontext()

    def _backward(self, batch: Batch, start: int, stop: int, generator: torch.Generator) -> Tensor:
        """Run a micro-batch forward and backward; return its loss share and correct images (2,)."""
        device = self.processes.device
        loaded = batch.load(start, stop, device)
        images = loaded.images
        if self.settings.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        dtype = _AUTOCAST.get(self.settings.precision)
        recompute = checkpointing(self._synced) if self.settings.checkpointing else nullcontext()
        drops = self._dropping(len(batch), start, stop, generator)
        with drops, recompute, torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            loss, scores = self.task.loss(
                self.module, images, loaded.targets, self.state.step, generator
            )
        # Weighted by the share of the images: the sum over micro-batches and processes is the mean
        # over the batch, also where their sizes differ.
        share = loss.float() * ((stop - start) / len(batch))
        self.state.scaler.scale(share).backward()  # type: ignore[no-untyped-call]
        right = self.task.goal.right(scores.detach(), loaded.labels)
        return torch.stack([share.detach(), right.float()])

    def _dropping(
        self, batch: int, start: int, stop: int, generator: torch.Generator
    ) -> AbstractContextManager[Any]:
        """Return the context in which blocks leave out branches for images `start` to `stop`."""
        if not self.settings.drop_path:
            return nullcontext()
        # Micro-batches and processes have a generator in the same state, so they get the same seed.
        seed = int(torch.randint(2**62, (), generator=generator))
        return dropping(DropPath(self.settings.drop_path, seed, batch, start, stop))

    def _update(self, loss: float, kept: Sequence[Tensor]) -> bool:
        """Update the weights; return False where the scaler skipped the step.

        It does so when gradients have overflowed (inf or NaN). `kept` are the batch-norm statistics
        from before the step, which a skipped step must not change either.
        """
        state = self.state
        if not math.isfinite(loss) and not state.scaler.is_enabled():
            raise self.no_number(f"the loss is {loss}", state.step + 1)
        # The scaler lowers its scale after an overflow and only then, so a lower scale means that
        # the step was skipped.
        if self.settings.clip_norm:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.clip_norm)
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
                    f"fp16 gradients overflowed (inf or NaN) in {SKIPPED} consecutive steps, the"
                    " last",
                    state.step + 1,
                )
        elif state.averaged is not None:
            state.averaged.update_parameters(self.module)
        return not skipped

    def no_number(self, what: str, step: int) -> NasError:
        """Return the error for a step whose numbers are not finite."""
        return NasError(
            f"{self.where}: {what} at step {step}. The last saved state is unchanged. Fix: restart"
            " with a lower --learning-rate and a new --out"
        )

    def _too_large(
        self, batch: Batch, parts: Sequence[tuple[int, int]], generator: torch.Generator
    ) -> NasError:
        """Try smaller micro-batches in this process alone; return an error with the size that fits.

        The others may not have failed, so nothing may wait for them here.
        """
        choices = generator.get_state()

        def attempt(size: int) -> None:
            self.state.optimizer.zero_grad(set_to_none=True)
            self._backward(batch, 0, size, generator.set_state(choices))

        # Gradients of micro-batches before the failed one take memory, too.
        self.state.optimizer.zero_grad(set_to_none=True)
        tried = max(stop - start for start, stop in parts)
        fit = largest_fit(attempt, tried)
        return too_large(self.where, tried, fit, len(batch), self.processes.count)


def make_optimizer(name: str, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return the optimizer of this name over parameter groups, whose `lr` is set at each step.

    Args:
        name: adamw (arXiv:1711.05101), sgd with a Nesterov momentum of 0.9, lamb (arXiv:1904.00962)
            or lion (arXiv:2302.06675).
        groups: as `Task.parameter_groups`.

    Raises:
        MissingExtra: where lamb or lion is wanted and their package is not installed.
    """
    if name == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    if name == "sgd":
        # Not fused: that one fails where a parameter gets its first gradient in a later step, as those
        # of a supernet do.
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    need(f"--optimizer {name}", "train", "pytorch_optimizer")
    import pytorch_optimizer

    kinds = {"lamb": pytorch_optimizer.Lamb, "lion": pytorch_optimizer.Lion}
    made: torch.optim.Optimizer = kinds[name](groups)
    return made


def averaged(module: nn.Module, decay: float) -> AveragedModel:
    """Return the exponential moving average (EMA) of a module's weights and statistics.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), as in TensorFlow's
    ExponentialMovingAverage. With a constant decay the random weights of the start would dominate
    the average of a short training.
    """

    @torch.no_grad()
    def update(ours: list[Tensor], theirs: list[Tensor], count: Tensor) -> None:
        n = int(count)
        # Counters of batch norms (int64) cannot be averaged. torch passes tensors of one type each.
        if ours[0].is_floating_point():
            torch._foreach_lerp_(ours, theirs, 1 - min(decay, (1 + n) / (10 + n)))
        else:
            torch._foreach_copy_(ours, theirs)

    return AveragedModel(module, multi_avg_fn=update, use_buffers=True)  # type: ignore[arg-type]


def compile_blocks(module: nn.Module) -> None:
    """Compile each block of the vocabulary by itself.

    Blocks of equal form share compiled code, and a supernet may skip some of them in a step.
    """
    for block in module.modules():
        if isinstance(block, Block):
            block.compile()
