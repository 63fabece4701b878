"""Measure operations one after the other on a bench, for `run`.

It watches for throttling, and writes every row into the journal before the next one starts.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Protocol

from nas.blocks import Operation
from nas.convert.chain import EMPTY, Chain, DeviceLost, Interrupted, OperationFailed
from nas.devices.base import Device
from nas.errors import NasError
from nas.latency.network_times import Progress
from nas.latency.profile.journal import Entry, Journal
from nas.latency.profile.operation_timing import DriftWatch, Job, measure, prepare, settled
from nas.latency.rows import Key, Row, row_from


class Source(Protocol):
    """Source of the operations to measure (`Chooser`, `Listed`).

    The bench calls `next` until it returns None. It answers each operation with `found`, again for
    each repeat, or with `back`. It holds a lock during every call except `most`.
    """

    def next(self) -> Operation | None:
        """Return the next operation; None when none is needed at the moment."""
        ...

    def found(self, operation: Operation, ms: float | None) -> None:
        """Record the latency of a named operation; None where it failed."""
        ...

    def back(self, operation: Operation) -> None:
        """Take back a named operation, which another device may measure."""
        ...

    def most(self) -> int:
        """Return the maximum number of operations that can still be named."""
        ...


class Listed:
    """Source that names each operation of a list once."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._left = deque(operations)

    def next(self) -> Operation | None:
        return self._left.popleft() if self._left else None

    def found(self, operation: Operation, ms: float | None) -> None:
        """Do nothing: the list is fixed."""

    def back(self, operation: Operation) -> None:
        self._left.appendleft(operation)

    def most(self) -> int:
        return len(self._left)


CONTROL_PAUSES_S = (2.0, 10.0)
"""Pauses in seconds after a control that failed, each followed by another one."""
AHEAD = 4
"""Number of operations in a device's queue: the one measured now, and those converted meanwhile."""
WAITING = 24
"""Number of other operations measured between two measurements of one, where there are enough."""


@dataclass
class Report:
    """Counts and failures of a profiling run.

    Attributes:
        operations: number of operations of the space.
        measured: number of rows that this run measured.
        reused: number of rows of the space that earlier runs measured.
        interpolated: number of rows of the space that were predicted from measured ones.
        missing: number of operations of the space without a row, because the time was up or the
            device cannot run them.
        left_out: number of those that the device could run; the same call measures them.
        failed: operations that the device could not run, now or in an earlier run, with its
            message.
        interrupted: operations whose conversion or measurement was ended from outside, with the
            reason. They do not count as failed, and the same call measures them.
        flagged: number of rows measured during a drift from which the device did not recover.
        lost: reasons why devices went away while others continued.
        seconds: duration of the run.
    """

    operations: int
    measured: int = 0
    reused: int = 0
    interpolated: int = 0
    missing: int = 0
    left_out: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: dict[str, str] = field(default_factory=dict)
    flagged: int = 0
    lost: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def incomplete(self) -> str:
        """Return why the same call has more to measure; empty where it has not."""
        if self.left_out:
            return f"got {self.left_out} operations without a row, expected 0"
        if self.interrupted:
            operation, reason = next(iter(self.interrupted.items()))
            return f"{len(self.interrupted)} operations were interrupted, as {operation}: {reason}"
        return ""


