"""Interpolate rows between measured widths, for `run` (to complete a table) and `acquisition`.

A group of operations that differ in their widths alone shares one roofline trend. A Gaussian
process over the logarithms of the widths smooths what the trend leaves over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from nas.blocks import Layer, Operation
from nas.latency.profile.width_groups import groups, widths
from nas.latency.rows import Key, Row

LENGTH = 0.5
"""Length scale of the Gaussian process, in natural logarithms of widths (a ratio of 1.65)."""
NOISE = 0.02
"""Relative standard deviation of one measured row."""
UNKNOWN = 0.1
"""Prior relative standard deviation of rows about the trend; it weighs as much as one row."""
FLOOR_MS = 1e-3
"""Lower bound in ms of the latency that relative errors are divided by: one microsecond."""

TILES = (1, 8, 16, 32)
"""Candidates for the output channels that a kernel computes at once (SIMD width times registers).

XNNPACK with AVX-512 has 32. A width that fills its last tile in part costs as much as one that
fills it.
"""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interpolated:
    """Predicted latencies of some operations and their standard errors, both in ms."""

    ms: Array
    error_ms: Array


def interpolate(
    measured: Sequence[Operation], ms: Sequence[float], wanted: Sequence[Operation], tile: int = 1
) -> Interpolated:
    """Predict the `wanted` operations of a group from at least two `measured` ones.

    The trend is t = a + b MACs + c (elements read and written) + d parameters, with coefficients of
    at least 0. Non-negative least squares fit them to relative errors. MACs are counted with the
    output channels of every layer rounded up to a multiple of `tile`. The ratio of measured to
    trend is smoothed over the logarithms of the widths by a Gaussian process with a
    squared-exponential kernel. The standard error is the process's own.
    """
    times = np.array(ms, dtype=np.float64)
    trend, asked_trend = _trends(measured, times, wanted, tile)
    # The process models the relative residual: latencies of a group span orders of magnitude.
    residual = (times - trend) / np.maximum(trend, FLOOR_MS)
    # The signal variance is the mean squared residual. The floor keeps a trend that fits a few
    # rows exactly from claiming an error of 0.
    variance = max(float(np.mean(residual**2)), NOISE**2)
    mean, spread = _smooth(_coordinates(measured), residual, _coordinates(wanted), variance)
    # The predicted value is a row, so the noise of measuring one is part of its error.
    deviation = np.sqrt(spread + NOISE**2)
    # From relative back to ms: t = trend (1 + residual), at least 0.
    scale = np.maximum(asked_trend, FLOOR_MS)
    return Interpolated(np.maximum(asked_trend + scale * mean, 0.0), scale * deviation)


def leave_one_out(measured: Sequence[Operation], ms: Sequence[float], tile: int = 1) -> Array:
    """Return each measured operation's ms as predicted from the others of its group.

    The group needs at least three of them, as `interpolate` needs two.
    """
    indices = range(len(measured))
    return np.array(
        [
            interpolate(
                [measured[j] for j in indices if j != i],
                [ms[j] for j in indices if j != i],
                [measured[i]],
                tile,
            ).ms[0]
            for i in indices
        ]
    )


def reducible_error(
    measured: Sequence[Operation],
    ms: Sequence[float],
    pending: Sequence[Operation],
    wanted: Sequence[Operation],
) -> Array:
    """Return the part of the `wanted` operations' standard error that measuring removes, in ms.

    `pending` operations count as measured, since only their widths matter. The distance of measured
    rows from the trend is estimated by leaving each out, with the tile that fits best.
    """
    times = np.array(ms, dtype=np.float64)
    scale = np.maximum(times, FLOOR_MS)
    errors = {tile: UNKNOWN for tile in TILES}
    if len(times) > 2:
        # The prior counts as one more row: two or three rows that happen to lie on the trend
        # would end the measurement of a group too early.
        for tile in TILES:
            squares = ((leave_one_out(measured, ms, tile) - times) / scale) ** 2
            errors[tile] = float(np.sqrt((UNKNOWN**2 + squares.sum()) / (1 + len(squares))))
    # The smaller tile wins a tie.
    tile = min(TILES, key=lambda tile: (errors[tile], tile))
    _, trend = _trends(measured, times, wanted, tile)
    variance = max(errors[tile], NOISE / 3) ** 2
    # The variance of a Gaussian process depends on where it was measured, not on the values
    # there. So zeros stand for the values, and pending operations count already.
    places = _coordinates([*measured, *pending])
    _, spread = _smooth(places, np.zeros(len(places)), _coordinates(wanted), variance)
    # Without NOISE^2 of `interpolate`: no measurement removes the noise of a row.
    reducible: Array = np.maximum(trend, FLOOR_MS) * np.sqrt(spread)
    return reducible


def _trends(
    measured: Sequence[Operation], times: Array, wanted: Sequence[Operation], tile: int
) -> tuple[Array, Array]:
    """Return the trend's ms of the measured and of the wanted operations."""
    # Both sides of the fit are divided by the latency, so that it minimises squared relative
    # errors.
    weights = 1 / np.maximum(times, FLOOR_MS)
    known = _features(measured, tile)
    asked = _features(wanted, tile)
    coefficients = _non_negative(known * weights[:, None], times * weights)
    return known @ coefficients, asked @ coefficients


def _features(operations: Sequence[Operation], tile: int) -> Array:
    """Return one row of regressors per operation: 1, MACs, elements moved, parameters."""
    rows = []
    for operation in operations:
        layers = operation.spec.deployed_layers(operation.input)
        macs = sum(padded_macs(layer, tile) for layer in layers)
        moved = sum(layer.read + layer.written for layer in layers)
        rows.append([1.0, macs, moved, sum(layer.params for layer in layers)])
    return np.array(rows, dtype=np.float64)


