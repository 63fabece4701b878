"""The bench: measures operations one after the other, watches for throttling, and journals every
row."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from threading import Lock
from typing import Any, Protocol

from nas.blocks import Operation
from nas.convert.chain import Chain, DeviceLost, OperationFailed
from nas.devices.base import Device
from nas.errors import NasError
from nas.latency.network_times import Progress
from nas.latency.profile.journal import Journal
from nas.latency.profile.operation_timing import EMPTY, DriftWatch, Job, measure, prepare, settled
from nas.latency.rows import Key, Row


class Source(Protocol):
    """What names the operations to measure."""

    def next(self) -> Operation | None:
        """Return the next one, or None."""
        ...

    def found(self, operation: Operation, ms: float | None) -> None:
        """What came of one that was named; None where it failed."""
        ...

    def back(self, operation: Operation) -> None:
        """One that was named will not be measured by whoever asked; somebody else may."""
        ...

    def most(self) -> int:
        """Return how many can still be named."""
        ...


class Listed:
    """A source that names each of these once."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._left = deque(operations)

    def next(self) -> Operation | None:
        return self._left.popleft() if self._left else None

    def found(self, operation: Operation, ms: float | None) -> None:
        """Nothing follows from it."""

    def back(self, operation: Operation) -> None:
        self._left.appendleft(operation)

    def most(self) -> int:
        return len(self._left)


AHEAD = 4
"""Operations that are converted ahead of the one that is measured."""
WAITING = 24
"""Operations that lie between the repeats of one, as far as there are so many."""


