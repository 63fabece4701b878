"""`nas.profile`, the function behind `nas profile`: make or change latency tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nas.convert.converter import Converter
from nas.devices import Device, Settings, litert_converter
from nas.devices.info import device_name
from nas.devices.precision import check_precision, table_name
from nas.errors import InputError, NasError
from nas.latency.adjust import adjust
from nas.latency.bundle import merge_bundle, run_bundle, write_bundle
from nas.latency.importing import Imported, import_into
from nas.latency.known_devices import check_owner, opened
from nas.latency.options import ProfileOptions
from nas.latency.profile.bench import Report
from nas.latency.profile.journal import MEASURING
from nas.latency.profile.run import profile as profile_space
from nas.latency.table import TABLE_FILE, LatencyTable, load_table
from nas.locks import sole_writer
from nas.option_values import make, only
from nas.options import options_of
from nas.space import Space, load_space

MODES = {
    "bundle": (
        *("space", "device", "kind", "precision"),
        *("resolution", "classes", "segment", "head_width", "head_depth"),
        *("unit", "threads", "affinity", "benchmark_model", "check_nets"),
    ),
    "run": ("threads", "unit", "through"),
    "merge": ("out",),
    "import_": ("device", "out"),
    "calibrate": ("device", "out"),
}
"""Options that make a table in another way than by measuring, with the options that each allows."""

Note = Callable[[str], None]


class Tell(Protocol):
    """Callback that gets the name of the step, how many are done, of how many, and a note."""

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None: ...


def _silent(what: str, done: int, total: int, note: str = "") -> None:
    """Ignore progress."""


@dataclass(frozen=True)
class Profiled:
    """Outcome of profiling one device.

    Attributes:
        device: name of the device.
        table: latency table as saved; None for a bundle, which makes one when it is merged.
        folder: of the table, or of the bundle.
        report: of the measurement; None where nothing was measured.
        counts: numbers of a bundle's files by their outcome.
    """

    device: str
    table: LatencyTable | None
    folder: Path
    report: Report | None = field(default=None, repr=False)
    counts: dict[str, int] = field(default_factory=dict)


def profile(
    space: str | Path | None = None, device: str | list[str] | tuple[str, ...] = (), **options: Any
) -> list[Profiled]:
    """Measure a space's operations on devices, and save the latency table of each.

    Other options make a table from a bundle, from a file of latencies, or by calibration. The same
    call resumes a profile that was stopped.

    Args:
        space: a space by name, or its YAML file.
        device: what to measure on, by name; several are measured side by side.
        options: the other options of `nas profile`, with `_` for `-`: `budget="5m", threads=2,
            out="tables/mine"`; `import_="other.json"`, `calibrate="networks.csv"`, and `bundle`,
            `run` or `merge` with a folder.

    Returns:
        One entry per device.

    Raises:
        InputError: for an option that is unknown, out of range or without effect, and as the
            command.
        NasError: when a device is lost, or the profile is not complete. What was measured is kept.
    """
    several = device or None
    made = make(ProfileOptions, {"space": space, "device": several, **options})
    mode = mode_of(made)
    if mode is not None:
        return [_other_way(made, mode)]
    profiled, errors = measure(made)
    if errors:
        raise errors[0]
    for each in profiled:
        if each.report is not None and (why := each.report.incomplete):
            raise NasError(
                f"{each.folder}: the profile is incomplete ({why}). Fix: the same call again"
            )
    return profiled


def mode_of(options: ProfileOptions) -> str | None:
    """Return the option that makes a table in another way than by measuring; None without one.

    Raises:
        InputError: for two of them, for an option that has no effect with it, or for a missing
            option.
    """
    declared = options_of(ProfileOptions)
    modes = [name for name in MODES if getattr(options, name) is not None]
    if len(modes) > 1:
        raise InputError(
            f"{' and '.join(declared[name].long for name in modes)} exclude each other. Fix: give"
            " one of them"
        )
    mode = modes[0] if modes else None
    if mode is not None:
        only(options, (mode, *MODES[mode]), f"{declared[mode].long} does not take it")
    if mode in ("run", "merge"):
        return mode
    if len(options.device) != 1 and (mode or options.out is not None):
        raise InputError(
            f"{declared[mode or 'out'].long}: needs one device (got {len(options.device)}). Fix:"
            " give --device once"
        )
    if mode in (None, "bundle") and (options.space is None or not options.device):
        raise InputError(
            f"--{'device' if options.space else 'space'}: is missing. Fix: nas profile --space"
            " SPACE --device DEVICE (`nas spaces` and `nas devices` list them)"
        )
    return mode


def _other_way(options: ProfileOptions, mode: str) -> Profiled:
    """Write, run or merge a bundle, import a file, or calibrate a table, as the mode says."""
    if mode == "bundle" and options.bundle is not None:
        done = write_bundle(
            space_of(options),
            options.device[0],
            options.bundle,
            _silent,
            settings=settings_of(options),
            kind_name=options.kind,
            check_nets=options.check_nets,
        )
        counts = {"files": done.files, "kept": done.kept, "failed": len(done.failed)}
        return Profiled(options.device[0], None, options.bundle, counts=counts)
    if mode == "run" and options.run is not None:
        counts = run_bundle(
            options.run,
            _silent,
            options.threads,
            through=options.through,
            unit=options.unit,
        )
        return Profiled("", None, options.run, counts=counts)
    if mode == "merge" and options.merge is not None:
        table, report, _ = merge_bundle(options.merge, options.out, _silent)
        return Profiled(table.device.name, table, Path(table.path or options.merge), report)
    device = options.device[0]
    if mode == "import_" and options.import_ is not None:
        folder = folder_of(device, options.out)
        table = import_file(options.import_, device, folder).table
    else:
        assert options.calibrate is not None
        folder = folder_of(load_table(device).device.name, options.out)
        _, table = calibrate_file(options.calibrate, device, folder)
    return Profiled(table.device.name, load_table(folder), folder)


def import_file(path: Path, device: str, folder: Path) -> Imported:
    """Import the rows of a file into the table in `folder`, and save it.

    Raises:
        NasError: when another process measures into the table.
        InputError: as `import_into`.
    """
    with sole_writer(folder, MEASURING):
        imported = import_into(path, device, folder)
        imported.table.save(folder)
    return imported


def calibrate_file(path: Path, device: str, folder: Path) -> tuple[LatencyTable, LatencyTable]:
    """Calibrate the table of a device to a file's networks, and save it in `folder`.

    Returns:
        The table before, and as saved.

    Raises:
        NasError: when another process measures into the table.
        InputError: as `adjust`.
    """
    with sole_writer(folder, MEASURING):
        before = load_table(device)
        _check_replaced(folder, before)
        table = adjust(before, path)
        table.save(folder)
    return before, table


def _check_replaced(folder: Path, table: LatencyTable) -> None:
    """Raise InputError where saving a table would replace another one that cannot be made again.

    That is one of another device, or one with rows that were measured.
    """
    if not (folder / TABLE_FILE).is_file() or folder.resolve() == Path(table.path or "").resolve():
        return
    there = load_table(folder / TABLE_FILE)
    check_owner(there.device, table.device.name, folder)
    # Rows of the table itself are there after an earlier calibration.
    measured = sum(
        row.provenance == "measured" and table.rows.get(key) != row
        for key, row in there.rows.items()
    )
    if measured:
        raise InputError(
            f"{folder}: has {measured} measured rows, which the calibrated table would replace. Fix:"
            " --out with another folder"
        )


def measure(
    options: ProfileOptions, note: Note = lambda line: None, tell: Tell = _silent
) -> tuple[list[Profiled], list[NasError]]:
    """Measure on each device, side by side where there are several.

    Returns:
        The outcomes of the devices that succeeded, and the errors of the others. The error of a
        single device is raised instead.
    """
    names = list(dict.fromkeys(options.device))
    if len(names) == 1:
        return [_on(options, names[0], note, tell)], []
    return _side_by_side(options, names, note, tell)


def space_of(options: ProfileOptions) -> Space:
    """Return the space of the options, at their sizes."""
    assert options.space is not None
    return options.sizes.apply(load_space(options.space))


def settings_of(options: ProfileOptions) -> Settings:
    """Return the options' settings for devices."""
    return Settings(
        unit=options.unit,
        threads=options.threads,
        affinity=options.affinity,
        tool=options.benchmark_model,
        precision=options.precision,
    )


