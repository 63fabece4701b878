"""The training loop: resumable training with its saved states, evaluations and rows of metrics.

`nas.supernet.train` and `nas.finetune.run` call `train` with a `Task`. All randomness of a step
follows from the seed and the step's number, so that a resumed training repeats it to the bit.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from nas.data import ImageData
from nas.errors import InputError
from nas.signals import Request, Stopped, deferred
from nas.training.batches import Batch, Batches, step_generator, steps_an_epoch
from nas.training.distributed import Processes, processes
from nas.training.loader import open_batches
from nas.training.metrics import Log, Progress
from nas.training.settings import Settings
from nas.training.state import Best, TrainingFolder, Window, save_best
from nas.training.step import Outcome, Stepper
from nas.training.task import Task

Report = Callable[[Progress], None]
"""A function that gets a row of metrics.csv."""

SAVE_EVERY = 60.0
"""Default seconds between two saved states: what a kill loses at most."""
SAVING_SHARE = 0.05
"""Maximum share of the time that goes into saving; where one save takes long, they are rarer."""


def train(
    task: Task,
    data: ImageData,
    settings: Settings,
    folder: TrainingFolder,
    *,
    report: Report = lambda progress: None,
    save_every: float = SAVE_EVERY,
    report_every: int = 10,
    device: str | None = None,
    workers: int | None = None,
) -> nn.Module | None:
    """Train `task.module` on `data`, or resume from the state in the folder.

    All randomness of a step follows from the seed and the step's number, so a training that was
    killed and resumed ends with the same weights and the same metrics. Processes that were launched
    together share each batch. They reach the weights of one process with that batch, up to rounding.

    SIGINT and SIGTERM take effect at the end of a step, after the state was saved. A second signal
    stops at once. The caller holds the folder's lock.

    Args:
        task: the task; its module must have been built from the same seed in all processes.
        data: uint8 images (N, 3, H, W), of either store.
        settings: settings of the training.
        folder: of state and metrics; the training resumes after the state's last step.
        report: called every `report_every` steps, in the main process.
        save_every: seconds between two saved states, more where saving takes long; 0 saves after
            every step.
        report_every: steps between two reports.
        device: cpu or cuda; by default a GPU where there is one.
        workers: see `nas.training.loader.open_batches`.

    Returns:
        The moving average of the module, or None where none is kept.

    Raises:
        InputError: a batch too small to be shared, or a state of another network.
        NasError: the loss is NaN or infinite (the last state stays), or memory ran out (naming the
            batch that fits).
        Stopped: a signal arrived; the state is saved.
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
        task.restore(stepper.state.load(folder.state))
    together.wait()  # until all have read the state
    steps = range(stepper.state.step, plan.steps)
    batches = open_batches(data, settings, together, steps, workers)
    try:
        _Loop(stepper, batches, plan, folder, together).run(report, save_every, report_every)
    finally:
        batches.close()
        stepper.close()
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
    batch = Batch.draw(data, np.zeros(1, dtype=np.int64), stepper.settings, generator)
    loaded = batch.load(0, 1, stepper.processes.device)
    try:
        with torch.no_grad():
            stepper.task.loss(module, loaded.images, loaded.targets, 0, generator)
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
    """The number of steps of a training, and the learning rate of each."""

    images: int
    settings: Settings

    @property
    def per_epoch(self) -> int:
        return steps_an_epoch(self.images, self.settings.batch)

    @property
    def steps(self) -> int:
        return self.per_epoch * self.settings.epochs

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
        batches: Batches,
        plan: Plan,
        folder: TrainingFolder,
        together: Processes,
    ) -> None:
        self.stepper = stepper
        self.batches = batches
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
            # Without a best epoch in the state, a file of one is another training's.
            if self.state.best is None:
                self.folder.best.unlink(missing_ok=True)
        try:
            with deferred() as request:
                self._steps(log, report, save_every, report_every, request)
                # A signal after the last step stops what follows the training.
                if request.number:
                    raise self._stopped(request)
        finally:
            if log:
                log.close()

    def _steps(
        self,
        log: Log | None,
        report: Report,
        save_every: float,
        report_every: int,
        request: Request,
    ) -> None:
        """Take the remaining steps; save the state now and then, at a signal, and after the last one."""
        plan = self.plan
        state = self.state
        since = time.monotonic()
        save_at = since + save_every
        while state.step < plan.steps:
            self.task.before_step(state.step)
            generator = step_generator(plan.settings.seed, state.step)
            batch = self.batches.draw(state.step, generator)
            outcome = self.stepper.step(batch, generator, plan.rate(state.step), request)
            # From here on `state.step` counts this step as done.
            state.step += 1
            last = state.step == plan.steps
            held_out = self._validate() if self._epoch_to_validate() else None
            now = time.monotonic()
            self._add(outcome, now - since)
            since = now
            if log and (state.step % report_every == 0 or held_out is not None or last):
                progress = self._progress(held_out)
                state.window = Window()
                log.write(progress)
                report(progress)
            if self.together.main and (now >= save_at or last or outcome.stop):
                self._save()
                took = time.monotonic() - now
                save_at = now + (max(save_every, took / SAVING_SHARE) if save_every else 0.0)
            if outcome.stop:
                raise self._stopped(request)

    def _stopped(self, request: Request) -> Stopped:
        """Return the exception that ends the training at a signal, once its state is saved."""
        return Stopped(
            request.number or signal.SIGTERM,
            f"step {self.state.step} of {self.plan.steps} is saved in {self.folder.root}",
        )

    def _add(self, outcome: Outcome, seconds: float) -> None:
        """Add a step to the sums for the next row of metrics.csv."""
        window = self.state.window
        if outcome.loss is not None:
            window.loss += outcome.loss
            window.losses += 1
        window.right += outcome.right
        window.images += outcome.images
        window.seconds += seconds

    def _epoch_to_validate(self) -> bool:
        """Return whether the step just done ends an epoch after which the network is evaluated."""
        every = self.plan.settings.validate_every
        epoch, rest = divmod(self.state.step, self.plan.per_epoch)
        if rest or not every:
            return False
        # The last epoch counts too, whatever the interval: its weights are the result.
        return epoch % every == 0 or self.state.step == self.plan.steps

    def _validate(self) -> float | None:
        """Return the held-out accuracy after this epoch; keep the weights where it is the highest."""
        state = self.state
        # The moving average is what is delivered, where there is one.
        module = state.averaged.module if state.averaged is not None else state.module
        accuracy = self.task.evaluate(module)
        state.module.train()
        if accuracy is None:
            return None
        if state.best is None or accuracy >= state.best.accuracy:
            state.best = Best(state.step // self.plan.per_epoch, accuracy)
            if self.together.main and self.task.keeps_best:
                save_best(self.folder.best, module, state.best)
        return accuracy

    def _save(self) -> None:
        """Write the state; a broken one must not replace the last good one."""
        # A finite loss can have an infinite gradient.
        if not self.state.finite():
            raise self.stepper.no_number("a weight is inf or NaN", self.state.step)
        self.state.save(self.folder.state, self.task.tensors())

    def _progress(self, held_out: float | None) -> Progress:
        """Return the row of metrics.csv over the steps since the last row."""
        window = self.state.window
        return Progress(
            step=self.state.step,
            steps=self.plan.steps,
            epoch=round(self.state.step / self.plan.per_epoch, 4),
            loss=round(window.loss / window.losses, 5) if window.losses else math.nan,
            accuracy=round(100 * window.right / window.images, 2),
            learning_rate=round(float(self.state.optimizer.param_groups[0]["lr"]), 8),
            images_per_second=round(window.images / window.seconds, 1),
            held_out=held_out,
            more=self.task.log(self.state.step),
        )
