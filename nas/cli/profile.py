"""`nas profile`: measures a space's operations on devices and writes their latency tables."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.common import emit, next_step, say
from nas.cli.progress import Tell, bars
from nas.errors import InputError
from nas.latency.options import ProfileOptions
from nas.options import only, options_of
from nas.space.sizes import Sizes

if TYPE_CHECKING:
    from nas.devices import Settings
    from nas.devices.converter import Converter
    from nas.errors import NasError
    from nas.latency import LatencyTable
    from nas.latency.bench import Report
    from nas.space import Space

_MODES = {
    "bundle": ("space", "device", "resolution", "classes", "segment", "threads", "check_nets"),
    "run": ("threads",),
    "merge": ("out",),
    "import_": ("device", "out"),
    "calibrate": ("device", "out"),
}
"""What comes to a table in another way than measuring, and the other options that it takes."""


def profile(options: ProfileOptions) -> None:
    """Measure a space's operations on devices into latency tables. Run it again to resume after a stop."""
    from nas.cli import tables
    from nas.devices import Settings
    from nas.space import load_space

    mode = _mode(options)
    names = list(options.device)
    if options.run is not None:
        return tables.run(options.run, options.threads)
    if options.merge is not None:
        return tables.merge(options.merge, options.out)
    if len(names) != 1 and (mode or options.out is not None):
        raise InputError(f"{options_of(ProfileOptions)[mode or 'out'].long}: give one --device")
    if options.import_ is not None:
        return tables.import_file(options.import_, names[0], options.out)
    if options.calibrate is not None:
        return tables.calibrate(options.calibrate, names[0], options.out)
    if options.space is None or not names:
        raise InputError(
            f"give --{'device' if options.space else 'space'}: nas profile --space SPACE --device DEVICE; "
            "`nas spaces` and `nas devices` list them"
        )
    chosen = options.sizes.apply(load_space(options.space))
    if options.bundle is not None:
        return tables.write(options.bundle, chosen, names[0], options.threads or 1, options.check_nets)
    settings = Settings(options.unit, options.threads, options.affinity, options.benchmark_model)
    budget_s = math.inf if options.budget is None else options.budget
    _measure(_Job(options.space, chosen, options.sizes, settings, budget_s, options.retry), names, options.out)


def _mode(options: ProfileOptions) -> str | None:
    """Return the option that asks for another way than measuring, if one does.

    Raises:
        InputError: for two of them, or for an option that has no effect beside the one.
    """
    modes = [name for name in _MODES if getattr(options, name) is not None]
    if len(modes) > 1:
        raise InputError(f"{' and '.join(options_of(ProfileOptions)[name].long for name in modes)} exclude each other")
    if modes:
        long = options_of(ProfileOptions)[modes[0]].long
        only(options, (modes[0], *_MODES[modes[0]]), f"{long} does not take it")
        return modes[0]
    return None


class _Job:
    """What is measured, on every device alike."""

    def __init__(self, name: str, space: Space, asked: Sizes, settings: Settings, budget_s: float, retry: bool) -> None:
        self.name, self.space, self.asked = name, space, asked
        self.settings, self.budget_s, self.retry = settings, budget_s, retry

    def on(self, device: str, folder: Path, tell: Tell, converter: Converter | None = None) -> dict[str, Any]:
        """Makes the table of one device (or of all phones of a name) and returns its document."""
        from nas.devices import opened
        from nas.latency.profile import profile

        with opened(device, self.settings, converter, say) as units:
            table, report = profile(self.space, units, folder, tell, budget_s=self.budget_s, retry=self.retry)
        return self._document(device, folder, table, report)

    def _document(self, device: str, folder: Path, table: LatencyTable, report: Report) -> dict[str, Any]:
        own = table.calibrated(self.space.name, self.space.resolution).device
        settings = self.settings
        given = {
            "--unit": settings.unit,
            "--threads": settings.threads,
            "--affinity": settings.affinity,
            "--benchmark-model": settings.tool,
            "--out": None if folder == _folder(device, None) else folder,
        }
        again = ["nas", "profile", "--space", self.name, "--device", device, *self.asked.options()]
        again += [part for name, value in given.items() if value is not None for part in (name, str(value))]
        shown = device if folder == _folder(device, None) else str(folder)
        following = shlex.join(["nas", "check", "--device", shown, "--space", self.name, *self.asked.options()])
        return {
            "space": self.name, "device": device, "operations": report.operations, "measured": report.measured,
            "reused": report.reused, "interpolated": report.interpolated, "missing": report.missing,
            "left_out": report.left_out, "failed": report.failed, "flagged": report.flagged, "lost": report.lost,
            "seconds": round(report.seconds, 2), "table": str(folder), "provenance": table.provenance,
            "expected_error": table.expected_error, "scale": own.calibration.scale, "intercept_ms": own.intercept_ms,
            "weights_ms": own.calibration.weights_ms, "weights_from": own.calibration.weights_from,
            "networks": own.calibration.nets, "misfit": own.calibration.mape, "note": own.calibration.note,
            "next": shlex.join(again) if report.left_out else following,
        }  # fmt: skip


