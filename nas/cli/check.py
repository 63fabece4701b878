"""`nas check`: a latency table's predictions against whole networks that its calibration never saw, or a found one."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from nas.cli.check_run import check_run
from nas.cli.common import emit, naming, next_step, say
from nas.cli.progress import bars
from nas.cli.table import Column, table_text
from nas.latency.options import CheckOptions
from nas.space.sizes import Sizes, between

if TYPE_CHECKING:
    from nas.latency import LatencyTable
    from nas.latency.networks import NetworkTime
    from nas.space import Space


_OF_A_RUN = ("device", "run", "rival")


def check(options: CheckOptions) -> None:
    """Measure random whole networks on a device and compare them with its latency table; or the network of a run."""
    from nas.devices import Settings, opened
    from nas.latency import load_table
    from nas.latency.check import check as check_members
    from nas.options import only

    device = options.device
    if options.run is not None:
        only(options, _OF_A_RUN, f"random networks take it; {options.run} is measured as it is")
    table = load_table(device)
    settings = Settings(table.device.compute_unit, table.device.threads, table.device.mask)
    if options.run is not None:
        check_run(options.run, table, settings, with_rival=options.rival)
        return
    whole, chosen = _space(table, options.space, options.sizes)
    effective = between(whole, chosen)
    with opened(table.device.name, settings, say=say) as units, bars() as progress, naming(effective):
        table, times = check_members(table, chosen, units[0], options.nets, options.seed, progress)
    search = ["--space", options.space or times[0].space, "--device", device, *effective.options()]
    following = shlex.join(["nas", "search", *search])
    emit(_document(table, times, following), _text(table, times))
    next_step(following)


def _space(table: LatencyTable, name: str | None, asked: Sizes) -> tuple[Space, Space]:
    """The space that is named, or the last one that the table was profiled for: as it is, and at the asked sizes."""
    from nas.errors import InputError
    from nas.latency.networks import at_resolution_id, profiled_spaces
    from nas.space import load_space

    profiled = [entry for entry in profiled_spaces(table.device) if name in (None, entry[0])]
    if not name and not profiled:
        raise InputError(f"the table of {table.device.name} does not say which space it was made for; give --space")
    whole = load_space(name or profiled[-1][0])
    space = at_resolution_id(whole, profiled[-1][1]) if profiled else whole
    if asked.classes is not None:  # of the space's own head, whichever head was profiled
        space = whole.at(space.resolution)
    return whole, asked.apply(space)


def _document(table: LatencyTable, times: list[NetworkTime], following: str) -> dict[str, Any]:
    from dataclasses import asdict

    assert table.device.check is not None
    return {
        "device": table.device.name, "table": str(table.path), **table.device.check.model_dump(),
        "misfit": _misfit(table, times), "leave_one_out_error": table.leave_one_out_error,
        "calibrated_error": table.calibrated_error, "networks": [asdict(time) for time in times], "next": following,
    }  # fmt: skip


def _misfit(table: LatencyTable, times: list[NetworkTime]) -> float | None:
    """Return what the calibration's own networks are off by in percent: of the checked space, else of all."""
    place = times[0].space, times[0].resolution
    entries = [each for each in table.device.spaces if (each.space, each.resolution) == place]
    return entries[-1].mape if entries else table.device.calibration.mape


def _text(table: LatencyTable, times: list[NetworkTime]) -> str:
    found = table.device.check
    assert found is not None
    columns = (Column("network"), Column("measured ms", right=True), Column("predicted", right=True))
    rows = [
        (time.network, f"{time.measured_ms:.4f}", f"{time.predicted_ms:.4f}", f"{time.error_percent:.2f} %")
        for time in times
    ]
    lines = [table_text((*columns, Column("error", right=True)), rows)]
    rank = "none" if found.spearman is None else f"{found.spearman:.4f}"
    lines.append(f"{found.nets} networks: mean error {found.mape:.2f} %, bias {found.bias:+.2f} %, within 5 %: "
                 f"{found.within_5:.0f} %, within 10 %: {found.within_10:.0f} %, Spearman {rank}")  # fmt: skip
    errors = {
        "calibration, on its own networks": _misfit(table, times),
        "calibration by hand": table.calibrated_error,
        "rows left out": table.leave_one_out_error,
    }
    known = [f"{name} {error:.2f} %" for name, error in errors.items() if error is not None]
    if known:
        lines.append(f"errors before this check: {', '.join(known)}")
    if found.drift is not None:
        lines.append(f"the calibration's own networks, measured again, took {abs(found.drift):.1f} % "
                     f"{'more' if found.drift >= 0 else 'less'} than then; with that taken off the mean error is "
                     f"{found.mape_without_drift:.2f} %")  # fmt: skip
    return "\n".join(lines)
