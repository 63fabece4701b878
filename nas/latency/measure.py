"""One operation to one row: by the slope of a stack of copies where they stack, alone where they do not."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from nas.devices.base import Chain, Device, Timing
from nas.latency.rows import Row
from nas.space import Operation
from nas.specs import Flatten, Shape

EMPTY = Chain((Flatten(),), Shape(8, 1, 1))
"""Does nothing worth a microsecond: its time is the cost of a call."""


@dataclass(frozen=True)
class Job:
    """An operation whose chains are being prepared."""

    operation: Operation
    artifacts: tuple[Future[Path], ...]

    @property
    def stacked(self) -> bool:
        """Whether the last artifact is a stack of copies."""
        return len(self.artifacts) > 1


def prepare(device: Device, operation: Operation) -> Job:
    """Queues the chains that `measure` needs."""
    return Job(operation, tuple(map(device.prepare, chains(operation, device.copies))))


def chains(operation: Operation, copies: int) -> tuple[Chain, ...]:
    """One copy of an operation, and a stack of `copies` where the output has the input's shape."""
    counts = (1, copies) if operation.output == operation.input else (1,)
    return tuple(Chain.stack(operation, count) for count in counts)


def measure(device: Device, job: Job, call_ms: float) -> Row:
    """The row of an operation.

    Stacked: (t(copies) - t(1)) / (copies - 1), in which the cost of a call cancels, and with it that of an input that
    nothing has just written to the cache. Alone: t(1) - `call_ms`. The percentiles keep their ratio to the median.

    Raises:
        OperationFailed: when the device cannot convert or run it.
    """
    timings = [device.measure(artifact.result()) for artifact in job.artifacts]
    last = timings[-1]
    if len(timings) == 1:
        median = max(last.median_ms - call_ms, 0.0)
    else:
        median = max(last.median_ms - timings[0].median_ms, 0.0) / (device.copies - 1)
    return row(job.operation, median, last)


def row(operation: Operation, median_ms: float, timing: Timing) -> Row:
    """A measured row of this median, with the relative spread of `timing`."""
    kind, hyperparameters, shape = operation.key
    digits = 7
    return Row(
        kind, hyperparameters, shape, str(operation.output),
        median_ms=round(median_ms, digits),
        p10_ms=round(median_ms * timing.p10_ms / timing.median_ms, digits),
        p90_ms=round(median_ms * timing.p90_ms / timing.median_ms, digits),
        runs=timing.runs, provenance="measured", date=date.today().isoformat(), extra=timing.notes,
    )  # fmt: skip
