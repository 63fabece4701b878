"""Adjust an estimated table to a few whole networks that its user measured (`--calibrate`).

`nets.csv` has the columns `network` (a published member's name, or the path of an architecture's
YAML file), `latency_ms` and, where it is not the network's own, `resolution` (224 or 1024x2048):

    network,latency_ms
    efficientformer_l1,1.31
    swiftformer_s,0.98

One or two networks give one ratio for all: the median of measured over predicted. Three or more
give a scale of the sums of rows and an intercept, each held near its value under that ratio. Single
networks that are far off count less (soft L1 loss on relative errors). The error afterwards is that
of networks left out, and never below the misfit.

Figures that cannot be of this device are refused: those in another unit, far from the table, or
contradicting each other. Where a fit of scale and intercept does not follow the networks, the one
ratio stays.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nas.csv_files import read_records
from nas.devices.info import Calibration, EstimateInfo
from nas.errors import InputError, nearest
from nas.latency.calibration import SCALES, sums
from nas.latency.network_times import NetworkTime
from nas.latency.table import LatencyTable, MissingRows
from nas.space import Architecture, load_architecture, published_member, published_members

MOST_PIXELS = 16384
"""Maximum side of an image in pixels."""
FIT_BOTH = 3
"""Minimum number of networks for fitting both coefficients and for errors of networks left out."""
_TRUST = 0.03
"""Weight of the prior in the fit.

A coefficient e times its value under one ratio counts as an error of 3 % in one network.
"""
_FAR_OFF = 0.1
"""Relative error of a network above which it counts linearly."""
_UNITS = {1000.0: ("microseconds", "divide"), 0.001: ("seconds", "multiply")}
"""Factors by which figures in another unit are off, with the unit's name and the remedy."""
_UNIT_TOLERANCE = 3.0
"""Maximum ratio to a unit's factor at which the error names the unit.

Estimated tables are off by a factor of two at most, so they are not mistaken for another unit.
"""
_DISAGREE = 3.0
"""Error of networks, in multiples of the table's own, above which they contradict each other."""


@dataclass(frozen=True)
class _Line:
    """A network's measured latency and the sum of its rows, both in ms."""

    name: str
    measured_ms: float
    sum_ms: float


def adjust(table: LatencyTable, nets_csv: Path) -> LatencyTable:
    """Return the table with scale and intercept fitted to the networks in `nets_csv`.

    Nothing is written.

    Raises:
        InputError: naming file and line of what cannot be used, or when the table is not an
            estimated one.
    """
    device = table.device
    if device.estimate is None or device.spaces:
        raise InputError(
            f"the table of {device.name} has measured rows and was calibrated with them. Fix: nas"
            f" profile --space SPACE --device {device.name} measures more"
        )
    lines = list(_lines(table, Path(nets_csv)))
    if not lines:
        raise InputError(f"{nets_csv}: has no networks (expected lines as efficientformer_l1,1.31)")
    before = device.calibration.scale, device.intercept_ms
    limit = _DISAGREE * max(device.estimate.leave_one_out_mape, device.estimate.family_error)
    after, note = _guarded(lines, before, limit, nets_csv)
    # One fit without each network in turn. The error on the network left out estimates the error on
    # one that was not measured.
    left_out = [_fit([*lines[:place], *lines[place + 1 :]], before) for place in range(len(lines))]
    entries = [
        {
            "name": line.name,
            "measured_ms": line.measured_ms,
            "before_ms": round(_ms(line, before), 4),
            "after_ms": round(_ms(line, after), 4),
        }
        | ({"left_out_ms": round(_ms(line, without), 4)} if len(lines) >= FIT_BOTH else {})
        for line, without in zip(lines, left_out, strict=True)
    ]
    errors = {key.removesuffix("_ms"): _mape(entries, key) for key in list(entries[0])[2:]}
    estimate = device.estimate.model_dump()
    # One or two networks do not estimate the error on others, so the error of published networks
    # left out still counts.
    expected = max(errors.get("left_out", device.estimate.leave_one_out_mape), errors["after"])
    estimate["adjusted"] = {
        "file": str(nets_csv),
        "expected": expected,
        "mape": errors,
        "networks": entries,
    }
    return replace(
        table,
        device=replace(
            device,
            intercept_ms=round(after[1], 6),
            calibration=Calibration(
                scale=round(after[0], 6), nets=len(lines), mape=errors["after"], note=note
            ),
            check=None,
            estimate=EstimateInfo.model_validate(estimate),
        ),
    )


def _ms(line: _Line, calibration: tuple[float, float]) -> float:
    return calibration[1] + calibration[0] * line.sum_ms


def _mape(entries: Sequence[dict[str, Any]], key: str) -> float:
    return round(
        float(np.mean([abs(entry[key] / entry["measured_ms"] - 1) for entry in entries])) * 100, 2
    )


