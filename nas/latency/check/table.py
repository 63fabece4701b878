"""Check a table's predictions on whole networks that its calibration never saw, for `nas check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np

from nas.devices.base import Device
from nas.devices.info import Check, DeviceInfo
from nas.errors import InputError
from nas.latency.calibration import recalibrated, sums
from nas.latency.network_times import (
    Line,
    NetworkTime,
    Progress,
    calibration_members,
    check_members,
    network_from,
    read_networks,
    resolution_id,
    space_id,
    write_networks,
)
from nas.latency.profile.journal import check_settings, journal
from nas.latency.profile.network_timing import drift, measure_networks
from nas.latency.profile.operation_timing import AGREE
from nas.latency.rows import UNSUPPORTED_FILE
from nas.latency.table import DEVICE_FILE, TABLE_FILE, LatencyTable, load_table
from nas.space import Architecture, Space

JOURNAL_FILE = "check-journal.jsonl"
_Networks = dict[Architecture, NetworkTime]


def check(
    table: LatencyTable,
    space: Space,
    device: Device,
    nets: int = 20,
    seed: int = 0,
    progress: Progress = lambda *_: None,
    beside: bool = True,
) -> tuple[LatencyTable, list[NetworkTime]]:
    """Measure `nets` random members of `space` that no calibration used, and store the errors.

    The networks of the calibration are measured too. Where they take longer than before, the device
    has become slower, not the table worse; that is reported as drift. On a device that repeats, a
    network that takes less was disturbed during the calibration. Its lower time calibrates the
    table from now on.

    Args:
        table: saved in a folder.
        space: of the networks.
        device: what measures.
        nets: number of networks, of which those are left out that the device cannot run.
        seed: of those networks.
        progress: is called before each network.
        beside: whether the calibration's networks are measured too; useless where a device answers
            from a record.

    Returns:
        The table with its check, and the networks as predicted and measured.

    Raises:
        InputError: when the table lacks rows for them, was measured with other settings, or has no
            folder.
    """
    folder = table.path
    if folder is None:
        raise InputError(
            "table: has no folder to save its check in. Fix: table.save(FOLDER), then"
            " nas.load_table(FOLDER)"
        )
    members = check_members(space, nets, seed)
    if not members:
        raise InputError(
            f"{space_id(space)}: every member calibrates the table (got 0 networks to check,"
            " expected 1 or more). Fix: --space with a space of more members"
        )
    # A network with an operation that the device cannot run does not exist there. Any other missing
    # row is an error, before anything is measured.
    members = [member for member in members if can_run(table, member)]
    if not members:
        raise InputError(
            f"{folder / UNSUPPORTED_FILE}: has an operation of every network to check. Fix: nas"
            " profile --retry where the reasons in it have passed, or --nets with more networks"
        )
    for member in members:
        table.total_ms(member)
    info = device.info()
    check_settings(folder / DEVICE_FILE, vars(table.device), info)
    with journal(folder, JOURNAL_FILE, info) as book:
        # Another command may have added to the table since it was loaded. Under the lock none can.
        if (folder / TABLE_FILE).is_file():
            table = load_table(folder / TABLE_FILE)
        known = [network_from(entry["network"]) for entry in book.entries]
        calibration = _calibration(space, read_networks(folder)) if beside else {}
        anchors = {member: net.measured_ms for member, net in calibration.items()}
        measured = measure_networks(
            device, space, members, "check", known, book, progress, anchors=anchors
        )
        again = {member: measured.pop(member) for member in calibration}
        if device.repeats > 1 and again:
            table, calibration = _mended(table, space, calibration, again)
        # Drift is relative to the calibration that counts from now on, so it is computed after
        # `_mended`.
        slower = drift({member: net.measured_ms for member, net in calibration.items()}, again)
        own = table.calibrated(space.name, space.resolution).device
        line = Line(
            own.calibration.scale,
            own.intercept_ms,
            own.calibration.weights_ms,
            own.calibration.weights_from,
        )
        times = [time.predicted(line) for time in sums(table, measured)]
        # This check replaces the earlier one of the space at this input size.
        replaced = ("check", space_id(space), resolution_id(space))
        others = [
            net
            for net in read_networks(folder)
            if (net.role, net.space, net.resolution) != replaced
        ]
        write_networks(folder, [*others, *times])
        checked = replace(
            table, device=_checked(table.device, Check(**statistics(times, slower)), times[0])
        )
        checked.device.save(folder / DEVICE_FILE)
        book.remove()
    return checked, times


def can_run(table: LatencyTable, member: Architecture) -> bool:
    """Return whether no operation of the network is known to fail on the table's device."""
    return not any(operation.key in table.unsupported for operation in member.operations())


