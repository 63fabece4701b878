"""Latency-driven slimming: from the largest member downwards, always the move that costs least accuracy per ms.

EfficientFormer (arXiv:2206.01191), Sec. 4.2, with what the paper leaves open decided so:

- moves that save no time are never taken; where the next smaller width of a stage saves nothing, the next one below
  it that does stands in for it;
- costs may be negative (measured ones are, by noise); the most negative per ms goes first;
- ties go to the larger saving, then to the earlier stage and position, so that a search has one outcome;
- it stops at the first architecture within the target;
- where more than latency is limited, what a move saves is counted in the amount whose limit is exceeded most (by its
  share), and no move may raise another limited amount;
- with the objective "mes" it is what EfficientFormerV2 (arXiv:2212.08059, Eq. 9) has a move gain, the score of size and
  speed, that is paid for;
- where members are evaluated, the moves that are best by the scores are, and their measured cost decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from nas.errors import NasError
from nas.search.limits import Limit, Measure
from nas.search.mes import mes
from nas.search.problem import Found, Problem, Step
from nas.space import Architecture
from nas.space.moves import Drop, Localise, Move, Narrow, moves, narrow
from nas.specs import BlockSpec, Identity

_DIGITS = 9
"""Differences below this many decimals are rounding, and count as ties."""


@dataclass(frozen=True)
class Option:
    """A move with its price: where it leads, how long that takes, what it saves (of what it is to save: ms, millions of
    MACs or parameters, MB, points of MES) and costs (points of top-1)."""

    move: Move
    after: Architecture
    ms: float
    saved: float
    cost: float

    @property
    def rank(self) -> tuple[float, float]:
        """Points for what is saved, then the larger saving; lower is better."""
        return round(self.cost / self.saved, _DIGITS), -round(self.saved, _DIGITS)


def slim(problem: Problem) -> Found:
    """Slims the space's largest member until it keeps all limits.

    Raises:
        NasError: when no single move saves what is to be saved any more, above a limit that other members keep.
    """
    pricer = Pricer(problem)
    arch, trace, drop = problem.space.largest(), list[Step](), 0.0
    ms = pricer.ms(arch)
    while pricer.exceeded(arch):
        options = _paper(problem, pricer, arch, ms) if problem.candidates == "paper" else pricer.options(arch, ms)
        best = min(_evaluated(problem, arch, options), key=lambda option: option.rank, default=None)
        if best is None:
            raise _stuck(problem, pricer, arch, len(trace))
        saved_ms = ms - best.ms
        arch, ms, drop = best.after, best.ms, round(drop + best.cost, _DIGITS)
        total = problem.scores.cost(arch) if problem.evaluations is None else drop
        step = Step(len(trace) + 1, best.move, ms, saved_ms, best.cost, total, arch.macs, arch.params)
        trace.append(step)
        if problem.on_step:
            problem.on_step(step)
    found = Found(arch, ms, problem.scores.cost(arch), tuple(trace))
    if problem.evaluations is None:
        return found
    return replace(found, accuracy=problem.evaluations.of(arch, [arch])[arch].accuracy, drop=drop)


def _evaluated(problem: Problem, arch: Architecture, options: Iterable[Option]) -> Iterable[Option]:
    """The options that are best by the scores, at the cost that they are evaluated to have; all of them, at the cost by
    the scores, where nothing is evaluated."""
    if problem.evaluations is None:
        return options
    best = sorted(options, key=lambda option: option.rank)[: problem.evaluate_best]
    found = problem.evaluations.of(arch, [arch, *(option.after for option in best)]) if best else {}
    return [replace(option, cost=found[arch].accuracy - found[option.after].accuracy) for option in best]


def _stuck(problem: Problem, pricer: Pricer, arch: Architecture, steps: int) -> NasError:
    limit = pricer.exceeded(arch)
    assert limit is not None
    at, what = limit.measure.text(limit.measure.total(arch)), limit.measure.name.replace("latency", "time")
    what = "size or time" if problem.objective == "mes" else what
    return NasError(f"slimming stands at {at} after {steps} steps: by this table no single move saves {what} there; "
                    f"set a limit above that, not {limit}, or take --engine exact")  # fmt: skip


class Pricer:
    """Prices moves by table and scores. Architectures that differ only in which positions they dropped share one ms."""

    def __init__(self, problem: Problem) -> None:
        self._space, self._table, self._scores = problem.space, problem.table, problem.scores
        self._limits, self._objective = problem.every_limit, problem.objective
        self._known: dict[tuple[Measure, tuple[tuple[BlockSpec, ...], ...]], float] = {}
        self._latency = problem.latency.measure

    def ms(self, arch: Architecture) -> float:
        return self._amount(self._latency, arch)

    def exceeded(self, arch: Architecture) -> Limit | None:
        """The limit that `arch` exceeds most, by its share; None where it keeps all."""
        exceeded = [limit for limit in self._limits if self._amount(limit.measure, arch) > limit.most]
        return max(exceeded, key=lambda limit: self._amount(limit.measure, arch) / limit.most, default=None)

    def options(self, arch: Architecture, ms: float) -> Iterator[Option]:
        """Every legal move from `arch` (which takes `ms`) that saves, priced, in the order of `moves`."""
        limit = self.exceeded(arch)
        for move in moves(self._space, arch):
            option = self._price(arch, limit, self._widths(arch, move) if isinstance(move, Narrow) else (move,))
            if option:
                yield option

    def _amount(self, measure: Measure, arch: Architecture) -> float:
        ends = tuple(block for block in (arch.stem, arch.head) if block is not None)
        key = measure, (ends, *((stage.entry, *stage.present) for stage in arch.stages))
        amount = self._known.get(key)
        if amount is None:
            amount = self._known[key] = measure.total(arch)
        return amount

    def _widths(self, arch: Architecture, move: Narrow) -> Iterator[Narrow]:
        """`move`, and after it those to ever smaller widths."""
        widths = reversed(self._space.stages[move.stage].widths)
        return (narrow(self._space, arch, move.stage, width) for width in widths if width <= move.width)

    def _price(self, arch: Architecture, limit: Limit | None, alternatives: Iterable[Move]) -> Option | None:
        """The first of these moves that saves."""
        for move in alternatives:
            after = move.apply(arch)
            saved = self._saved(arch, after, limit)
            if round(saved, _DIGITS) > 0:
                return Option(move, after, self.ms(after), saved, self._scores.cost(after) - self._scores.cost(arch))
        return None

    def _saved(self, arch: Architecture, after: Architecture, limit: Limit | None) -> float:
        """What is saved of what is to be saved; nothing where another limited amount grows."""
        if self._objective == "mes":
            return mes(after.params, self.ms(after)) - mes(arch.params, self.ms(arch))
        for other in self._limits:
            if other is not limit and self._amount(other.measure, after) > self._amount(other.measure, arch):
                return 0.0
        measure = limit.measure if limit else self._latency
        return (self._amount(measure, arch) - self._amount(measure, after)) / measure.size


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
