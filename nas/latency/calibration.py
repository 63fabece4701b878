"""Carries sums of rows over to whole networks: scale, intercept and weights that a few measured
networks ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nas.devices.info import Calibration, DeviceInfo, Profiled
from nas.latency.network_times import Line, NetworkTime, read_networks, write_networks
from nas.latency.table import LatencyTable
from nas.space import Architecture

NETWORK_ERROR, SCALE_ERROR, INTERCEPT_SHARE, WEIGHTS_SHARE = 0.01, 0.005, 0.05, 0.02
"""A network predicted 1 % off weighs as much as a scale 0.005 from 1, an intercept of 5 % of the
fastest network, or weights of the median network that cost 2 % of the fastest one."""
SCALES = 0.2, 5.0
"""A scale beyond these does not carry rows over to networks: it stands for another unit, device or
precision."""
MISFIT = 15.0
"""The error in percent that the networks of a calibration may have. Above it, the table is noted as
not following."""
Floats = NDArray[np.float64]


def calibrate(networks: Sequence[NetworkTime]) -> Line:
    """Return what carries sums of rows over to measured networks.

    A row is measured over and over, with its weights in a cache; where a network's do not fit
    there, it takes longer than its rows by a time that grows with its parameters and shows where
    there is little arithmetic beside them (`experiments/worth`). Counted are parameters beyond
    those of the smallest network.

    Rows and networks were measured on one device: the scale is held near 1, and what a network
    takes beside its operations near 0. Large relative errors count linearly (soft L1), so that one
    network that something disturbed does not turn the line; being far from 1 and 0 costs ever less
    more (Cauchy), so that networks which agree on that get their way. Fewer than two networks give
    a scale alone, and networks of unknown parameters no weights.
    """
    from scipy.optimize import least_squares

    measured = np.array([network.measured_ms for network in networks])
    summed = np.array([network.sum_ms for network in networks])
    if len(networks) < 2:
        return Line(float((measured / summed)[0]))
    millions = np.array([network.params for network in networks]) / 1e6
    least = float(millions.min())
    known = 0 < least < millions.max()
    fastest = float(measured.min())
    median = float(np.median(millions)) if known else 1.0
    one = np.array([SCALE_ERROR, INTERCEPT_SHARE * fastest, WEIGHTS_SHARE * fastest / median])

    def errors(line: Floats) -> Floats:
        predicted = line[1] + line[0] * summed + line[2] * (millions - least)
        off = np.log(predicted / measured) / NETWORK_ERROR
        held = (line - [1, 0, 0]) / one
        return np.concatenate(
            [np.sign(off) * np.sqrt(2 * (np.hypot(1, off) - 1)), np.sqrt(np.log1p(held**2))]
        )

    scales = (1.0, float(np.median(measured / summed)))
    weights = (0.1, 10.0) if known else (0.0,)
    starts = [[scale, one[1] / 10, weight * one[2]] for scale in scales for weight in weights]
    fits = [least_squares(errors, start, bounds=(0, np.inf), x_scale=one) for start in starts]
    scale, call_ms, weights_ms = map(float, min(fits, key=lambda each: each.cost).x)
    return Line(scale, call_ms, weights_ms, least) if known else Line(scale, call_ms)


def follow(networks: Sequence[NetworkTime]) -> tuple[Line, str]:
    """Return the line of `calibrate`, or a simpler one where that does not follow the networks, and
    then a note.

    Where a call takes far more than the operations (tiny networks on a fast device), the fit can
    put the scale at 0: every network would be predicted alike. Rows and networks are of one device,
    so a scale of 1 with an intercept, and a scale alone, are tried in its place. The one with the
    smaller misfit is taken.
    """
    line = _rounded(calibrate(networks))
    low, high = SCALES
    if low <= line.scale <= high:
        misfit = mape(networks, line)
        note = (
            f"networks do not follow the sums of rows: they are off by {misfit:.0f} %"
            if misfit > MISFIT
            else ""
        )
        return line, note
    call_ms = float(np.median([network.measured_ms - network.sum_ms for network in networks]))
    ratio = float(np.median([network.measured_ms / network.sum_ms for network in networks]))
    simpler = [Line(1.0, max(call_ms, 0.0)), Line(min(max(ratio, low), high))]
    best = min((_rounded(each) for each in simpler), key=lambda each: mape(networks, each))
    return (
        best,
        (
            "networks do not follow the sums of rows: a fit of scale and intercept gives a scale of"
            f" {line.scale:.3g} (expected {low:g} to {high:g}), so that the"
            f" {'call' if best.intercept_ms else 'scale'} alone was fitted"
        ),
    )


def sums(table: LatencyTable, networks: Mapping[Architecture, NetworkTime]) -> list[NetworkTime]:
    """Return the networks with their parameters and the sum of their rows. Raises MissingRows where
    a row is missing."""
    bare = replace(
        table, device=replace(table.device, intercept_ms=0.0, calibration=Calibration(), spaces=())
    )
    return [
        replace(network, sum_ms=round(bare.total_ms(member), 6), params=member.params)
        for member, network in networks.items()
    ]


def recalibrated(
    table: LatencyTable, name: str, own: Sequence[NetworkTime], keep_check: bool = True
) -> LatencyTable:
    """Return the table with a calibration fitted to networks: those of one space, and those of all
    it was made for.

    Writes `networks.csv`; `device.yaml` is left to the caller.

    Args:
        name: of the space.
        own: the space's networks, with the sums of their rows; they take the place of those that
            are stored.
        keep_check: whether the space's last check still counts.
    """
    assert table.path is not None
    here = (own[0].space, own[0].resolution)
    stored = read_networks(table.path)
    others = [
        net for net in stored if net.role == "calibration" and (net.space, net.resolution) != here
    ]
    device = _fitted(table.device, name, others, own, keep_check)
    fitted = {(entry.space, entry.resolution): entry for entry in device.spaces}
    nets = []
    for net in [*others, *own]:
        entry = fitted.get((net.space, net.resolution))
        nets.append(net.predicted(_line(entry)) if entry else net)
    write_networks(table.path, [*nets, *(net for net in stored if net.role != "calibration")])
    return replace(table, device=device)


def _fitted(
    device: DeviceInfo,
    name: str,
    others: Sequence[NetworkTime],
    own: Sequence[NetworkTime],
    keep_check: bool,
) -> DeviceInfo:
    nets = [*others, *own]
    line, note = follow(nets)
    own_line, own_note = follow(own)
    before = next(
        (e for e in device.spaces if (e.space, e.resolution) == (own[0].space, own[0].resolution)),
        None,
    )
    entry = Profiled(
        space=own[0].space,
        name=name,
        resolution=own[0].resolution,
        **own_line._asdict(),
        nets=len(own),
        mape=mape(own, own_line),
        note=own_note,
        check=before.check if before and keep_check else None,
    )
    calibration = Calibration(
        scale=line.scale,
        weights_ms=line.weights_ms,
        weights_from=line.weights_from,
        nets=len(nets),
        mape=mape(nets, line),
        note=note,
    )
    spaces = (*(each for each in device.spaces if each is not before), entry)
    return replace(device, calibration=calibration, intercept_ms=line.intercept_ms, spaces=spaces)


def _rounded(line: Line) -> Line:
    return Line(round(line.scale, 5), *(round(value, 6) for value in line[1:]))


def _line(entry: Profiled) -> Line:
    return Line(entry.scale, entry.intercept_ms, entry.weights_ms, entry.weights_from)


def mape(nets: Sequence[NetworkTime], line: Line) -> float:
    """Return the mean absolute error of these networks in percent."""
    return round(sum(abs(net.predicted(line).error_percent) for net in nets) / len(nets), 3)
