"""Fit scale, intercept and weights that turn sums of rows into latencies of whole networks.

`profile` and `check` call `recalibrated`, `nas.latency.adjust` uses `sums`. A network's latency is
intercept + scale * (sum of its rows) + weights * (its parameters beyond the smallest network's).
"""

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
"""Deviations that weigh alike in the fit.

These are a network predicted 1 % off, a scale 0.005 from 1, an intercept of 5 % of the fastest
network, and weights of the median network that take 2 % of the fastest one.
"""
SCALES = 0.2, 5.0
"""Range of a plausible scale; a scale beyond it means another unit, device or precision."""
MISFIT = 15.0
"""Maximum error in percent of a calibration's networks; above it the calibration gets a note."""
Floats = NDArray[np.float64]


def calibrate(networks: Sequence[NetworkTime]) -> Line:
    """Return the line that turns sums of rows into the latencies of measured networks.

    An operation is measured in a loop, with its weights in a cache. Where a network's weights do
    not fit there, it takes longer than its rows. The difference grows with its parameters, and is
    largest where there is little arithmetic per parameter (`experiments/worth`). Parameters beyond
    those of the smallest network count.

    Rows and networks were measured on one device. So the scale is held near 1, and intercept and
    weights near 0. Large relative errors count linearly (soft L1), so that one disturbed network
    does not turn the line. The penalty for being far from 1 and 0 flattens out (Cauchy), so that
    networks which agree on such a line get it.

    Fewer than two networks give a scale alone. Networks of unknown parameters, or of equal ones,
    give no weights.

    Args:
        networks: with `measured_ms`, `sum_ms` and `params`; at least one.
    """
    from scipy.optimize import least_squares

    measured = np.array([network.measured_ms for network in networks])
    summed = np.array([network.sum_ms for network in networks])
    if len(networks) < 2:
        return Line(float((measured / summed)[0]))
    millions = np.array([network.params for network in networks]) / 1e6
    least = float(millions.min())
    # Files of older versions have no parameters: 0 means unknown.
    known = 0 < least < millions.max()
    fastest = float(measured.min())
    median = float(np.median(millions)) if known else 1.0
    # The unit of each coefficient: a deviation of one unit weighs as much as a network that is
    # NETWORK_ERROR off.
    one = np.array([SCALE_ERROR, INTERCEPT_SHARE * fastest, WEIGHTS_SHARE * fastest / median])

    # `least_squares` minimises the sum of squares and takes one loss for all residuals. These are
    # the roots of two losses: soft L1, 2 (sqrt(1 + z^2) - 1), for the networks, and Cauchy,
    # log(1 + z^2), for the distance of the line from (1, 0, 0).
    def errors(line: Floats) -> Floats:
        predicted = line[1] + line[0] * summed + line[2] * (millions - least)
        off = np.log(predicted / measured) / NETWORK_ERROR
        held = (line - [1, 0, 0]) / one
        return np.concatenate(
            [np.sign(off) * np.sqrt(2 * (np.hypot(1, off) - 1)), np.sqrt(np.log1p(held**2))]
        )

    # The Cauchy penalty is not convex: near (1, 0, 0) the fit may rest in a local minimum. It is
    # run from several starts, and the lowest cost wins.
    scales = (1.0, float(np.median(measured / summed)))
    weights = (0.1, 10.0) if known else (0.0,)
    starts = [[scale, one[1] / 10, weight * one[2]] for scale in scales for weight in weights]
    fits = [least_squares(errors, start, bounds=(0, np.inf), x_scale=one) for start in starts]
    scale, call_ms, weights_ms = map(float, min(fits, key=lambda each: each.cost).x)
    return Line(scale, call_ms, weights_ms, least) if known else Line(scale, call_ms)


def follow(networks: Sequence[NetworkTime]) -> tuple[Line, str]:
    """Return the line of `calibrate`, or a simpler one where its scale is implausible, and a note.

    Tiny networks on a fast device take little more than a call. Then the fit can put the scale at
    0, which predicts one latency for every network. Rows and networks are of one device, so two
    simpler lines are tried: a scale of 1 with an intercept, and a scale alone. The one with the
    smaller misfit is returned.

    Returns:
        The line, and a note on what does not follow it; empty where all networks do.
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
    # Medians, as one disturbed network must not decide the only coefficient that is left.
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
    """Return the networks with their parameters and the sum of their rows in ms.

    Raises:
        MissingRows: when the table lacks a row of one of them.
    """
    # With scale 1, intercept 0 and no spaces, `total_ms` is the plain sum of rows.
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
    """Return the table with a new calibration.

    The space gets a line fitted to its own networks; the table's line is fitted to those of all
    spaces. Writes `networks.csv`; the caller writes `device.yaml`.

    Args:
        table: with a folder.
        name: of the space.
        own: the space's networks, with the sums of their rows; they replace the stored ones.
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
    # Each network is predicted by the line of its own space, as `LatencyTable.predict` does.
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
    """Return the mean absolute percentage error of these networks under a line."""
    return round(sum(abs(net.predicted(line).error_percent) for net in nets) / len(nets), 3)
