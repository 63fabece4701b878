"""`nas check`: compare a latency table's predictions with measured networks.

These are random networks that the calibration never saw, or the network of a run.
"""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.output import Column, bars, emit, naming, next_step, say, table_text
from nas.latency.options import CheckOptions
from nas.space.sizes import Sizes, between

if TYPE_CHECKING:
    from nas.devices import Settings
    from nas.devices.base import StartUp
    from nas.latency import LatencyTable
    from nas.latency.check.file import Measured
    from nas.latency.check.network import Rival, RivalCheck, RunCheck
    from nas.latency.network_times import NetworkTime
    from nas.space import Architecture, Space


_OF_A_RUN = ("device", "run", "rival", "benchmark_model")
"""Options that the check of a run takes; any other option is an error."""


def check(options: CheckOptions) -> None:
    """Run `nas check`: compare measured random networks, or that of a run, with the table."""
    from nas.errors import InputError
    from nas.latency import load_table
    from nas.latency.check.file import is_network_file
    from nas.latency.check.table import check as check_members
    from nas.latency.known_devices import opened, opening_of
    from nas.option_values import only

    device = options.device
    if options.run is not None and is_network_file(options.run):
        return _check_file(options, Path(options.run))
    if options.beside is not None:
        raise InputError(
            f"--beside: stands beside a network file (got {options.run}, expected a .tflite, .onnx"
            " or .mlpackage file). Fix: leave out --beside"
        )
    if options.run is not None:
        only(options, _OF_A_RUN, f"it is for random networks; {options.run} is measured as it is")
    table = load_table(device)
    # Measure with the table's own settings: its predictions hold for no others.
    name, settings = opening_of(table, options.benchmark_model)
    if options.run is not None:
        check_run(options.run, table, name, settings, with_rival=options.rival)
        return
    whole, chosen = _space(table, options.space, options.sizes)
    effective = between(whole, chosen)
    with (
        opened(name, settings, say=say) as units,
        bars() as progress,
        naming(effective),
    ):
        table, times = check_members(table, chosen, units[0], options.nets, options.seed, progress)
    search = ["--space", options.space or times[0].space, "--device", device, *effective.options()]
    following = shlex.join(["nas", "search", *search])
    emit(_document(table, times, following), _text(table, times))
    next_step(following)


def _check_file(options: CheckOptions, file: Path) -> None:
    """Measure a network file, beside another network where one is named, and print both."""
    from nas.devices import Settings
    from nas.devices.info import device_name
    from nas.latency import load_table
    from nas.latency.check.file import check_exists, check_file
    from nas.latency.known_devices import opened, opening_of
    from nas.latency.table import TABLE_FILE, table_names
    from nas.option_values import only

    device = options.device
    only(options, ("device", "run", "beside", "benchmark_model"), f"{file} is measured as it is")
    # Before the device is opened, which may take a while.
    check_exists(file)
    # A file needs no table; where there is one, it is measured with the settings of that table.
    tool = options.benchmark_model
    has_table = device_name(device) in table_names() or (Path(device) / TABLE_FILE).is_file()
    name, settings = (
        opening_of(load_table(device), tool) if has_table else (device, Settings(tool=tool))
    )
    with opened(name, settings, say=say) as units, bars() as progress:
        found = check_file(units[0], file, options.beside, progress)
    lines = [_measured_line(found.device, found.file)]
    if found.beside is not None:
        lines.append(_measured_line(found.device, found.beside))
        lines.append(f"{file} takes {found.ratio:.2f} times as long")
    following = shlex.join(_as_fast(device, found.file.measured_ms if has_table else None))
    emit(found.to_dict() | {"next": following}, "\n".join(lines))
    next_step(following)


