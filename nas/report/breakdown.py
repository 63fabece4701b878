"""Latency of a network per operation, predicted and measured, and the sources of table rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from nas.display import printable
from nas.figures import Figure, Series, layer, lines, series_encoding, x_axis
from nas.files import YamlFile
from nas.latency import LatencyTable
from nas.latency.rows import PROVENANCES
from nas.runs.schema import Amount, Number, Part
from nas.space import Architecture
from nas.space.place import HEAD, STEM, Place
from nas.validation import validated

Role = Literal["stem", "entry", "local", "global", "reshape", "head", "call"]
"""Role of an operation in its network; `call` is the cost of one call, before any operation."""

ROLES: dict[Role, tuple[str, str]] = {
    "stem": ("stem", "#5d6b7c"),
    "entry": ("stage entry", "#8392a3"),
    "local": ("local block", "#2f86c6"),
    "global": ("attention block", "#cf7a22"),
    "reshape": ("change of layout", "#948c35"),
    "head": ("head", "#b0509a"),
    "call": ("call", "#a38970"),
}
"""Label and colour per role. The colours suit white and black pages and colour-blind readers."""


@dataclass(frozen=True)
class Bar:
    """One operation, or the cost of a call.

    Attributes:
        name: its place, or "call".
        predicted_ms, measured_ms: latency; None where it is unknown.
        provenance: of the table's row.
        shape: its input and its output; empty for the call.
        macs, params: 0 for the call.
    """

    name: str
    kind: str
    role: Role
    predicted_ms: float | None = None
    measured_ms: float | None = None
    provenance: str = ""
    hyperparameters: str = ""
    shape: str = ""
    macs: int = 0
    params: int = 0


@dataclass(frozen=True)
class Rival:
    """The best published alternative, measured in alternation with the found network.

    Attributes:
        ratio, predicted_ratio: latency of the found network over the rival's, as measured and as
            predicted.
    """

    name: str
    predicted_ms: float | None
    measured_ms: float
    ratio: float | None
    predicted_ratio: float | None


@dataclass(frozen=True)
class Breakdown:
    """A network on a device.

    Attributes:
        bars: the call, then each operation.
        predicted_ms, measured_ms: of the whole network; None where unknown.
        error_percent: error of the prediction, in percent of the measured latency.
        measured: date and method of the measurement; empty without one.
        start: load time, first run and memory in words; empty where they were not measured.
    """

    device: str
    bars: tuple[Bar, ...]
    predicted_ms: float | None
    measured_ms: float | None = None
    error_percent: float | None = None
    measured: str = ""
    rival: Rival | None = None
    start: str = ""

    @property
    def title(self) -> str:
        return f"Latency by operation on {self.device}"

    @property
    def known(self) -> bool:
        """Return whether the latency of any operation is known."""
        return any(bar.predicted_ms is not None or bar.measured_ms is not None for bar in self.bars)


class _CheckedOperation(Part):
    name: str
    kind: str
    predicted_ms: Number | None = None
    measured_ms: Number | None = None


class _CheckedRival(Part):
    name: str
    predicted_ms: Amount | None = None
    measured_ms: Amount | None = None


class _Start(Part):
    load_ms: Amount
    first_ms: Amount
    memory_mb: Amount | None = None

    def __str__(self) -> str:
        memory = "" if self.memory_mb is None else f", {self.memory_mb:.1f} MB"
        return f"loads in {self.load_ms:.4g} ms, first run {self.first_ms:.4g} ms{memory}"


class _CheckFile(Part):
    """The file that `nas check RUN` writes."""

    format: Literal["nas-run-check-1"]
    device: str
    measured_ms: Annotated[Amount, Field(gt=0)]
    predicted_ms: Amount | None
    error_percent: Number | None
    date: str
    profile: str = ""
    operations: tuple[_CheckedOperation, ...] = ()
    rival: _CheckedRival | None = None
    ratio: Amount | None = None
    predicted_ratio: Amount | None = None
    start: _Start | None = None

    def measured_rival(self) -> Rival | None:
        """Return the rival, or None where it could not be measured."""
        if self.rival is None or self.rival.measured_ms is None:
            return None
        rival = self.rival
        return Rival(
            rival.name, rival.predicted_ms, self.rival.measured_ms, self.ratio, self.predicted_ratio
        )


def predicted(arch: Architecture, attention: Sequence[int], table: LatencyTable) -> Breakdown:
    """Return the table's prediction for every operation.

    Args:
        attention: the number of global blocks in every stage.

    Raises:
        MissingRows: naming the operations that the table lacks.
    """
    estimate = table.predict(arch)
    if estimate.missing:
        raise table.missing_rows(estimate.missing, arch.space)
    # The first bar of an estimate is the cost of a call, the others are the operations in their
    # order.
    intercept, *times = estimate.breakdown
    bars = (
        replace(bar, predicted_ms=time.ms, provenance=time.provenance)
        for bar, time in zip(operations(arch, attention), times, strict=True)
    )
    call = Bar("call", intercept.kind, "call", intercept.ms, provenance=intercept.provenance)
    return Breakdown(table.device.name, (call, *bars), estimate.ms)


def operations(arch: Architecture, attention: Sequence[int]) -> tuple[Bar, ...]:
    """Return the operations of a network without their latencies.

    Args:
        attention: the number of global blocks in every stage, which are its last blocks.
    """
    roles: dict[str, Role] = {str(STEM): "stem", str(HEAD): "head"}
    for index, (stage, count) in enumerate(zip(arch.stages, attention, strict=True)):
        # Global blocks are a suffix of the blocks that are present.
        there = [p for p, block in enumerate(stage.blocks) if block.kind != "identity"]
        roles |= {str(Place.block(index, p)): "local" for p in there}
        roles |= {str(Place.block(index, p)): "global" for p in there[len(there) - count :]}
        roles[str(Place.entry(index))] = "entry"
    return tuple(
        Bar(
            op.name,
            op.spec.kind,
            roles.get(op.name, "reshape"),
            hyperparameters=op.key[1].replace(";", ", "),
            shape=f"{op.input} to {op.output}",
            macs=op.macs,
            params=op.params,
        )
        for op in arch.operations()
    )


def read_check(path: Path, bars: Sequence[Bar], estimate: Breakdown | None) -> Breakdown:
    """Return a network measured on a device, from a run's `check-DEVICE.yaml`.

    Args:
        path: the file.
        bars: the network's operations.
        estimate: the prediction of the run's table. It is kept where the file has no prediction for
            the same device.

    Raises:
        InputError: for a damaged file, or one of another network, naming line, key and reason.
    """
    file = YamlFile(path)
    check = validated(file, _CheckFile, file.data)
    rows = {row.name: row for row in check.operations}
    # A prediction for another device must not stand beside this one's measurements.
    own = estimate is not None and estimate.device == check.device
    bars = estimate.bars if estimate and own else (Bar("call", "intercept", "call"), *bars)
    known = {bar.name for bar in bars} | {"intercept"}
    strange = next((name for name in rows if name not in known), None)
    if strange:
        raise file.error(
            ["operations"],
            f"{strange} is not an operation of the run's architecture. Fix: run `nas check` again",
        )
    return Breakdown(
        check.device,
        tuple(_checked(bar, rows) for bar in bars),
        check.predicted_ms,
        check.measured_ms,
        check.error_percent,
        check.date + (f"; operations: {check.profile}" if check.profile else ""),
        check.measured_rival(),
        str(check.start or ""),
    )


def _checked(bar: Bar, rows: Mapping[str, _CheckedOperation]) -> Bar:
    """Return an operation with the latencies that a check has for it."""
    # Tables and checks call the cost of a call "intercept".
    row = rows.get(bar.name) or (rows.get("intercept") if bar.role == "call" else None)
    if row is None:
        return bar
    ms = bar.predicted_ms if row.predicted_ms is None else row.predicted_ms
    return replace(bar, predicted_ms=ms, measured_ms=row.measured_ms)


def breakdown_figure(data: Breakdown, note: str = "") -> Figure:
    """Return the figure: a bar per predicted operation, a diamond per measured one."""
    names = [printable(bar.name) for bar in data.bars]
    y = {
        "field": "name",
        "type": "nominal",
        "title": None,
        "scale": {"domain": names},
        "axis": {"grid": False},
    }
    x = x_axis("ms", scale={"zero": True})
    known = [(bar, ROLES[bar.role][0]) for bar in data.bars if bar.predicted_ms is not None]
    series = [
        Series(label, colour, "square")
        for label, colour in ROLES.values()
        if label in {r for _, r in known}
    ]
    measured = Series("measured", "#e03131", "diamond", filled=False)
    diamonds = [(bar, measured.name) for bar in data.bars if bar.measured_ms is not None]
    channels = series_encoding([*series, measured] if diamonds else series)
    bars = [_row(bar, bar.predicted_ms, label, data.predicted_ms) for bar, label in known]
    layers = [
        layer({"type": "bar", "height": {"band": 0.78}}, bars, x=x, y=y, fill=channels["fill"])
    ]
    if diamonds:
        marks = [_row(bar, bar.measured_ms, label, data.predicted_ms) for bar, label in diamonds]
        layers.append(
            layer(
                {"type": "point", "size": 45, "opacity": 1, "strokeWidth": 1.6},
                marks,
                x=x,
                y=y,
                **channels,
            )
        )
    return Figure(data.title, {"height": 17 * len(names), "layer": layers}, note)


def _row(bar: Bar, ms: float | None, series: str, total: float | None) -> dict[str, object]:
    return {"name": bar.name, "x": ms, "series": series, "about": lines(_lines(bar, total))}


def _lines(bar: Bar, total: float | None) -> tuple[str, ...]:
    """Return the tooltip of an operation."""
    share = (
        f", {100 * bar.predicted_ms / total:.1f} %"
        if bar.predicted_ms is not None and total
        else ""
    )
    predicted = (
        [f"predicted {bar.predicted_ms:.4g} ms{share}"] if bar.predicted_ms is not None else []
    )
    measured = [f"measured {bar.measured_ms:.4g} ms"] if bar.measured_ms is not None else []
    about = [line for line in (bar.shape, bar.provenance and f"row: {bar.provenance}") if line]
    return f"{bar.name}: {bar.kind}", *predicted, *measured, *about


@dataclass(frozen=True)
class TableRows:
    """A latency table in numbers.

    Attributes:
        all: number of rows by provenance, the most trustworthy first; only those that occur.
        used: the same for the found network's distinct operations; "priced" counts operations
            without a row.
        dates: of the oldest and the newest row.
        facts: names and values that the table records of device and tools.
    """

    all: dict[str, int]
    used: dict[str, int]
    dates: tuple[str, str]
    facts: tuple[tuple[str, str], ...]

    @property
    def provenances(self) -> tuple[str, ...]:
        """Return every provenance that occurs in the table or in the network."""
        return tuple(name for name in PROVENANCES if name in self.all or name in self.used)


def table_rows(table: LatencyTable, arch: Architecture) -> TableRows:
    """Return the numbers of a table and of the rows that a network uses."""
    used = {operation.key: operation for operation in arch.operations()}
    dates = sorted(row.date for row in table.rows.values())
    device = table.device
    facts = {
        "compute unit": device.compute_unit,
        "placement": device.placement,
        "precision": device.precision,
        "threads": device.threads,
        "cores": device.affinity,
        "source": device.source,
        "method": device.estimate.method if device.estimate else "",
        "cost of a call": f"{device.intercept_ms:.4g} ms",
        "scale of the rows": f"{device.calibration.scale:.4g}",
        "latency of weights": (
            f"{device.calibration.weights_ms:.4g} ms per million parameters beyond "
            f"{device.calibration.weights_from:.4g}"
            if device.calibration.weights_ms
            else ""
        ),
        "tools": ", ".join(f"{name} {version}" for name, version in device.tools.items()),
    }
    return TableRows(
        _counts(row.provenance for row in table.rows.values()),
        _counts(each for operation in used.values() for each in table.provenances(operation)),
        (dates[0], dates[-1]) if dates else ("", ""),
        tuple((name, str(value)) for name, value in facts.items() if value not in ("", None)),
    )


def _counts(provenances: Iterable[str]) -> dict[str, int]:
    counted = Counter(provenances)
    return {name: counted[name] for name in PROVENANCES if counted[name]}