class Bench:
    """Measures operations into `rows`, each row in the journal before the next one starts.

    Args:
        devices: one, or several units of one model, which share the work. The attribute holds those
            that have not gone away.
        book: the open journal; its entries of an earlier run are applied first.
        report: where the run is counted.
        progress: is called after every operation.
        rows: rows that were measured before.
        failed: operations that these devices could not run before, with the message.
        retry: whether failures in the journal are measured again.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        book: Journal,
        report: Report,
        progress: Progress,
        rows: Mapping[Key, Row],
        failed: Mapping[Key, str],
        retry: bool = False,
    ) -> None:
        self.devices = devices
        self.book = book
        self.report = report
        self.progress = progress
        self.rows = dict(rows)
        self.failed = dict(failed)
        # Resume: the entries are applied in the order in which they were written. A row replaces
        # an earlier row (a repeat, or the same one flagged) and an earlier failure.
        for entry in book.entries:
            if "row" in entry:
                row = row_from(entry["row"])
                self.rows[row.key] = row
                self.failed.pop(row.key, None)
            elif "failed" in entry and not retry:
                self.failed[tuple(entry["failed"])] = entry["message"]
        self._passed_over: set[Key] = set()
        self._unproven: list[Entry] = []
        self._lock = Lock()
        self._done = 0

    def measure(self, source: Source, until: float, meanwhile: Sequence[Chain] = ()) -> None:
        """Measure what `source` names, until it names nothing or the time is up.

        Args:
            source: of the operations.
            until: monotonic time in seconds after which no further measurement begins.
            meanwhile: chains to convert while the last repeats are measured.

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
                f" {next(iter(self.failed.values()))}. Nothing of it is recorded. Fix: mend the cause,"
                " then run the same command again"
            )

    def _together(self, source: Source, until: float, meanwhile: Sequence[Chain]) -> None:
        """Measure on all devices at once, a thread for each."""
        stations = [_Station(self, device, source, until, meanwhile) for device in self.devices]
        with ThreadPoolExecutor(len(stations)) as pool:
            try:
                ends = list(zip(self.devices, pool.map(_Station.until_lost, stations), strict=True))
            except BaseException:
                # The pool waits for its threads: without a stop, Ctrl-C or a full disk would end
                # the program only when the source is exhausted.
                for station in stations:
                    station.stop()
                raise
        # Losses are handled after the pool, so that the last device's is raised when every thread
        # has ended.
        for device, error in ends:
            if error:
                self.lose(device, error)

    def lose(self, device: Device, error: DeviceLost) -> None:
        """Continue without a device.

        Raises:
            DeviceLost: `error`, when it was the last device.
        """
        self.devices = [each for each in self.devices if each is not device]
        if not self.devices:
            raise error
        self.report.lost.append(str(error))

    def named(self, source: Source) -> Operation | None:
        """Return the next operation of the source that has no row and did not fail."""
        with self._lock:
            while (operation := source.next()) is not None:
                key = operation.key
                if not any(key in each for each in (self.rows, self.failed, self._passed_over)):
                    return operation
                # An operation with the same key was measured meanwhile: its row is the answer.
                row = self.rows.get(operation.key)
                source.found(operation, row.median_ms if row else None)
            return None

    def keep(self, operation: Operation, row: Row, source: Source) -> None:
        """Store a row of an operation; it is on disk when this returns."""
        with self._lock:
            # A repeat replaces its row and counts once.
            self.report.measured += row.key not in self.rows
            self.rows[row.key] = row
            # The device can measure, so what failed before this row is a fact about operations.
            while self._unproven:
                self.book.append(self._unproven.pop(0))
            self.book.append({"row": asdict(row)})
            source.found(operation, row.median_ms)

    def flag(self, key: Key) -> None:
        """Note in the row that the device drifted while it was measured."""
        with self._lock:
            row = self.rows[key]
            self.rows[key] = replace(
                row, extra=(*(pair for pair in row.extra if pair[0] != "note"), ("note", "drift"))
            )
            self.report.flagged += 1
            self.book.append({"row": asdict(self.rows[key])})

    def fail(self, operation: Operation, message: str, source: Source) -> None:
        """Store that the device cannot run an operation, with its message."""
        with self._lock:
            self.failed[operation.key] = message
            entry = {"failed": operation.key, "message": message}
            # Where nothing was ever measured, the fault may be any other: nothing is recorded.
            if self.rows:
                self.book.append(entry)
            else:
                self._unproven.append(entry)
            source.found(operation, None)

    def pass_over(self, operation: Operation, reason: str, source: Source) -> None:
        """Leave out an operation for now; nothing is recorded of it."""
        with self._lock:
            self._passed_over.add(operation.key)
            self.report.interrupted[str(operation)] = reason
            source.found(operation, None)

    def back(self, operation: Operation, source: Source) -> None:
        """Give an operation back to its source, for another device."""
        with self._lock:
            source.back(operation)

    def tell(self, source: Source, more: int = 0) -> None:
        """Report progress, with `more` operations done since the last call."""
        with self._lock:
            self._done += more
            self.progress(
                "operations", self._done, self._done + source.most() + AHEAD * len(self.devices)
            )


