"""What a search is given and what it gives back, whatever engine does it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nas.accuracy import Accuracy, Scores
from nas.accuracy.evaluations import Evaluations
from nas.display import frame, html_table, shortened
from nas.figures import Figure, Series, layer, series_encoding, x_axis, y_axis
from nas.files import write_text
from nas.latency import LatencyTable
from nas.runs.schema import ARCHITECTURE_FILE
from nas.search.engines.optuna.storage import StudySettings
from nas.search.graph import Graph
from nas.search.limits import Limit, latency
from nas.space import Architecture, Space
from nas.space.moves import Action, Move

if TYPE_CHECKING:
    import pandas as pd

Candidates = Literal["all", "paper"]
Objective = Literal["limits", "mes"]


@dataclass(frozen=True)
class Step:
    """One move that a search took.

    Attributes:
        step: counts from 1.
        ms: predicted latency after the move.
        saved_ms: by how much the move lowered it.
        cost: points of top-1 that the move costs, by the scores, or as evaluated where the search
            evaluates members.
        total_cost: points against the space's largest member, after the move, by the same.
        macs, params: multiply-accumulates and parameters after the move.
    """

    step: int
    move: Move
    ms: float
    saved_ms: float
    cost: float
    total_cost: float
    macs: int
    params: int

    def __repr__(self) -> str:
        after = f"{self.ms:.4g} ms, cost {self.total_cost:.3g} points"
        return f"Step({self.step}: {self.action}, {shortened(str(self.move))}, then {after})"

    def to_dict(self) -> dict[str, Any]:
        """Return the step by the columns of `trace.csv`; the move as text."""
        return {name: getattr(self, name) for name in TRACE} | {"move": str(self.move)}

    @property
    def action(self) -> Action:
        """Return DR, WR, MR, ER, AR or BR."""
        return self.move.action

    @property
    def points_per_ms(self) -> float:
        """Return points of top-1 paid for a millisecond, what slimming to a latency minimises; nan
        for a move that saves no time (one that saves what else is limited)."""
        return self.cost / self.saved_ms if self.saved_ms > 0 else nan


TRACE = (
    "step",
    "action",
    "move",
    "ms",
    "saved_ms",
    "cost",
    "total_cost",
    "points_per_ms",
    "macs",
    "params",
)


def trace_csv(trace: Sequence[Step]) -> str:
    """Return the steps as CSV, one row per step."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(TRACE)
    writer.writerows([getattr(step, name) for name in TRACE] for step in trace)
    return text.getvalue()


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        architecture: with identity at the positions of the largest member that were dropped.
        ms: its predicted latency.
        cost: its expected accuracy drop against the largest member, in points of top-1.
        trace: the steps that led there, in order; empty where the largest member is fast enough.
        accuracy: its expected accuracy with the standard error, where the scores know a level.
        evaluated, drop: top-1 in percent as evaluated, and what it is below the largest member's,
            in points; where the search evaluated members.
        scores: what the search learned that moves cost, where it learned; `cost` is by these.
    """

    architecture: Architecture
    ms: float
    cost: float
    trace: tuple[Step, ...]
    accuracy: Accuracy | None = None
    evaluated: float | None = None
    drop: float | None = None
    scores: Scores | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        arch = self.architecture
        accuracy = ""
        if self.accuracy is not None:
            accuracy = (
                f", {self.accuracy.value:.2f} ± {self.accuracy.standard_error:.2f} %"
                f" {self.accuracy.metric}"
            )
        shape = (
            f"widths {'-'.join(map(str, arch.widths))}, depths {'-'.join(map(str, arch.depths))}"
        )
        way = f"{len(self.trace)} steps"
        return (
            f"Found({arch.name!r}, {self.ms:.4g} ms{accuracy}, cost {self.cost:.3g} points,"
            f" {shape}, {way})"
        )

    def to_frame(self) -> pd.DataFrame:
        """Return the trace as a DataFrame, one row per step, with the columns of `trace.csv`."""
        return frame((step.to_dict() for step in self.trace), TRACE)

    def _repr_html_(self) -> str:
        return html_table(repr(self), [step.to_dict() for step in self.trace])

    def save(self, folder: str | Path) -> None:
        """Write `architecture.yaml`, which `nas.load_architecture` reads, and `trace.csv` into
        `folder`."""
        self.architecture.save(Path(folder) / ARCHITECTURE_FILE)
        write_text(Path(folder) / "trace.csv", trace_csv(self.trace))

    def plot(self) -> Figure:
        """Return a figure of the way to the member, better upward, with the standard error of its
        accuracy.

        The y axis is expected accuracy in percent, or points below the largest member where only
        costs are known. A notebook shows it; its `save` writes it as PNG or SVG.
        """
        level = self.accuracy.value if self.accuracy else None
        way = [
            (step.ms, step.total_cost, str(step.move)) for step in self.trace if isfinite(step.ms)
        ]
        # A cost is what the largest member has more: the found one's accuracy tells where that
        # lies.
        rows = [
            {
                "x": ms,
                "y": cost if level is None else level + self.cost - cost,
                "series": "step",
                "about": f"{move}: {ms:.4g} ms",
            }
            for ms, cost, move in way
        ]
        found = {
            "x": self.ms,
            "y": self.cost if level is None else level,
            "series": "found",
            "about": f"{self.ms:.4g} ms",
        }
        metric = self.accuracy.metric if self.accuracy else ""
        title = "points below the largest member" if level is None else f"expected {metric} (%)"
        x = x_axis("predicted latency (ms)", scale={"zero": False})
        y = y_axis(title, scale={"zero": False, "reverse": level is None})
        channels = series_encoding([Series("step", "#8a8f98"), Series("found", "#e03131")])
        layers = [
            layer(
                {"type": "line", "stroke": "#8a8f98", "strokeWidth": 1}, rows, x=x, y=y, order=None
            ),
            layer({"type": "point", "size": 30, "opacity": 1}, rows, x=x, y=y, **channels),
            layer({"type": "point", "size": 130, "opacity": 1}, [found], x=x, y=y, **channels),
        ]
        if self.accuracy:
            error = self.accuracy.standard_error
            bar = {
                "x": self.ms,
                "y": self.accuracy.value - error,
                "high": self.accuracy.value + error,
            }
            layers.append(
                layer({"type": "rule", "stroke": "#e03131"}, [bar], x=x, y=y, y2={"field": "high"})
            )
        return Figure(self.architecture.name, {"height": 380, "layer": layers})


@dataclass(frozen=True)
class Problem:
    """A search to be done: the smallest accuracy cost in `space` at no more than `target_ms`.

    `nas.search.pose` makes one that is known to have a solution.

    Attributes:
        target_ms: the latency limit; infinite where there is none.
        target_reason: why the target is what it is, in words.
        engine: which of `nas.search.ENGINES` is to solve it; what "auto" chose where that was asked
            for.
        candidates: which moves slimming weighs at each step: all that are legal, or the paper's
            few.
        on_step: called with every step as it is taken.
        limits: further limits that a member must keep, beside latency.
        objective: what slimming has a move save at the least cost: "limits" the amount whose limit
            is exceeded most, "mes" the score of size and speed (`nas.search.limits`).
        study: trials, seed, storage and workers, for the engines that try members out.
        evaluations: what slimming and "learned" judge members by; the scores then only say which
            are worth it.
        evaluate_best: how many moves of a step slimming evaluates, those best by the scores.
        max_drop: where it is given, not the member of least cost is asked for but the fastest one
            that costs no more points than this, what might be lost outside of the data counted as
            lost.
        asked_drop: the points that `max_drop` stands for, below what the largest member is expected
            to have.
        min_accuracy: the accuracy in percent that `max_drop` stands for, where that was asked for.
        graph: the space's.
    """

    space: Space
    table: LatencyTable
    scores: Scores
    target_ms: float
    target_reason: str = "as given"
    engine: str = "slimming"
    candidates: Candidates = "all"
    on_step: Callable[[Step], None] | None = None
    limits: tuple[Limit, ...] = ()
    objective: Objective = "limits"
    study: StudySettings = field(default_factory=StudySettings)
    evaluations: Evaluations | None = field(default=None, repr=False, compare=False)
    evaluate_best: int = 8
    max_drop: float | None = None
    asked_drop: float | None = None
    min_accuracy: float | None = None
    graph: Graph = field(kw_only=True, repr=False, compare=False)

    @cached_property
    def cautious_scores(self) -> Scores:
        """Return the scores whose cost is minimised: what might be lost where `scores` know little
        counts as lost."""
        return self.scores.cautious()

    @cached_property
    def latency(self) -> Limit:
        """Return the limit on latency."""
        return Limit(latency(self.table), self.target_ms)

    @property
    def every_limit(self) -> tuple[Limit, ...]:
        """Return latency, where it is limited, and the further limits."""
        return (*([self.latency] if isfinite(self.target_ms) else []), *self.limits)

    def found(
        self,
        arch: Architecture,
        trace: tuple[Step, ...],
        evaluated: float | None = None,
        drop: float | None = None,
    ) -> Found:
        """Return `arch` as what was found, with its latency, cost and accuracy by the table and the
        scores."""
        accuracy = self.scores.accuracy(arch) if self.scores.absolute else None
        return Found(
            arch,
            self.table.total_ms(arch),
            self.scores.cost(arch),
            trace,
            accuracy,
            evaluated,
            drop,
        )
