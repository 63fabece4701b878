"""The training loop: optimizer steps, advice when memory runs out, and resumable training.

`nas.supernet.train` and `nas.finetune.run` call `train` with a `Task`. All randomness of a step
follows from the seed and the step's number, so that a resumed training repeats it to the bit.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nas.blocks.module import Block
from nas.data import ImageData
from nas.errors import InputError, NasError
from nas.training.batches import Batch, epoch_batches, shares, steps_an_epoch
from nas.training.distributed import Processes, SyncedBatchNorm, processes
from nas.training.metrics import Log, Progress
from nas.training.settings import Settings
from nas.training.state import State, TrainingFolder
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
        right: number of correctly classified images.
        images: number of images.
    """

    loss: float | None
    right: int
    images: int


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
            torch.optim.AdamW(task.parameter_groups(), fused=True),
            torch.amp.GradScaler(processes.device.type, enabled=settings.precision == "fp16"),
            averaged(self.module, settings.ema) if settings.ema else None,
        )
        if settings.compile:
            compile_blocks(self.module)

    def step(self, batch: Batch, generator: torch.Generator, rate: float) -> Outcome:
        """Take a step along the gradient of the batch's mean loss.

        Args:
            batch: images of the step, over all processes.
            generator: of the step's random choices.
            rate: learning rate as a share of each group's peak.

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
            loss, right = self.processes.sum_(totals).tolist()
            taken = self._update(loss, kept)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        else:
            return Outcome(loss if taken else None, int(right), len(batch))
        raise self._too_large(batch, parts, generator.set_state(choices))

    def _gradients(
        self, batch: Batch, parts: Sequence[tuple[int, int]], generator: torch.Generator
    ) -> Tensor:
        """Accumulate this process's share of the gradients.

        Returns:
            (2,): its share of the mean loss, and its number of correctly classified images.
        """
        self.state.optimizer.zero_grad(set_to_none=True)
        totals = torch.zeros(2, device=self.processes.device)
        choices = generator.get_state()
        with SyncedBatchNorm() if self.processes.count > 1 else nullcontext():
            # Every micro-batch starts from the same generator state. All draw the same path of a
            # supernet, so their gradients add up to that of one batch, in all processes alike.
            for start, stop in parts:
                totals += self._backward(batch, start, stop, generator.set_state(choices))
        return totals

    def _backward(self, batch: Batch, start: int, stop: int, generator: torch.Generator) -> Tensor:
        """Run a micro-batch forward and backward; return its loss share and correct images (2,)."""
        device = self.processes.device
        images, labels = batch.load(start, stop, device)
        if self.settings.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        dtype = _AUTOCAST.get(self.settings.precision)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            loss, logits = self.task.loss(self.module, images, labels, self.state.step, generator)
        # Weighted by the share of the images: the sum over micro-batches and processes is the mean
        # over the batch, also where their sizes differ.
        share = loss.float() * ((stop - start) / len(batch))
        self.state.scaler.scale(share).backward()  # type: ignore[no-untyped-call]
        return torch.stack([share.detach(), (logits.argmax(dim=1) == labels).sum().float()])

    def _update(self, loss: float, kept: Sequence[Tensor]) -> bool:
        """Update the weights; return False where the scaler skipped the step.

        It does so when gradients have overflowed (inf or NaN). `kept` are the batch-norm statistics
        from before the step, which a skipped step must not change either.
        """
        state = self.state
        if not math.isfinite(loss) and not state.scaler.is_enabled():
            raise self.no_number(f"the loss is {loss}", state.step + 1)
        # Before the scaler looks at them: an overflow in one process then reaches all, and all skip
        # the same step.
        self.processes.sum_gradients(self.module)
        # The scaler lowers its scale after an overflow and only then, so a lower scale means that
        # the step was skipped.
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


Report = Callable[[Progress], None]
"""A function that gets a row of metrics.csv."""


def train(
    task: Task,
    data: ImageData,
    settings: Settings,
    folder: TrainingFolder,
    *,
    report: Report = lambda progress: None,
    save_every: float = 300.0,
    report_every: int = 10,
    device: str | None = None,
) -> nn.Module | None:
    """Train `task.module` on `data`, or resume from the state in the folder.

    All randomness of a step follows from the seed and the step's number, so a training that was
    killed and resumed ends with the same weights. Processes that were launched together share each
    batch. They reach the weights of one process with that batch, up to rounding.

    Args:
        task: the task; its module must have been built from the same seed in all processes.
        data: uint8 images (N, 3, H, W).
        settings: settings of the training.
        folder: of state and metrics; the training resumes after the state's last step.
        report: called every `report_every` steps, in the main process.
        save_every: seconds between two saved states.
        report_every: steps between two reports.
        device: cpu or cuda; by default a GPU where there is one.

    Returns:
        The moving average of the module, or None where none is kept.

    Raises:
        InputError: a batch too small to be shared, or a state of another network.
        NasError: the loss is NaN or infinite (the last state stays), or memory ran out (naming the
            batch that fits).
    """
    together = processes(device)
    plan = Plan(len(data), settings)
    # Batches of an epoch differ by one image at most; this is the size of the smaller ones. Every
    # process needs an image of every micro-batch.
    smallest = len(data) // plan.per_epoch
    if smallest < settings.accumulate * together.count:
        raise InputError(
            f"batches of {smallest} images cannot be shared by {together.count} processes in"
            f" {settings.accumulate} micro-batches each. Fix: a larger --batch or a smaller"
            " --accumulate"
        )
    stepper = Stepper(task, settings, together, str(folder.root))
    if smallest // settings.accumulate == 1 and together.count == 1:
        _check_single_images(stepper, data, smallest)
    if folder.state.exists():
        stepper.state.load(folder.state)
    together.wait()  # until all have read the state
    _Loop(stepper, data, plan, folder, together).run(report, save_every, report_every)
    together.wait()  # until the main process has written it
    return stepper.state.averaged.module if stepper.state.averaged is not None else None


def _check_single_images(stepper: Stepper, data: ImageData, smallest: int) -> None:
    """Check that the module trains on micro-batches of one image, by a loss of one.

    Where a map has one position, a batch norm then sees a single value per channel, which has no
    variance.

    Args:
        stepper: of the training.
        data: its images.
        smallest: images of its smallest batch.

    Raises:
        InputError: with a batch that works.
    """
    module = stepper.module
    kept = [buffer.clone() for buffer in module.buffers()]
    generator = torch.Generator().manual_seed(0)
    batch = Batch.draw(data, np.zeros(1, dtype=np.int64), generator, flip=False)
    images, labels = batch.load(0, 1, stepper.processes.device)
    try:
        with torch.no_grad():
            stepper.task.loss(module, images, labels, 0, generator)
    except ValueError as error:
        raise _single_images(len(data), smallest, stepper.settings.accumulate) from error
    finally:
        # The loss has moved the statistics of the batch norms.
        for buffer, value in zip(module.buffers(), kept, strict=True):
            buffer.copy_(value)


def _single_images(images: int, smallest: int, accumulate: int) -> InputError:
    """Return the error for micro-batches of one image, with options that give larger ones."""
    least = 2 * accumulate
    # Batches of an epoch have equal sizes, which may be below --batch.
    fits = (b for b in range(least, images + 1) if images // steps_an_epoch(images, b) >= least)
    batch = next(fits, None)
    remedies = [] if batch is None else [f"--batch {batch}"]
    if accumulate > 1 and smallest > 1:
        remedies.append(f"--accumulate {smallest // 2}")
    return InputError(
        f"batches of {smallest} images in {accumulate} micro-batches leave single images, from which"
        f" batch norms cannot take statistics at this --resolution. Fix: "
        f"{' or '.join(remedies) or 'more images'}"
    )


@dataclass(frozen=True)
class Plan:
    """The number of steps of a training, and the images and learning rate of each."""

    images: int
    settings: Settings

    @property
    def per_epoch(self) -> int:
        return steps_an_epoch(self.images, self.settings.batch)

    @property
    def steps(self) -> int:
        return self.per_epoch * self.settings.epochs

    def order(self, step: int) -> list[NDArray[np.int64]]:
        """Return the image indices of each batch in the epoch of a step."""
        return epoch_batches(
            self.images, self.settings.batch, self.settings.seed, step // self.per_epoch
        )

    def rate(self, step: int) -> float:
        """Return the learning rate of a step as a share of its peak."""
        return rate((step + 1) / self.steps, self.settings.warmup)


def rate(progress: float, warmup: float) -> float:
    """Return the learning rate as a share of its peak: linear warm-up, then a cosine to 0.

    Args:
        progress: share (0 to 1) of the training that is done.
        warmup: share of the training in which the rate rises.
    """
    if progress < warmup:
        return progress / warmup
    # SGDR (arXiv:1608.03983), Eq. 5, without restarts.
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


class _Loop:
    """The remaining steps of one training, from its state on."""

    def __init__(
        self,
        stepper: Stepper,
        data: ImageData,
        plan: Plan,
        folder: TrainingFolder,
        together: Processes,
    ) -> None:
        self.stepper = stepper
        self.data = data
        self.plan = plan
        self.folder = folder
        self.together = together
        self.state = stepper.state
        self.task = stepper.task

    def run(self, report: Report, save_every: float, report_every: int) -> None:
        """Run all steps; see `train`."""
        log = None
        # Rows after the saved state belong to steps that a killed run did not save. The task and
        # the log drop them, as these steps are repeated.
        if self.together.main:
            self.task.begin(self.state.step)
            log = Log(self.folder.metrics, self.folder.tensorboard, self.state.step)
        try:
            self._steps(log, report, save_every, report_every)
        finally:
            if log:
                log.close()

    def _steps(self, log: Log | None, report: Report, save_every: float, report_every: int) -> None:
        """Take the remaining steps; save the state now and then and after the last one."""
        plan = self.plan
        state = self.state
        saved = since = time.monotonic()
        outcomes: list[Outcome] = []
        batches = plan.order(state.step)
        while state.step < plan.steps:
            if state.step % plan.per_epoch == 0:
                batches = plan.order(state.step)
            self.task.before_step(state.step)
            # A generator per step, so that resuming needs no saved generator. The factor is a prime
            # above 10^6: two seeds share no generator in trainings of fewer steps.
            generator = torch.Generator().manual_seed(plan.settings.seed * 1_000_003 + state.step)
            batch = Batch.draw(
                self.data, batches[state.step % plan.per_epoch], generator, plan.settings.flip
            )
            outcome = self.stepper.step(batch, generator, plan.rate(state.step))
            outcomes = [*outcomes, outcome] if log else []
            # From here on `state.step` counts this step as done.
            state.step += 1
            last = state.step == plan.steps
            if log and (state.step % report_every == 0 or last):
                now = time.monotonic()
                progress = self._progress(outcomes, now - since)
                log.write(progress)
                report(progress)
                outcomes = []
                since = now
            due = time.monotonic() - saved > save_every and state.step % self.task.save_steps == 0
            if self.together.main and (due or last):
                # A finite loss can have an infinite gradient. A broken state must not replace the
                # last good one.
                if not state.finite():
                    raise self.stepper.no_number("a weight is inf or NaN", state.step)
                state.save(self.folder.state)
                saved = time.monotonic()

    def _progress(self, outcomes: list[Outcome], seconds: float) -> Progress:
        """Return the row of metrics.csv over these steps, which took so many seconds."""
        losses = [outcome.loss for outcome in outcomes if outcome.loss is not None]
        images = sum(outcome.images for outcome in outcomes)
        return Progress(
            self.state.step,
            self.plan.steps,
            round(self.state.step / self.plan.per_epoch, 4),
            round(sum(losses) / len(losses), 5) if losses else math.nan,
            round(100 * sum(outcome.right for outcome in outcomes) / images, 2),
            round(float(self.state.optimizer.param_groups[0]["lr"]), 8),
            round(images / seconds, 1),
            self.task.log(self.state.step),
        )
