"""`nas profile`: measures a space's operations on a device and writes the latency table."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli import sizes
from nas.cli.common import Json, emit, next_step, say
from nas.cli.progress import bars

if TYPE_CHECKING:
    from nas.latency import LatencyTable
    from nas.latency.bench import Report


def profile(
    space: Annotated[str, typer.Option(help="A space, by name or by the path of its YAML file.")],
    device: Annotated[str, typer.Option(help="What to measure on; see `nas devices`.")],
    resolution: sizes.Resolution = None,
    classes: sizes.Classes = None,
    segment: sizes.Segment = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads, each pinned to a core.")] = 1,
    out: Annotated[Path | None, typer.Option(help="The table's folder; ./latency_tables/DEVICE by default.")] = None,
    as_json: Json = False,
) -> None:
    """Measure a space's operations on a device into a latency table. Run it again to go on after a stop."""
    from nas.devices import open_device
    from nas.latency.profile import profile as run
    from nas.space import load_space

    asked = sizes.read(resolution, classes, segment)
    chosen = asked.apply(load_space(space))
    folder = out or Path("latency_tables") / device
    unit = open_device(device, threads)
    try:
        with bars() as progress:
            table, report = run(chosen, unit, folder, progress)
    finally:
        unit.close()
    for operation, reason in report.failed.items():
        say(f"could not be measured: {operation}: {reason}")
    following = _next(space, device, out, asked)
    emit(_document(space, device, folder, table, report, following), as_json, _text(folder, table, report))
    next_step(following)


def _next(space: str, device: str, out: Path | None, asked: sizes.Sizes) -> str:
    return shlex.join(["nas", "check", "--device", str(out or device), "--space", space, *asked.options()])


def _document(
    space: str, device: str, folder: Path, table: LatencyTable, report: Report, following: str
) -> dict[str, Any]:
    return {
        "space": space, "device": device, "operations": report.operations, "measured": report.measured,
        "reused": report.reused, "interpolated": report.interpolated, "failed": report.failed,
        "flagged": report.flagged, "seconds": round(report.seconds, 2), "table": str(folder),
        "provenance": table.provenance, "expected_error": table.expected_error,
        "scale": table.device.calibration.scale, "intercept_ms": table.device.intercept_ms, "next": following,
    }  # fmt: skip


def _text(folder: Path, table: LatencyTable, report: Report) -> str:
    lines = [
        f"{folder}: {report.operations} operations, {report.measured} measured now, {report.reused} from before, "
        f"{report.interpolated} interpolated, {len(report.failed)} failed, in {report.seconds:.0f} s",
        f"networks = {table.device.intercept_ms:.4f} ms + {table.device.calibration.scale:.4f} x sum of rows, "
        f"from {table.device.calibration.nets} whole networks",
    ]
    if report.flagged:
        lines.append(f"{report.flagged} rows were measured while the device drifted; they say so in the column note")
    return "\n".join(lines)
