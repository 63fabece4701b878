"""The latency of a network operation by operation: predicted, and measured where that was done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nas.files import YamlFile
from nas.latency import LatencyTable
from nas.report.pictures import figure_of, write_picture
from nas.runs.schema import Part
from nas.space import Architecture
from nas.space.place import HEAD, STEM, Place
from nas.validation import validated

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Role = Literal["stem", "entry", "local", "global", "reshape", "head", "call"]
"""What an operation is in its network; `call` is what one call costs before any of them."""

ROLES: dict[Role, tuple[str, str]] = {
    "stem": ("stem", "#5d6b7c"),
    "entry": ("stage entry", "#8392a3"),
    "local": ("local block", "#2f86c6"),
    "global": ("attention block", "#cf7a22"),
    "reshape": ("change of layout", "#948c35"),
    "head": ("head", "#b0509a"),
    "call": ("call", "#a38970"),
}
"""Label and colour; the colours stand out on white and on black, and keep apart for colour-blind readers."""


@dataclass(frozen=True)
class Bar:
    """One operation. Times in ms, None where they are not known.

    `shape` is its input and its output, `size` its MACs and parameters; both are empty for the call.
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
    """The published member that one would ship otherwise, measured by turns with the found network.

    Attributes:
        ratio, predicted_ratio: latency of the found network over the rival's, as measured and as predicted.
    """

    name: str
    predicted_ms: float | None
    measured_ms: float
    ratio: float | None
    predicted_ratio: float | None


@dataclass(frozen=True)
class Breakdown:
    """A network on a device. `measured` tells when and with what, in words; it is empty where nothing was measured."""

    device: str
    bars: tuple[Bar, ...]
    predicted_ms: float | None
    measured_ms: float | None = None
    error_percent: float | None = None
    measured: str = ""
    rival: Rival | None = None

    @property
    def title(self) -> str:
        return f"Latency by operation on {self.device}"

    @property
    def known(self) -> bool:
        """Whether the time of any operation is known."""
        return any(bar.predicted_ms is not None or bar.measured_ms is not None for bar in self.bars)


class _CheckedOperation(Part):
    name: str
    kind: str
    predicted_ms: float | None = None
    measured_ms: float | None = None


class _CheckedRival(Part):
    name: str
    predicted_ms: float | None = None
    measured_ms: float | None = None


class _CheckFile(Part):
    """What `nas check RUN` writes."""

    format: Literal["nas-run-check-1"]
    device: str
    measured_ms: float
    predicted_ms: float | None
    error_percent: float | None
    date: str
    profile: str = ""
    operations: tuple[_CheckedOperation, ...] = ()
    rival: _CheckedRival | None = None
    ratio: float | None = None
    predicted_ratio: float | None = None

    def measured_rival(self) -> Rival | None:
        """Return the rival, where it could be measured."""
        if self.rival is None or self.rival.measured_ms is None:
            return None
        rival = self.rival
        return Rival(rival.name, rival.predicted_ms, self.rival.measured_ms, self.ratio, self.predicted_ratio)


def predicted(arch: Architecture, attention: Sequence[int], table: LatencyTable) -> Breakdown:
    """What the table says of every operation.

    Args:
        attention: the number of global blocks in every stage.

    Raises:
        MissingRows: naming the operations that the table lacks.
    """
    estimate = table.predict(arch)
    if estimate.missing:
        raise table.missing_rows(estimate.missing, arch.space)
    intercept, *times = estimate.breakdown
    bars = (
        replace(bar, predicted_ms=time.ms, provenance=time.provenance)
        for bar, time in zip(operations(arch, attention), times, strict=True)
    )
    call = Bar("call", intercept.kind, "call", intercept.ms, provenance=intercept.provenance)
    return Breakdown(table.device.name, (call, *bars), estimate.ms)


def operations(arch: Architecture, attention: Sequence[int]) -> tuple[Bar, ...]:
    """The operations of a network, whose last `attention[j]` blocks of stage j are global, without their times."""
    roles: dict[str, Role] = {str(STEM): "stem", str(HEAD): "head"}
    for index, (stage, count) in enumerate(zip(arch.stages, attention, strict=True)):
        there = [p for p, block in enumerate(stage.blocks) if block.kind != "identity"]
        roles |= {str(Place.block(index, p)): "local" for p in there}
        roles |= {str(Place.block(index, p)): "global" for p in there[len(there) - count :]}
        roles[str(Place.entry(index))] = "entry"
    return tuple(
        Bar(op.name, op.spec.kind, roles.get(op.name, "reshape"), hyperparameters=op.key[1].replace(";", ", "),
            shape=f"{op.input} to {op.output}", macs=op.macs, params=op.params)
        for op in arch.operations()
    )  # fmt: skip


def read_check(path: Path, bars: Sequence[Bar], estimate: Breakdown | None) -> Breakdown:
    """A network measured on a device, from a run's `check-DEVICE.yaml`.

    Args:
        bars: its operations.
        estimate: what the run's table says of them, which stays where the file tells no prediction of that device.

    Raises:
        InputError: for a damaged file, or one of another network, naming line, key and reason.
    """
    file = YamlFile(path)
    check = validated(file, _CheckFile, file.data)
    rows = {row.name: row for row in check.operations}
    own = estimate is not None and estimate.device == check.device
    bars = estimate.bars if estimate and own else (Bar("call", "intercept", "call"), *bars)
    known = {bar.name for bar in bars} | {"intercept"}
    strange = next((name for name in rows if name not in known), None)
    if strange:
        raise file.error(["operations"], f"{strange} is no operation of the run's architecture; measure the run again")
    return Breakdown(
        check.device, tuple(_checked(bar, rows) for bar in bars), check.predicted_ms, check.measured_ms,
        check.error_percent, check.date + (f"; operations: {check.profile}" if check.profile else ""),
        check.measured_rival(),
    )  # fmt: skip


def _checked(bar: Bar, rows: Mapping[str, _CheckedOperation]) -> Bar:
    row = rows.get(bar.name) or (rows.get("intercept") if bar.role == "call" else None)
    if row is None:
        return bar
    ms = bar.predicted_ms if row.predicted_ms is None else row.predicted_ms
    return replace(bar, predicted_ms=ms, measured_ms=row.measured_ms)


def draw_breakdown(data: Breakdown, note: str, path: str | Path) -> None:
    """Writes the picture as PNG: a bar an operation, predicted, with a mark where it was measured."""
    figure, axes = figure_of(8.0, max(3.0, 1.4 + 0.17 * len(data.bars)))
    _draw_bars(axes, data)
    axes.set_yticks(range(len(data.bars)), [bar.name for bar in data.bars], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("ms")
    axes.margins(y=0.01)
    write_picture(figure, data.title, note, path)


def _draw_bars(axes: Axes, data: Breakdown) -> None:
    for role, (label, colour) in ROLES.items():
        rows = [i for i, bar in enumerate(data.bars) if bar.role == role and bar.predicted_ms is not None]
        if rows:
            axes.barh(rows, [data.bars[i].predicted_ms or 0.0 for i in rows], color=colour, height=0.75,
                      label=label)  # fmt: skip
    rows = [i for i, bar in enumerate(data.bars) if bar.measured_ms is not None]
    if rows:
        axes.scatter([data.bars[i].measured_ms or 0.0 for i in rows], rows, s=16, color="black", marker="D",
                     label="measured", zorder=3)  # fmt: skip
