"""The engine `slimming`: latency-driven slimming, greedy from the largest member downwards.

`nas.search.solve` calls `slim`. Each step takes the move that costs the least accuracy per ms saved
(EfficientFormer, arXiv:2206.01191, Sec. 4.2). The paper leaves some questions open, which are
decided as follows:

- A move that saves no time is never taken. Where the next smaller width of a stage saves nothing,
  the largest width below it that does is taken instead.
- Costs may be negative (measured ones are, by noise). The most negative per ms goes first.
- Ties go to the larger saving, then to the earlier stage and position, so that a search is
  reproducible.
- The descent ends at the first architecture within the target. Then moves are traded for one
  another while that lowers the cost (`nas.search.engines.exchange`), because the greedy order alone
  misses the optimum by points.
- Where more than latency is limited, a move's saving is counted in the amount that exceeds its
  limit by the largest share. No move may raise another limited amount.
- With the objective "mes" a move's saving is its gain in the score of size and speed
  (EfficientFormerV2, arXiv:2212.08059, Eq. 9).
- Where members are evaluated, the scores choose which moves, and their measured cost decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from nas.accuracy import RecordedScores
from nas.blocks import Identity
from nas.errors import InputError, NasError
from nas.search.engines.exchange import distinct, trades
from nas.search.engines.prices import Prices, positional
from nas.search.limits import Limit, mes
from nas.search.problem import Found, Problem, Step
from nas.search.trace import moves_to
from nas.space import Architecture
from nas.space.moves import Drop, Localise, Move, Narrow, moves, narrow

_DIGITS = 9
"""Decimals to which amounts are compared; smaller differences are rounding and count as ties."""


@dataclass(frozen=True)
class Option:
    """A move with its price.

    Attributes:
        move: from the member at hand.
        after: where it leads.
        saved: in ms, millions of MACs or parameters, MB, or points of MES, whichever is to be saved.
        cost: in points of accuracy.
    """

    move: Move
    after: Architecture
    saved: float
    cost: float

    @property
    def rank(self) -> tuple[float, float]:
        """Return points per unit saved, then the negative saving; lower is better."""
        # Rounded, so that last bits do not decide: moves that tie keep the order of `moves`.
        return round(self.cost / self.saved, _DIGITS), -round(self.saved, _DIGITS)


def slim(problem: Problem, least_cost: float = -math.inf) -> Found:
    """Slim the space's largest member until it keeps all limits, then trade moves for better ones.

    With the paper's candidates, the objective "mes" or evaluated members there are no trades.

    Args:
        problem: what is searched for.
        least_cost: the proven least cost of all members within the limits, where it is known. It
            spares the proof that no trade is left.

    Raises:
        NasError: a limit is still exceeded, but no single move lowers its amount.
    """
    if (
        problem.evaluations is not None
        or problem.candidates == "paper"
        or problem.objective == "mes"
    ):
        return _as_published(problem)
    pricer = Pricer(problem)
    down = [(option.move, option.after) for option in _down(problem, pricer, evaluated=False)]
    largest = problem.space.largest()
    start = down[-1][1] if down else largest
    path = down
    # The cost of a published member is known by itself and is not a sum over its moves, so the
    # descent cannot find it. Where one within the limits costs less than what the descent came to,
    # the trades begin there.
    rivals = [arch for arch in pricer.prices.exceptions if pricer.exceeded(arch) is None]
    rival = min(rivals, key=pricer.prices.cost, default=None)
    if rival is not None and pricer.prices.cost(rival) < pricer.prices.cost(start):
        start = rival
        path = list(moves_to(problem.space, rival))
    path += trades(problem.space, pricer.prices, pricer.positional, start, least_cost)
    trace: list[Step] = []
    arch = largest
    for move, after in path:
        trace.append(
            _step(
                problem,
                trace,
                move,
                after,
                _difference(problem, arch, after),
                problem.scores.cost(after),
            )
        )
        arch = after
    return problem.found(arch, tuple(trace))


def _as_published(problem: Problem) -> Found:
    """Slim as the paper does: down to the limits, without trades."""
    pricer = Pricer(problem)
    evaluations = problem.evaluations
    arch = problem.space.largest()
    trace = list[Step]()
    drop = 0.0
    for option in _down(problem, pricer, evaluated=evaluations is not None):
        # An evaluated cost is a difference of two accuracies; their sum telescopes to the total drop.
        drop = round(drop + option.cost, _DIGITS)
        if evaluations is None:
            cost = _difference(problem, arch, option.after)
            total = problem.scores.cost(option.after)
        else:
            cost = option.cost
            total = drop
        arch = option.after
        trace.append(_step(problem, trace, option.move, arch, cost, total))
    if evaluations is None:
        return problem.found(arch, tuple(trace))
    return problem.found(arch, tuple(trace), evaluations.of(arch, [arch])[arch].accuracy, drop)


def _down(problem: Problem, pricer: Pricer, evaluated: bool) -> Iterator[Option]:
    """Yield the best move of each step, from the largest member until all limits hold."""
    arch = problem.space.largest()
    steps = 0
    while pricer.exceeded(arch):
        options = (
            _paper(problem, pricer, arch) if problem.candidates == "paper" else pricer.options(arch)
        )
        priced = _evaluated(problem, arch, options) if evaluated else options
        best = min(priced, key=lambda option: option.rank, default=None)
        if best is None:
            raise _stuck(problem, pricer, arch, steps)
        yield best
        arch = best.after
        steps += 1


def _step(
    problem: Problem,
    before: Sequence[Step],
    move: Move,
    after: Architecture,
    cost: float,
    total: float,
) -> Step:
    """Return the step that follows those in `before`, and report it to `problem.on_step`."""
    latency = problem.latency.measure
    ms = latency.total(after)
    before_ms = before[-1].ms if before else latency.total(problem.space.largest())
    step = Step(len(before) + 1, move, ms, before_ms - ms, cost, total, after.macs, after.params)
    if problem.on_step:
        problem.on_step(step)
    return step


def _difference(problem: Problem, before: Architecture, after: Architecture) -> float:
    """Return what a move costs by the scores, in points."""
    return problem.scores.cost(after) - problem.scores.cost(before)


def _evaluated(problem: Problem, arch: Architecture, options: Iterable[Option]) -> Iterable[Option]:
    """Return the best options by the scores with their evaluated costs.

    Where nothing is evaluated, all options are returned with their costs by the scores.
    """
    if problem.evaluations is None:
        return options
    # `arch` itself is evaluated with its options, as the accuracy that they lose from.
    best = sorted(options, key=lambda option: option.rank)[: problem.evaluate_best]
    found = problem.evaluations.of(arch, [arch, *(option.after for option in best)]) if best else {}
    return [
        replace(option, cost=found[arch].accuracy - found[option.after].accuracy) for option in best
    ]


def _stuck(problem: Problem, pricer: Pricer, arch: Architecture, steps: int) -> NasError:
    limit = pricer.exceeded(arch)
    assert limit is not None
    amount = limit.measure.total(arch)
    at, most = limit.measure.texts(amount, limit.most)
    enough = limit.measure.text(amount, up=True)
    what = (
        "size or time" if problem.objective == "mes" else limit.measure.saved or limit.measure.name
    )
    return NasError(
        f"slimming stopped at {at} after {steps} steps, above the limit of {most}: by this table"
        f" no single move saves {what} there. Fix: a limit of {enough}, or --engine exact"
    )


class Pricer:
    """The moves from a member with their prices by table and scores.

    Attributes:
        prices: of members.
        positional: whether the cost depends on the position of a block within its stage.
    """

    def __init__(self, problem: Problem) -> None:
        self.prices = Prices(problem)
        self.positional = positional(problem.space, problem.cautious_scores)
        self._space = problem.space
        self._limits = problem.every_limit
        self._objective = problem.objective
        self._latency = problem.latency.measure

    def exceeded(self, arch: Architecture) -> Limit | None:
        """Return the limit that `arch` exceeds by the largest share; None where it keeps all."""
        return self.prices.exceeded(arch)

    def options(self, arch: Architecture) -> Iterator[Option]:
        """Yield every legal move from `arch` that saves, with its price, in the order of `moves`.

        Where costs belong to no position, moves that lead to the same network are one option.
        """
        limit = self.exceeded(arch)
        every: Sequence[Move] = moves(self._space, arch)
        for move in every if self.positional else distinct(self._space, arch, every):
            option = self._price(
                arch, limit, self._widths(arch, move) if isinstance(move, Narrow) else (move,)
            )
            if option:
                yield option

    def _widths(self, arch: Architecture, move: Narrow) -> Iterator[Narrow]:
        """Yield `move`, then the moves of its stage to smaller widths, in descending order."""
        widths = reversed(self._space.stages[move.stage].widths)
        return (
            narrow(self._space, arch, move.stage, width) for width in widths if width <= move.width
        )

    def _price(
        self, arch: Architecture, limit: Limit | None, alternatives: Iterable[Move]
    ) -> Option | None:
        """Return the first of these moves that saves, with its price; None where none does."""
        for move in alternatives:
            after = move.apply(arch)
            saved = self._saved(arch, after, limit)
            if round(saved, _DIGITS) > 0:
                return Option(move, after, saved, self.prices.cost(after) - self.prices.cost(arch))
        return None

    def _saved(self, arch: Architecture, after: Architecture, limit: Limit | None) -> float:
        """Return what a move saves of `limit`'s amount; 0 where another limited amount grows.

        Where no limit is exceeded, it is latency that is to be saved.
        """
        amount = self.prices.amount
        if self._objective == "mes":
            ms_after = amount(self._latency, after)
            return mes(after.params, ms_after) - mes(arch.params, amount(self._latency, arch))
        # A move lowers one limited amount and raises none, so that the descent ends.
        for other in self._limits:
            if other is not limit and amount(other.measure, after) > amount(other.measure, arch):
                return 0.0
        measure = limit.measure if limit else self._latency
        return (amount(measure, arch) - amount(measure, after)) / measure.size


def _paper(problem: Problem, pricer: Pricer, arch: Architecture) -> list[Option]:
    """Return the paper's candidates, at most one per action, each the least important that saves.

    These are DR of the least important MetaPath, WR of the least important stage, and MR of the
    first MB3D. Importance is the ratio of alphas; that of a stage is the sum over its blocks.

    Raises:
        InputError: the scores are not recorded ones, and so have no alphas.
    """
    scores = problem.scores
    if not isinstance(scores, RecordedScores):
        raise InputError(
            "candidates 'paper': requires recorded scores of a trained supernet, which have its"
            " alphas. Fix: --supernet FOLDER, or recorded scores by name, such as --scores"
            f" {problem.space.name}-cifar10"
        )
    options = list(pricer.options(arch))

    def of_stage(stage: int) -> float:
        if problem.space.stages[stage].depths[0] == problem.space.stages[stage].depths[1]:
            # Nothing is dropped in a stage of fixed depth, so its blocks have no recorded importance.
            return math.inf
        blocks = enumerate(arch.stages[stage].blocks)
        return sum(
            scores.importance(stage, p) for p, block in blocks if not isinstance(block, Identity)
        )

    drops = [
        (scores.importance(option.move.stage, option.move.position), option)
        for option in options
        if isinstance(option.move, Drop)
    ]
    narrows = [
        (of_stage(option.move.stage), option)
        for option in options
        if isinstance(option.move, Narrow)
    ]
    localises = [option for option in options if isinstance(option.move, Localise)]
    least = (min(priced, key=lambda pair: pair[0], default=None) for priced in (drops, narrows))
    return [*(pair[1] for pair in least if pair), *localises[:1]]