def _calibration(space: Space, stored: Sequence[NetworkTime]) -> _Networks:
    """Return the stored calibration networks of this space at its input size."""
    here = ("calibration", space_id(space), resolution_id(space))
    nets = {net.network: net for net in stored if (net.role, net.space, net.resolution) == here}
    return {
        member: nets[member.name] for member in calibration_members(space) if member.name in nets
    }


def _mended(
    table: LatencyTable, space: Space, calibration: _Networks, again: _Networks
) -> tuple[LatencyTable, _Networks]:
    """Return table and calibration with each network at its lowest time, if one takes less now.

    Other load makes runs slower, never faster, so that the lower of two times is the better one.
    Differences up to AGREE are noise and change nothing.
    """
    if all(
        again[member].measured_ms >= (1 - AGREE) * net.measured_ms
        for member, net in calibration.items()
    ):
        return table, calibration
    lowest = {
        member: replace(net, measured_ms=min(net.measured_ms, again[member].measured_ms))
        for member, net in calibration.items()
    }
    mended = recalibrated(table, space.name, sums(table, lowest))
    # `recalibrated` puts the space last; a check leaves the order of the file as it is.
    places = [(entry.space, entry.resolution) for entry in table.device.spaces]
    spaces = sorted(
        mended.device.spaces, key=lambda entry: places.index((entry.space, entry.resolution))
    )
    return replace(mended, device=replace(mended.device, spaces=tuple(spaces))), lowest


def _checked(device: DeviceInfo, latest: Check, net: NetworkTime) -> DeviceInfo:
    """Return the device with this check as its last one, and as the one of its space."""
    spaces = tuple(
        (
            entry.model_copy(update={"check": latest})
            if (entry.space, entry.resolution) == (net.space, net.resolution)
            else entry
        )
        for entry in device.spaces
    )
    return replace(device, check=latest, spaces=spaces)


def statistics(times: Sequence[NetworkTime], slower: float | None = None) -> dict[str, Any]:
    """Return the fields of `nas.devices.info.Check` for these networks.

    Args:
        times: the networks as predicted and measured; at least one.
        slower: relative drift of the device since the calibration; None where it is not known.
    """
    from scipy.stats import spearmanr

    ratios = np.array([time.predicted_ms / time.measured_ms for time in times])
    errors = 100 * (ratios - 1)
    # Two networks always have a rank correlation of 1 or -1.
    ranks = None
    if len(times) > 2:
        ranks = float(
            spearmanr(
                [time.predicted_ms for time in times], [time.measured_ms for time in times]
            ).statistic
        )
    return {
        "nets": len(times),
        "mape": round(float(np.abs(errors).mean()), 3),
        "bias": round(float(errors.mean()), 3),
        "worst": round(float(np.abs(errors).max()), 3),
        "within_5": round(100 * float((np.abs(errors) <= 5).mean()), 1),
        "within_10": round(100 * float((np.abs(errors) <= 10).mean()), 1),
        "spearman": None if ranks is None or np.isnan(ranks) else round(ranks, 4),
        "date": date.today().isoformat(),
        # Without drift the measured latency would be smaller by the factor 1 + slower.
        **(
            {}
            if slower is None
            else {
                "drift": round(100 * slower, 2),
                "mape_without_drift": round(
                    100 * float(np.abs(ratios * (1 + slower) - 1).mean()), 3
                ),
            }
        ),
        "space": times[0].space,
        "resolution": times[0].resolution,
    }