def padded_macs(layer: Layer, tile: int) -> float:
    """Return the layer's MACs with its output channels rounded up to whole tiles.

    A layer without weights, such as a product of attention, keeps its MACs.
    """
    if not layer.macs or not layer.params:
        return layer.macs
    # A layer knows neither its positions nor its channels; both follow from its counts. Every
    # weight is used once per output position: MACs = weights x positions. Biases are parameters
    # without MACs; one is added per element written, so that adding these evens both sides out.
    biased = layer.macs % layer.params != 0
    positions = (layer.macs + layer.written * biased) / layer.params
    channels = round(layer.written / positions)
    # -(-a // b) rounds up.
    return layer.macs * -(-channels // tile) * tile / channels


def _coordinates(operations: Sequence[Operation]) -> Array:
    """Return the logarithms of the operations' widths, (operations, widths)."""
    return np.log(np.array([widths(operation) for operation in operations], dtype=np.float64))


def _non_negative(a: Array, b: Array) -> Array:
    """Return x >= 0 that minimises |a x - b|."""
    from scipy.optimize import nnls

    # The columns are scaled to length 1, which conditions the problem: the constant's entries are 1
    # where those of MACs are about 10^8.
    norms = np.maximum(np.linalg.norm(a, axis=0), 1e-30)
    solution: Array = nnls(a / norms, b)[0] / norms
    return solution


def _smooth(
    known: Array, values: Array, asked: Array, variance: float, noise: float = NOISE
) -> tuple[Array, Array]:
    """Return mean and variance at `asked` of a zero-mean Gaussian process observed at `known`.

    Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), equations 2.25 and
    2.26: mean = k* (K + noise^2 I)^-1 y, variance = k** - k* (K + noise^2 I)^-1 k*^T.

    Args:
        variance: of the process before any observation.
        noise: standard deviation of an observation.
    """
    covariance = _kernel(known, known) * variance + noise**2 * np.eye(len(known))
    cross = _kernel(asked, known) * variance  # (asked, known)
    # One factorisation serves both equations: column 0 solves for y, the others for k*^T.
    solved = np.linalg.solve(covariance, np.column_stack([values[:, None], cross.T]))
    # Rounding can leave a tiny negative variance where a point was measured itself.
    spread: Array = np.maximum(variance - np.einsum("ij,ji->i", cross, solved[:, 1:]), 0.0)
    return cross @ solved[:, 0], spread


def _kernel(a: Array, b: Array) -> Array:
    """Return the squared-exponential kernel of variance 1, (len(a), len(b))."""
    squared: Array = ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2)
    kernel: Array = np.exp(-squared / (2 * LENGTH**2))
    return kernel


LEAST = 2
"""Number of measured operations that a group needs before others are interpolated."""


def fill(
    operations: Iterable[Operation], measured: Mapping[Key, Row], failed: Iterable[Key] = ()
) -> tuple[dict[Key, Row], float]:
    """Return interpolated rows for the operations that have no measured one and did not fail.

    The tile of `interpolate` is the one that predicts the measured rows best when each is left out
    in turn.

    Args:
        operations: those of the space.
        measured: measured rows by key.
        failed: operations that the device cannot run; they stay without a row.

    Returns:
        The rows by key, and the leave-one-out error of the measured rows in percent, weighted by
        latency.
    """
    parts = []
    skipped = set(failed)
    for group in groups(operations):
        known = [operation for operation in group.operations if operation.key in measured]
        wanted = [op for op in group.operations if op.key not in measured and op.key not in skipped]
        if wanted and len(known) >= LEAST:
            parts.append(
                (known, [measured[operation.key].median_ms for operation in known], wanted)
            )
    # One tile serves the whole table: it is a property of the device's kernels, not of a group.
    errors = {tile: _error(parts, tile) for tile in TILES}
    tile = min(TILES, key=lambda tile: (errors[tile], tile))
    rows: dict[Key, Row] = {}
    for known, times, wanted in parts:
        rows |= _rows(known, times, wanted, tile)
    return rows, errors[tile]


def _error(
    parts: Iterable[tuple[Sequence[Operation], Sequence[float], object]], tile: int
) -> float:
    """Return the leave-one-out error of all groups in percent of their latency."""
    errors = total = 0.0
    for known, times, _ in parts:
        # With only LEAST rows, leaving one out leaves too few to interpolate from.
        if len(known) > LEAST:
            errors += float(np.abs(leave_one_out(known, times, tile) - times).sum())
            total += sum(times)
    return 100 * errors / total if total else 0.0


def _rows(
    known: Sequence[Operation], times: Sequence[float], wanted: Sequence[Operation], tile: int
) -> dict[Key, Row]:
    """Return the interpolated rows of a group by key.

    Their p10 and p90 are those of the predicted median, whose error is taken as normal.
    """
    predicted = interpolate(known, times, wanted, tile)
    rows = {}
    for operation, ms, error in zip(
        wanted, predicted.ms.tolist(), predicted.error_ms.tolist(), strict=True
    ):
        # 1.2816 standard deviations reach the 90th percentile of a normal distribution.
        p10 = max(ms - 1.2816 * error, 0.0)
        p90 = ms + 1.2816 * error
        rows[operation.key] = Row(
            *operation.key,
            str(operation.output),
            round(ms, 7),
            round(min(p10, ms), 7),
            round(p90, 7),
            runs=0,
            provenance="interpolated",
            date=date.today().isoformat(),
        )
    return rows
