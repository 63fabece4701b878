"""`nas profile`: measure a space's operations on devices and write their latency tables."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from nas.cli.output import bars, emit, named_folder, next_step, say
from nas.latency.options import ProfileOptions

if TYPE_CHECKING:
    from nas.errors import NasError
    from nas.latency.command import Profiled
    from nas.space import Space


def profile(options: ProfileOptions) -> None:
    """Run `nas profile`: measure devices, or handle a bundle, an import or a calibration."""
    from nas.cli import tables
    from nas.latency.command import measure, mode_of, space_of

    mode_of(options)
    if options.run is not None:
        return tables.run(options.run, options)
    if options.merge is not None:
        return tables.merge(options.merge, options.out)
    # `mode_of` has checked that the other modes have exactly one device.
    name = options.device[0]
    if options.import_ is not None:
        return tables.import_file(options.import_, name, options.out)
    if options.calibrate is not None:
        return tables.calibrate(options.calibrate, name, options.out)
    space = space_of(options)
    if options.bundle is not None:
        return tables.write(options.bundle, space, name, options)
    with bars() as tell:
        profiled, errors = measure(options, say, tell)
    _finish(
        [_document(options, space, each) for each in profiled],
        errors,
        several=len(options.device) > 1,
    )


def _document(options: ProfileOptions, space: Space, profiled: Profiled) -> dict[str, Any]:
    """Return the profile of one device as plain data, for --json."""
    from nas.latency.command import folder_of

    table = profiled.table
    report = profiled.report
    device = profiled.device
    folder = profiled.folder
    assert table is not None and report is not None and options.space is not None
    own = table.calibrated(space.name, space.resolution).device
    default = folder == folder_of(device, None, options.precision)
    given = {
        "--unit": options.unit,
        "--threads": options.threads,
        "--affinity": options.affinity,
        "--precision": options.precision,
        "--benchmark-model": options.benchmark_model,
        "--out": None if default else folder,
    }
    sizes = options.sizes.options()
    # The command that resumes an incomplete profile repeats every given setting.
    again = ["nas", "profile", "--space", options.space, "--device", device, *sizes]
    again += [
        part for name, value in given.items() if value is not None for part in (name, str(value))
    ]
    # A table outside of latency_tables/ can only be named by its folder.
    shown = folder.name if default else named_folder(folder)
    check = ["nas", "check", "--device", shown, "--space", options.space, *sizes]
    if options.benchmark_model is not None:
        check += ["--benchmark-model", str(options.benchmark_model)]
    following = shlex.join(check)
    return {
        "space": options.space,
        "device": device,
        "precision": table.device.precision,
        "operations": report.operations,
        "measured": report.measured,
        "reused": report.reused,
        "interpolated": report.interpolated,
        "missing": report.missing,
        "left_out": report.left_out,
        "failed": report.failed,
        "interrupted": report.interrupted,
        "flagged": report.flagged,
        "lost": report.lost,
        "seconds": round(report.seconds, 2),
        "table": str(folder),
        "provenance": table.provenance,
        "expected_error": table.expected_error,
        "scale": own.calibration.scale,
        "intercept_ms": own.intercept_ms,
        "weights_ms": own.calibration.weights_ms,
        "weights_from": own.calibration.weights_from,
        "networks": own.calibration.nets,
        "misfit": own.calibration.mape,
        "note": own.calibration.note,
        "incomplete": report.incomplete,
        "retry": shlex.join([*again, "--retry"]),
        "next": shlex.join(again) if report.incomplete else following,
    }


def _finish(documents: list[dict[str, Any]], errors: list[NasError], several: bool) -> None:
    """Print the profiles; raise the first error, or one for an incomplete profile.

    Tables of devices that succeeded are printed even where another device failed.
    """
    from nas.errors import NasError

    for document in documents:
        for operation, reason in document["failed"].items():
            say(f"{document['device']}: could not be measured: {operation}: {reason}")
        if document["failed"]:
            say(f"{document['device']}: to measure these again: {document['retry']}")
        for operation, reason in document["interrupted"].items():
            say(f"{document['device']}: was interrupted: {operation}: {reason}")
        for reason in document["lost"]:
            say(f"{document['device']}: continued without {reason}")
    for error in errors[1:]:
        say(f"nas profile: {error}")
    if documents:
        emit(documents if several else documents[0], "\n".join(map(_text, documents)))
    if errors:
        raise errors[0]
    for document in documents:
        if document["incomplete"]:
            raise NasError(
                f"{document['table']}: the profile is incomplete ({document['incomplete']}). Fix:"
                f" {document['next']}"
            )
    next_step(documents[0]["next"])


def _text(document: dict[str, Any]) -> str:
    """Return the lines on the numbers of operations and on the calibration of the table."""
    lines = [
        (
            f"{document['table']}: {document['operations']} operations, {document['measured']}"
            f" measured now, {document['reused']} from before, {document['interpolated']}"
            f" interpolated, {document['missing']} without a row, in {document['seconds']:.0f} s"
        ),
        (
            f"networks = {document['intercept_ms']:.4f} ms + {document['scale']:.4f} x sum of rows"
            f" + {document['weights_ms']:.4f} ms per million parameters beyond"
            f" {document['weights_from']:.2f} million, from {document['networks']} whole networks"
        ),
    ]
    if document["misfit"] is not None:
        error = (
            "unknown"
            if document["expected_error"] is None
            else f"{document['expected_error']:.1f} %"
        )
        lines.append(
            f"mean error on these networks {document['misfit']:.1f} %; expected error of the table"
            f" {error}"
        )
    if document["note"]:
        lines.append(f"note: {document['note']}")
    if document["flagged"]:
        lines.append(
            f"{document['flagged']} rows were measured while the device drifted (see the column"
            " 'note')"
        )
    return "\n".join(lines)