def _as_fast(device: str, ms: float | None) -> list[str]:
    """Return the command that searches for a network as fast as a measured one.

    Return the one that first makes a table to search with, where `ms` is None for want of a table, or
    where the table lacks the space.
    """
    from nas.latency import MissingRows, load_table
    from nas.search.fastest import fastest
    from nas.search.limits import rounded
    from nas.space import load_space

    search = ["nas", "search", "--space", "efficientformer", "--device", device]
    if ms is not None:
        with suppress(MissingRows):
            least, _ = fastest(load_space("efficientformer"), load_table(device))
            return search if ms < least else [*search, "--latency-ms", rounded(ms, up=True)]
    return ["nas", "profile", *search[2:]]


def _measured_line(device: str, measured: Measured) -> str:
    """Return the line on a measured network: its latency and the cost of its start."""
    start = "" if measured.start is None else f"; it {start_text(measured.start)}"
    return f"{measured.name} on {device}: {measured.measured_ms:.4f} ms{start}"


def start_text(start: StartUp) -> str:
    """Return load time, first run and memory in words."""
    memory = "" if start.memory_mb is None else f", {start.memory_mb:.1f} MB of memory"
    return f"loads in {start.load_ms:.1f} ms, first run {start.first_ms:.2f} ms{memory}"


def _space(table: LatencyTable, name: str | None, asked: Sizes) -> tuple[Space, Space]:
    """Return the space to check, as it is loaded and at the requested sizes.

    It is the named space, or the last one that the table was profiled for.

    Raises:
        InputError: when no space is named and the table records no space.
    """
    from nas.errors import InputError
    from nas.latency.network_times import at_resolution_id, profiled_spaces
    from nas.latency.table import DEVICE_FILE
    from nas.space import load_space

    profiled = [entry for entry in profiled_spaces(table.device) if name in (None, entry[0])]
    if not name and not profiled:
        raise InputError(
            f"--space: is missing, and the table of {table.device.name} records no space. Fix: name"
            " one with --space (nas spaces lists them)"
        )
    whole = load_space(name or profiled[-1][0])
    where = f"{table.path}/{DEVICE_FILE}: spaces: resolution"
    space = at_resolution_id(whole, profiled[-1][1], where) if profiled else whole
    # A segmentation head may have been profiled, while --classes means the space's own classifier.
    if asked.classes is not None:
        space = whole.at(space.resolution)
    return whole, asked.apply(space)


def _document(table: LatencyTable, times: list[NetworkTime], following: str) -> dict[str, Any]:
    """Return the check as plain data, for --json."""
    from dataclasses import asdict

    assert table.device.check is not None
    return {
        "device": table.device.name,
        "table": str(table.path),
        **table.device.check.model_dump(),
        "misfit": _misfit(table, times),
        "leave_one_out_error": table.leave_one_out_error,
        "calibrated_error": table.calibrated_error,
        "networks": [asdict(time) for time in times],
        "next": following,
    }


def _misfit(table: LatencyTable, times: list[NetworkTime]) -> float | None:
    """Return the error in percent on the networks that the table was calibrated with.

    Only the networks of the checked space count, or all where the table has none of that space.
    """
    place = times[0].space, times[0].resolution
    entries = [each for each in table.device.spaces if (each.space, each.resolution) == place]
    return entries[-1].mape if entries else table.device.calibration.mape


