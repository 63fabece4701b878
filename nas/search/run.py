"""The run folder of a search: what went in with versions and checksums, every step, what came out, a picture."""

from __future__ import annotations

import csv
import hashlib
import io
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from math import isfinite
from pathlib import Path
from typing import Any

from nas.accuracy.evaluations import unfinished
from nas.accuracy.recorded import choice_text, position_name
from nas.errors import InputError, NasError
from nas.files import write_text, write_yaml
from nas.latency.table import TABLE_FILE
from nas.search.engines import STUDIES
from nas.search.exact import FrontPoint
from nas.search.problem import Found, Problem
from nas.search.studies import shown
from nas.space import Architecture, Space
from nas.space.architecture import entry_name
from nas.versions import versions

FORMAT = "nas-run-1"
FRONT = ("ms", "cost", "macs", "params", "widths", "depths", "attention")


def new_folder(out: str | None, space: str, device: str, goes_on: bool = False) -> Path:
    """Creates the folder of a run: `out`, or runs/SPACE-DEVICE-TIME with a counter where that is taken.

    `goes_on` takes a folder too in which a search that evaluates members was stopped.

    Raises:
        InputError: when `out` is a file or a folder with something in it, which is left as it is.
        NasError: when no folder can be made there.
    """
    try:
        return _fresh(space, device) if out is None else _asked(Path(out), goes_on)
    except OSError as error:
        raise NasError(f"{error.filename}: the run folder cannot be made ({error.strerror})") from error


def _asked(folder: Path, goes_on: bool) -> Path:
    if goes_on and unfinished(folder):
        return folder
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


def write_run(
    folder: Path, problem: Problem, found: Found, command: Sequence[str], supernet: str | None = None
) -> None:
    """Writes trace.csv, architecture.yaml, trajectory.png and, when those are whole, run.yaml.

    `command` is the command line that started the search, `supernet` the training that the weights are inherited from.
    """
    from nas.report.trajectory import draw, trajectory

    found.save(folder)
    draw(trajectory(problem, found), folder / "trajectory.png")
    inherited = {"supernet": supernet} if supernet else {}
    write_yaml(folder / "run.yaml", {**_document(problem, found, command), **inherited})


def write_front(
    folder: Path, problem: Problem, points: Sequence[FrontPoint], found: Mapping[str, Found], name: str = "front"
) -> None:
    """Writes NAME.csv, a row a member, and NAME.png, with what was found at the target beside it, by name."""
    from nas.report.front import draw_front, front_picture

    write_text(folder / f"{name}.csv", front_csv(problem.space, points))
    draw_front(front_picture(problem, points, found), folder / f"{name}.png")


def front_csv(space: Space, points: Sequence[FrontPoint]) -> str:
    """The members of a front as CSV: latency, cost, size, shape, and what stands at every place."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    places = _places(space)
    writer.writerow([*FRONT, *places])
    for point in points:
        row = summary(space, point.architecture)
        shape = ("-".join(map(str, row[key])) for key in ("widths", "depths", "attention"))
        chosen = (choice_text(block) if (block := point.architecture.block(place)).kind != "identity" else "identity"
                  for place in places)  # fmt: skip
        writer.writerow([point.ms, point.cost, row["macs"], row["params"], *shape, *chosen])
    return text.getvalue()


def _places(space: Space) -> list[str]:
    """The places of a space's members by name, in the order of the network."""
    largest = space.largest()
    places = ["stem"] if largest.stem is not None else []
    for index, stage in enumerate(largest.stages):
        places += [entry_name(index, largest.stem), *(position_name(index, p) for p in range(len(stage.blocks)))]
    return [*places, "head"]


def summary(space: Space, arch: Architecture) -> dict[str, Any]:
    """Widths, depths, global blocks a stage, parameters and MACs of a member, as plain data."""
    attention = [
        sum(choice.kind(block) == "global" for block in stage.blocks)
        for choice, stage in zip(space.stages, arch.stages, strict=True)
    ]
    return {"widths": list(arch.widths), "depths": list(arch.depths), "attention": attention,
            "params": arch.params, "macs": arch.macs}  # fmt: skip


def _document(problem: Problem, found: Found, command: Sequence[str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "command": shlex.join(command),
        **describe(problem),
        "result": {"latency_ms": found.ms, "cost": found.cost, "steps": len(found.trace),
                   **summary(problem.space, found.architecture), **measured(found)},
    }  # fmt: skip


def describe(problem: Problem) -> dict[str, Any]:
    """Everything that went in, with versions and checksums."""
    space, table, scores = problem.space, problem.table, problem.scores
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "space": {"name": space.name, "resolution": list(space.resolution), "classes": space.classes,
                  **_file(space.path)},
        "table": {
            "device": table.device.name, "soc": table.device.soc, "os": table.device.os,
            "runtime": f"{table.device.runtime} {table.device.runtime_version}", "provenance": table.provenance,
            "expected_error": table.expected_error, "expected_error_source": table.expected_error_source,
            **(_file(table.path / TABLE_FILE) if table.path else {}),
        },
        "scores": {"provenance": scores.provenance, **_file(scores.path)},
        "score_by": score_by(problem),
        "target": {"latency_ms": finite(problem.target_ms), "reason": problem.target_reason, **limits(problem)},
        "engine": {"name": problem.engine, "candidates": problem.candidates,
                   "objective": problem.objective, **_study(problem)},
    }  # fmt: skip


def measured(found: Found) -> dict[str, float]:
    """Accuracy and drop as evaluated, where they were."""
    return {} if found.evaluated is None or found.drop is None else {"accuracy": found.evaluated, "drop": found.drop}


def limits(problem: Problem) -> dict[str, float]:
    """The limits beside latency, by name."""
    return {limit.measure.key: limit.most for limit in problem.limits}


def finite(ms: float) -> float | None:
    """`ms`, or None for the infinite target of a search without one, which JSON cannot say."""
    return ms if isfinite(ms) else None


def score_by(problem: Problem) -> dict[str, Any]:
    """What the moves of slimming are judged by."""
    evaluations = problem.evaluations
    if evaluations is None:
        return {"name": "alpha" if problem.candidates == "paper" else "table"}
    return {"name": "evaluate", "best": problem.evaluate_best, "judge": evaluations.source.words,
            **evaluations.source.of}  # fmt: skip


def _study(problem: Problem) -> dict[str, Any]:
    """What an engine that tries members out was told; the others have no seed."""
    if problem.engine not in STUDIES:
        return {"seed": None}
    study = problem.study
    return {"seed": study.seed, "trials": study.trials, "workers": study.workers, "study": study.study,
            "storage": study.storage and shown(study.storage)}  # fmt: skip


def _file(path: str | Path) -> dict[str, str]:
    """A file that went in, and its SHA-256; nothing for what was made in memory."""
    if not str(path):
        return {}
    return {"file": str(path), "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()}
