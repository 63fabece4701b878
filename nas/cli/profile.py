"""`nas profile`: measures a space's operations on devices and writes their latency tables."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli import sizes
from nas.cli.common import Json, emit, next_step, say
from nas.cli.durations import seconds
from nas.cli.progress import Tell, bars

if TYPE_CHECKING:
    from nas.devices import Settings
    from nas.devices.converter import Converter
    from nas.errors import NasError
    from nas.latency import LatencyTable
    from nas.latency.bench import Report
    from nas.space import Space

_ELSEWHERE = "Measuring elsewhere"
_FIGURES = "Figures that are there"

Folder = Annotated[Path | None, typer.Option(help="The table's folder; ./latency_tables/DEVICE by default.")]
Bundle = Annotated[
    Path | None,
    typer.Option(help="Write the files that are to be measured on DEVICE here.", rich_help_panel=_ELSEWHERE),
]
CheckNets = Annotated[
    int, typer.Option(min=0, help="Whole networks for `nas check` that go with a bundle.", rich_help_panel=_ELSEWHERE)
]
Run = Annotated[Path | None, typer.Option(help="Measure this bundle on this machine.", rich_help_panel=_ELSEWHERE)]
Merge = Annotated[
    Path | None, typer.Option(help="Make the table from this bundle's results.", rich_help_panel=_ELSEWHERE)
]
Import = Annotated[
    Path | None,
    typer.Option(
        "--import",
        help="Take rows from a latency file: once-for-all (YAML), FBNet (JSON), CSV.",
        rich_help_panel=_FIGURES,
    ),
]
Calibrate = Annotated[
    Path | None,
    typer.Option(
        help="Adjust a table to whole networks that you measured: a CSV of network,latency_ms.",
        rich_help_panel=_FIGURES,
    ),
]


def profile(
    space: Annotated[str | None, typer.Option(help="A space, by name or by the path of its YAML file.")] = None,
    device: Annotated[list[str] | None, typer.Option(help="What to measure on; several run side by side.")] = None,
    resolution: sizes.Resolution = None,
    classes: sizes.Classes = None,
    segment: sizes.Segment = None,
    unit: Annotated[str | None, typer.Option(help="Compute unit: cpu or gpu; of Core ML all, cpu_and_ne, ...")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads, each pinned to a core.")] = None,
    affinity: Annotated[str | None, typer.Option(help="Android: mask of the cores, in hexadecimal.")] = None,
    benchmark_model: Annotated[Path | None, typer.Option(help="Android: LiteRT's tool, if not the release's.")] = None,
    budget: Annotated[str | None, typer.Option(help="Maximum duration with its unit, as 90s, 5m or 1h.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Measure again what the device could not run before.")] = False,
    bundle: Bundle = None,
    check_nets: CheckNets = 20,
    run: Run = None,
    merge: Merge = None,
    import_: Import = None,
    calibrate: Calibrate = None,
    out: Folder = None,
    as_json: Json = False,
) -> None:
    """Measure a space's operations on devices into latency tables. Run it again to go on after a stop."""
    from nas.cli import tables
    from nas.devices import Settings
    from nas.errors import InputError

    modes = {"--bundle": bundle, "--run": run, "--merge": merge, "--import": import_, "--calibrate": calibrate}
    given = [name for name, value in modes.items() if value is not None]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} exclude each other")
    names = device or []
    if run is not None:
        return tables.run(run, threads, as_json)
    if merge is not None:
        return tables.merge(merge, out, as_json)
    if len(names) != 1 and (given or out is not None):
        raise InputError(f"{' '.join(given) or '--out'}: give one --device")
    if import_ is not None:
        return tables.import_file(import_, names[0], out, as_json)
    if calibrate is not None:
        return tables.calibrate(calibrate, names[0], out, as_json)
    if space is None or not names:
        raise InputError(f"give --{'device' if space else 'space'}: nas profile --space SPACE --device DEVICE; "
                         "`nas spaces` and `nas devices` list them")  # fmt: skip
    from nas.space import load_space

    asked = sizes.read(resolution, classes, segment)
    chosen = asked.apply(load_space(space))
    if bundle is not None:
        return tables.write(bundle, chosen, names[0], threads or 1, check_nets, as_json)
    job = _Job(
        space, chosen, asked, Settings(unit, threads, affinity, benchmark_model), seconds("--budget", budget), retry
    )
    _measure(job, names, out, as_json)


class _Job:
    """What is measured, on every device alike."""

    def __init__(
        self, name: str, space: Space, asked: sizes.Sizes, settings: Settings, budget_s: float, retry: bool
    ) -> None:
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


def _measure(job: _Job, names: list[str], out: Path | None, as_json: bool) -> None:
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
        emit(documents if len(names) > 1 else documents[0], as_json, "\n".join(map(_text, documents)))
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
