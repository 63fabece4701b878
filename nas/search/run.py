"""The run folder of a search: what went in with versions and checksums, every step, what came out, a picture."""

from __future__ import annotations

import csv
import hashlib
import io
import shlex
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nas.errors import InputError, NasError
from nas.files import write_text, write_yaml
from nas.latency.table import TABLE_FILE
from nas.search.problem import Found, Problem, Step
from nas.space import Architecture, Space
from nas.versions import versions

FORMAT = "nas-run-1"
TRACE = ("step", "action", "move", "ms", "saved_ms", "cost", "total_cost", "points_per_ms", "macs", "params")


def new_folder(out: str | None, space: str, device: str) -> Path:
    """Creates the folder of a run: `out`, or runs/SPACE-DEVICE-TIME with a counter where that is taken.

    Raises:
        InputError: when `out` is a file or a folder with something in it, which is left as it is.
        NasError: when no folder can be made there.
    """
    try:
        return _fresh(space, device) if out is None else _asked(Path(out))
    except OSError as error:
        raise NasError(f"{error.filename}: the run folder cannot be made ({error.strerror})") from error


def _asked(folder: Path) -> Path:
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"--out {folder}: there is something already; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _fresh(space: str, device: str) -> Path:
    time = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    folder, number = Path("runs") / f"{space}-{device}-{time}", 1
    folder.parent.mkdir(exist_ok=True)
    while True:
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
            folder = folder.with_name(f"{space}-{device}-{time}-{number}")
        else:
            return folder


def write_run(folder: Path, problem: Problem, found: Found, command: Sequence[str]) -> None:
    """Writes trace.csv, architecture.yaml, trajectory.png and, when those are whole, run.yaml.

    `command` is the command line that started the search.
    """
    from nas.report.trajectory import draw, trajectory

    write_text(folder / "trace.csv", trace_csv(found.trace))
    found.architecture.save(folder / "architecture.yaml")
    draw(trajectory(problem, found), folder / "trajectory.png")
    write_yaml(folder / "run.yaml", _document(problem, found, command))


def trace_csv(trace: Sequence[Step]) -> str:
    """The steps as CSV, one row a step."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(TRACE)
    writer.writerows([getattr(step, name) for name in TRACE] for step in trace)
    return text.getvalue()


def summary(space: Space, arch: Architecture) -> dict[str, Any]:
    """Widths, depths, global blocks a stage, parameters and MACs of a member, as plain data."""
    attention = [
        sum(choice.kind(block) == "global" for block in stage.blocks)
        for choice, stage in zip(space.stages, arch.stages, strict=True)
    ]
    return {"widths": list(arch.widths), "depths": list(arch.depths), "attention": attention,
            "params": arch.params, "macs": arch.macs}  # fmt: skip


def _document(problem: Problem, found: Found, command: Sequence[str]) -> dict[str, Any]:
    space, table, scores = problem.space, problem.table, problem.scores
    return {
        "format": FORMAT,
        "command": shlex.join(command),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "space": {"name": space.name, "resolution": list(space.resolution), "classes": found.architecture.classes,
                  **_file(space.path)},
        "table": {
            "device": table.device.name, "soc": table.device.soc, "os": table.device.os,
            "runtime": f"{table.device.runtime} {table.device.runtime_version}", "provenance": table.provenance,
            "expected_error": table.expected_error, "expected_error_source": table.expected_error_source,
            **(_file(table.path / TABLE_FILE) if table.path else {}),
        },
        "scores": {"provenance": scores.provenance, **_file(scores.path)},
        "target": {"latency_ms": problem.target_ms, "reason": problem.target_reason},
        "engine": {"name": problem.engine, "candidates": problem.candidates, "seed": None},
        "result": {"latency_ms": found.ms, "cost": found.cost, "steps": len(found.trace),
                   **summary(space, found.architecture)},
    }  # fmt: skip


def _file(path: str | Path) -> dict[str, str]:
    """A file that went in, and its SHA-256; nothing for what was made in memory."""
    if not str(path):
        return {}
    return {"file": str(path), "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()}
