"""`LatencyTable`, which predicts an architecture's latency from rows per operation.

Searches, `nas predict` and `nas check` use it; `nas.latency.profile` makes it.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from math import fsum, hypot
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas import resources
from nas.blocks import BlockSpec, Operation, Shape
from nas.devices.info import (
    Calibration,
    Costs,
    DeviceInfo,
    Provenance,
    device_name,
    load_device_info,
)
from nas.devices.precision import device_options
from nas.display import MOST_ROWS, frame, html_table, shortened
from nas.errors import InputError, check_name, check_type, nearest
from nas.files import write_text
from nas.latency.cost_model import price
from nas.latency.rows import (
    COLUMNS,
    Key,
    Row,
    format_rows,
    read_rows,
    read_unsupported,
    worst,
    write_unsupported,
)
from nas.space import Architecture

if TYPE_CHECKING:
    import pandas as pd

_LOG = logging.getLogger(__name__)
TABLE_FILE = "table.csv"
DEVICE_FILE = "device.yaml"


@dataclass(frozen=True)
class Bar:
    """One operation's share of a prediction, in calibrated ms; `key` is empty for the intercept."""

    name: str
    kind: str
    ms: float
    provenance: Provenance
    key: tuple[str, ...]


@dataclass(frozen=True)
class Estimate:
    """The predicted latency of one architecture.

    Attributes:
        ms: of the network, calibrated, over the operations that have a row or a price.
        breakdown: one bar per operation in the order of the network, and one for the intercept;
            they add up to `ms`.
        provenance: the worst of the rows used; `priced` covers operations without a row.
        expected_error: of the table, in percent; None where it is unknown.
        missing: operations without a row or a price, each once.
        priced: share of `ms` without a row, priced by the table's cost model, 0 to 1.
        standard_error: in ms, from the table's expected error and that of the priced part; None
            where the former is unknown.
    """

    ms: float
    breakdown: tuple[Bar, ...]
    provenance: Provenance
    expected_error: float | None
    missing: tuple[Operation, ...] = ()
    priced: float = 0.0
    standard_error: float | None = None

    def __repr__(self) -> str:
        error = "" if self.standard_error is None else f" ± {self.standard_error:.2g}"
        parts = (
            f"{len(self.breakdown)} parts, {100 * self.priced:.0f} % priced, {len(self.missing)}"
            " missing"
        )
        return f"Estimate({self.ms:.4g}{error} ms, {self.provenance}, {parts})"

    def to_frame(self) -> pd.DataFrame:
        """Return the breakdown as a DataFrame, one row per operation and one for the intercept."""
        return frame(self._bars(), ("name", "kind", "ms", "provenance"))

    def _bars(self) -> list[dict[str, Any]]:
        return [
            {"name": bar.name, "kind": bar.kind, "ms": bar.ms, "provenance": bar.provenance}
            for bar in self.breakdown
        ]

    def _repr_html_(self) -> str:
        return html_table(repr(self), self._bars())


class MissingRows(InputError):
    """A table without a row for some operations of an architecture; `operations` holds them."""

    def __init__(self, message: str, operations: tuple[Operation, ...]) -> None:
        super().__init__(message)
        self.operations = operations


