"""The loop that trains a supernet or a found network: resumable to the bit, in one process or in several."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nas.data import ImageData
from nas.errors import InputError
from nas.training.batches import Batch, epoch_batches, steps_an_epoch
from nas.training.folder import TrainingFolder
from nas.training.metrics import Log, Progress
from nas.training.processes import Processes, processes
from nas.training.settings import Settings
from nas.training.step import Outcome, Stepper
from nas.training.task import Task

Report = Callable[[Progress], None]


def train(
    task: Task, data: ImageData, settings: Settings, folder: TrainingFolder, *,
    report: Report = lambda progress: None, save_every: float = 300.0, report_every: int = 10,
    device: str | None = None,
) -> nn.Module | None:  # fmt: skip
    """Trains `task.module` on `data` from where the folder stands, and returns its moving average where one is kept.

    All randomness of a step follows from the seed and the step's number, so a training that was killed and goes on
    ends with the same weights. Where several processes were launched together they share each batch, and come to the
    weights of one process with that batch, but for rounding.

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
        NasError: the loss is no longer a number (the last state stays), or memory ran out (naming the batch that fits).
    """
    together = processes(device)
    plan = Plan(len(data), settings)
    smallest = len(data) // plan.per_epoch
    if smallest < settings.accumulate * together.count:
        raise InputError(
            f"batches of {smallest} images cannot be shared by {together.count} processes in {settings.accumulate} "
            "micro-batches each: give a larger --batch or a smaller --accumulate"
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
        """The images of each batch of the epoch that a step belongs to."""
        return epoch_batches(self.images, self.settings.batch, self.settings.seed, step // self.per_epoch)

    def rate(self, step: int) -> float:
        """The learning rate of a step, over its peak."""
        return rate((step + 1) / self.steps, self.settings.warmup)


def rate(progress: float, warmup: float) -> float:
    """The learning rate over its peak when this share (0 to 1) of the training is done: warm-up, then a cosine."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


class _Loop:
    """The steps of one training from where its state stands."""

    def __init__(
        self, stepper: Stepper, data: ImageData, plan: Plan, folder: TrainingFolder, together: Processes
    ) -> None:
        self.stepper, self.data, self.plan, self.folder, self.together = stepper, data, plan, folder, together
        self.state, self.task = stepper.state, stepper.task

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
        plan, state = self.plan, self.state
        saved = since = time.monotonic()
        outcomes: list[Outcome] = []
        batches = plan.order(state.step)
        while state.step < plan.steps:
            if state.step % plan.per_epoch == 0:
                batches = plan.order(state.step)
            self.task.before_step(state.step)
            generator = torch.Generator().manual_seed(plan.settings.seed * 1_000_003 + state.step)
            batch = Batch.draw(self.data, batches[state.step % plan.per_epoch], generator, plan.settings.flip)
            outcome = self.stepper.step(batch, generator, plan.rate(state.step))
            outcomes = [*outcomes, outcome] if log else []
            state.step += 1
            last = state.step == plan.steps
            if log and (state.step % report_every == 0 or last):
                now = time.monotonic()
                progress = self._progress(outcomes, now - since)
                log.write(progress)
                report(progress)
                outcomes, since = [], now
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
            self.state.step, self.plan.steps, round(self.state.step / self.plan.per_epoch, 4),
            round(sum(losses) / len(losses), 5) if losses else math.nan,
            round(100 * sum(outcome.right for outcome in outcomes) / images, 2),
            round(float(self.state.optimizer.param_groups[0]["lr"]), 8), round(images / seconds, 1),
            self.task.log(self.state.step),
        )  # fmt: skip
