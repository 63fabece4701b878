"""Write the run folder of a search, from the trace to the front of each device.

`nas search` calls it; `nas report` and other commands read the folder.
"""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nas.accuracy import Scores
from nas.accuracy.evaluations import unfinished
from nas.accuracy.single_moves import choice_text
from nas.csv_files import Writer
from nas.errors import InputError, NasError
from nas.files import YamlFile, write_text, write_yaml
from nas.locks import LOCK_FILE, sole_writer
from nas.runs.images import UsedImages
from nas.runs.schema import ARCHITECTURE_FILE, BEGUN_FILE, BEST, COMMON, RUN_FILE, RUN_FORMAT
from nas.search.description import (
    accuracy_row,
    describe,
    difference,
    evaluated,
    expected,
    finite,
    kind_of,
    latency_error,
    published,
    summary,
)
from nas.search.engines.exact import FrontPoint
from nas.search.multi_device import Several
from nas.search.problem import Found, Problem
from nas.space import Architecture, Space
from nas.space.place import HEAD, STEM, Place
from nas.space.sizes import size_text
from nas.supernet.description import class_names
from nas.temporary import sweep_once

FRONT = (
    "ms",
    "cost",
    "accuracy",
    "standard_error",
    "macs",
    "params",
    "widths",
    "depths",
    "attention",
    "resolution",
)
"""Columns of `front.csv` before the blocks of each place."""
SCORES = "scores"
"""Folder of a run for scores that were not read from a file."""


def new_folder(
    out: str | None, space: str, device: str, command: str = "", resumes: bool = False
) -> Path:
    """Create and return the folder of a run.

    Args:
        out: the folder; None for runs/SPACE-DEVICE-TIME, with a counter where that exists. A folder
            in which the same search was killed is taken again.
        space: name of the space.
        device: name of the device.
        command: the command line of the search without its --out.
        resumes: whether to accept a folder in which a search that evaluates members was stopped.

    Raises:
        InputError: `out` is a file or a folder that is not empty, which is left as it is.
        NasError: the folder cannot be created.
    """
    try:
        return _fresh(space, device) if out is None else _asked(Path(out), command, resumes)
    except OSError as error:
        raise NasError(
            f"{error.filename}: the run folder cannot be made ({error.strerror})"
        ) from error