def _text(table: LatencyTable, times: list[NetworkTime]) -> str:
    """Return the table of networks, and the errors of the table before and after the check."""
    found = table.device.check
    assert found is not None
    columns = (
        Column("network"),
        Column("measured ms", right=True),
        Column("predicted", right=True),
    )
    rows = [
        (
            time.network,
            f"{time.measured_ms:.4f}",
            f"{time.predicted_ms:.4f}",
            f"{time.error_percent:.2f} %",
        )
        for time in times
    ]
    lines = [table_text((*columns, Column("error", right=True)), rows)]
    lines += _starts_lines(times)
    rank = "none" if found.spearman is None else f"{found.spearman:.4f}"
    lines.append(
        f"{found.nets} networks: mean error {found.mape:.2f} %, bias {found.bias:+.2f} %, within 5"
        f" %: {found.within_5:.0f} %, within 10 %: {found.within_10:.0f} %, Spearman {rank}"
    )
    # Estimates are fitted to published networks; measured tables interpolate between their rows.
    left_out = (
        "of networks left out of the fit"
        if table.device.provenance == "estimated"
        else "of measured rows, each predicted from the others"
    )
    errors = {
        "on the calibration's own networks": _misfit(table, times),
        "after --calibrate": table.calibrated_error,
        left_out: table.leave_one_out_error,
    }
    figures = [f"{error:.2f} % {name}" for name, error in errors.items() if error is not None]
    if figures:
        lines.append(f"errors before this check: {', '.join(figures)}")
    # The device itself may be slower or faster than when the table was made. The table's
    # predictions are not to blame for that, so it is reported on its own.
    if found.drift is not None:
        lines.append(
            f"drift: the calibration's own networks, measured again, took {abs(found.drift):.1f} %"
            f" {'more' if found.drift >= 0 else 'less'} time than at calibration; without this"
            f" drift the mean error is {found.mape_without_drift:.2f} %"
        )
    return "\n".join(lines)


def _starts_lines(times: list[NetworkTime]) -> list[str]:
    """Return the line on the start of the measured networks; none where it is not known."""
    from statistics import median

    known = [time for time in times if time.load_ms]
    if not known:
        return []
    memory = [time.memory_mb for time in known if time.memory_mb]
    text = f", {median(memory):.1f} MB of memory" if memory else ""
    return [
        f"start of a network (median of {len(known)}): loads in"
        f" {median(time.load_ms for time in known):.1f} ms, first run"
        f" {median(time.first_ms for time in known):.2f} ms{text}"
    ]


def check_run(
    run: str, table: LatencyTable, device: str, settings: Settings, with_rival: bool = True
) -> None:
    """Measure the network of a run folder or an architecture's file, and compare with the table.

    The result is kept in the run folder.

    Args:
        run: the folder or the file.
        table: the latency table of the device.
        device: name to open the device by.
        settings: the settings to measure with.
        with_rival: also measure the published member that one would ship without the search, where
            the run has one.
    """
    from nas.latency.check.network import check_network, exported_file
    from nas.latency.known_devices import opened
    from nas.runs.resolve import find_source

    source = find_source(run)
    folder = source.run_folder
    sized = _sizes(source.architecture)
    rival = _rival(folder, source.architecture, table) if folder and with_rival else None
    # Choosing the rival needs no device and may fail, so it comes before the device is opened.
    with opened(device, settings, say=say) as units, bars() as progress, naming(sized):
        info = units[0].info()
        exported = exported_file(folder, info.kind, info.precision) if folder else None
        if source.weights is None:
            say(f"note: {run} has no weights; random ones are used for measuring")
        else:
            say(f"weights  {source.weights}")
        found = check_network(
            table, source.architecture, units[0], source.weights, exported, progress, rival
        )
    file = found.save(folder) if folder else None
    following = shlex.join(
        ["nas", "report", run] if folder else ["nas", "export", run, "--to", "litert"]
    )
    document = found.to_dict() | {
        "run": str(folder) if folder else None,
        "table": str(table.path),
        "file": str(file) if file else None,
        "next": following,
    }
    emit(document, _run_text(found, table, file))
    next_step(following)


