"""One operation to one row: by a stack of copies where they stack, alone where they do not.

`DriftWatch` measures a reference operation every so often, which shows throttling.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from nas.blocks import Flatten, Operation, Shape
from nas.convert.chain import Chain
from nas.devices.base import Device, Timing
from nas.latency.rows import Row

EMPTY = Chain((Flatten(),), Shape(8, 1, 1))
"""Does nothing worth a microsecond: its time is the cost of a call."""
AGREE = 0.01
"""How near to the lowest time another one must be, relative."""
MOST_REPEATS = 2
"""Times the device's `repeats` that one is measured at most until two agree."""


@dataclass(frozen=True)
class Job:
    """An operation whose chains are being prepared."""

    operation: Operation
    artifacts: tuple[Future[Path], ...]

    @property
    def stacked(self) -> bool:
        """Return whether the last artifact is a stack of copies."""
        return stacks(self.operation)


def prepare(device: Device, operation: Operation) -> Job:
    """Queue the chains that `measure` needs."""
    return Job(
        operation, tuple(map(device.prepare, chains(operation, device.copies, device.slope)))
    )


def stacks(operation: Operation) -> bool:
    """Return whether the output has the input's shape, so that another copy can follow."""
    return operation.output == operation.input


def chains(operation: Operation, copies: int, slope: bool = True) -> tuple[Chain, ...]:
    """Return a stack of `copies` where the operation stacks, behind one copy where the slope
    counts; else one copy."""
    counts = ((1, copies) if slope else (copies,)) if stacks(operation) else (1,)
    return tuple(Chain.stack(operation, count) for count in counts)


def measure(device: Device, job: Job, call_ms: float) -> Row:
    """Return the row of an operation.

    Stacked, by the slope: (t(copies) - t(1)) / (copies - 1), in which the cost of a call cancels,
    and with it that of an input that nothing has just written to the cache. Stacked, by the mean:
    (t(copies) - `call_ms`) / copies. Alone: t(1) - `call_ms`. The percentiles keep their ratio to
    the median.

    Raises:
        OperationFailed: when the device cannot convert or run it.
    """
    timings = [device.measure(artifact.result()) for artifact in job.artifacts]
    last = timings[-1]
    if len(timings) == 1:
        median = (last.median_ms - call_ms) / (device.copies if job.stacked else 1)
    else:
        median = (last.median_ms - timings[0].median_ms) / (device.copies - 1)
    return row(job.operation, max(median, 0.0), last)


def settled(times_ms: Sequence[float], repeats: int) -> bool:
    """Return whether the lowest of an operation's times can be trusted: the second lowest is within
    AGREE of it.

    What else a machine does makes runs slower, never faster.
    """
    lowest = sorted(times_ms)[:2]
    enough = len(times_ms) >= repeats and (repeats == 1 or lowest[-1] <= lowest[0] * (1 + AGREE))
    return enough or len(times_ms) >= MOST_REPEATS * repeats


def row(operation: Operation, median_ms: float, timing: Timing) -> Row:
    """Return a measured row of this median, with the relative spread of `timing`."""
    kind, hyperparameters, shape = operation.key
    digits = 7
    return Row(
        kind,
        hyperparameters,
        shape,
        str(operation.output),
        median_ms=round(median_ms, digits),
        p10_ms=round(median_ms * timing.p10_ms / timing.median_ms, digits),
        p90_ms=round(median_ms * timing.p90_ms / timing.median_ms, digits),
        runs=timing.runs,
        provenance="measured",
        date=date.today().isoformat(),
        extra=timing.notes,
    )


EVERY = 10
"""Rows between two looks at the reference."""
BOUND = 0.05
"""How far the reference may be from its first time, relative."""
PAUSES_S = (5.0, 15.0, 30.0)
"""How long a drifting device is left alone before each new look."""
MOST_PAUSED_S = 20.0
"""In all, for a device whose repeats see to what disturbs it for a while; where it stays slow, its
rows are flagged."""


class DriftWatch:
    """A reference that is measured at the start and then with every EVERY-th call of `check`."""

    def __init__(self, device: Device, reference: Path) -> None:
        self._device = device
        self._reference = reference
        self.first_ms = min(self._time() for _ in range(device.repeats))
        self._calls = 0
        self._left_s = MOST_PAUSED_S if device.repeats > 1 else math.inf
        self.last = 0.0
        """The drift at the last look, relative; positive when the device became slower."""

    def due(self) -> bool:
        """Count a row; whether it is time to look."""
        self._calls += 1
        return self._calls % EVERY == 0

    def look(self) -> tuple[bool, bool]:
        """Measure the reference. Returns whether it had drifted, and whether it is within bounds
        now.

        A device that became slower is left alone for a while, PAUSES_S at most. One that became
        faster was disturbed when it was first looked at; from then on this look is what others must
        be near.
        """
        self._measure()
        drifted = abs(self.last) > BOUND
        if drifted and self.last < 0:
            self.first_ms *= 1 + self.last
            return True, True
        for pause in PAUSES_S:
            if self.last <= BOUND or pause > self._left_s:
                break
            time.sleep(pause)
            self._left_s -= pause
            self._measure()
        return drifted, self.last <= BOUND

    def _measure(self) -> None:
        for _ in range(self._device.repeats):
            self.last = self._time() / self.first_ms - 1
            if self.last <= BOUND:
                return

    def _time(self) -> float:
        return self._device.measure(self._reference).median_ms
