"""Checks a table's predictions on whole networks that its calibration never saw."""

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
    read_networks,
    resolution_id,
    space_id,
    write_networks,
)
from nas.latency.profile.journal import check_settings, journal
from nas.latency.profile.network_timing import drift, measure_networks
from nas.latency.profile.operation_timing import AGREE
from nas.latency.table import DEVICE_FILE, LatencyTable
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
    """Measure `nets` random members of `space` that no calibration used, and stores how well they
    were predicted.

    The networks of the calibration are measured beside them. What they take longer than they did
    then is the device, not the table, and is reported as its drift. On a device that repeats, one
    that takes less was disturbed then: the lower time calibrates the table from now on.

    Args:
        beside: whether the calibration's networks are measured too; in vain where a device answers
            from a record.

    Raises:
        InputError: when the table lacks rows for them, was measured with other settings, or its
            path is not known.
    """
    folder = table.path
    if folder is None:
        raise InputError("the table stands in no folder to keep its check in; save it first")
    members = check_members(space, nets, seed)
    for member in members:
        table.total_ms(member)
    info = device.info()
    check_settings(folder / DEVICE_FILE, vars(table.device), info)
    with journal(folder, JOURNAL_FILE, info) as book:
        known = [NetworkTime(**entry["network"]) for entry in book.entries]
        calibration = _calibration(space, read_networks(folder)) if beside else {}
        anchors = {member: net.measured_ms for member, net in calibration.items()}
        measured = measure_networks(
            device, space, members, "check", known, book, progress, anchors=anchors
        )
        again = {member: measured.pop(member) for member in calibration}
        if device.repeats > 1 and again:
            table, calibration = _mended(table, space, calibration, again)
        slower = drift({member: net.measured_ms for member, net in calibration.items()}, again)
        own = table.calibrated(space.name, space.resolution).device
        line = Line(
            own.calibration.scale,
            own.intercept_ms,
            own.calibration.weights_ms,
            own.calibration.weights_from,
        )
        times = [time.predicted(line) for time in sums(table, measured)]
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


def _calibration(space: Space, stored: Sequence[NetworkTime]) -> _Networks:
    """Return the networks that the table was calibrated on for this space."""
    here = ("calibration", space_id(space), resolution_id(space))
    nets = {net.network: net for net in stored if (net.role, net.space, net.resolution) == here}
    return {
        member: nets[member.name] for member in calibration_members(space) if member.name in nets
    }


def _mended(
    table: LatencyTable, space: Space, calibration: _Networks, again: _Networks
) -> tuple[LatencyTable, _Networks]:
    """Return the table with its calibration's networks at their lowest times, where one of them
    takes less now.

    What else a machine does makes runs slower, never faster.
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
    places = [(entry.space, entry.resolution) for entry in table.device.spaces]
    spaces = sorted(
        mended.device.spaces, key=lambda entry: places.index((entry.space, entry.resolution))
    )
    return replace(mended, device=replace(mended.device, spaces=tuple(spaces))), lowest


def _checked(device: DeviceInfo, found: Check, net: NetworkTime) -> DeviceInfo:
    """Return the device with this check as its last, and as that of its space."""
    spaces = tuple(
        (
            entry.model_copy(update={"check": found})
            if (entry.space, entry.resolution) == (net.space, net.resolution)
            else entry
        )
        for entry in device.spaces
    )
    return replace(device, check=found, spaces=spaces)


def statistics(times: Sequence[NetworkTime], slower: float | None = None) -> dict[str, Any]:
    """Return the fields of `nas.devices.info.Check`. `slower` is the device's drift since the
    calibration."""
    from scipy.stats import spearmanr

    ratios = np.array([time.predicted_ms / time.measured_ms for time in times])
    errors = 100 * (ratios - 1)
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
