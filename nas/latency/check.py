"""Calibrates a table on a few whole networks, and checks its predictions on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.devices.base import Device
from nas.errors import InputError
from nas.latency.device_info import Calibration, Check, DeviceInfo
from nas.latency.journal import check_settings, journal
from nas.latency.network_bench import measure_networks
from nas.latency.networks import (
    NetworkTime,
    Progress,
    check_members,
    read_networks,
    resolution_id,
    space_id,
    write_networks,
)  # fmt: skip
from nas.latency.table import DEVICE_FILE, LatencyTable
from nas.space import Architecture, Space

JOURNAL_FILE = "check-journal.jsonl"
NETWORK_ERROR, SCALE_ERROR, INTERCEPT_SHARE = 0.01, 0.005, 0.05
"""A network predicted 1 % off weighs as much as a scale 0.005 from 1, or an intercept of 5 % of the fastest network."""
Floats = NDArray[np.float64]


def calibrate(networks: Sequence[NetworkTime]) -> tuple[float, float]:
    """Scale and intercept (ms, at least 0) that carry sums of rows over to measured networks.

    Rows and networks were measured on one device: the scale is held near 1, and the intercept, what a network takes
    beside its operations, near 0. Large relative errors count linearly (soft L1), so that one network that something
    disturbed does not turn the line; being far from 1 and 0 costs ever less more (Cauchy), so that networks which agree
    on that get their way. Fewer than two networks give a scale alone.
    """
    from scipy.optimize import least_squares

    measured = np.array([network.measured_ms for network in networks])
    summed = np.array([network.sum_ms for network in networks])
    if len(networks) < 2:
        return float((measured / summed)[0]), 0.0
    overhead = INTERCEPT_SHARE * float(measured.min())

    def errors(line: Floats) -> Floats:
        off = np.log((line[1] + line[0] * summed) / measured) / NETWORK_ERROR
        held = np.array([(line[0] - 1) / SCALE_ERROR, line[1] / overhead])
        return np.concatenate([np.sign(off) * np.sqrt(2 * (np.hypot(1, off) - 1)), np.sqrt(np.log1p(held**2))])

    starts = [1.0, float(np.median(measured / summed))]
    found = [
        least_squares(errors, [start, overhead / 10], bounds=(0, np.inf), x_scale=[SCALE_ERROR, overhead])
        for start in starts
    ]
    scale, intercept = min(found, key=lambda each: each.cost).x
    return float(scale), float(intercept)


def sums(table: LatencyTable, networks: Mapping[Architecture, NetworkTime]) -> list[NetworkTime]:
    """The networks with the sum of their operations' rows. Raises MissingRows where a row is missing."""
    bare = replace(table, device=replace(table.device, intercept_ms=0.0, calibration=Calibration(), spaces=()))
    return [replace(network, sum_ms=round(bare.total_ms(member), 6)) for member, network in networks.items()]


def check(
    table: LatencyTable, space: Space, device: Device, nets: int = 20, seed: int = 0,
    progress: Progress = lambda *_: None,
) -> tuple[LatencyTable, list[NetworkTime]]:  # fmt: skip
    """Measures `nets` random members of `space` that no calibration used, and stores how well they were predicted.

    Raises:
        InputError: when the table lacks rows for them, was measured with other settings, or its path is not known.
    """
    if table.path is None:
        raise InputError("the table stands in no folder to keep its check in; save it first")
    members = check_members(space, nets, seed)
    for member in members:
        table.total_ms(member)
    info = device.info()
    check_settings(table.path / DEVICE_FILE, vars(table.device), info)
    with journal(table.path, JOURNAL_FILE, info) as book:
        known = [NetworkTime(**entry["network"]) for entry in book.entries]
        measured = measure_networks(device, space, members, "check", known, book, progress)
        own = table.calibrated(space.name, space.resolution).device
        times = [time.predicted(own.calibration.scale, own.intercept_ms) for time in sums(table, measured)]
        replaced = ("check", space_id(space), resolution_id(space))
        stored = read_networks(table.path)
        others = [net for net in stored if (net.role, net.space, net.resolution) != replaced]
        write_networks(table.path, [*others, *times])
        checked = replace(table, device=_checked(table.device, Check(**statistics(times)), times[0]))
        checked.device.save(table.path / DEVICE_FILE)
        book.remove()
    return checked, times


def _checked(device: DeviceInfo, found: Check, net: NetworkTime) -> DeviceInfo:
    """The device with this check as its last, and as that of its space."""
    spaces = tuple(
        entry.model_copy(update={"check": found})
        if (entry.space, entry.resolution) == (net.space, net.resolution) else entry
        for entry in device.spaces
    )  # fmt: skip
    return replace(device, check=found, spaces=spaces)


def statistics(times: Sequence[NetworkTime]) -> dict[str, Any]:
    """The fields of `nas.latency.device_info.Check`."""
    from scipy.stats import spearmanr

    errors = np.array([100 * (time.predicted_ms / time.measured_ms - 1) for time in times])
    ranks = None
    if len(times) > 2:
        ranks = float(spearmanr([time.predicted_ms for time in times], [time.measured_ms for time in times]).statistic)
    return {
        "nets": len(times),
        "mape": round(float(np.abs(errors).mean()), 3),
        "bias": round(float(errors.mean()), 3),
        "worst": round(float(np.abs(errors).max()), 3),
        "within_5": round(100 * float((np.abs(errors) <= 5).mean()), 1),
        "within_10": round(100 * float((np.abs(errors) <= 10).mean()), 1),
        "spearman": None if ranks is None or np.isnan(ranks) else round(ranks, 4),
        "date": date.today().isoformat(),
        "space": times[0].space,
        "resolution": times[0].resolution,
    }
