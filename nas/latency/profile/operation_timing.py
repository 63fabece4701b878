"""Measure one operation into one row, by a stack of copies where possible; called by the bench.

`DriftWatch` watches a device for throttling; the bench holds one watch per device. It measures a
reference again after every few rows and compares its latency with the first one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from nas.blocks import Operation
from nas.convert.chain import Chain
from nas.devices.base import Device, Timing
from nas.latency.rows import Row

AGREE = 0.01
"""Maximum relative distance of the second lowest time from the lowest one."""
MOST_REPEATS = 2
"""Maximum number of measurements of one operation, in multiples of the device's `repeats`."""


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
    """Return the chains that an operation's row is measured by.

    An operation that stacks has a stack of `copies`, preceded by one copy where the slope counts.
    Any other has one copy.
    """
    counts = ((1, copies) if slope else (copies,)) if stacks(operation) else (1,)
    return tuple(Chain.stack(operation, count) for count in counts)


def measure(device: Device, job: Job, call_ms: float) -> Row:
    """Return the row of an operation.

    A stack gives the slope, (t(copies) - t(1)) / (copies - 1). The cost of a call cancels in it,
    and with it that of an input that nothing has just written to the cache. On a device without
    slope a stack gives the mean, (t(copies) - `call_ms`) / copies. One copy gives t(1) - `call_ms`.
    The percentiles keep their ratio to the median.

    Args:
        call_ms: the time of EMPTY on this device.

    Raises:
        OperationFailed: when the device cannot convert or run it.
    """
    timings = [device.measure(artifact.result()) for artifact in job.artifacts]
    last = timings[-1]
    if len(timings) == 1:
        median = (last.median_ms - call_ms) / (device.copies if job.stacked else 1)
    else:
        median = (last.median_ms - timings[0].median_ms) / (device.copies - 1)
    # The difference of two noisy times can be below 0 for an operation of next to no work.
    return row(job.operation, max(median, 0.0), last)


def settled(times_ms: Sequence[float], repeats: int) -> bool:
    """Return whether the lowest of an operation's times can be trusted.

    It can when the second lowest is within AGREE of it. Other load makes runs slower, never faster,
    so two lowest times that agree are undisturbed. MOST_REPEATS bounds the search.
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
"""Number of rows between two measurements of the reference."""
BOUND = 0.05
"""Maximum relative deviation of the reference from its first time; above it the device drifts."""
PAUSES_S = (5.0, 15.0, 30.0)
"""Pauses in seconds for a device that became slower, each followed by a measurement."""
MOST_PAUSED_S = 20.0
"""Maximum sum of pauses in seconds on a device that repeats.

Its repeats deal with passing disturbances. Where it stays slow, its rows are flagged.
"""


class DriftWatch:
    """A reference, measured at the start and at every `look`.

    Args:
        device: what is watched.
        reference: file of the stack that is measured.
    """

    def __init__(self, device: Device, reference: Path) -> None:
        self._device = device
        self._reference = reference
        # The fastest of the repeats counts: a disturbed first time would make every later one
        # count as drift.
        self.first_ms = min(self._time() for _ in range(device.repeats))
        self._calls = 0
        self._left_s = MOST_PAUSED_S if device.repeats > 1 else math.inf
        self.last = 0.0
        """Relative drift at the last measurement; positive when the device became slower."""

    def due(self) -> bool:
        """Count a row and return whether it is time to measure the reference."""
        self._calls += 1
        return self._calls % EVERY == 0

    def look(self) -> tuple[bool, bool]:
        """Measure the reference, and wait for a device that drifted.

        A device that became slower pauses for PAUSES_S at most. One that became faster was
        disturbed when the reference was first measured; the new time is the reference from now on.

        Returns:
            Whether the device had drifted, and whether it is within bounds now.
        """
        self._measure()
        drifted = abs(self.last) > BOUND
        if drifted and self.last < 0:
            # first_ms becomes the time of this measurement.
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
        """Set `last` from the first of the device's repeats within bounds, else from the last."""
        for _ in range(self._device.repeats):
            self.last = self._time() / self.first_ms - 1
            if self.last <= BOUND:
                return

    def _time(self) -> float:
        return self._device.measure(self._reference).median_ms