class _Station:
    """One device of a bench, with its queue of operations and its watch for drift.

    The first stack of copies is the reference of the watch. After a drift that went away, the rows
    since the last good measurement of the reference are measured again. After one that stayed, they
    are flagged. Repeats (`Device.repeats`) follow when WAITING others were measured, as
    disturbances of a device last for tens of seconds.

    Attributes:
        _line: operations whose files are being prepared; the first one is measured next.
        _since_look: jobs measured since the last measurement of the reference.
        _taken: every row of an operation that this station measured, by key.
        _to_repeat: jobs whose times do not agree yet, in the order of their last measurement.
        _empty: the file of a call that does nothing, the control after a failure.
        _call_ms: its time.
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
        self._empty = Path()
        self._call_ms = 0.0

    def stop(self) -> None:
        """Stop the station's thread after the operation that it is measuring."""
        self._until = 0.0

    def until_lost(self) -> DeviceLost | None:
        """Run `work`; if the device is lost, give its queue to the others and return the error."""
        try:
            self.work()
        except DeviceLost as error:
            for job in self._line:
                self._bench.back(job.operation, self._source)
            return error
        return None

    def work(self) -> None:
        """Measure the source's operations on this device, with their repeats."""
        empty = self._device.prepare(EMPTY)
        self._refill()
        if not self._line:
            return
        self._bench.tell(self._source)
        self._empty = empty.result()
        try:
            self._call_ms = self._device.measure(self._empty).median_ms
        except OperationFailed as error:
            raise self._lost(str(error)) from error
        while self._line and time.monotonic() < self._until:
            # The job stays in the line while it is measured: `until_lost` gives the line back.
            job = self._line[0]
            measured = self._measure(job)
            self._since_look.append(self._line.popleft())
            # Before looks and repeats, so that conversion runs beside them.
            self._refill()
            self._look(job, measured)
            self._repeat(WAITING)
            self._bench.tell(self._source, 1)
        # During the last repeats no operation is left to convert, so the calibration's networks
        # are converted beside them.
        if time.monotonic() < self._until:
            for chain in self._meanwhile:
                self._device.prepare(chain)
        self._repeat(0)

    def _repeat(self, most: int) -> None:
        """Measure again the operation that has waited longest, until at most `most` wait."""
        while len(self._to_repeat) > most and time.monotonic() < self._until:
            self._measure(self._to_repeat.popleft())

    def _refill(self) -> None:
        """Queue operations, and begin their conversion, until AHEAD wait."""
        while len(self._line) < AHEAD and time.monotonic() < self._until:
            operation = self._bench.named(self._source)
            if operation is None:
                return
            self._line.append(prepare(self._device, operation))

    def _measure(self, job: Job) -> bool:
        """Measure an operation into the bench; return whether the device could run it."""
        try:
            row = self._row(job)
        except (Interrupted, OperationFailed) as error:
            # One that ran before can run, whatever went wrong with a repeat.
            if job.operation.key not in self._bench.rows:
                failed = isinstance(error, OperationFailed)
                record = self._bench.fail if failed else self._bench.pass_over
                record(job.operation, str(error), self._source)
            return False
        taken = self._taken.setdefault(row.key, [])
        taken.append(row)
        # The fastest of the repeats counts: other load makes runs slower, never faster.
        self._bench.keep(job.operation, min(taken, key=lambda row: row.median_ms), self._source)
        if not settled([row.median_ms for row in taken], self._device.repeats):
            self._to_repeat.append(job)
        return True

    def _row(self, job: Job) -> Row:
        """Return the row of an operation, which is tried once more where it fails.

        Raises:
            OperationFailed: when it fails twice, and the control runs each time.
            DeviceLost: when the control fails.
            Interrupted: when a process was ended from outside.
        """
        try:
            return measure(self._device, job, self._call_ms)
        except OperationFailed as error:
            self._check_well(error)
        # The control runs, perhaps again: what failed may have passed. A file that could not be
        # made is made anew.
        again = prepare(self._device, job.operation)
        try:
            return measure(self._device, again, self._call_ms)
        except OperationFailed as error:
            self._check_well(error)
            raise

    def _check_well(self, failure: OperationFailed) -> None:
        """Measure the control after a failure: the empty file, which ran before.

        Raises:
            DeviceLost: when it does not run any more, so that the fault is the device's.
        """
        # A crash may need some seconds to be over, as that of a GPU's driver.
        for pause in (*CONTROL_PAUSES_S, None):
            try:
                self._device.measure(self._empty)
                return
            except OperationFailed as error:
                if pause is None:
                    raise self._lost(f"{error}; before it: {failure}") from error
                time.sleep(pause)

    def _lost(self, reason: str) -> DeviceLost:
        """Return the error for a device that does not run even the empty file."""
        name = self._device.info().name
        return DeviceLost(
            f"{name}: does not run even an empty file ({reason}). What was measured is kept, and no"
            " operation counts as failed. Fix: mend the cause, then run the same command again"
        )

    def _look(self, job: Job, measured: bool) -> None:
        """Measure the reference when it is due, and after the last operation.

        Raises:
            DeviceLost: when the reference, which ran before, does not run any more.
        """
        try:
            self._watched(job, measured)
        except OperationFailed as error:
            self._check_well(error)
            raise self._lost(str(error)) from error

    def _watched(self, job: Job, measured: bool) -> None:
        if self._watch is None:
            if measured and job.stacked:
                self._watch = DriftWatch(self._device, job.artifacts[-1].result())
        elif self._watch.due() or not self._line:
            drifted, recovered = self._watch.look()
            if drifted:
                self._doubt(recovered)
            self._since_look = []

    def _doubt(self, recovered: bool) -> None:
        """Measure the rows since the reference's last time again; flag them if the drift stayed."""
        for job in self._since_look:
            # Operations that failed have no row.
            if job.operation.key not in self._bench.rows:
                continue
            # A device that repeats measures each operation again later anyway.
            if recovered and self._device.repeats == 1:
                self._taken.pop(job.operation.key, None)
                self._measure(job)
            elif not recovered:
                self._bench.flag(job.operation.key)
