"""Makes a space's latency table: measures a part of its operations on a device, interpolates and calibrates."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nas.devices.base import Device, OperationFailed
from nas.errors import NasError
from nas.latency.check import calibrate, sums
from nas.latency.coverage import space_operations
from nas.latency.device_info import Calibration, DeviceInfo, EstimateInfo, load_device_info
from nas.latency.drift import DriftWatch
from nas.latency.fill import fill
from nas.latency.journal import Journal, check_settings, journal
from nas.latency.measure import EMPTY, Job, measure, prepare
from nas.latency.networks import (
    NetworkTime,
    Progress,
    calibration_members,
    measure_networks,
    read_networks,
    resolution_id,
    space_id,
    write_networks,
)  # fmt: skip
from nas.latency.plan import groups
from nas.latency.rows import Key, Row, read_rows
from nas.latency.table import DEVICE_FILE, TABLE_FILE, LatencyTable, make_table
from nas.space import Operation, Space

JOURNAL_FILE = "journal.jsonl"
METHOD = (
    "between measured widths: roofline fit (constant, MACs, elements moved, parameters) and a Gaussian process over "
    "log widths; error: each measured row predicted from the others of its group, weighted by latency"
)


@dataclass
class Report:
    """What a profiling run did.

    Attributes:
        operations: of the space.
        measured, reused: rows that this run measured, and rows that were there from before.
        interpolated: rows of the space that were predicted from measured ones.
        failed: operations that the device could not run, with its message.
        flagged: rows that were measured while the device drifted and did not recover.
        seconds: of the run.
    """

    operations: int
    measured: int = 0
    reused: int = 0
    interpolated: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    flagged: int = 0
    seconds: float = 0.0


def profile(
    space: Space, device: Device, folder: Path, progress: Progress = lambda *_: None
) -> tuple[LatencyTable, Report]:
    """Measures what the table in `folder` lacks for `space`, completes it and saves it there.

    Every row is in the journal beside the table before the next one starts, so the same call goes on where a kill or
    an error stopped it.

    Raises:
        InputError: when the table there was measured with other settings.
        NasError: when another process writes the table, the disk is full, no operation could be measured, or a whole
            network could not (the table is there then, without a new calibration).
    """
    begin = time.perf_counter()
    operations = space_operations(space)
    report = Report(len(operations))
    info = device.info()
    with journal(folder, JOURNAL_FILE, info) as book:
        old = _old_table(folder, info)
        run = _Run(device, book, report, progress, {row.key: row for row in old.rows.values() if row.runs})
        run.measure([operation for group in groups(operations) for operation in group.chosen()])
        table = _complete(operations, run, old)
        table.save(folder)  # of use without the calibration too, should a whole network not run
        table = _calibrate(table, space, run)
        table.save(folder)
        book.remove()
    report.interpolated = sum(op.key in table.rows and not table.rows[op.key].runs for op in operations)
    report.seconds = time.perf_counter() - begin
    return table, report


def _old_table(folder: Path, info: DeviceInfo) -> LatencyTable:
    """The table that is there, or an empty one."""
    if not (folder / TABLE_FILE).is_file():
        return LatencyTable(info, {}, folder)
    device = load_device_info(folder / DEVICE_FILE)
    check_settings(folder / DEVICE_FILE, vars(device), info)
    return LatencyTable(device, read_rows(folder / TABLE_FILE), folder)


class _Run:
    """Measures rows into `rows`, each into the journal before the next one starts."""

    def __init__(self, device: Device, book: Journal, report: Report, progress: Progress, rows: dict[Key, Row]) -> None:
        self.device, self.book, self.report, self.progress = device, book, report, progress
        self.rows = rows | {row.key: row for row in (_row(entry["row"]) for entry in book.entries if "row" in entry)}
        self.failed: set[Key] = set()
        self._call_ms = 0.0

    def measure(self, chosen: Sequence[Operation]) -> None:
        """Measures the operations that have no row yet, and watches for drift.

        A failed operation is noted and the rest goes on. The first stack is the reference for drift: rows since the
        last good look at it are measured again after a drift that went away, and flagged after one that stayed.
        """
        todo = [operation for operation in chosen if operation.key not in self.rows]
        self.report.reused = len(chosen) - len(todo)
        if not todo:
            return
        empty = self.device.prepare(EMPTY)
        jobs = [prepare(self.device, operation) for operation in todo]
        self.progress("operations", 0, len(jobs))
        self._call_ms = self.device.measure(empty.result()).median_ms
        watch: DriftWatch | None = None
        since_look: list[Job] = []
        for number, job in enumerate(jobs, start=1):
            measured = self._measure(job)
            since_look.append(job)
            if watch is None:
                watch = DriftWatch(self.device, job.artifacts[-1].result()) if measured and job.stacked else None
            elif watch.due() or number == len(jobs):
                drifted, recovered = watch.look()
                if drifted:
                    self._doubt(since_look, recovered)
                since_look = []
            self.progress("operations", number, len(jobs))
        if not self.rows:
            raise NasError(
                f"no operation could be measured; the first failed with: {next(iter(self.report.failed.values()))}"
            )

    def _measure(self, job: Job) -> bool:
        """Whether the operation could be measured."""
        operation = job.operation
        try:
            row = measure(self.device, job, self._call_ms)
        except OperationFailed as error:
            self.failed.add(operation.key)
            self.report.failed[str(operation)] = str(error)
            self.book.append({"failed": str(operation), "message": str(error)})
            return False
        self.report.measured += row.key not in self.rows
        self._keep(row)
        return True

    def _doubt(self, jobs: Sequence[Job], recovered: bool) -> None:
        for job in jobs:
            row = self.rows.get(job.operation.key)
            if row is None:
                continue
            if recovered:
                self._measure(job)
            else:
                self.report.flagged += 1
                self._keep(replace(row, extra=(("note", "drift"),)))

    def _keep(self, row: Row) -> None:
        self.rows[row.key] = row
        self.book.append({"row": asdict(row)})


def _row(data: Mapping[str, Any]) -> Row:
    return Row(**{**data, "extra": tuple((name, value) for name, value in data["extra"])})


def _complete(operations: Sequence[Operation], run: _Run, old: LatencyTable) -> LatencyTable:
    """The old rows, the measured ones, and interpolated ones for every other operation."""
    filled, error = fill(operations, run.rows, run.failed)
    rows = {**old.rows, **filled, **run.rows}
    estimate = EstimateInfo(method=METHOD, leave_one_out_mape=round(error, 3)) if filled else old.device.estimate
    fresh = run.device.info()
    info = replace(
        fresh, check=None if run.report.measured else old.device.check, estimate=estimate,
        provenance="interpolated" if estimate else "measured",
        calibration=old.device.calibration, intercept_ms=old.device.intercept_ms,
    )  # fmt: skip
    return make_table(info, rows.values(), old.path)


def _calibrate(table: LatencyTable, space: Space, run: _Run) -> LatencyTable:
    """The table with scale and intercept fitted to a few whole networks, of this space and of those before it."""
    assert table.path is not None
    here = (space_id(space), resolution_id(space))
    stored = read_networks(table.path)
    others = [net for net in stored if net.role == "calibration" and (net.space, net.resolution) != here]
    known = [net for net in stored if net.role == "calibration"]
    known += [NetworkTime(**entry["network"]) for entry in run.book.entries if "network" in entry]
    members = [member for member in calibration_members(space) if not table.predict(member).missing]
    times = measure_networks(run.device, space, members, "calibration", known, run.book, run.progress)
    nets = [*others, *sums(table, times, members)]
    if not nets:
        return table
    scale, intercept = calibrate(nets)
    nets = [net.predicted(scale, intercept) for net in nets]
    write_networks(
        table.path, nets if table.device.check is None else [*nets, *(n for n in stored if n.role == "check")]
    )
    spaces = list(dict.fromkeys((net.space, net.resolution) for net in nets))
    calibration = Calibration.model_validate({
        "scale": round(scale, 5), "nets": len(nets),
        "mape": round(sum(abs(net.error_percent) for net in nets) / len(nets), 3),
        "spaces": [{"space": name, "resolution": resolution} for name, resolution in spaces],
    })  # fmt: skip
    device = replace(table.device, calibration=calibration, intercept_ms=round(intercept, 6))
    return replace(table, device=device)
