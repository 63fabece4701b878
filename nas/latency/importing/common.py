"""Types and rows that the readers of other frameworks' latency files share."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.blocks import BlockSpec, Shape
from nas.devices.info import Provenance
from nas.files import MOST_MS
from nas.latency.rows import Row

SOURCE = "source"
"""Column with the file that a row was imported from; rows measured here have none."""


@dataclass(frozen=True)
class Format:
    """A kind of latency file that another tool writes.

    Attributes:
        title: its name in messages.
        endings: of the names of its files, as ".json".
        read: reads a file; raises InputError naming file, line or key, and reason.
        holds: returns whether a text is of this format, whatever the name of its file; None where
            only the ending tells.
    """

    title: str
    endings: tuple[str, ...]
    read: Callable[[Path], Reading]
    holds: Callable[[str], bool] | None = None


@dataclass(frozen=True)
class Skipped:
    """An entry of a file that did not become a row: its place (a line or a key) and the reason."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass
class Reading:
    """Content of a latency file.

    Attributes:
        source: text of the column `source`, the file and its format.
        rows: of the operations in nas's vocabulary, each once.
        skipped: all other entries.
        device: fields of `DeviceInfo` that the file states.
    """

    source: str
    rows: list[Row] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    device: dict[str, Any] = field(default_factory=dict)
    _places: dict[tuple[str, str, str], str] = field(default_factory=dict, repr=False)

    def add(self, row: Row, where: str) -> None:
        """Keep a row, or skip the entry where an earlier one has the same operation."""
        if row.key in self._places:
            self.skip(
                where,
                f"{row.kind}({row.hyperparameters}) on {row.input} duplicates"
                f" {self._places[row.key]}",
            )
            return
        self._places[row.key] = where
        self.rows.append(row)

    def skip(self, where: str, reason: str) -> None:
        self.skipped.append(Skipped(where, reason))


@dataclass(frozen=True)
class Times:
    """Latency of one operation in a file, in ms.

    Raises:
        ValueError: when a time is negative or not finite, or the percentiles do not ascend.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int = 0

    def __post_init__(self) -> None:
        times = (self.p10_ms, self.median_ms, self.p90_ms)
        if not all(0 <= time <= MOST_MS for time in times):
            raise ValueError(
                f"p10, median and p90 are not latencies (got {', '.join(map(str, times))}; expected"
                f" ms, 0 or more, at most {MOST_MS:.0f})"
            )
        if list(times) != sorted(times):
            raise ValueError(
                f"p10, median and p90 do not ascend (got {', '.join(map(str, times))})"
            )


def make_row(
    spec: BlockSpec,
    shape: Shape,
    times: Times,
    provenance: Provenance,
    source: str,
    note: str = "",
    date: str = "",
) -> Row:
    """Return the row of an operation, dated today where the file has no date.

    Raises:
        ValueError: when the block does not take this input.
    """
    if shape.layout != spec.layout or 0 in (shape.channels, shape.height, shape.width):
        raise ValueError(
            f"'{shape}' is not an input of {spec.kind} (expected layout {spec.layout})"
        )
    spec.check(shape)
    extra = ((SOURCE, source), ("note", note)) if note else ((SOURCE, source),)
    return Row(
        spec.kind,
        str(spec),
        str(shape),
        str(spec.output_shape(shape)),
        times.median_ms,
        times.p10_ms,
        times.p90_ms,
        times.runs,
        provenance,
        date or datetime.date.today().isoformat(),
        extra,
    )