def _asked(folder: Path, command: str, resumes: bool) -> Path:
    """Return the folder that was asked for, with the file that marks a search as begun."""
    if folder.is_dir():
        sweep_once(folder)
    # Begun and without run.yaml: this search was killed. Its own command takes the folder again;
    # another one would mix the files of two searches. Evaluations are checked by their journal.
    begun = folder / BEGUN_FILE
    if begun.is_file() and not (folder / RUN_FILE).exists():
        before = YamlFile(begun).data.get("command")
        if before == command or resumes:
            return folder
        raise InputError(
            f"--out {folder}: holds an unfinished search of another command. Fix: {before} --out"
            f" {shlex.quote(str(folder))}, or another --out"
        )
    if not (resumes and unfinished(folder)) and (
        folder.is_file()
        or (folder.is_dir() and {each.name for each in folder.iterdir()} - {LOCK_FILE})
    ):
        raise InputError(
            f"--out {folder}: exists already and is not an empty folder. Fix: name a new folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_yaml(begun, {"command": command})
    return folder


@contextmanager
def not_left_empty(folder: Path) -> Iterator[None]:
    """Context manager: remove the run's folder if the search fails before it has written a result.

    Inside, no other process searches into the folder.

    Raises:
        NasError: when another process does.
    """
    with sole_writer(folder, "searching into this folder", once=True):
        try:
            yield
        except BaseException:
            # A folder with anything but the mark of a begun search keeps all of it: `rmdir` refuses
            # it then, which is not an error here.
            with suppress(OSError):
                if {path.name for path in folder.iterdir()} <= {BEGUN_FILE, LOCK_FILE}:
                    (folder / BEGUN_FILE).unlink(missing_ok=True)
                    (folder / LOCK_FILE).unlink(missing_ok=True)
                folder.rmdir()
                # Made by `_fresh`; another run's folder in it keeps it.
                if folder.parent == Path("runs"):
                    folder.parent.rmdir()
            raise


def _finish(folder: Path, document: Mapping[str, Any]) -> None:
    """Write run.yaml, which marks a finished run, after all other files."""
    # In this order a kill in between leaves a finished run. In the other it would leave a folder
    # that is neither finished nor begun, which no search could use again.
    write_yaml(folder / RUN_FILE, document)
    (folder / BEGUN_FILE).unlink(missing_ok=True)


def _fresh(space: str, device: str) -> Path:
    time = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    folder = Path("runs") / f"{space}-{device}-{time}"
    number = 1
    folder.parent.mkdir(exist_ok=True)
    # Making the folder is the test for its absence: two searches that start in the same second get
    # a folder each.
    while True:
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
            folder = folder.with_name(f"{space}-{device}-{time}-{number}")
        else:
            return folder


def write_run(
    folder: Path,
    problem: Problem,
    found: Found,
    command: Sequence[str],
    supernet: str | None = None,
    sizes: Sequence[Mapping[str, Any]] = (),
    images: UsedImages | None = None,
) -> None:
    """Write trace.csv, architecture.yaml and, after all files are complete, run.yaml.

    Args:
        folder: the run folder.
        problem: the search.
        found: its result.
        command: the command line that started the search.
        supernet: folder of the training that the weights are inherited from, if any.
        sizes: a row per input size, where the search chose one (`size_rows`).
        images: those that the result was trained on or chosen by, if any.
    """
    found.save(folder)
    inherited = _inherited(supernet) if supernet else {}
    kept = _keep_scores(folder, problem.scores)
    chosen = {"sizes": [dict(row) for row in sizes]} if sizes else {}
    document = {**_document(problem, found, command, kept), **chosen, **inherited}
    _finish(folder, document | _keep_images(folder, images))


def _keep_images(folder: Path, images: UsedImages | None) -> dict[str, Any]:
    """Write images.csv where images were used; return their entry of run.yaml."""
    if not images:
        return {}
    images.save(folder)
    return {"images": images.record()}


def _inherited(supernet: str) -> dict[str, Any]:
    """Return the supernet of a run's weights, and the names of its classes where they are known."""
    description = Path(supernet) / "supernet.yaml"
    names = class_names(description) if description.is_file() else []
    return {"supernet": supernet, **({"classes": names} if names else {})}


def write_several(
    folder: Path,
    found: Several,
    command: Sequence[str],
    images: UsedImages | None = None,
    supernet: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Write the run folder of a search on several devices, and return its members by name.

    Each device has its front (`front-DEVICE.csv`) and its best member (`best-DEVICE.yaml`). The
    member that keeps all targets is `architecture.yaml`, where there is one. `members.csv` has the
    latency of each member on each device.

    Args:
        folder: the run folder.
        found: the results.
        command: the command line that started the search.
        images: those that the members were chosen by, if any.
        supernet: folder of the training that the common member's weights are inherited from, if any.
    """
    for each in found.devices:
        name = each.problem.table.device.name
        write_front(folder, each.problem, each.front, f"front-{name}")
        each.best.architecture.save(folder / f"best-{name}.yaml")
    if found.common:
        found.common.architecture.save(folder / ARCHITECTURE_FILE)
    members = several_members(found)
    write_text(folder / "members.csv", _members_csv(found, members))
    kept = _keep_scores(folder, found.devices[0].problem.scores)
    described = [describe(each.problem, kept) for each in found.devices]
    document = {
        "format": RUN_FORMAT,
        "command": shlex.join(command),
        "devices": described,
        "result": members,
    }
    document |= {"reason": found.reason} if found.reason else {}
    document |= _inherited(supernet) if supernet else {}
    _finish(folder, document | _keep_images(folder, images))
    return members


def several_members(found: Several) -> dict[str, dict[str, Any]]:
    """Return the members that a search on several devices found, and the published ones, by name.

    Each has its latency on each device.
    """
    space = found.devices[0].problem.space
    members: dict[str, Architecture] = {COMMON: found.common.architecture} if found.common else {}
    members |= {
        f"{BEST}{each.problem.table.device.name}": each.best.architecture for each in found.devices
    }
    return {
        name: _several_row(found, arch) for name, arch in (members | dict(space.published)).items()
    }


def _several_row(found: Several, arch: Architecture) -> dict[str, Any]:
    problems = [each.problem for each in found.devices]
    # Accuracy does not depend on the device, so the first one's scores stand for all.
    first = problems[0]
    times = {
        problem.table.device.name: finite(problem.latency.measure.total(arch))
        for problem in problems
    }
    # A device that cannot run the member has no latency, and so no error of one.
    errors = {
        problem.table.device.name: latency_error(problem, arch)
        for problem in problems
        if times[problem.table.device.name] is not None
    }
    return {
        "cost": first.scores.cost(arch),
        "latency_ms": times,
        "latency_error": errors,
        "keeps_all": all(problem.latency.holds(arch) for problem in problems),
        **summary(first.space, arch),
        **expected(first.scores, arch),
        **(
            {}
            if found.common is None
            else difference(first.scores, found.common.architecture, arch)
        ),
    }


def _members_csv(found: Several, members: Mapping[str, Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = Writer(text)
    devices = [each.problem.table.device.name for each in found.devices]
    header = ["member", "cost", *(f"ms_{name}" for name in devices), "keeps_all", "params", "macs"]
    writer.row([*header, "accuracy", "standard_error"])
    for name, row in members.items():
        accuracy = row.get("accuracy", {})
        times = [row["latency_ms"][device] for device in devices]
        known = [accuracy.get(accuracy.get("metric")), accuracy.get("standard_error")]
        writer.row(
            [name, row["cost"], *times, row["keeps_all"], row["params"], row["macs"], *known]
        )
    return text.getvalue()


def write_front(
    folder: Path, problem: Problem, points: Sequence[FrontPoint], name: str = "front"
) -> None:
    """Write NAME.csv with one row per member."""
    write_text(folder / f"{name}.csv", front_csv(problem.space, points))


def front_csv(space: Space, points: Sequence[FrontPoint]) -> str:
    """Return the members of a front as CSV, one row per member.

    The columns are latency, cost, accuracy, size, shape, and the block at every place. Accuracy and
    its standard error are empty where the scores know costs only.
    """
    text = io.StringIO()
    writer = Writer(text)
    places = _places(space)
    writer.row([*FRONT, *places])
    for point in points:
        row = summary(space, point.architecture)
        shape = ("-".join(map(str, row[key])) for key in ("widths", "depths", "attention"))
        size = size_text(point.architecture.resolution)
        chosen = (
            (
                choice_text(block)
                if (block := point.architecture.block(place)).kind != "identity"
                else "identity"
            )
            for place in places
        )
        accuracy = point.accuracy
        known = ["", ""] if accuracy is None else [accuracy.value, accuracy.standard_error]
        writer.row(
            [point.ms, point.cost, *known, row["macs"], row["params"], *shape, size, *chosen]
        )
    return text.getvalue()


def _places(space: Space) -> list[Place]:
    """Return the places of a space's members in the order of the network."""
    largest = space.largest()
    places = [] if largest.stem is None else [STEM]
    for index, stage in enumerate(largest.stages):
        places.append(Place.entry(index, largest.stem is not None))
        places += [Place.block(index, position) for position in range(len(stage.blocks))]
    return [*places, HEAD]


def _document(
    problem: Problem, found: Found, command: Sequence[str], kept: Path | None
) -> dict[str, Any]:
    estimate = problem.table.predict(found.architecture)
    return {
        "format": RUN_FORMAT,
        "command": shlex.join(command),
        **describe(problem, kept),
        "result": {
            "latency_ms": found.ms,
            "latency_error": estimate.standard_error,
            "priced": estimate.priced,
            "cost": found.cost,
            "steps": len(found.trace),
            **summary(problem.space, found.architecture),
            **({} if found.accuracy is None else {"accuracy": accuracy_row(found.accuracy)}),
            **evaluated(found),
        },
        "published": published(problem, found.architecture),
    }


def _keep_scores(folder: Path, scores: Scores) -> Path | None:
    """Save scores that are in no file into the run folder, so that its report finds them.

    The accuracy law is not saved, because it ships.

    Returns:
        The file of the scores; None where nothing had to be saved.
    """
    if scores.path or kind_of(scores) == "law":
        return None
    scores.save(folder / SCORES)
    return next(
        (
            path
            for name in ("scores.csv", "scores.yaml")
            if (path := folder / SCORES / name).is_file()
        ),
        None,
    )