@dataclass(frozen=True)
class LatencyTable:
    """Latencies of operations on one device.

    Attributes:
        device: the device, its settings, the calibration and the errors.
        rows: by `Operation.key`.
        path: folder that it was loaded from or saved to, or None.
        unsupported: the device's messages for operations that it could not run, by key.
    """

    device: DeviceInfo
    rows: Mapping[Key, Row]
    path: Path | None = None
    unsupported: Mapping[Key, str] = field(default_factory=dict)
    _ms: dict[tuple[BlockSpec, Shape], float | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __repr__(self) -> str:
        device = self.device
        setup = f"{device.runtime} on {device.compute_unit}, {device.precision}"
        error = "unknown" if self.expected_error is None else f"{self.expected_error:.1f} %"
        facts = f"{len(self.rows):,} rows, {self.provenance}, expected error {error}"
        return f"LatencyTable({device.name!r}, {shortened(setup)}: {facts})"

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a DataFrame, with the columns of `table.csv`."""
        return frame((row.to_dict() for row in self.rows.values()), COLUMNS)

    def _repr_html_(self) -> str:
        shown = [row.to_dict() for row in islice(self.rows.values(), MOST_ROWS)]
        return html_table(repr(self), shown, more=len(self.rows) - len(shown))

    @property
    def provenance(self) -> Provenance:
        """Return the worst provenance of the rows."""
        return (
            worst(row.provenance for row in self.rows.values())
            if self.rows
            else self.device.provenance
        )

    @property
    def expected_error(self) -> float | None:
        """Return the mean absolute error of a prediction in percent; None where it is unknown.

        It is that of the last check, else that of the calibration by hand, else that of what was
        left out of the fit. Without a check it is never smaller than the calibration's own misfit.
        """
        if self.device.check:
            return self.device.check.mape
        known = (
            self.calibrated_error if self.calibrated_error is not None else self.leave_one_out_error
        )
        misfit = self.device.calibration.mape
        return known if known is None or misfit is None else max(known, misfit)

    @property
    def leave_one_out_error(self) -> float | None:
        """Return the mean absolute error in percent of what was left out of the fit.

        It is that before any calibration by hand; None for a table without a fit.
        """
        return self.device.estimate.leave_one_out_mape if self.device.estimate else None

    @property
    def calibrated_error(self) -> float | None:
        """Return the expected error in percent after `--calibrate`; None where there was none."""
        return self.device.estimate.calibrated_error if self.device.estimate else None

    @property
    def expected_error_source(self) -> str:
        """Return the source of `expected_error`, in words."""
        if self.device.check:
            return str(self.device.check)
        if self.device.estimate and self.device.provenance == "estimated":
            return self.device.estimate.source
        if self.device.estimate:
            return (
                "measured rows, each predicted from the others; for whole networks: nas check"
                f" --device {self.device.name}"
            )
        return f"not checked yet: nas check --device {self.device.name}"

    def calibrated(self, space: str, resolution: tuple[int, int]) -> LatencyTable:
        """Return the table with the calibration and the check of one of its spaces.

        It is this table itself where it was not completed for `space` at this input size. A search
        calls it once and asks the result, which predicts without looking for the space again.
        """
        # The latest entry counts: a space may have entries with several heads of one size.
        size = f"{resolution[0]}x{resolution[1]}"
        for entry in reversed(self.device.spaces):
            if (entry.name, entry.size) == (space, size):
                calibration = Calibration(
                    scale=entry.scale,
                    weights_ms=entry.weights_ms,
                    weights_from=entry.weights_from,
                    nets=entry.nets,
                    mape=entry.mape,
                    note=entry.note,
                )
                device = replace(
                    self.device,
                    calibration=calibration,
                    intercept_ms=entry.intercept_ms,
                    spaces=(),
                    check=entry.check,
                )
                return replace(self, device=device)
        return self

    @property
    def base_ms(self) -> float:
        """Return the part of a prediction beside the `ms` of its operations.

        It is the intercept, less the time of `weights_from` parameters, which `ms` counts too much.
        """
        line = self.device.calibration
        return self.device.intercept_ms - line.weights_ms * line.weights_from

    def ms(self, operation: Operation) -> float | None:
        """Return the calibrated ms that one operation adds to a network.

        An estimated table prices an operation without a row by its cost model. None means that
        there is neither a row nor a price.
        """
        # Searches ask for the same few hundred operations 100,000 times. None is a value of the
        # cache, so a KeyError marks a pair that is not cached.
        pair = operation.spec, operation.input
        try:
            return self._ms[pair]
        except KeyError:
            ms = self._ms[pair] = self._calibrated_ms(operation)
            return ms

    def _calibrated_ms(self, operation: Operation) -> float | None:
        """Return `ms` without its cache."""
        if operation.key not in self.rows and len(operation.parts) > 1:
            # A device that could not run the whole of it (older tables have such rows) runs no
            # network with it, whatever it does with the parts.
            parts = [
                None if operation.key in self.unsupported else self.ms(part)
                for part in operation.parts
            ]
            return None if None in parts else fsum(ms for ms in parts if ms is not None)
        row = self.rows.get(operation.key)
        line = self.device.calibration
        # An operation that the device could not run gets no price: no network with it would run.
        if row is not None:
            raw_ms = row.median_ms
        elif self._costs is not None and operation.key not in self.unsupported:
            raw_ms = price(operation.spec.deployed_layers(operation.input), self._costs)
        else:
            return None
        # Rows are of operations alone. In a network they may all take longer by one factor, and
        # weights that no longer stay in a cache are read anew: ms per 10^6 parameters.
        return line.scale * raw_ms + line.weights_ms * operation.params / 1e6

    def lacking(self, operation: Operation) -> tuple[Operation, ...]:
        """Return what lacks a row and a price of an operation: itself, or some of its parts."""
        if self.ms(operation) is not None:
            return ()
        if operation.key in self.unsupported:
            return (operation,)
        return tuple(part for part in operation.parts if self.ms(part) is None)

    def provenances(self, operation: Operation) -> tuple[Provenance, ...]:
        """Return where the latency of an operation comes from, for each row or price that it has.

        A table that has a row of the whole operation uses that one, else the rows of its parts.
        """
        keys = [operation.key]
        if operation.key not in self.rows:
            keys = [part.key for part in operation.parts]
        return tuple(self.rows[key].provenance if key in self.rows else "priced" for key in keys)

    @cached_property
    def _costs(self) -> Costs | None:
        """Return the costs that price operations without a row.

        None in a table of measurements, which must not mix in estimates.
        """
        estimate = self.device.estimate
        return estimate.costs if estimate and self.device.provenance == "estimated" else None

    def predict(self, arch: Architecture) -> Estimate:
        """Return the latency of `arch`, calibrated for its space, with breakdown and missing rows.

        Raises:
            InputError: when `arch` is not an architecture.
        """
        check_type("arch", arch, Architecture, "nas.load_architecture")
        if self.device.spaces:
            own = self.calibrated(arch.space, arch.resolution)
            if own is not self:
                return own.predict(arch)
        timed = [(op, ms) for op in arch.operations() for ms in [self.ms(op)] if ms is not None]
        missing = {part.key: part for op in arch.operations() for part in self.lacking(op)}
        bars = [Bar("intercept", "intercept", self.device.intercept_ms, self.device.provenance, ())]
        # `base_ms` subtracts the time of `weights_from` parameters from the sum, not from any
        # operation. In the breakdown each operation gets its share, by its parameters, so that the
        # bars add up to the total and the intercept's bar is the cost of a call.
        free_ms = (self.device.intercept_ms - self.base_ms) / max(
            sum(op.params for op, _ in timed), 1
        )
        for operation, ms in timed:
            provenance = worst(self.provenances(operation))
            own_ms = ms - free_ms * operation.params
            bars.append(Bar(operation.name, operation.spec.kind, own_ms, provenance, operation.key))
        total_ms = _sum([self.base_ms, *(ms for _, ms in timed)])
        priced_ms = sum(bar.ms for bar in bars if bar.provenance == "priced")
        return Estimate(
            ms=total_ms,
            breakdown=tuple(bars),
            provenance=worst(bar.provenance for bar in bars if bar.provenance != "priced"),
            expected_error=self.expected_error,
            missing=tuple(missing.values()),
            priced=priced_ms / total_ms if total_ms else 0.0,
            standard_error=self._standard_error(arch, total_ms, priced_ms),
        )

    def _standard_error(
        self, arch: Architecture, total_ms: float, priced_ms: float
    ) -> float | None:
        """Return the standard error of a prediction in ms.

        The error of the table and that of prices are independent, so their squares add up.
        """
        if self.expected_error is None:
            return None
        estimate = self.device.estimate
        dense = arch.head.layout == "pyramid"
        priced_error = estimate.priced_error(arch.resolution, dense) if estimate else 0.0
        return hypot(total_ms * self.expected_error, priced_ms * priced_error) / 100

    def total_ms(self, arch: Architecture) -> float:
        """Return the `ms` of `predict` alone, for searches that ask thousands of times.

        They ask a table that was `calibrated` for their space.

        Raises:
            MissingRows: naming the operations without a row and the command that measures them.
        """
        if self.device.spaces:
            own = self.calibrated(arch.space, arch.resolution)
            if own is not self:
                return own.total_ms(arch)
        parts = [self.base_ms]
        for operation in arch.operations():
            ms = self.ms(operation)
            if ms is None:
                raise self.missing_rows(self.predict(arch).missing, arch.space)
            parts.append(ms)
        return _sum(parts)

    def missing_rows(self, missing: Sequence[Operation], space: str) -> MissingRows:
        """Return the error that names operations without a row and the command that measures them.

        Args:
            missing: the operations.
            space: whose profile measures them; empty where it is unknown.
        """
        named = "; ".join(map(str, missing[:3])) + (
            f"; and {len(missing) - 3} more" if len(missing) > 3 else ""
        )
        where = self.path / TABLE_FILE if self.path else f"the table of {self.device.name}"
        known = next(
            (self.unsupported[op.key] for op in missing if op.key in self.unsupported), None
        )
        if known is not None:
            named += f" (the device cannot run it: {known})"
        words = ["nas", "profile", "--space", space or "SPACE"]
        command = shlex.join([*words, *device_options(self.device), *self._out()])
        return MissingRows(f"{where}: no row for {named}. Fix: {command}", tuple(missing))

    def _out(self) -> list[str]:
        """Return the option `--out` with which `nas profile` measures into this table's folder.

        Empty for the default folder, and for a shipped table, which is not measured into.
        """
        default = Path(resources.TABLES) / self.device.name
        if self.path is None or self.path.resolve() == default.resolve():
            return []
        return (
            []
            if self.path.parent == resources.shipped(resources.TABLES)
            else ["--out", str(self.path)]
        )

    def save(self, folder: str | Path) -> None:
        """Write `table.csv`, `device.yaml` and, where operations failed, `unsupported.csv`."""
        check_name("folder", folder, "the path of a folder")
        # The rows come last: a folder without them holds no table, so that a kill between two
        # files of a new one leaves nothing that cannot be read.
        self.device.save(Path(folder) / DEVICE_FILE)
        write_unsupported(Path(folder), self.unsupported)
        write_text(Path(folder) / TABLE_FILE, format_rows(self.rows.values()))


def _sum(parts: Iterable[float]) -> float:
    """Return the sum to 10^-9 ms, which does not depend on the order of the parts.

    Networks whose operations take the same time must be equally fast, or a search would miss the
    tie.
    """
    return round(fsum(parts), 9)


def make_table(device: DeviceInfo, rows: Iterable[Row], path: Path | None = None) -> LatencyTable:
    """Return a table of these rows; a later row replaces an earlier one with its key."""
    return LatencyTable(device, {row.key: row for row in rows}, path)


def load_table(name: str | Path) -> LatencyTable:
    """Return a table by its device's name or by the path of its folder.

    For a name, ./latency_tables/NAME wins over a shipped table, unless its profile is incomplete.

    Raises:
        InputError: naming file, line, column and reason, or the nearest device that has a table.
    """
    check_name("table", name, "a device's name or a path")
    folder = _folder(str(name))
    info = load_device_info(folder / DEVICE_FILE)
    shipped = resources.shipped(resources.TABLES) / folder.name
    # A search on a table with gaps fails for a missing row. The shipped one serves until the
    # profile is complete.
    if (
        info.left_out
        and str(name) == folder.name
        and folder != shipped
        and (shipped / TABLE_FILE).is_file()
    ):
        count = sum(info.left_out.values())
        _LOG.warning(
            f"{folder}: profiling left {count} operations out, so the shipped table of {name} is"
            f" used. Fix: {profile_command(info)}"
        )
        folder = shipped
        info = load_device_info(shipped / DEVICE_FILE)
    return LatencyTable(info, read_rows(folder / TABLE_FILE), folder, read_unsupported(folder))


def profile_command(device: DeviceInfo) -> str:
    """Return the command that resumes the first profile that left operations out."""
    options = shlex.join(device_options(device))
    return f"nas profile {options} --space {next(iter(device.left_out), 'SPACE')}"


def table_names() -> dict[str, Path]:
    """Return the folders of all tables, by device."""
    return {
        name: path.parent
        for name, path in resources.names(resources.TABLES, f"*/{TABLE_FILE}").items()
    }


def _folder(name: str) -> Path:
    """Return the folder of a table by name, by folder or by the path of its CSV file."""
    path = Path(name)
    known = table_names()
    # A bare name is a device even where a folder of that name lies in the current one.
    if len(path.parts) == 1 and name in known:
        return known[name]
    # A serial number may have another name as a folder.
    if len(path.parts) == 1 and not path.is_dir() and device_name(name) in known:
        return known[device_name(name)]
    if path.name == TABLE_FILE:
        path = path.parent
    if (path / TABLE_FILE).is_file():
        return path
    if len(path.parts) > 1 or path.is_dir():
        raise InputError(f"{name}: {TABLE_FILE} is missing in this folder")
    raise InputError(
        f"no latency table for device '{name}'{nearest(name, known)}. Fix: nas profile --space"
        f" SPACE --device {name}"
    )
