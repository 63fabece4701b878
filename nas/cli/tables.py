"""`nas profile` without a connected device: bundles, imports and calibrations.

A bundle is measured on another machine. An import reads another framework's latencies. A
calibration uses networks that the user measured. `nas.cli.profile` calls one function per mode.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.output import bars, emit, named_folder, next_step, say
from nas.errors import NasError

if TYPE_CHECKING:
    from nas.latency.options import ProfileOptions
    from nas.space import Space


def write(folder: Path, space: Space, device: str, options: ProfileOptions) -> None:
    """Write a bundle of files to be measured on `device`, with networks for a check."""
    from nas.latency.bundle import write_bundle
    from nas.latency.command import settings_of

    with bars() as tell:
        done = write_bundle(
            space,
            device,
            folder,
            tell,
            settings=settings_of(options),
            kind_name=options.kind,
            check_nets=options.check_nets,
        )
    _say_failed(done.failed)
    document = {
        "space": space.name,
        "device": device,
        "bundle": str(folder),
        "files": done.files,
        "kept": done.kept,
        "failed": done.failed,
    }
    emit(
        document,
        f"{folder}: {done.files} files, {done.kept} of them from before. README.txt there says how"
        " to measure them",
    )
    next_step(shlex.join(["nas", "profile", "--run", str(folder)]))


def run(folder: Path, options: ProfileOptions) -> None:
    """Measure a bundle on this machine, or through a device farm."""
    from nas.latency.bundle import run_bundle

    with bars() as tell:
        counts = run_bundle(
            folder,
            tell,
            options.threads,
            unit=options.unit,
            through=options.through,
            say=say,
        )
    emit(
        {"bundle": str(folder), **counts},
        f"{folder}: {', '.join(f'{count} {what}' for what, count in counts.items())}",
    )
    if counts["interrupted"]:
        again = shlex.join(["nas", "profile", "--run", str(folder)])
        raise NasError(
            f"{folder}: {counts['interrupted']} files were interrupted and have no result. Fix:"
            f" {again}"
        )
    next_step(shlex.join(["nas", "profile", "--merge", str(folder)]))


def merge(folder: Path, out: Path | None) -> None:
    """Make the table of a measured bundle, and check it."""
    from nas.latency.bundle import merge_bundle
    from nas.latency.network_times import at_resolution_id
    from nas.latency.table import DEVICE_FILE
    from nas.space import load_space
    from nas.space.sizes import between

    with bars() as tell:
        table, report, networks = merge_bundle(folder, out, tell)
    _say_failed(report.failed)
    entry = table.device.spaces[-1]
    found = table.device.check
    document: dict[str, Any] = {
        "space": entry.space,
        "device": table.device.name,
        "operations": report.operations,
        "measured": report.measured,
        "reused": report.reused,
        "interpolated": report.interpolated,
        "missing": report.missing,
        "failed": report.failed,
        "seconds": round(report.seconds, 2),
        "table": str(table.path),
        "provenance": table.provenance,
        "expected_error": table.expected_error,
        "check": found.model_dump() if networks and found else None,
    }
    lines = [
        f"{table.path}: {report.operations} operations, {report.measured} measured, "
        f"{report.interpolated} interpolated, {report.missing} without a row"
    ]
    if networks and found:
        lines.append(
            f"checked on {found.nets} networks: mean error {found.mape:.2f} %, bias"
            f" {found.bias:+.2f} %"
        )
    emit(document, "\n".join(lines))
    shown = named_folder(out) if out else table.device.name
    search = ["nas", "search", "--space", entry.space, "--device", shown]
    whole = load_space(entry.space)
    where = f"{table.path}/{DEVICE_FILE}: spaces: resolution"
    sizes = between(whole, at_resolution_id(whole, entry.resolution, where))
    next_step(shlex.join([*search, *sizes.options()]))


def import_file(path: Path, device: str, out: Path | None) -> None:
    """Import the rows of another framework's latency file into the table of `device`."""
    from nas.latency import command

    folder = command.folder_of(device, out)
    found = command.import_file(path, device, folder)
    for skipped in found.skipped:
        say(f"skipped: {skipped}")
    if found.kept:
        say(
            "note: a row replaces an existing one where that was imported too, or where the row is"
            " measured (has runs and date) and the existing one is not"
        )
    document = {
        "device": device,
        "file": str(path),
        "rows": found.added,
        "kept": found.kept,
        "skipped": [str(skipped) for skipped in found.skipped],
        "table": str(folder),
        "provenance": found.table.provenance,
    }
    emit(
        document,
        f"{folder}: {found.added} rows added from {path}, {found.kept} ignored in favour of"
        f" existing rows, {len(found.skipped)} entries skipped",
    )
    next_step("nas devices")


def calibrate(path: Path, device: str, out: Path | None) -> None:
    """Calibrate a table to whole networks that the user measured."""
    from nas.latency import command, load_table

    folder = command.folder_of(load_table(device).device.name, out)
    before, table = command.calibrate_file(path, device, folder)
    line = table.device.calibration
    intercept = table.device.intercept_ms
    document = {
        "device": table.device.name,
        "file": str(path),
        "table": str(folder),
        "nets": line.nets,
        "scale": line.scale,
        "intercept_ms": intercept,
        "note": line.note,
        "provenance": table.provenance,
        "misfit": line.mape,
        "leave_one_out_error": table.leave_one_out_error,
        "calibrated_error": table.calibrated_error,
        "expected_error_before": before.expected_error,
        "expected_error": table.expected_error,
    }
    lines = [
        f"{folder}: networks = {intercept:.4f} ms + {line.scale:.4f} x sum of rows",
        f"calibration: {line.nets} networks in {path}, mean error {_percent(line.mape)}",
        (
            f"expected error: {_percent(before.expected_error)} before,"
            f" {_percent(table.expected_error)} now"
        ),
    ]
    if line.note:
        lines.append(f"note: {line.note}")
    emit(document, "\n".join(lines))
    next_step("nas devices")


def _say_failed(failed: dict[str, str]) -> None:
    for what, reason in failed.items():
        say(f"failed: {what}: {reason}")


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f} %"