def folder_of(device: str, out: Path | None, precision: str | None = None) -> Path:
    """Return the folder of a device's table of a precision (None: the device's own)."""
    name = device_name(device)
    # The name of a table, as host-int8, states the precision already.
    if not name.endswith(f"-{precision}"):
        name = table_name(name, precision)
    return out or Path("latency_tables") / name


def _on(
    options: ProfileOptions, device: str, note: Note, tell: Tell, converter: Converter | None = None
) -> Profiled:
    """Make the table of one device, or of all phones of a name."""
    folder = folder_of(device, options.out, options.precision)
    budget_s = math.inf if options.budget is None else options.budget
    space = space_of(options)
    with opened(device, settings_of(options), converter, note) as units:
        _check_precision(device, units, options.precision)
        table, report = profile_space(
            space, units, folder, tell, budget_s=budget_s, retry=options.retry
        )
    return Profiled(device, table, folder, report)


def _check_precision(device: str, units: Sequence[Device], precision: str | None) -> None:
    """Raise InputError where a device measures in another precision than the one asked for."""
    for unit in units:
        check_precision(precision, device, (unit.info().precision,))


def _side_by_side(
    options: ProfileOptions, names: list[str], note: Note, tell: Tell
) -> tuple[list[Profiled], list[NasError]]:
    """Measure on several devices at once; an error of one does not stop the others."""
    # All of them share one converter, so that a chain is converted once.
    from concurrent.futures import ThreadPoolExecutor

    def on(name: str) -> Profiled | NasError:
        def named(what: str, done: int, total: int, note: str = "") -> None:
            tell(f"{name}: {what}", done, total, note)

        try:
            return _on(options, name, note, named, converter)
        except NasError as error:
            return error

    converter = litert_converter(options.precision)
    try:
        with ThreadPoolExecutor(len(names)) as pool:
            outcomes = list(pool.map(on, names))
    finally:
        converter.close()
    return [each for each in outcomes if isinstance(each, Profiled)], [
        each for each in outcomes if isinstance(each, NasError)
    ]