def _folder(device: str, out: Path | None) -> Path:
    return out or Path("latency_tables") / device


def _measure(job: _Job, names: list[str], out: Path | None) -> None:
    from nas.errors import NasError

    with bars() as tell:
        if len(names) == 1:
            documents, errors = [job.on(names[0], _folder(names[0], out), tell)], list[NasError]()
        else:
            documents, errors = _side_by_side(job, names, tell)
    for document in documents:
        for operation, reason in document["failed"].items():
            say(f"{document['device']}: could not be measured: {operation}: {reason}")
        for reason in document["lost"]:
            say(f"{document['device']}: went on without {reason}")
    for error in errors[1:]:
        say(f"nas profile: {error}")
    if documents:
        emit(documents if len(names) > 1 else documents[0], "\n".join(map(_text, documents)))
    if errors:
        raise errors[0]
    for document in documents:
        if document["left_out"]:
            raise NasError(
                f"{document['table']}: the profile is incomplete (got {document['left_out']} operations without a row, "
                f"expected 0). Fix: {document['next']}"
            )
    next_step(documents[0]["next"])


def _side_by_side(job: _Job, names: list[str], tell: Tell) -> tuple[list[dict[str, Any]], list[NasError]]:
    """The document of each device that went well, and the error of each that did not."""
    from concurrent.futures import ThreadPoolExecutor

    from nas.devices import litert_converter
    from nas.errors import NasError

    def on(name: str) -> dict[str, Any] | NasError:
        def named(what: str, done: int, total: int, note: str = "") -> None:
            tell(f"{name}: {what}", done, total, note)

        try:
            return job.on(name, _folder(name, None), named, converter)
        except NasError as error:
            return error

    converter = litert_converter()
    try:
        with ThreadPoolExecutor(len(names)) as pool:
            found = list(pool.map(on, dict.fromkeys(names)))
    finally:
        converter.close()
    return [each for each in found if isinstance(each, dict)], [each for each in found if isinstance(each, NasError)]


def _text(document: dict[str, Any]) -> str:
    lines = [
        f"{document['table']}: {document['operations']} operations, {document['measured']} measured now, "
        f"{document['reused']} from before, {document['interpolated']} interpolated, {document['missing']} without a "
        f"row, in {document['seconds']:.0f} s",
        f"networks = {document['intercept_ms']:.4f} ms + {document['scale']:.4f} x sum of rows + "
        f"{document['weights_ms']:.4f} ms a million parameters beyond {document['weights_from']:.2f}, "
        f"from {document['networks']} whole networks",
    ]
    if document["misfit"] is not None:
        error = "unknown" if document["expected_error"] is None else f"{document['expected_error']:.1f} %"
        lines.append(f"these networks are off by {document['misfit']:.1f} %; expected error of the table {error}")
    if document["note"]:
        lines.append(f"note: {document['note']}")
    if document["flagged"]:
        lines.append(f"{document['flagged']} rows were measured while the device drifted; the column note says which")
    return "\n".join(lines)
