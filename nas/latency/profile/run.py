"""Make a space's latency table, for `nas profile`.

`profile` measures a part of the space's operations on a device, interpolates the others, and
calibrates the sums of rows on a few whole networks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nas.blocks import Operation
from nas.convert.chain import Chain, DeviceLost
from nas.devices.base import Device
from nas.devices.info import DeviceInfo, EstimateInfo, load_device_info
from nas.errors import InputError
from nas.latency.calibration import recalibrated, sums
from nas.latency.importing import UNKNOWN
from nas.latency.importing.common import SOURCE
from nas.latency.known_devices import IMPORTED, check_owner
from nas.latency.network_times import (
    NetworkTime,
    Progress,
    calibration_members,
    network_from,
    profile_arguments,
    read_networks,
    resolution_id,
    space_id,
)
from nas.latency.profile.acquisition import Chooser
from nas.latency.profile.bench import Bench, Listed, Report
from nas.latency.profile.interpolate import fill
from nas.latency.profile.journal import check_settings, journal
from nas.latency.profile.network_timing import measure_networks
from nas.latency.rows import Key, Row, read_rows, read_unsupported
from nas.latency.table import DEVICE_FILE, TABLE_FILE, LatencyTable, make_table
from nas.space import Architecture, Space
from nas.space.operations import space_operations

JOURNAL_FILE = "journal.jsonl"
METHOD = (
    "between measured widths: roofline fit (constant, MACs, elements moved, parameters) and a"
    " Gaussian process over log widths; error: each measured row predicted from the others of its"
    " group, weighted by latency"
)
OPERATIONS_SHARE = 0.7
"""Share of a time budget for operations; the rest is for the networks of the calibration."""


def profile(
    space: Space,
    devices: Device | Sequence[Device],
    folder: Path,
    progress: Progress = lambda *_: None,
    *,
    chosen: Sequence[Operation] | None = None,
    budget_s: float = math.inf,
    retry: bool = False,
) -> tuple[LatencyTable, Report]:
    """Measure what the table in `folder` lacks for `space`, complete it and save it there.

    Every row is in the journal beside the table before the next one starts. So the same call
    resumes where a kill or an error stopped it.

    Args:
        space: whose operations and networks are measured.
        devices: one, or several units of one model, which share the work.
        folder: of the table; made where it does not exist.
        progress: is called with the name of the step, how many are done, and of how many.
        chosen: the operations to measure (default: those that `Chooser` names).
        budget_s: seconds after which no further measurement begins. Then less of the table is
            measured, most important first, and the calibration gets fewer networks.
        retry: measure again what the device could not run before.

    Returns:
        The table, and the report of the run.

    Raises:
        InputError: when the table there was measured with other settings.
        NasError: when another process writes the table, the disk is full, or no operation could be
            measured. Also when a whole network could not be: then the table is saved, without a new
            calibration.
        DeviceLost: when the last device went away.
    """
    begin = time.monotonic()
    units = [devices] if not isinstance(devices, Sequence) else devices
    operations = space_operations(space)
    report = Report(len(operations))
    info = units[0].info()
    with journal(folder, JOURNAL_FILE, info) as book:
        old = _old_table(folder, info)
        # Neither may count as measured here: interpolated rows (without runs) are computed anew,
        # and imported rows are from another measurement.
        rows = {
            row.key: row for row in old.rows.values() if row.runs and SOURCE not in dict(row.extra)
        }
        # --retry is about this space's operations; those of other spaces keep their reasons.
        again = {operation.key for operation in operations} if retry else set()
        failed = {key: reason for key, reason in old.unsupported.items() if key not in again}
        bench = Bench(units, book, report, progress, rows, failed, retry)
        report.reused = sum(operation.key in bench.rows for operation in operations)
        source = Listed(chosen) if chosen is not None else _chooser(space, operations, bench)
        bench.measure(
            source, begin + OPERATIONS_SHARE * budget_s, _networks_to_come(space, folder, bench)
        )
        table = _complete(space, operations, bench, old)
        # The table is saved before the calibration too: it is useful without one, should a whole
        # network fail to run.
        table.save(folder)
        table = _calibrate(table, space, bench, begin + budget_s)
        # The journal is removed last. A kill between both lines leaves entries that the table holds
        # already, and applying them again changes nothing.
        table.save(folder)
        book.remove()
    report.interpolated = sum(
        op.key in table.rows and not table.rows[op.key].runs for op in operations
    )
    report.missing = sum(op.key not in table.rows for op in operations)
    # The same reasons at every run: a table that lacks operations says why.
    reasons = {
        op.key: (str(op), bench.failed[op.key]) for op in operations if op.key in bench.failed
    }
    report.failed = dict(reasons.values())
    report.left_out = table.device.left_out.get(profile_arguments(space), 0)
    report.seconds = time.monotonic() - begin
    return table, report


def _networks_to_come(space: Space, folder: Path, bench: Bench) -> list[Chain]:
    """Return the calibration networks that were not measured before."""
    here = (space_id(space), resolution_id(space))
    journalled = [
        network_from(entry["network"]) for entry in bench.book.entries if "network" in entry
    ]
    known = {
        net.network
        for net in [*read_networks(folder), *journalled]
        if (net.space, net.resolution) == here
    }
    return [
        Chain.network(member.operations())
        for member in calibration_members(space)
        if member.name not in known
    ]


def _chooser(space: Space, operations: Sequence[Operation], bench: Bench) -> Chooser:
    return Chooser(
        space, operations, {key: row.median_ms for key, row in bench.rows.items()}, bench.failed
    )


def _old_table(folder: Path, info: DeviceInfo) -> LatencyTable:
    """Return the table in `folder`, or an empty one.

    Raises:
        InputError: when it was measured with other settings than `info` names.
    """
    if not all((folder / name).is_file() for name in (TABLE_FILE, DEVICE_FILE)):
        return LatencyTable(info, {}, folder)
    device = load_device_info(folder / DEVICE_FILE)
    rows = read_rows(folder / TABLE_FILE)
    imported = {key: row for key, row in rows.items() if SOURCE in dict(row.extra)}
    figures = device.provenance == "estimated" or device.kind == IMPORTED
    if figures and not any(row.runs for key, row in rows.items() if key not in imported):
        return _taken_over(device, imported, info, folder)
    check_settings(folder / DEVICE_FILE, vars(device), info)
    return LatencyTable(device, rows, folder, read_unsupported(folder))


def _taken_over(
    device: DeviceInfo, imported: Mapping[Key, Row], info: DeviceInfo, folder: Path
) -> LatencyTable:
    """Return the table to measure into where the folder has figures that nobody measured here.

    Imported rows stay until a measured row replaces them; estimates make way.

    Raises:
        InputError: when the figures are of another device, or imported rows of another precision.
    """
    check_owner(device, info.name, folder)
    if imported and device.precision not in (UNKNOWN, info.precision):
        raise InputError(
            f"{folder / DEVICE_FILE}: its imported rows are of another precision (got"
            f" {info.precision!r}, expected {device.precision!r}). Fix: nas profile --out with another"
            " folder"
        )
    return LatencyTable(replace(info, source=device.source if imported else ""), imported, folder)


def _complete(
    space: Space, operations: Sequence[Operation], bench: Bench, old: LatencyTable
) -> LatencyTable:
    """Return the old rows, the measured ones, and interpolated ones for every other operation."""
    filled, error = fill(operations, bench.rows, bench.failed)
    # Later ones win: measured rows over interpolated ones, both over the old table's.
    rows = {**old.rows, **filled, **bench.rows}
    place = profile_arguments(space)
    left_out = {name: count for name, count in old.device.left_out.items() if name != place}
    count = sum(op.key not in rows and op.key not in bench.failed for op in operations)
    if count:
        left_out[place] = count
    estimate = (
        EstimateInfo(method=METHOD, leave_one_out_mape=round(error, 3))
        if filled
        else old.device.estimate
    )
    info = replace(
        bench.devices[0].info(),
        source=old.device.source,
        estimate=estimate,
        provenance="interpolated" if estimate else "measured",
        calibration=old.device.calibration,
        intercept_ms=old.device.intercept_ms,
        spaces=old.device.spaces,
        # New rows change the predictions that the last check compared.
        check=None if bench.report.measured else old.device.check,
        left_out=left_out,
    )
    return replace(make_table(info, rows.values(), old.path), unsupported=bench.failed)


def _calibrate(table: LatencyTable, space: Space, bench: Bench, until: float) -> LatencyTable:
    """Return the table with scale and intercept fitted to as many networks as there is time for."""
    assert table.path is not None
    known = [net for net in read_networks(table.path) if net.role == "calibration"]
    # A network with an operation that the device cannot run has no sum of rows to calibrate.
    members = [member for member in calibration_members(space) if not table.predict(member).missing]
    own = sums(table, _network_times(bench, space, members, known, until))
    return (
        recalibrated(table, space.name, own, keep_check=not bench.report.measured) if own else table
    )


def _network_times(
    bench: Bench,
    space: Space,
    members: Sequence[Architecture],
    stored: Sequence[NetworkTime],
    until: float,
) -> dict[Architecture, NetworkTime]:
    """Return the members' times on the first device, or on the next one should it go away."""
    while True:
        # The journal is read again in every turn: it holds the times of a lost device.
        known = [
            network_from(entry["network"]) for entry in bench.book.entries if "network" in entry
        ]
        try:
            return measure_networks(
                bench.devices[0],
                space,
                members,
                "calibration",
                [*stored, *known],
                bench.book,
                bench.progress,
                until,
            )
        except DeviceLost as error:
            bench.lose(bench.devices[0], error)