def _guarded(
    lines: Sequence[_Line], before: tuple[float, float], limit: float, path: Path
) -> tuple[tuple[float, float], str]:
    """Return scale and intercept in ms, and a note on networks that do not follow them.

    Args:
        lines: the networks.
        before: the table's scale and intercept in ms.
        limit: maximum median error of the networks after the fit, in percent.
        path: of the file, for messages.

    Raises:
        InputError: when the figures are in another unit, far from the table, or contradict each
            other.
    """
    # The narrowest explanation comes first: another unit, then any other large ratio.
    ratio = _ratio(lines, before)
    check_unit(f"{path}: latency_ms", ratio)
    low, high = SCALES
    if not low <= ratio <= high:
        raise InputError(
            f"{path}: latency_ms is far from the table (got {ratio:.3g} times the predicted"
            f" latency, expected {low:g} to {high:g}). Fix: check the figures, their unit and the"
            " device"
        )
    single = ratio * before[0], ratio * before[1]
    misfit = _typical_error(lines, single)
    fitted = _fit(lines, before)
    follows = low <= fitted[0] / before[0] <= high and _typical_error(lines, fitted) <= limit
    # Contradiction is tested only where the fit of both fails: networks that do not follow one
    # ratio may still agree on an intercept.
    if follows:
        return fitted, _far_off(lines, fitted, limit)
    if misfit > limit:
        raise InputError(
            f"{path}: the networks contradict each other (got errors of {misfit:.0f} % after"
            f" calibration, expected at most {limit:.0f} %). Fix: measure them again, one after the"
            " other, on one device"
        )
    return single, "scale and intercept together do not follow the networks; one ratio for all does"


def check_unit(where: str, ratio: float) -> None:
    """Raise InputError where figures are in another unit than ms.

    Args:
        where: file and column of the figures, for the message.
        ratio: of the figures to those of the table.
    """
    for unit, (name, remedy) in _UNITS.items():
        if unit / _UNIT_TOLERANCE < ratio < unit * _UNIT_TOLERANCE:
            column = where.rpartition(" ")[2]
            raise InputError(
                f"{where} is in {name} (got {ratio:.3g} times the predicted latency, expected about"
                f" 1). Fix: {remedy} {column} by 1000"
            )


def _far_off(lines: Sequence[_Line], calibration: tuple[float, float], limit: float) -> str:
    """Return a note naming the networks that are more than `limit` percent off; empty for none."""
    errors = {line.name: 100 * (_ms(line, calibration) / line.measured_ms - 1) for line in lines}
    named = [f"{name} ({error:+.0f} %)" for name, error in errors.items() if abs(error) > limit]
    return f"check these figures: {', '.join(named)}" if named else ""


def _ratio(lines: Sequence[_Line], before: tuple[float, float]) -> float:
    return float(np.median([line.measured_ms / _ms(line, before) for line in lines]))


def _typical_error(lines: Sequence[_Line], calibration: tuple[float, float]) -> float:
    """Return the median error in percent, which a single disturbed network does not move.

    For an even number of networks it is the worse of the middle two. An error is the larger of both
    times over the smaller one, less 1: half the time and twice the time are equally far off.
    """
    ratios = [_ms(line, calibration) / line.measured_ms for line in lines]
    errors = sorted(100 * (max(ratio, 1 / ratio) - 1) for ratio in ratios)
    return errors[len(errors) // 2]


def _fit(lines: Sequence[_Line], before: tuple[float, float]) -> tuple[float, float]:
    """Return scale and intercept in ms fitted to the networks.

    Args:
        before: the table's scale and intercept in ms.
    """
    from scipy.optimize import least_squares

    if not lines:
        return before
    ratio = _ratio(lines, before)
    scale = ratio * before[0]
    intercept = ratio * before[1]
    if len(lines) < FIT_BOTH:
        return scale, intercept

    # The unknowns are logarithms of factors on both, so that neither changes its sign. The last
    # two residuals hold them near 0, that is near the one ratio.
    def errors(logarithms: Any) -> Any:
        changed = scale * math.exp(logarithms[0]), intercept * math.exp(logarithms[1])
        return [
            *(_ms(line, changed) / line.measured_ms - 1 for line in lines),
            *(_TRUST * logarithms),
        ]

    factors = least_squares(errors, np.zeros(2), loss="soft_l1", f_scale=_FAR_OFF).x
    return scale * math.exp(factors[0]), intercept * math.exp(factors[1])


def _lines(table: LatencyTable, path: Path) -> Iterator[_Line]:
    """Yield the networks of the file. Raises InputError for a line that cannot be used."""
    # Networks are compared by their operations, as one architecture can have several names.
    seen: dict[object, int] = {}
    for number, row in read_records(
        path, required=("network", "latency_ms"), optional=("resolution",)
    ):
        where = f"{path}:{number}"
        arch = _architecture(row["network"], row["resolution"], where)
        first = seen.setdefault(arch.operations(), number)
        if first != number:
            raise InputError(f"{where}: network: '{row['network']}' duplicates line {first}")
        ms = _number(row["latency_ms"], "latency_ms", where)
        measured = NetworkTime("calibration", arch.space, "", arch.name, ms)
        try:
            (summed,) = sums(table, {arch: measured})
        except MissingRows as error:
            raise InputError(f"{where}: {error}") from None
        yield _Line(row["network"], ms, summed.sum_ms)


def _architecture(name: str, resolution: str, where: str) -> Architecture:
    arch = published_member(name)
    if arch is None and Path(name).suffix not in (".yaml", ".yml"):
        hint = nearest(name, published_members())
        raise InputError(
            f"{where}: network: '{name}' is not a published member or a YAML file{hint}"
        )
    side = _side(resolution, where) if resolution else None
    try:
        arch = arch or load_architecture(name)
        return arch if side is None else arch.at(side)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None


def _side(text: str, where: str) -> int | tuple[int, int]:
    """Return the side of a square, or height and width of 1024x2048."""
    if match := re.fullmatch(r"(\d{1,5})x(\d{1,5})", text):
        return int(match[1]), int(match[2])
    side = _number(text, "resolution", where)
    if side != int(side) or side > MOST_PIXELS:
        raise InputError(
            f"{where}: resolution: '{text[:40]}' is not a side in pixels (expected up to {MOST_PIXELS})"
        )
    return int(side)


def _number(text: str, column: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"{where}: {column}: '{text[:40]}' is not a positive number")
    return value
