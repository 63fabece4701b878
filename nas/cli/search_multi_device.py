"""`nas search` on several devices: a front per device, and the member that meets every target."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.output import Column, emit, next_step, say, table_text
from nas.option_values import words

if TYPE_CHECKING:
    from nas.search import Problem
    from nas.search.multi_device import Several
    from nas.search.options import SearchOptions


def search_several(
    problems: Sequence[Problem], options: SearchOptions, trained: str | None = None
) -> Path:
    """Search on all devices, write the run folder, print the result and return the folder.

    The member for all devices inherits the weights of the supernet `trained`.
    """
    from nas.cli.search_images import used_images
    from nas.figures import warm_up
    from nas.search.multi_device import search_several as run
    from nas.search.record import new_folder, not_left_empty, write_several

    names = [problem.table.device.name for problem in problems]
    # The drawing engine starts in a thread while the search runs, as its start takes seconds.
    warm_up()
    found = run(problems)
    folder = new_folder(
        options.out,
        problems[0].space.name,
        "-".join(names),
        command=words("search", options, {"out": None}),
    )
    with not_left_empty(folder):
        _draw(found, folder)
        inherited = trained if found.common else None
        if inherited and found.common:
            from nas.supernet.checkpoint import extract_to

            extract_to(inherited, found.common.architecture, folder / "weights.safetensors")
        command = shlex.split(words("search", options))
        images = used_images(options, problems[0].scores)
        rows = write_several(folder, found, command, images, inherited)
    document = _document(found, rows, folder)
    emit(document, _text(found, rows, folder))
    if found.common is None:
        say(f"no member keeps all targets: {found.reason}")
    chosen = "architecture.yaml" if found.common else f"best-{names[0]}.yaml"
    next_step(shlex.join(["nas", "predict", str(folder / chosen), "--device", names[0]]))
    return folder


def _draw(found: Several, folder: Path) -> None:
    """Write front-DEVICE.png for each device."""
    from nas.report.front import front_figure, front_picture
    from nas.runs.schema import BEST, COMMON

    for each in found.devices:
        name = each.problem.table.device.name
        answers = {f"{BEST}{name}": each.best} | ({COMMON: found.common} if found.common else {})
        front_figure(front_picture(each.problem, each.front, answers)).save(
            folder / f"front-{name}.png"
        )


def _document(found: Several, rows: dict[str, dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Return the result as plain data, for --json."""
    return {
        "space": found.devices[0].problem.space.name,
        "engine": "exact",
        "devices": [_device(each.problem, len(each.front), folder) for each in found.devices],
        "members": rows,
        "reason": found.reason,
        "run": str(folder),
        "architecture": str(folder / "architecture.yaml") if found.common else None,
    }


def _device(problem: Problem, members: int, folder: Path) -> dict[str, Any]:
    name = problem.table.device.name
    table = problem.table
    return {
        "device": name,
        "target_ms": problem.target_ms,
        "front_members": members,
        "front": str(folder / f"front-{name}.csv"),
        "best": str(folder / f"best-{name}.yaml"),
        "table": {
            "provenance": table.provenance,
            "expected_error": table.expected_error,
            "path": str(table.path),
        },
    }


def _text(found: Several, rows: dict[str, dict[str, Any]], folder: Path) -> str:
    """Return the table of members with a latency per device, and the lines on their sources."""
    from nas.cli.members_table import accuracy_text
    from nas.cli.search_output import table_fact
    from nas.tasks import metric_words

    problems = [each.problem for each in found.devices]
    devices = [problem.table.device.name for problem in problems]
    scores = problems[0].scores
    what = f"{metric_words(scores.metric)} %" if scores.absolute else "points"
    times = [Column(f"{device} ms", right=True) for device in devices]
    columns = [
        Column(),
        Column(what, right=True),
        Column(),
        Column(),
        *times,
        Column("all"),
        Column("widths"),
    ]
    cells = [
        (
            name,
            *accuracy_text(row),
            *(_ms(row["latency_ms"][device]) for device in devices),
            "yes" if row["keeps_all"] else "no",
            "-".join(map(str, row["widths"])),
        )
        for name, row in rows.items()
    ]
    lines = [table_text(columns, cells)]
    lines += ["", f"accuracy  {problems[0].scores.provenance}"]
    lines += [f"latency   {table_fact(problem)}" for problem in problems]
    for each in found.devices:
        lines.append(
            f"front     {len(each.front)} members:"
            f" {folder}/front-{each.problem.table.device.name}.csv, .png"
        )
    return "\n".join([*lines, f"run       {folder}"])


def _ms(ms: float | None) -> str:
    return "-" if ms is None else f"{ms:.3f}"
