"""`nas check RUN`: one found network on its device, beside its prediction."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli import sizes
from nas.cli.common import emit, next_step, say
from nas.cli.progress import bars

if TYPE_CHECKING:
    from nas.devices import Settings
    from nas.latency import LatencyTable
    from nas.latency.run_check import RunCheck
    from nas.space import Architecture


def check_run(run: str, table: LatencyTable, settings: Settings, as_json: bool) -> None:
    """Measures the network of a run folder, or of an architecture's file, and keeps the result in the run folder."""
    from nas.devices import opened
    from nas.export.source import find_source
    from nas.latency.run_check import check_network, exported_file

    source, path = find_source(run), Path(run)
    folder = path if path.is_dir() else None
    sized = _sizes(source.architecture)
    with opened(table.device.name, settings, say=say) as units, bars() as progress, sizes.naming(sized):
        exported = exported_file(path, units[0].info().kind) if folder else None
        if source.weights is None:
            say(f"note: {run} has no weights; random ones are measured in their place")
        else:
            say(f"weights  {source.weights}")
        found = check_network(table, source.architecture, units[0], source.weights, exported, progress)
    file = found.save(folder) if folder else None
    following = shlex.join(["nas", "report", run] if folder else ["nas", "export", run, "--to", "litert"])
    document = found.to_dict() | {"run": str(folder) if folder else None, "table": str(table.path),
                                  "file": str(file) if file else None, "next": following}  # fmt: skip
    emit(document, as_json, _text(found, table, file))
    next_step(following)


def _sizes(arch: Architecture) -> sizes.Sizes:
    """What turns the network's space into one that holds it, for the command that measures what a table lacks."""
    from nas.space import load_space, space_names

    return sizes.between(load_space(arch.space), arch) if arch.space in space_names() else sizes.Sizes()


def _text(found: RunCheck, table: LatencyTable, file: Path | None) -> str:
    lines = [f"{'operation':<20}{'kind':<20}{'predicted ms':>13}{'measured':>11}{'error':>9}"]
    for each in found.operations:
        measured, error = "", ""
        if each.measured_ms is not None:
            measured = f"{each.measured_ms:.4f}"
            if each.measured_ms and each.kind != "intercept":  # what a call costs is a small part of that
                error = f"{_error(each.predicted_ms, each.measured_ms):+.1f} %"
        lines.append(f"{each.name:<20}{each.kind:<20}{each.predicted_ms:>13.4f}{measured:>11}{error:>9}")
    lines.append(f"operations were timed {found.profile}" if found.profile else
                 f"{found.device} gives no times of single operations")  # fmt: skip
    expected = "unknown" if found.expected_error is None else f"{found.expected_error:.1f} %"
    lines += [
        f"{found.architecture or 'the network'} on {found.device}: measured {found.measured_ms:.4f} ms, predicted "
        f"{found.predicted_ms:.4f} ms, an error of {found.error_percent:+.2f} %",
        f"the table is {found.provenance} and expects an error of {expected} ({table.expected_error_source})",
    ]
    if found.exported_ms is not None:
        lines.append(f"{found.exported} takes {found.exported_ms:.4f} ms: with an image in, which it normalises")
    return "\n".join([*lines, f"kept in  {file}"] if file else lines)


def _error(predicted: float, measured: float) -> float:
    return 100 * (predicted / measured - 1)
