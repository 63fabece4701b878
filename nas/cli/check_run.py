"""`nas check RUN`: one found network on its device, beside its prediction."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli.common import emit, naming, next_step, say
from nas.cli.progress import bars
from nas.cli.table import Column, table_text
from nas.space.sizes import Sizes, between

if TYPE_CHECKING:
    from nas.devices import Settings
    from nas.latency import LatencyTable
    from nas.latency.run_check import Rival, RivalCheck, RunCheck
    from nas.space import Architecture


def check_run(run: str, table: LatencyTable, settings: Settings, with_rival: bool = True) -> None:
    """Measure the network of a run folder, or of an architecture's file, and keep the result in the run folder.

    `with_rival` measures the published member that one would ship otherwise, too, where the run has one.
    """
    from nas.devices import opened
    from nas.latency.run_check import check_network, exported_file
    from nas.runs.resolve import find_source

    source = find_source(run)
    folder = source.run_folder
    sized = _sizes(source.architecture)
    rival = _rival(folder, source.architecture, table) if folder and with_rival else None
    with opened(table.device.name, settings, say=say) as units, bars() as progress, naming(sized):
        exported = exported_file(folder, units[0].info().kind) if folder else None
        if source.weights is None:
            say(f"note: {run} has no weights; random ones are measured in their place")
        else:
            say(f"weights  {source.weights}")
        found = check_network(table, source.architecture, units[0], source.weights, exported, progress, rival)
    file = found.save(folder) if folder else None
    following = shlex.join(["nas", "report", run] if folder else ["nas", "export", run, "--to", "litert"])
    document = found.to_dict() | {"run": str(folder) if folder else None, "table": str(table.path),
                                  "file": str(file) if file else None, "next": following}  # fmt: skip
    emit(document, _text(found, table, file))
    next_step(following)


def _rival(folder: Path, arch: Architecture, table: LatencyTable) -> Rival | None:
    """Return the published member that the run's network takes the place of, at the network's size and classes.

    It is chosen by what the run was made with: its space, table, scores and target. None where the folder has no search
    in it, where that has changed since (told in a note), and where no other network is published.
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
        # The latencies of another device say nothing of this run's target.
        same_device = about.table.device == table.device.name
        own_table = sources.table or (table if same_device else None)
        if sources.space is None or own_table is None:
            raise InputError(sources.reason)
        scores = sources.scores or default_scores(sources.space)
        scores.check(sources.space)
        target = about.target
        rival = published_rival(
            sources.space, own_table, scores, arch, target_ms=target.latency_ms, limits=target.limits
        )
    except InputError as error:
        say(f"note: no published member is measured beside it: {error}")
        return None
    if rival and rival.architecture.operations() == arch.operations():
        say(f"note: the found network is {rival.architecture.name} itself; no other is measured beside it")
        return None
    return rival


def _sizes(arch: Architecture) -> Sizes:
    """What turns the network's space into one that holds it, for the command that measures what a table lacks."""
    from nas.space import load_space, space_names

    return between(load_space(arch.space), arch) if arch.space in space_names() else Sizes()


def _text(found: RunCheck, table: LatencyTable, file: Path | None) -> str:
    rows = []
    for each in found.operations:
        measured, error = "", ""
        if each.measured_ms is not None:
            measured = f"{each.measured_ms:.4f}"
            if each.measured_ms and each.kind != "intercept":  # what a call costs is a small part of that
                error = f"{_error(each.predicted_ms, each.measured_ms):+.1f} %"
        rows.append((each.name, each.kind, f"{each.predicted_ms:.4f}", measured, error))
    figures = (Column(title, right=True) for title in ("predicted ms", "measured", "error"))
    lines = [table_text((Column("operation"), Column("kind"), *figures), rows)]
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
    if found.rival:
        lines += _rival_lines(found, found.rival)
    return "\n".join([*lines, f"kept in  {file}"] if file else lines)


def _rival_lines(found: RunCheck, rival: RivalCheck) -> list[str]:
    """Return what the rival takes, and the ratio of both networks as measured and as predicted."""
    predicted = "not predicted (the table lacks rows)"
    if rival.predicted_ms is not None:
        predicted = f"predicted {rival.predicted_ms:.4f} ms"
    if rival.measured_ms is None:
        return [f"{rival.name} ({rival.reason}): {predicted}, could not be measured: {rival.failure}"]
    error = "" if rival.error_percent is None else f", an error of {rival.error_percent:+.2f} %"
    expected = "" if found.predicted_ratio is None else f", predicted {found.predicted_ratio:.2f}"
    return [
        f"{rival.name} ({rival.reason}): measured {rival.measured_ms:.4f} ms, {predicted}{error}",
        f"found takes {found.ratio:.2f} of what {rival.name} takes{expected}",
    ]


def _error(predicted: float, measured: float) -> float:
    return 100 * (predicted / measured - 1)
