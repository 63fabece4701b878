"""Latency-driven slimming: from the largest member downwards, always the move that costs least accuracy per ms.

EfficientFormer (arXiv:2206.01191), Sec. 4.2, with what the paper leaves open decided so:

- moves that save no time are never taken; where the next smaller width of a stage saves nothing, the next one below
  it that does stands in for it;
- costs may be negative (measured ones are, by noise); the most negative per ms goes first;
- ties go to the larger saving, then to the earlier stage and position, so that a search has one outcome;
- it stops at the first architecture within the target.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nas.errors import NasError
from nas.search.moves import Drop, Localise, Move, Narrow, moves, narrow
from nas.search.problem import Found, Problem, Step
from nas.space import Architecture
from nas.specs import BlockSpec, Identity

_DIGITS = 9
"""Differences below this many decimals are rounding, and count as ties."""


@dataclass(frozen=True)
class Option:
    """A move with its price: where it leads, how long that takes, what it saves (ms) and costs (points)."""

    move: Move
    after: Architecture
    ms: float
    saved_ms: float
    cost: float

    @property
    def rank(self) -> tuple[float, float]:
        """Points per ms, then the larger saving; lower is better."""
        return round(self.cost / self.saved_ms, _DIGITS), -round(self.saved_ms, _DIGITS)


def slim(problem: Problem) -> Found:
    """Slims the space's largest member until it meets the target.

    Raises:
        NasError: when no single move saves time any more, above a target that other members meet.
    """
    pricer = Pricer(problem)
    arch, trace = problem.space.largest(), list[Step]()
    ms = pricer.ms(arch)
    while ms > problem.target_ms:
        options = _paper(problem, pricer, arch, ms) if problem.candidates == "paper" else pricer.options(arch, ms)
        best = min(options, key=lambda option: option.rank, default=None)
        if best is None:
            raise NasError(f"slimming stands at {ms:.3f} ms after {len(trace)} steps: by this table no single move "
                           f"saves time there; set a target above that, not {problem.target_ms:g} ms")  # fmt: skip
        arch, ms = best.after, best.ms
        step = Step(len(trace) + 1, best.move, ms, best.saved_ms, best.cost, problem.scores.cost(arch), arch.macs,
                    arch.params)  # fmt: skip
        trace.append(step)
        if problem.on_step:
            problem.on_step(step)
    return Found(arch, ms, problem.scores.cost(arch), tuple(trace))


class Pricer:
    """Prices moves by table and scores. Architectures that differ only in which positions they dropped share one ms."""

    def __init__(self, problem: Problem) -> None:
        self._space, self._table, self._scores = problem.space, problem.table, problem.scores
        self._ms: dict[tuple[tuple[BlockSpec, ...], ...], float] = {}

    def ms(self, arch: Architecture) -> float:
        ends = tuple(block for block in (arch.stem, arch.head) if block is not None)
        key = (ends, *((stage.entry, *stage.present) for stage in arch.stages))
        ms = self._ms.get(key)
        if ms is None:
            ms = self._ms[key] = self._table.total_ms(arch)
        return ms

    def options(self, arch: Architecture, ms: float) -> Iterator[Option]:
        """Every legal move from `arch` (which takes `ms`) that saves time, priced, in the order of `moves`."""
        for move in moves(self._space, arch):
            option = self._price(arch, ms, self._widths(arch, move) if isinstance(move, Narrow) else (move,))
            if option:
                yield option

    def _widths(self, arch: Architecture, move: Narrow) -> Iterator[Narrow]:
        """`move`, and after it those to ever smaller widths."""
        widths = reversed(self._space.stages[move.stage].widths)
        return (narrow(self._space, arch, move.stage, width) for width in widths if width <= move.width)

    def _price(self, arch: Architecture, ms: float, alternatives: Iterable[Move]) -> Option | None:
        """The first of these moves that saves time."""
        for move in alternatives:
            after = move.apply(arch)
            saved = ms - self.ms(after)
            if round(saved, _DIGITS) > 0:
                return Option(move, after, self.ms(after), saved, self._scores.cost(after) - self._scores.cost(arch))
        return None


def _paper(problem: Problem, pricer: Pricer, arch: Architecture, ms: float) -> list[Option]:
    """The paper's few: DR of the least important MetaPath, WR of the least important stage, MR of the first MB3D.

    Importance is the ratio of alphas; a stage's is the sum over its blocks. Of each action, the least important that
    saves time.
    """
    options = list(pricer.options(arch, ms))

    def of_stage(stage: int) -> float:
        if problem.space.stages[stage].depths[0] == problem.space.stages[stage].depths[1]:
            return math.inf  # nothing is dropped there, so nobody recorded how important its blocks are
        blocks = enumerate(arch.stages[stage].blocks)
        return sum(problem.scores.importance(stage, p) for p, block in blocks if not isinstance(block, Identity))

    drops = [(problem.scores.importance(option.move.stage, option.move.position), option)
             for option in options if isinstance(option.move, Drop)]  # fmt: skip
    narrows = [(of_stage(option.move.stage), option) for option in options if isinstance(option.move, Narrow)]
    localises = [option for option in options if isinstance(option.move, Localise)]
    least = (min(priced, key=lambda pair: pair[0], default=None) for priced in (drops, narrows))
    return [*(pair[1] for pair in least if pair), *localises[:1]]
