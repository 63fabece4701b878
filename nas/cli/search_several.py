"""`nas search` with several devices: a front each, and the member that keeps every target."""

from __future__ import annotations

import csv
import io
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.common import emit, next_step, say

if TYPE_CHECKING:
    from nas.search import Problem
    from nas.search.several import Several
    from nas.space import Architecture


def search_several(problems: Sequence[Problem], out: str | None, as_json: bool) -> Path:
    """Searches on all devices, writes the run folder and says what was found; returns the folder."""
    from nas.search.run import new_folder
    from nas.search.several import search_several as run

    names = [problem.table.device.name for problem in problems]
    found = run(problems)
    folder = new_folder(out, problems[0].space.name, "-".join(names))
    rows = _rows(found)
    _write(folder, found, rows)
    document = _document(found, rows, folder)
    emit(document, as_json, _text(found, rows, folder))
    if found.common is None:
        say(f"no member keeps all targets: {found.reason}")
    chosen = "architecture.yaml" if found.common else f"best-{names[0]}.yaml"
    next_step(shlex.join(["nas", "predict", str(folder / chosen), "--device", names[0]]))
    return folder


def _rows(found: Several) -> dict[str, dict[str, Any]]:
    """The members found and the published ones: cost, and latency on every device."""
    space = found.devices[0].problem.space
    members: dict[str, Architecture] = {"best on all": found.common.architecture} if found.common else {}
    members |= {f"best on {each.problem.table.device.name}": each.best.architecture for each in found.devices}
    return {name: _row(found, arch) for name, arch in (members | dict(space.published)).items()}


def _row(found: Several, arch: Architecture) -> dict[str, Any]:
    from nas.search.run import finite, summary

    problems = [each.problem for each in found.devices]
    times = {problem.table.device.name: finite(problem.latency.measure.total(arch)) for problem in problems}
    kept = all(problem.latency.holds(arch) for problem in problems)
    return {"cost": problems[0].scores.cost(arch), "latency_ms": times, "keeps_all": kept,
            **summary(problems[0].space, arch)}  # fmt: skip


def _write(folder: Path, found: Several, rows: dict[str, dict[str, Any]]) -> None:
    from nas.files import write_text, write_yaml
    from nas.search.run import FORMAT, describe, write_front

    for each in found.devices:
        name = each.problem.table.device.name
        answers = {f"best on {name}": each.best} | ({"best on all": found.common} if found.common else {})
        write_front(folder, each.problem, each.front, answers, f"front-{name}")
        each.best.architecture.save(folder / f"best-{name}.yaml")
    if found.common:
        found.common.architecture.save(folder / "architecture.yaml")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    devices = [each.problem.table.device.name for each in found.devices]
    writer.writerow(["member", "cost", *(f"ms_{name}" for name in devices), "keeps_all", "params", "macs"])
    for name, row in rows.items():
        writer.writerow([name, row["cost"], *(row["latency_ms"][device] for device in devices), row["keeps_all"],
                         row["params"], row["macs"]])  # fmt: skip
    write_text(folder / "members.csv", text.getvalue())
    described = [describe(each.problem) for each in found.devices]
    write_yaml(folder / "run.yaml", {"format": FORMAT, "command": shlex.join(["nas", *sys.argv[1:]]),
                                     "devices": described, "result": rows})  # fmt: skip


def _document(found: Several, rows: dict[str, dict[str, Any]], folder: Path) -> dict[str, Any]:
    return {
        "space": found.devices[0].problem.space.name, "engine": "exact",
        "devices": [_device(each.problem, len(each.front), folder) for each in found.devices],
        "members": rows, "reason": found.reason, "run": str(folder),
        "architecture": str(folder / "architecture.yaml") if found.common else None,
    }  # fmt: skip


def _device(problem: Problem, members: int, folder: Path) -> dict[str, Any]:
    name, table = problem.table.device.name, problem.table
    return {
        "device": name, "target_ms": problem.target_ms, "front_members": members,
        "front": str(folder / f"front-{name}.csv"), "best": str(folder / f"best-{name}.yaml"),
        "table": {"provenance": table.provenance, "expected_error": table.expected_error, "path": str(table.path)},
    }  # fmt: skip


def _text(found: Several, rows: dict[str, dict[str, Any]], folder: Path) -> str:
    devices = [each.problem.table.device.name for each in found.devices]
    width = max(map(len, rows))
    lines = [f"{'':<{width}}{'points':>9}" + "".join(f"{name + ' ms':>{len(name) + 6}}" for name in devices)
             + "  all  widths"]  # fmt: skip
    for name, row in rows.items():
        times = "".join(_cell(row["latency_ms"][device], len(device) + 6) for device in devices)
        lines.append(f"{name:<{width}}{row['cost']:>+9.2f}{times}  {'yes' if row['keeps_all'] else 'no ':<3}  "
                     f"{'-'.join(map(str, row['widths']))}")  # fmt: skip
    for each in found.devices:
        lines.append(f"front    {len(each.front)} members: {folder}/front-{each.problem.table.device.name}.csv, .png")
    lines.append(f"run      {folder}")
    return "\n".join(lines)


def _cell(ms: float | None, width: int) -> str:
    return f"{'-':>{width}}" if ms is None else f"{ms:>{width}.3f}"