def _rival(folder: Path, arch: Architecture, table: LatencyTable) -> Rival | None:
    """Return the published member that the run's network would replace, at its size and classes.

    It is chosen by the run's own space, table, scores and target. Return None where the folder has
    no search, where its inputs have changed since (a note says so), and where no other network is
    published.
    """
    from nas.accuracy import default_scores
    from nas.errors import InputError
    from nas.report.sources import find_sources
    from nas.runs.schema import read_about
    from nas.search.compare import published_rival

    if not (folder / "run.yaml").is_file():
        return None
    try:
        abouts = read_about(folder)
        about = abouts.get(table.device.name) or next(iter(abouts.values()))
        sources = find_sources(folder, about, arch)
        # The run's target is a latency on its own device, so another device's table cannot replace
        # the run's.
        same_device = about.table.device == table.device.name
        own_table = sources.table or (table if same_device else None)
        if sources.space is None or own_table is None:
            raise InputError(sources.reason)
        scores = sources.scores or default_scores(sources.space)
        scores.check(sources.space)
        target = about.target
        rival = published_rival(
            sources.space,
            own_table,
            scores,
            arch,
            target_ms=target.latency_ms,
            limits=target.limits,
        )
    except InputError as error:
        say(f"note: no published member is measured for comparison: {error}")
        return None
    # Compared by operations, as names and dropped positions do not change the network.
    if rival and rival.architecture.operations() == arch.operations():
        say(
            f"note: the found network is {rival.architecture.name} itself; no other network is"
            " measured for comparison"
        )
        return None
    return rival


def _sizes(arch: Architecture) -> Sizes:
    """Return the sizes of the network's space, for the command that measures missing rows."""
    from nas.space import load_space, space_names

    return between(load_space(arch.space), arch) if arch.space in space_names() else Sizes()


def _run_text(found: RunCheck, table: LatencyTable, file: Path | None) -> str:
    """Return the table of operations, and the latencies of network, exported file and rival."""
    rows = []
    for each in found.operations:
        measured = ""
        error = ""
        if each.measured_ms is not None:
            measured = f"{each.measured_ms:.4f}"
            # The intercept predicts the cost of a call, which is a small part of that measurement:
            # a relative error would mislead.
            if each.measured_ms and each.kind != "intercept":
                error = f"{_error(each.predicted_ms, each.measured_ms):+.1f} %"
        rows.append((each.name, each.kind, f"{each.predicted_ms:.4f}", measured, error))
    figures = (Column(title, right=True) for title in ("predicted ms", "measured", "error"))
    lines = [table_text((Column("operation"), Column("kind"), *figures), rows)]
    lines.append(
        f"operations were timed {found.profile}"
        if found.profile
        else f"{found.device} does not report the times of single operations"
    )
    expected = "unknown" if found.expected_error is None else f"{found.expected_error:.1f} %"
    lines += [
        (
            f"{found.architecture or 'the network'} on {found.device}: measured"
            f" {found.measured_ms:.4f} ms, predicted {found.predicted_ms:.4f} ms, an error of"
            f" {found.error_percent:+.2f} %"
        ),
        (
            f"the table is {found.provenance} and expects an error of {expected}"
            f" ({table.expected_error_source})"
        ),
    ]
    if found.start is not None:
        lines.append(f"it {start_text(found.start)}")
    if found.exported_ms is not None:
        lines.append(
            f"{found.exported} takes {found.exported_ms:.4f} ms, including the normalization of the"
            " image" + (f"; it {start_text(found.exported_start)}" if found.exported_start else "")
        )
    if found.rival:
        lines += _rival_lines(found, found.rival)
    return "\n".join([*lines, f"saved in {file}"] if file else lines)


def _rival_lines(found: RunCheck, rival: RivalCheck) -> list[str]:
    """Return the lines on the rival: its latency, and the ratio of the found network's to it."""
    predicted = "not predicted (the table lacks rows)"
    if rival.predicted_ms is not None:
        predicted = f"predicted {rival.predicted_ms:.4f} ms"
    if rival.measured_ms is None:
        return [
            f"{rival.name} ({rival.reason}): {predicted}, could not be measured: {rival.failure}"
        ]
    error = "" if rival.error_percent is None else f", an error of {rival.error_percent:+.2f} %"
    expected = "" if found.predicted_ratio is None else f", predicted {found.predicted_ratio:.2f}"
    return [
        f"{rival.name} ({rival.reason}): measured {rival.measured_ms:.4f} ms, {predicted}{error}",
        f"found takes {found.ratio:.2f} of the latency of {rival.name}{expected}",
    ]


def _error(predicted: float, measured: float) -> float:
    """Return the error of a prediction in percent of the measured value."""
    return 100 * (predicted / measured - 1)
