"""The training loop: one optimizer step, what to say when memory runs out, and the loop over steps
that saves and resumes."""

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
"""Of the RuntimeErrors that allocators raise; CUDA's has a class of its own."""


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def largest_fit(attempt: Callable[[int], None], size: int) -> int:
    """Return the first of size / 2, size / 4, ... images that `attempt` gets through, 0 where not
    even one does."""
    while size := size // 2:
        gc.collect()  # what the failed attempt held, where cycles keep it
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
    """Return the error for a process that could not take `images` at once of a `batch` over all
    processes, but `fit`."""
    if not fit:
        return NasError(
            f"{where}: out of memory with a single image; take a smaller --resolution or a smaller"
            " space"
        )
    accumulate = -(-batch // (fit * processes))
    return NasError(
        f"{where}: out of memory with {images} images at once, {fit} fit: give --batch"
        f" {fit * processes}, or --accumulate {accumulate} to keep the batch of {batch}"
    )


SKIPPED = 20
"""After so many steps in a row that the gradient scaler left out, a training in fp16 stops. A few
are normal in the beginning, while the scale is still too large."""

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
        """Follow the gradient of the batch's mean loss at `rate` times each group's peak.

        Raises:
            NasError: the loss is no longer a number, or the batch does not fit into memory.
        """
        for group in self.state.optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        kept = (
            [buffer.clone() for buffer in self.module.buffers()]
            if self.state.scaler.is_enabled()
            else []
        )
        choices = generator.get_state()
        parts = list(
            shares(len(batch), self.settings.accumulate, self.processes.index, self.processes.count)
        )
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
        """Add up this process's share of the gradients; return its shares of the loss and of the
        right answers."""
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
        """Change the weights; False where the scaler found gradients that are no numbers and left
        them as they were.

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
                    f"fp16 gradients are no numbers for {SKIPPED} steps, up to the one",
                    state.step + 1,
                )
        elif state.averaged is not None:
            state.averaged.update_parameters(self.module)
        return not skipped

    def no_number(self, what: str, step: int) -> NasError:
        return NasError(
            f"{self.where}: {what} at step {step}; the state before it is kept, "
            "go on with a lower --learning-rate in a new --out"
        )

    def _too_large(
        self, batch: Batch, parts: Sequence[tuple[int, int]], generator: torch.Generator
    ) -> NasError:
        """Try smaller micro-batches, without the other processes, and says which fits."""
        choices = generator.get_state()

        def attempt(size: int) -> None:
            self.state.optimizer.zero_grad(set_to_none=True)
            self._backward(batch, 0, size, generator.set_state(choices))

        self.state.optimizer.zero_grad(set_to_none=True)
        tried = max(stop - start for start, stop in parts)
        fit = largest_fit(attempt, tried)
        return too_large(self.where, tried, fit, len(batch), self.processes.count)


def averaged(module: nn.Module, decay: float) -> AveragedModel:
    """Return the exponential moving average of a module's weights and statistics.

    Over the first steps it is shorter, min(decay, (1 + n) / (10 + n)), or the random weights of the
    start would weigh on a short training.
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
    """Compile each block of the vocabulary by itself: alike ones share code, and a supernet may
    leave some out."""
    for block in module.modules():
        if isinstance(block, Block):
            block.compile()


Report = Callable[[Progress], None]


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
    """Train `task.module` on `data` from where the folder stands, and return its moving average
    where one is kept.

    All randomness of a step follows from the seed and the step's number, so a training that was
    killed and goes on ends with the same weights. Where several processes were launched together
    they share each batch, and come to the weights of one process with that batch, but for rounding.

    Args:
        task: what is trained; its module must have been built from the same seed in all processes.
        data: uint8 images (N, 3, H, W).
        settings: how long, and how.
        folder: where state and metrics are; the state's last step is gone on from.
        report: called every `report_every` steps, in the main process.
        save_every: seconds between two saved states.
        device: cpu or cuda; by default a GPU where there is one.

    Raises:
        InputError: a batch too small to be shared, or a state of another network.
        NasError: the loss is no longer a number (the last state stays), or memory ran out (naming
            the batch that fits).
    """
    together = processes(device)
    plan = Plan(len(data), settings)
    smallest = len(data) // plan.per_epoch
    if smallest < settings.accumulate * together.count:
        raise InputError(
            f"batches of {smallest} images cannot be shared by {together.count} processes in"
            f" {settings.accumulate} micro-batches each: give a larger --batch or a smaller"
            " --accumulate"
        )
    stepper = Stepper(task, settings, together, str(folder.root))
    if folder.state.exists():
        stepper.state.load(folder.state)
    together.wait()  # until all have read the state
    _Loop(stepper, data, plan, folder, together).run(report, save_every, report_every)
    together.wait()  # until the main process has written it
    return stepper.state.averaged.module if stepper.state.averaged is not None else None


@dataclass(frozen=True)
class Plan:
    """How long a training is, and of what its steps consist."""

    images: int
    settings: Settings

    @property
    def per_epoch(self) -> int:
        return steps_an_epoch(self.images, self.settings.batch)

    @property
    def steps(self) -> int:
        return self.per_epoch * self.settings.epochs

    def order(self, step: int) -> list[NDArray[np.int64]]:
        """Return the images of each batch of the epoch that a step belongs to."""
        return epoch_batches(
            self.images, self.settings.batch, self.settings.seed, step // self.per_epoch
        )

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, over its peak."""
        return rate((step + 1) / self.steps, self.settings.warmup)


def rate(progress: float, warmup: float) -> float:
    """Return the learning rate over its peak when this share (0 to 1) of the training is done:
    warm-up, then a cosine."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


class _Loop:
    """The steps of one training from where its state stands."""

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
        log = None
        if self.together.main:
            self.task.begin(self.state.step)
            log = Log(self.folder.metrics, self.folder.tensorboard, self.state.step)
        try:
            self._steps(log, report, save_every, report_every)
        finally:
            if log:
                log.close()

    def _steps(self, log: Log | None, report: Report, save_every: float, report_every: int) -> None:
        plan = self.plan
        state = self.state
        saved = since = time.monotonic()
        outcomes: list[Outcome] = []
        batches = plan.order(state.step)
        while state.step < plan.steps:
            if state.step % plan.per_epoch == 0:
                batches = plan.order(state.step)
            self.task.before_step(state.step)
            generator = torch.Generator().manual_seed(plan.settings.seed * 1_000_003 + state.step)
            batch = Batch.draw(
                self.data, batches[state.step % plan.per_epoch], generator, plan.settings.flip
            )
            outcome = self.stepper.step(batch, generator, plan.rate(state.step))
            outcomes = [*outcomes, outcome] if log else []
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
                if not state.finite():  # of a finite loss the gradient may still be none
                    raise self.stepper.no_number("a weight is no number", state.step)
                state.save(self.folder.state)
                saved = time.monotonic()

    def _progress(self, outcomes: list[Outcome], seconds: float) -> Progress:
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
