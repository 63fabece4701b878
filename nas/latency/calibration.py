"""Carries sums of rows over to whole networks: the scale and the intercept that a few measured networks ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nas.latency.device_info import Calibration, DeviceInfo, Profiled
from nas.latency.networks import NetworkTime, read_networks, write_networks
from nas.latency.table import LatencyTable
from nas.space import Architecture

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


def recalibrated(table: LatencyTable, name: str, own: Sequence[NetworkTime], keep_check: bool = True) -> LatencyTable:
    """The table with scale and intercept fitted to networks: those of one space, and those of all it was made for.

    Writes `networks.csv`; `device.yaml` is left to the caller.

    Args:
        name: of the space.
        own: the space's networks, with the sums of their rows; they take the place of those that are stored.
        keep_check: whether the space's last check still counts.
    """
    assert table.path is not None
    here = (own[0].space, own[0].resolution)
    stored = read_networks(table.path)
    others = [net for net in stored if net.role == "calibration" and (net.space, net.resolution) != here]
    device = _fitted(table.device, name, others, own, keep_check)
    fitted = {(entry.space, entry.resolution): entry for entry in device.spaces}
    nets = []
    for net in [*others, *own]:
        entry = fitted.get((net.space, net.resolution))
        nets.append(net.predicted(entry.scale, entry.intercept_ms) if entry else net)
    write_networks(table.path, [*nets, *(net for net in stored if net.role != "calibration")])
    return replace(table, device=device)


def _fitted(
    device: DeviceInfo, name: str, others: Sequence[NetworkTime], own: Sequence[NetworkTime], keep_check: bool
) -> DeviceInfo:
    scale, intercept = calibrate([*others, *own])
    own_scale, own_intercept = calibrate(own)
    before = next((e for e in device.spaces if (e.space, e.resolution) == (own[0].space, own[0].resolution)), None)
    entry = Profiled(
        space=own[0].space, name=name, resolution=own[0].resolution, scale=round(own_scale, 5),
        intercept_ms=round(own_intercept, 6), nets=len(own), mape=_mape(own, own_scale, own_intercept),
        check=before.check if before and keep_check else None,
    )  # fmt: skip
    nets = [*others, *own]
    calibration = Calibration.model_validate(
        {"scale": round(scale, 5), "nets": len(nets), "mape": _mape(nets, scale, intercept)}
    )
    spaces = (*(each for each in device.spaces if each is not before), entry)
    return replace(device, calibration=calibration, intercept_ms=round(intercept, 6), spaces=spaces)


def _mape(nets: Sequence[NetworkTime], scale: float, intercept: float) -> float:
    return round(sum(abs(net.predicted(scale, intercept).error_percent) for net in nets) / len(nets), 3)
