"""Adjusts an estimated table to a few whole networks that its user measured.

`nets.csv` has the columns `network` (a published member's name, or the path of an architecture's YAML file),
`latency_ms` and, where it is not the network's own, `resolution`:

    network,latency_ms
    efficientformer_l1,1.31
    swiftformer_s,0.98

One or two networks give one factor for all: the median of measured over predicted. Three or more give the scale of the
sums of rows and the intercept, each held near what that factor makes of them; single networks that are far off count
less (soft L1 loss on relative errors). The error afterwards is then that of networks left out.
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nas.errors import InputError, nearest
from nas.files import read_text
from nas.latency.calibration import sums
from nas.latency.device_info import Calibration, EstimateInfo
from nas.latency.networks import NetworkTime
from nas.latency.published import member, members
from nas.latency.table import LatencyTable, MissingRows
from nas.space import Architecture, load_architecture

FIT_BOTH = 3
"""From so many networks on, scale and intercept are fitted, and errors are of networks left out."""
_TRUST = 0.03
"""A scale or an intercept e times what one factor gives weighs as much as an error of 3 % in one network."""
_FAR_OFF = 0.1


@dataclass(frozen=True)
class _Line:
    """A network as measured, and the sum of its rows; in ms."""

    name: str
    measured_ms: float
    sum_ms: float


def adjust(table: LatencyTable, nets_csv: Path) -> LatencyTable:
    """The table with the scale and the intercept that the networks in `nets_csv` ask for. Nothing is written.

    Raises:
        InputError: naming file and line of what cannot be used, or when the table is no estimated one.
    """
    device = table.device
    if device.estimate is None or device.spaces:
        raise InputError(f"the table of {device.name} has measured rows and was calibrated with them; measure more "
                         f"with: nas profile --space SPACE --device {device.name}")  # fmt: skip
    lines = list(_lines(table, Path(nets_csv)))
    if not lines:
        raise InputError(f"{nets_csv}: no networks; expected lines as: efficientformer_l1,1.31")
    before = device.calibration.scale, device.intercept_ms
    after = _fit(lines, before)
    left_out = [_fit([*lines[:place], *lines[place + 1 :]], before) for place in range(len(lines))]
    entries = [
        {"name": line.name, "measured_ms": line.measured_ms, "before_ms": round(_ms(line, before), 4),
         "after_ms": round(_ms(line, after), 4)}
        | ({"left_out_ms": round(_ms(line, without), 4)} if len(lines) >= FIT_BOTH else {})
        for line, without in zip(lines, left_out, strict=True)
    ]  # fmt: skip
    errors = {key.removesuffix("_ms"): _mape(entries, key) for key in list(entries[0])[2:]}
    estimate = device.estimate.model_dump()
    estimate["leave_one_out_mape"] = errors.get("left_out", estimate["leave_one_out_mape"])
    estimate["adjusted"] = {"file": str(nets_csv), "mape": errors, "networks": entries}
    return replace(table, device=replace(
        device,
        intercept_ms=round(after[1], 6),
        calibration=Calibration(scale=round(after[0], 6), nets=len(lines)),
        check=None,
        estimate=EstimateInfo.model_validate(estimate),
    ))  # fmt: skip


def _ms(line: _Line, calibration: tuple[float, float]) -> float:
    return calibration[1] + calibration[0] * line.sum_ms


def _mape(entries: Sequence[dict[str, Any]], key: str) -> float:
    return round(float(np.mean([abs(entry[key] / entry["measured_ms"] - 1) for entry in entries])) * 100, 2)


def _fit(lines: Sequence[_Line], before: tuple[float, float]) -> tuple[float, float]:
    """Scale and intercept in ms."""
    from scipy.optimize import least_squares

    if not lines:
        return before
    factor = float(np.median([line.measured_ms / _ms(line, before) for line in lines]))
    scale, intercept = factor * before[0], factor * before[1]
    if len(lines) < FIT_BOTH:
        return scale, intercept

    def errors(logarithms: Any) -> Any:
        changed = scale * math.exp(logarithms[0]), intercept * math.exp(logarithms[1])
        return [*(_ms(line, changed) / line.measured_ms - 1 for line in lines), *(_TRUST * logarithms)]

    found = least_squares(errors, np.zeros(2), loss="soft_l1", f_scale=_FAR_OFF).x
    return scale * math.exp(found[0]), intercept * math.exp(found[1])


def _lines(table: LatencyTable, path: Path) -> Iterator[_Line]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), restval="")
    for column in ("network", "latency_ms"):
        if column not in (reader.fieldnames or ()):
            raise InputError(
                f"{path}:1: column '{column}' is missing; expected: network, latency_ms, resolution (if any)"
            )
    seen: dict[object, int] = {}
    for record in reader:
        row, where = defaultdict(str, record), f"{path}:{reader.line_num}"
        arch = _architecture(row["network"].strip(), row["resolution"].strip(), where)
        first = seen.setdefault(arch.operations(), reader.line_num)
        if first != reader.line_num:
            raise InputError(f"{where}: network: '{row['network']}' is on line {first} already")
        ms = _number(row["latency_ms"], "latency_ms", where)
        measured = NetworkTime("calibration", arch.space, "", arch.name, ms)
        try:
            (summed,) = sums(table, {arch: measured})
        except MissingRows as error:
            raise InputError(f"{where}: {error}") from None
        yield _Line(row["network"].strip(), ms, summed.sum_ms)


def _architecture(name: str, resolution: str, where: str) -> Architecture:
    arch = member(name)
    if arch is None and Path(name).suffix not in (".yaml", ".yml"):
        raise InputError(f"{where}: network: '{name}' is neither published nor a YAML file{nearest(name, members())}")
    try:
        arch = arch or load_architecture(name)
        return arch.at(int(_number(resolution, "resolution", where))) if resolution else arch
    except InputError as error:
        raise error if str(error).startswith(where) else InputError(f"{where}: {error}") from None


def _number(text: str, column: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"{where}: {column}: '{text}' is no positive number")
    return value
