"""The input and the result of a search: `Problem` and `Found`, the same for every engine."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nas.accuracy import Accuracy, Scores
from nas.accuracy.evaluations import Evaluations
from nas.csv_files import Writer
from nas.display import frame, html_table, shortened
from nas.errors import InputError, check_name
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


class OutOfReach(InputError):
    """No member of a space keeps a limit."""


@dataclass(frozen=True)
class Step:
    """One move of a search.

    Attributes:
        step: counted from 1.
        move: the move.
        ms: predicted latency after the move.
        saved_ms: decrease of the predicted latency.
        cost: cost of the move in points, by the scores, or as evaluated where the search evaluates
            members.
        total_cost: points below the space's largest member after the move, by the same source.
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
        """Return the columns of `trace.csv` for this step; the move as text."""
        return {name: getattr(self, name) for name in TRACE} | {"move": str(self.move)}

    @property
    def action(self) -> Action:
        """Return the move's action: DR, WR, MR, ER, AR, BR or UN."""
        return self.move.action

    @property
    def points_per_ms(self) -> float:
        """Return the points lost per ms saved, which slimming to a latency minimises.

        NaN for a move that saves no time, such as one that saves another limited amount.
        """
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
    writer = Writer(text)
    writer.row(TRACE)
    writer.rows([getattr(step, name) for name in TRACE] for step in trace)
    return text.getvalue()


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        architecture: the member, with identity at dropped positions of the largest one.
        ms: predicted latency.
        cost: expected accuracy drop against the largest member, in points.
        trace: the steps that led there, in order; empty where the largest member is fast enough.
        accuracy: expected accuracy with the standard error, where the scores know a level.
        evaluated: evaluated accuracy in percent, where the search evaluated members.
        drop: how far `evaluated` is below the evaluated accuracy of the largest member, in points.
        scores: the corrected scores, where the search learned; `cost` is by these.
        trials: number of complete trials of the study, where the search was one.
    """

    architecture: Architecture
    ms: float
    cost: float
    trace: tuple[Step, ...]
    accuracy: Accuracy | None = None
    evaluated: float | None = None
    drop: float | None = None
    scores: Scores | None = field(default=None, repr=False)
    trials: int | None = None

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
        """Write `architecture.yaml` and `trace.csv` into `folder`.

        `nas.load_architecture` reads the former.
        """
        check_name("folder", folder, "the path of a folder")
        self.architecture.save(Path(folder) / ARCHITECTURE_FILE)
        write_text(Path(folder) / "trace.csv", trace_csv(self.trace))

    def plot(self) -> Figure:
        """Return a figure of the trace, latency against accuracy, with the result's standard error.

        The y axis is expected accuracy in percent, or points below the largest member where only
        costs are known; better is upward. A notebook shows the figure, and its `save` writes it as
        PNG or SVG.
        """
        level = self.accuracy.value if self.accuracy else None
        # Latency may be infinite on the way: the largest member may have operations that the device
        # cannot run.
        way = [
            (step.ms, step.total_cost, str(step.move)) for step in self.trace if isfinite(step.ms)
        ]
        # Costs are relative to the largest member, whose accuracy is the result's plus its cost.
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
    """The checked input of a search for the least accuracy cost within a latency.

    `nas.search.pose` makes it. Each of its limits is kept by some member.

    Attributes:
        space: to search, with its frozen parts.
        table: predicts latencies.
        scores: predict accuracies.
        target_ms: maximum latency; infinite where there is none.
        target_reason: where the target comes from, in words.
        engine: one of `nas.search.ENGINES`, never "auto".
        candidates: moves that slimming weighs at each step: all legal ones, or the paper's.
        on_step: called with every step as it is taken.
        limits: further limits beside latency.
        objective: what a move of slimming saves: "limits" the amount whose limit is exceeded most,
            "mes" the score of size and speed (`nas.search.limits`).
        study: trials, seed, storage and workers, for the engines that try members out.
        evaluations: evaluates members for slimming and "learned"; the scores then only choose
            which members are evaluated.
        evaluate_best: how many moves of a step slimming evaluates, those best by the scores.
        max_drop: where given, the fastest member of at most this cautious cost (points) is sought
            instead of the member of least cost.
        asked_drop: the drop that was asked for, below the expected accuracy of the largest member,
            in points. `max_drop` follows from it.
        min_accuracy: the accuracy that was asked for, in percent. `max_drop` follows from it.
        frozen: parts of the network that are not searched, as they were named.
        start: the member that frozen parts are of, at the size of the space; None without any.
        unscored, unpriced: choices of the space that the scores do not know, and that the table has
            no rows of, in words. `space` is without them.
        graph: of the space.
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
    frozen: tuple[str, ...] = ()
    start: Architecture | None = None
    unscored: tuple[str, ...] = ()
    unpriced: tuple[str, ...] = ()
    graph: Graph = field(kw_only=True, repr=False, compare=False)

    @cached_property
    def cautious_scores(self) -> Scores:
        """Return the scores whose cost is minimised (`Scores.cautious`)."""
        return self.scores.cautious()

    @cached_property
    def latency(self) -> Limit:
        """Return the limit on latency."""
        return Limit(latency(self.table), self.target_ms)

    @property
    def every_limit(self) -> tuple[Limit, ...]:
        """Return the limit on latency, if there is one, and the further limits."""
        return (*([self.latency] if isfinite(self.target_ms) else []), *self.limits)

    def found(
        self,
        arch: Architecture,
        trace: tuple[Step, ...],
        evaluated: float | None = None,
        drop: float | None = None,
    ) -> Found:
        """Return `arch` as the result, with its latency, cost and expected accuracy.

        Args:
            arch: the member.
            trace: the steps that led there.
            evaluated: its evaluated accuracy in percent, if any.
            drop: how far that is below the largest member's, in points.
        """
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
