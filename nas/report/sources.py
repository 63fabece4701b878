"""The inputs of a run (space, table and scores), found again where they are unchanged.

`nas.report.run` and `nas check RUN` pose the run's search again from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nas import resources
from nas.accuracy.law import shipped_law
from nas.accuracy.law_scores import LawScores
from nas.devices.info import Profiled
from nas.errors import InputError
from nas.files import file_sha256
from nas.latency import LatencyTable, load_table
from nas.runs.schema import About, UsedFile
from nas.search import Problem, Scores, load_scores, pose
from nas.search.description import scores_digest
from nas.space import Architecture, Space, load_space


@dataclass(frozen=True)
class Sources:
    """The inputs of a run.

    Attributes:
        arch: the member that the run found.
        space: at the run's input size, with the run's head; None where the file is missing or
            changed.
        table: calibrated for the space; None as above, or where its prediction has changed.
        profiled: the spaces that the table was measured for; none for an estimated one.
        scores: None as above.
        reason: the missing inputs and why they are missing; empty without any.
    """

    about: About
    arch: Architecture
    space: Space | None
    table: LatencyTable | None
    profiled: tuple[Profiled, ...]
    scores: Scores | None
    reason: str

    @cached_property
    def problem(self) -> Problem | None:
        """Return the run's search posed for the exact engine, or None where an input is missing."""
        if self.space is None or self.table is None or self.scores is None:
            return None
        target = self.about.target
        used = self.about.space
        return pose(
            self.space,
            self.table,
            self.scores,
            target.latency_ms,
            engine="exact",
            limits=target.limits or None,
            freeze=used.frozen,
            # The frozen parts of the found member are those of the start.
            start=self.arch if used.frozen else None,
        )


def find_sources(folder: Path, about: About, arch: Architecture) -> Sources:
    """Return the inputs of the run in `folder`, at their recorded paths or where their names lead.

    A file counts only with the checksum that the run recorded, so that no figure shows other
    numbers than the run's.
    """
    reasons: list[str] = []
    space = _space(_unchanged(folder, about.space, resources.SPACES, "space", reasons), arch)
    path = _unchanged(folder, about.table, resources.TABLES, "latency table", reasons)
    table = load_table(path.parent) if path else None
    # The checksum is of table.csv alone; the calibration is in device.yaml. So compare a
    # prediction.
    if table and not _predicts(table, arch, about.result.latency_ms):
        reasons.append(
            f"the calibration of the latency table {table.path} has changed since the search"
        )
        table = None
    profiled = table.device.spaces if table else ()
    if table and space:
        table = table.calibrated(space.name, space.resolution)
    scores = _scores(folder, about, space, reasons)
    # `_space` put the found head in place of a classifier. Where a supernet was trained with
    # several heads, they all were choices of the search.
    if space and scores and space.heads == (arch.head,) and arch.head in scores.scored.heads:
        space = space.with_head(*scores.scored.heads)
    return Sources(about, arch, space, table, profiled, scores, "; ".join(reasons))


def _scores(folder: Path, about: About, space: Space | None, reasons: list[str]) -> Scores | None:
    """Return the scores of the run: from their file, or the shipped accuracy law.

    The law is in no file of the run, so its fingerprint is compared.
    """
    if about.scores.kind == "law" and not about.scores.file:
        if space is None:
            return None
        law = LawScores(space, shipped_law())
        if scores_digest(law) == about.scores.fingerprint:
            return law
        reasons.append("the accuracy law has changed since the search")
        return None
    path = _unchanged(folder, about.scores, resources.EXPERIMENTS, "scores", reasons)
    # The file has the recorded checksum, so its numbers are the run's, even if the weights beside
    # it have changed.
    scores = load_scores(path, check_weights=False) if path else None
    # Scores that a run saved do not include published accuracies; the space has the members.
    return scores.at(space) if scores is not None and space is not None else scores


def find_file(folder: Path, text: str, kind: str = "") -> Path | None:
    """Return the file that a run in `folder` recorded as `text`, or None.

    It may be there, relative to a folder above the run, or a shipped one.
    """
    return next((path for path in _candidates(folder, text, kind) if path.is_file()), None)


def _unchanged(
    folder: Path, used: UsedFile, kind: str, what: str, reasons: list[str]
) -> Path | None:
    """Return the path of a file with the recorded content, or None after noting the reason."""
    if not used.file:
        reasons.append(f"the run recorded no file for the {what}")
        return None
    there = [path for path in _candidates(folder, used.file, kind) if path.is_file()]
    for path in there:
        if file_sha256(path) == used.sha256:
            return path
    reasons.append(
        f"the {what} {there[0]} has changed since the search"
        if there
        else f"the {what} {used.file} is missing"
    )
    return None


def _candidates(folder: Path, text: str, kind: str) -> Iterator[Path]:
    """Yield the paths at which a recorded file may be, the recorded one first."""
    path = Path(text)
    yield path
    if not path.is_absolute():
        yield from (parent / path for parent in folder.resolve().parents)
    # A file that the run keeps itself, in case its folder was moved.
    yield folder.joinpath(*path.parts[-2:])
    # A shipped file recorded on another machine: everything after the last folder of this kind's
    # name is looked up below the roots of this installation.
    if kind in path.parts:
        last = len(path.parts) - 1 - path.parts[::-1].index(kind)
        yield from (root.joinpath(*path.parts[last + 1 :]) for root in resources.roots(kind))


def _space(path: Path | None, arch: Architecture) -> Space | None:
    """Return the space in this file at the sizes of `arch`, with its head if the tasks differ."""
    if path is None:
        return None
    space = load_space(str(path))
    if arch.head.layout == "pyramid" != space.heads[0].layout:
        space = space.with_head(arch.head)
    return space.at(arch.resolution, arch.classes)


def _predicts(table: LatencyTable, arch: Architecture, ms: float) -> bool:
    """Return whether the table still predicts the latency that the run recorded."""
    try:
        return math.isclose(table.total_ms(arch), ms, rel_tol=1e-6, abs_tol=1e-9)
    except InputError:
        return False
