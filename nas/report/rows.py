"""Where the latencies came from: the rows of a table by provenance, and those that a network uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from nas.latency import LatencyTable
from nas.latency.rows import PROVENANCES
from nas.space import Architecture


@dataclass(frozen=True)
class TableRows:
    """A latency table in numbers.

    Attributes:
        all: rows by provenance, the most trustworthy first; only what occurs.
        used: those of the found network's operations, each once; "priced" counts operations without a row.
        dates: of the oldest and the newest row.
        facts: name and value of what the table says of device and tools.
    """

    all: dict[str, int]
    used: dict[str, int]
    dates: tuple[str, str]
    facts: tuple[tuple[str, str], ...]

    @property
    def provenances(self) -> tuple[str, ...]:
        """Every provenance that occurs, in the table or in the network."""
        return tuple(name for name in PROVENANCES if name in self.all or name in self.used)


def table_rows(table: LatencyTable, arch: Architecture) -> TableRows:
    """Return the table's rows in numbers."""
    used = {operation.key for operation in arch.operations()}
    dates = sorted(row.date for row in table.rows.values())
    device = table.device
    facts = {
        "compute unit": device.compute_unit, "placement": device.placement, "precision": device.precision,
        "threads": device.threads, "cores": device.affinity, "source": device.source,
        "method": device.estimate.method if device.estimate else "",
        "cost of a call": f"{device.intercept_ms:.4g} ms", "scale of the rows": f"{device.calibration.scale:.4g}",
        "weights beside the rows": f"{device.calibration.weights_ms:.4g} ms per million parameters beyond "
                                   f"{device.calibration.weights_from:.4g}" if device.calibration.weights_ms else "",
        "tools": ", ".join(f"{name} {version}" for name, version in device.tools.items()),
    }  # fmt: skip
    return TableRows(
        _counts(row.provenance for row in table.rows.values()),
        _counts(table.rows[key].provenance if key in table.rows else "priced" for key in used),
        (dates[0], dates[-1]) if dates else ("", ""),
        tuple((name, str(value)) for name, value in facts.items() if value not in ("", None)),
    )


def _counts(provenances: Iterable[str]) -> dict[str, int]:
    counted = Counter(provenances)
    return {name: counted[name] for name in PROVENANCES if counted[name]}
