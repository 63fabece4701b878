"""Interpolation over widths: log-log along a group of operations that differ in widths alone, and
completing a table by it."""

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
"""Over which ratio of widths (natural logarithm) what the trend leaves over stays alike."""
NOISE = 0.02
"""Relative standard deviation of one measured row."""
UNKNOWN = 0.1
"""Relative standard deviation of rows about the trend that is believed before any is measured;
counts as one row."""
FLOOR_MS = 1e-3
"""Below a microsecond, errors count against a microsecond."""

TILES = (1, 8, 16, 32)
"""Output channels that a kernel computes at once: SIMD width times registers, 32 in XNNPACK with
AVX-512. A width that fills its last tile in part costs as much as one that fills it."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interpolated:
    """Predicted milliseconds of some operations, and the standard error of each in ms."""

    ms: Array
    error_ms: Array


def interpolate(
    measured: Sequence[Operation], ms: Sequence[float], wanted: Sequence[Operation], tile: int = 1
) -> Interpolated:
    """Predict the `wanted` operations of a group from at least two `measured` ones.

    The trend is t = a + b MACs + c (elements read and written) + d parameters, all coefficients at
    least 0, fitted to relative errors (non-negative least squares). MACs are counted with the
    output channels of every layer rounded up to a multiple of `tile`. The ratio of measured to
    trend is smoothed over the logarithms of the widths by a Gaussian process with a
    squared-exponential kernel. The standard error is the process's own.
    """
    times = np.array(ms, dtype=np.float64)
    trend, asked_trend = _trends(measured, times, wanted, tile)
    residual = (times - trend) / np.maximum(trend, FLOOR_MS)
    variance = max(float(np.mean(residual**2)), NOISE**2)
    mean, spread = _smooth(_coordinates(measured), residual, _coordinates(wanted), variance)
    deviation = np.sqrt(spread + NOISE**2)
    scale = np.maximum(asked_trend, FLOOR_MS)
    return Interpolated(np.maximum(asked_trend + scale * mean, 0.0), scale * deviation)


def leave_one_out(measured: Sequence[Operation], ms: Sequence[float], tile: int = 1) -> Array:
    """Return each measured operation as predicted from the others of its group (at least three in
    all), in ms."""
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
    """Return how much of the `wanted` operations' standard error, in ms, more measurements in their
    group would take away.

    `pending` operations count as measured where their values do not matter. How far measured rows
    lie from the trend is judged by leaving each out, with the tile that this suits best.
    """
    times = np.array(ms, dtype=np.float64)
    scale = np.maximum(times, FLOOR_MS)
    errors = {tile: UNKNOWN for tile in TILES}
    if len(times) > 2:
        for tile in TILES:
            squares = ((leave_one_out(measured, ms, tile) - times) / scale) ** 2
            errors[tile] = float(np.sqrt((UNKNOWN**2 + squares.sum()) / (1 + len(squares))))
    tile = min(TILES, key=lambda tile: (errors[tile], tile))
    _, trend = _trends(measured, times, wanted, tile)
    variance = max(errors[tile], NOISE / 3) ** 2
    places = _coordinates([*measured, *pending])
    _, spread = _smooth(places, np.zeros(len(places)), _coordinates(wanted), variance)
    reducible: Array = np.maximum(trend, FLOOR_MS) * np.sqrt(spread)
    return reducible


def _trends(
    measured: Sequence[Operation], times: Array, wanted: Sequence[Operation], tile: int
) -> tuple[Array, Array]:
    """Return the roofline's ms of the measured and of the wanted operations."""
    weights = 1 / np.maximum(times, FLOOR_MS)
    known = _features(measured, tile)
    asked = _features(wanted, tile)
    coefficients = _non_negative(known * weights[:, None], times * weights)
    return known @ coefficients, asked @ coefficients


def _features(operations: Sequence[Operation], tile: int) -> Array:
    rows = []
    for operation in operations:
        layers = operation.spec.layers(operation.input)
        macs = sum(padded_macs(layer, tile) for layer in layers)
        rows.append(
            [1.0, macs, sum(layer.read + layer.written for layer in layers), operation.params]
        )
    return np.array(rows, dtype=np.float64)


def padded_macs(layer: Layer, tile: int) -> float:
    """Return the layer's MACs with its output channels rounded up to whole tiles. Layers without
    weights have no channels."""
    if not layer.macs or not layer.params:
        return layer.macs
    biased = layer.macs % layer.params != 0
    positions = (layer.macs + layer.written * biased) / layer.params  # MACs = weights x positions
    channels = round(layer.written / positions)
    return layer.macs * -(-channels // tile) * tile / channels


def _coordinates(operations: Sequence[Operation]) -> Array:
    return np.log(np.array([widths(operation) for operation in operations], dtype=np.float64))


def _non_negative(a: Array, b: Array) -> Array:
    from scipy.optimize import nnls

    norms = np.maximum(np.linalg.norm(a, axis=0), 1e-30)
    solution: Array = nnls(a / norms, b)[0] / norms
    return solution


def _smooth(
    known: Array, values: Array, asked: Array, variance: float, noise: float = NOISE
) -> tuple[Array, Array]:
    """Return mean and variance at `asked` of a zero-mean Gaussian process of this variance, seen at
    `known` with noise."""
    covariance = _kernel(known, known) * variance + noise**2 * np.eye(len(known))
    cross = _kernel(asked, known) * variance
    solved = np.linalg.solve(covariance, np.column_stack([values[:, None], cross.T]))
    spread: Array = np.maximum(variance - np.einsum("ij,ji->i", cross, solved[:, 1:]), 0.0)
    return cross @ solved[:, 0], spread


def _kernel(a: Array, b: Array) -> Array:
    squared: Array = ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2)
    kernel: Array = np.exp(-squared / (2 * LENGTH**2))
    return kernel


LEAST = 2
"""Measured operations that a group needs before others are interpolated."""


def fill(
    operations: Iterable[Operation], measured: Mapping[Key, Row], failed: Iterable[Key] = ()
) -> tuple[dict[Key, Row], float]:
    """Return interpolated rows for the operations that have no measured one and did not fail.

    The tile of `interpolate` is the one that predicts the measured rows best when each is left out
    in turn.

    Returns the rows, and the leave-one-out error of the measured rows in percent, weighted by
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
        if len(known) > LEAST:
            errors += float(np.abs(leave_one_out(known, times, tile) - times).sum())
            total += sum(times)
    return 100 * errors / total if total else 0.0


def _rows(
    known: Sequence[Operation], times: Sequence[float], wanted: Sequence[Operation], tile: int
) -> dict[Key, Row]:
    """p10 and p90 are those of the predicted median, taken as normal."""
    found = interpolate(known, times, wanted, tile)
    rows = {}
    for operation, ms, error in zip(
        wanted, found.ms.tolist(), found.error_ms.tolist(), strict=True
    ):
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
