"""What a search is given and what it gives back, whatever engine does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from nas.latency import LatencyTable
from nas.search.moves import Action, Move
from nas.search.scores import Scores
from nas.space import Architecture, Space

Candidates = Literal["all", "paper"]


@dataclass(frozen=True)
class Step:
    """One move that a search took.

    Attributes:
        step: counts from 1.
        ms: predicted latency after the move.
        saved_ms: by how much the move lowered it.
        cost: points of top-1 that the move costs.
        total_cost: points against the space's largest member, after the move.
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

    @property
    def action(self) -> Action:
        """DR, WR, MR, ER, AR or BR."""
        return self.move.action

    @property
    def points_per_ms(self) -> float:
        """What the search minimises: points of top-1 paid for a millisecond."""
        return self.cost / self.saved_ms


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        architecture: with identity at the positions of the largest member that were dropped.
        ms: its predicted latency.
        cost: its expected accuracy drop against the largest member, in points of top-1.
        trace: the steps that led there, in order; empty where the largest member is fast enough.
    """

    architecture: Architecture
    ms: float
    cost: float
    trace: tuple[Step, ...]


@dataclass(frozen=True)
class Problem:
    """A search to be done: the smallest accuracy cost in `space` at no more than `target_ms`.

    `nas.search.pose` makes one that is known to have a solution.

    Attributes:
        target_reason: why the target is what it is, in words.
        engine: which of `nas.search.ENGINES` is to solve it.
        candidates: which moves slimming weighs at each step: all that are legal, or the paper's few.
        on_step: called with every step as it is taken.
    """

    space: Space
    table: LatencyTable
    scores: Scores
    target_ms: float
    target_reason: str = "as given"
    engine: str = "slimming"
    candidates: Candidates = "all"
    on_step: Callable[[Step], None] | None = None