@dataclass
class Report:
    """What a profiling run did.

    Attributes:
        operations: of the space.
        measured, reused: rows that this run measured, and rows of the space that were there from
            before.
        interpolated: rows of the space that were predicted from measured ones.
        missing: operations of the space that have no row, because the time was up or the device
            cannot run them.
        left_out: those of them that the device could run: the same call measures them.
        failed: operations that the device could not run, with its message.
        flagged: rows that were measured while the device drifted and did not recover.
        lost: devices that went away while others went on, with the reason.
        seconds: of the run.
    """

    operations: int
    measured: int = 0
    reused: int = 0
    interpolated: int = 0
    missing: int = 0
    left_out: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    flagged: int = 0
    lost: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Bench:
    """Measures rows into `rows`, each into the journal before the next one starts.

    Args:
        devices: what measures; several are units of one model, which share the work. Those that are
            left.
        rows: those that are there from before.
        failed: what these devices could not run before, with the message.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        book: Journal,
        report: Report,
        progress: Progress,
        rows: Mapping[Key, Row],
        failed: Mapping[Key, str],
    ) -> None:
        self.devices = devices
        self.book = book
        self.report = report
        self.progress = progress
        self.rows = dict(rows)
        self.failed = dict(failed)
        for entry in book.entries:
            if "row" in entry:
                row = _row(entry["row"])
                self.rows[row.key] = row
                self.failed.pop(row.key, None)
            elif "failed" in entry:
                self.failed[tuple(entry["failed"])] = entry["message"]
        self._lock = Lock()
        self._done = 0

    def measure(self, source: Source, until: float, meanwhile: Sequence[Chain] = ()) -> None:
        """Measure what `source` names until it names nothing, or until the monotonic clock says
        `until`.

        `meanwhile` is what is to be converted next, while the last repeats are measured.

        Raises:
            DeviceLost: when the last of the devices went away.
            NasError: when no operation could be measured at all.
        """
        if len(self.devices) == 1:
            _Station(self, self.devices[0], source, until, meanwhile).work()
        else:
            self._together(source, until, meanwhile)
        if self._done:
            self.progress("operations", self._done, self._done)
        if not self.rows and self.failed:
            raise NasError(
                "no operation could be measured; the first failed with:"
                f" {next(iter(self.failed.values()))}"
            )

    def _together(self, source: Source, until: float, meanwhile: Sequence[Chain]) -> None:
        stations = [_Station(self, device, source, until, meanwhile) for device in self.devices]
        with ThreadPoolExecutor(len(stations)) as pool:
            try:
                ends = list(zip(self.devices, pool.map(_Station.until_lost, stations), strict=True))
            except BaseException:
                for station in stations:
                    station.stop()
                raise
        for device, error in ends:
            if error:
                self.lose(device, error)

    def lose(self, device: Device, error: DeviceLost) -> None:
        """Go on without a device. Raises the error where it was the last one."""
        self.devices = [each for each in self.devices if each is not device]
        if not self.devices:
            raise error
        self.report.lost.append(str(error))

    def named(self, source: Source) -> Operation | None:
        """Return the next operation of the source that has no row and did not fail."""
        with self._lock:
            while (operation := source.next()) is not None:
                if operation.key not in self.rows and operation.key not in self.failed:
                    return operation
                row = self.rows.get(operation.key)
                source.found(operation, row.median_ms if row else None)
            return None

    def keep(self, operation: Operation, row: Row, source: Source) -> None:
        """A row is on disk when this returns."""
        with self._lock:
            self.report.measured += row.key not in self.rows
            self.rows[row.key] = row
            self.book.append({"row": asdict(row)})
            source.found(operation, row.median_ms)

    def flag(self, key: Key) -> None:
        """Say in the row that the device drifted while it was measured."""
        with self._lock:
            row = self.rows[key]
            self.rows[key] = replace(
                row, extra=(*(pair for pair in row.extra if pair[0] != "note"), ("note", "drift"))
            )
            self.report.flagged += 1
            self.book.append({"row": asdict(self.rows[key])})

    def fail(self, operation: Operation, message: str, source: Source) -> None:
        with self._lock:
            self.failed[operation.key] = message
            self.report.failed[str(operation)] = message
            self.book.append({"failed": operation.key, "message": message})
            source.found(operation, None)

    def back(self, operation: Operation, source: Source) -> None:
        with self._lock:
            source.back(operation)

    def tell(self, source: Source, more: int = 0) -> None:
        """So many more are done."""
        with self._lock:
            self._done += more
            self.progress(
                "operations", self._done, self._done + source.most() + AHEAD * len(self.devices)
            )


class _Station:
    """One device of a bench, and its watch for drift.

    The first stack is the reference: rows since the last good look at it are measured again after a
    drift that went away, and flagged after one that stayed. Repeats (`Device.repeats`) follow when
    WAITING others were measured: what disturbs a device lasts for tens of seconds.
    """

    def __init__(
        self, bench: Bench, device: Device, source: Source, until: float, meanwhile: Sequence[Chain]
    ) -> None:
        self._bench = bench
        self._device = device
        self._source = source
        self._until = until
        self._meanwhile = meanwhile
        self._line: deque[Job] = deque()
        self._since_look: list[Job] = []
        self._taken: dict[Key, list[Row]] = {}
        self._to_repeat: deque[Job] = deque()
        self._watch: DriftWatch | None = None
        self._call_ms = 0.0

    def stop(self) -> None:
        """After the operation that is being measured."""
        self._until = 0.0

    def until_lost(self) -> DeviceLost | None:
        """Return `work`; if the device goes away the others get what it was asked for, and this
        returns why."""
        try:
            self.work()
        except DeviceLost as error:
            for job in self._line:
                self._bench.back(job.operation, self._source)
            return error
        return None

    def work(self) -> None:
        empty = self._device.prepare(EMPTY)
        self._refill()
        if not self._line:
            return
        self._bench.tell(self._source)
        self._call_ms = self._device.measure(empty.result()).median_ms
        while self._line and time.monotonic() < self._until:
            job = self._line[0]
            measured = self._measure(job)
            self._since_look.append(self._line.popleft())
            self._refill()
            self._look(job, measured)
            self._repeat(WAITING)
            self._bench.tell(self._source, 1)
        if time.monotonic() < self._until:
            for chain in self._meanwhile:
                self._device.prepare(chain)
        self._repeat(0)

    def _repeat(self, most: int) -> None:
        """Measure again what has waited longest, until no more than `most` operations wait."""
        while len(self._to_repeat) > most and time.monotonic() < self._until:
            self._measure(self._to_repeat.popleft())

    def _refill(self) -> None:
        while len(self._line) < AHEAD and time.monotonic() < self._until:
            operation = self._bench.named(self._source)
            if operation is None:
                return
            self._line.append(prepare(self._device, operation))

    def _measure(self, job: Job) -> bool:
        """Return whether the operation could be measured."""
        try:
            row = measure(self._device, job, self._call_ms)
        except OperationFailed as error:
            self._bench.fail(job.operation, str(error), self._source)
            return False
        taken = self._taken.setdefault(row.key, [])
        taken.append(row)
        self._bench.keep(job.operation, min(taken, key=lambda row: row.median_ms), self._source)
        if not settled([row.median_ms for row in taken], self._device.repeats):
            self._to_repeat.append(job)
        return True

    def _look(self, job: Job, measured: bool) -> None:
        if self._watch is None:
            if measured and job.stacked:
                self._watch = DriftWatch(self._device, job.artifacts[-1].result())
        elif self._watch.due() or not self._line:
            drifted, recovered = self._watch.look()
            if drifted:
                self._doubt(recovered)
            self._since_look = []

    def _doubt(self, recovered: bool) -> None:
        for job in self._since_look:
            if job.operation.key not in self._bench.rows:
                continue
            if recovered and self._device.repeats == 1:  # else repeats have seen to it
                self._taken.pop(job.operation.key, None)
                self._measure(job)
            elif not recovered:
                self._bench.flag(job.operation.key)


def _row(data: Mapping[str, Any]) -> Row:
    return Row(**{**data, "extra": tuple((name, value) for name, value in data["extra"])})
