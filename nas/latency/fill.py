"""Completes a table: every operation that was not measured gets an interpolated row, where its group allows one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date

import numpy as np

from nas.latency.interpolate import TILES, interpolate, leave_one_out
from nas.latency.plan import groups
from nas.latency.rows import Key, Row
from nas.space import Operation

LEAST = 2
"""Measured operations that a group needs before others are interpolated."""


def fill(
    operations: Iterable[Operation], measured: Mapping[Key, Row], failed: Iterable[Key] = ()
) -> tuple[dict[Key, Row], float]:
    """Interpolated rows for the operations that have no measured one and did not fail.

    The tile of `interpolate` is the one that predicts the measured rows best when each is left out in turn.

    Returns the rows, and the leave-one-out error of the measured rows in percent, weighted by latency.
    """
    parts = []
    skipped = set(failed)
    for group in groups(operations):
        known = [operation for operation in group.operations if operation.key in measured]
        wanted = [op for op in group.operations if op.key not in measured and op.key not in skipped]
        if wanted and len(known) >= LEAST:
            parts.append((known, [measured[operation.key].median_ms for operation in known], wanted))
    errors = {tile: _error(parts, tile) for tile in TILES}
    tile = min(TILES, key=lambda tile: (errors[tile], tile))
    rows: dict[Key, Row] = {}
    for known, times, wanted in parts:
        rows |= _rows(known, times, wanted, tile)
    return rows, errors[tile]


def _error(parts: Iterable[tuple[Sequence[Operation], Sequence[float], object]], tile: int) -> float:
    """The leave-one-out error of all groups in percent of their latency."""
    errors = total = 0.0
    for known, times, _ in parts:
        if len(known) > LEAST:
            errors += float(np.abs(leave_one_out(known, times, tile) - times).sum())
            total += sum(times)
    return 100 * errors / total if total else 0.0


def _rows(known: Sequence[Operation], times: Sequence[float], wanted: Sequence[Operation], tile: int) -> dict[Key, Row]:
    """p10 and p90 are those of the predicted median, taken as normal."""
    found = interpolate(known, times, wanted, tile)
    rows = {}
    for operation, ms, error in zip(wanted, found.ms.tolist(), found.error_ms.tolist(), strict=True):
        p10, p90 = max(ms - 1.2816 * error, 0.0), ms + 1.2816 * error
        rows[operation.key] = Row(
            *operation.key, str(operation.output), round(ms, 7), round(min(p10, ms), 7), round(p90, 7), runs=0,
            provenance="interpolated", date=date.today().isoformat(),
        )  # fmt: skip
    return rows
