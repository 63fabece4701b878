"""NSGA-II and TPE through Optuna, for costs of any kind: those that do not add up, or that a sliced
supernet measures.

NSGA-II: Deb et al., IEEE Trans. Evol. Comput. 6(2), 2002, with its constrained domination. TPE:
Bergstra et al., NeurIPS 2011, over all variables jointly. The rules of the space hold by
construction (`nas.search.engines.optuna.encoding`); latency and other limits are constraints. A
member beyond a limit is a trial, but its cost is never asked for.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from nas.errors import InputError, NasError, nearest
from nas.latency import LatencyTable, MissingRows
from nas.search.engines.exact import FrontPoint
from nas.search.engines.optuna.encoding import Encoding
from nas.search.engines.optuna.storage import StudySettings, fingerprint, open_study
from nas.search.fastest import fastest, least
from nas.search.graph import Graph
from nas.search.limits import further_limits
from nas.search.problem import Found, Problem
from nas.search.trace import steps_to
from nas.space import Architecture, Space

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial


Sampler = Literal["nsga2", "tpe"]
Cost = Callable[[Architecture], float]
POPULATION = 30
MOST_COPIES = 5
_NEVER = 1e9
"""Violation of a member that the device cannot run at all."""


@dataclass(frozen=True)
class Studied:
    """What a study found.

    Attributes:
        found: the member of least cost within all limits; of equal ones the fastest. It has no
            trace of moves.
        front: the members within the limits that no other trial beat in both latency and cost,
            fastest first.
        trials: of the study in all.
        evaluated: different members whose cost was asked for.
    """

    found: Found
    front: tuple[FrontPoint, ...]
    trials: int
    evaluated: int


@dataclass(frozen=True)
class Job:
    """A study to be run; its fields are the arguments of `search_optuna`. It goes to worker
    processes."""

    space: Space
    table: LatencyTable
    cost: Cost
    latency_ms: float | None
    sampler: Sampler
    limits: Mapping[str, float]
    cost_id: str
    settings: StudySettings

    @property
    def name(self) -> str:
        """Of the study."""
        target = "front" if self.latency_ms is None else f"{self.latency_ms:g}ms"
        return (
            self.settings.study
            or f"{self.space.name}-{self.table.device.name}-{target}-{self.sampler}"
        )

    @property
    def two_objectives(self) -> bool:
        """Return whether latency is minimised too. NSGA-II does it below a target as well: that
        keeps its members apart."""
        return self.latency_ms is None or self.sampler == "nsga2"

    def open(self, sampler: BaseSampler | None = None) -> Study:
        """Return the job's study, checked to be of this space, table, costs and limits."""
        limits = (
            ", ".join(f"{name} {most:g}" for name, most in sorted(self.limits.items())) or "none"
        )
        marks = fingerprint(
            self.space,
            self.table,
            latency_target_ms=self.latency_ms,
            limits=limits,
            costs=self.cost_id or "not stated",
        )
        return open_study(
            self.settings,
            self.name,
            sampler or self.make_sampler(0),
            1 + self.two_objectives,
            marks,
        )

    def make_sampler(self, seed: int) -> BaseSampler:
        from optuna.samplers import NSGAIISampler, TPESampler

        if self.sampler == "nsga2":
            return NSGAIISampler(population_size=POPULATION, seed=seed)
        return TPESampler(multivariate=True, n_startup_trials=POPULATION, seed=seed)


def search_optuna(
    space: Space,
    table: LatencyTable,
    cost: Cost,
    latency_ms: float | None,
    sampler: Sampler = "nsga2",
    settings: StudySettings | None = None,
    limits: Mapping[str, float] | None = None,
    cost_id: str = "",
    **study: Any,
) -> Studied:
    """Return the member of `space` that costs least within the limits, as a study of so many trials
    finds it, and a front.

    Args:
        cost: expected accuracy drop of a member in points, lower is better. With several workers it
            must be something that `multiprocessing` can send to another process, as a module's
            function or a bound method of plain data.
        latency_ms: the target; `math.inf` for none, None to search the whole front of cost against
            latency.
        settings: of the study; or its fields one by one: trials, seed, storage, study, workers,
            progress.
        limits: further limits, by the names of `nas.search.limits`.
        cost_id: names where the costs are from. A study that was begun with another is refused.

    Raises:
        InputError: for settings that make no sense, or a study in that storage with another space,
            table or target.
        NasError: when the storage is gone, a cost is no number, or no trial was within the limits.
    """
    if sampler not in get_args(Sampler):
        raise InputError(f"unknown sampler '{sampler}'{nearest(sampler, get_args(Sampler))}")
    settings = replace(settings or StudySettings(), **study)
    table = table.calibrated(space.name, space.resolution)
    further_limits(limits or {}, table)
    job = Job(space, table, cost, latency_ms, sampler, limits or {}, cost_id, settings)
    from nas.search.engines.optuna.workers import run

    return _result(job, run(job))


def nsga2(problem: Problem) -> Found:
    """Return the engine of that name."""
    return _engine(problem, "nsga2")


def tpe(problem: Problem) -> Found:
    """Return the engine of that name."""
    return _engine(problem, "tpe")


def _engine(problem: Problem, sampler: Sampler) -> Found:
    """Return the best of a study, with the moves that turn the largest member into it."""
    judge = problem.cautious_scores
    limits = {limit.measure.key: limit.most for limit in problem.limits}
    studied = search_optuna(
        problem.space,
        problem.table,
        judge.cost,
        problem.target_ms,
        sampler,
        problem.study,
        limits,
        judge.fingerprint,
    )
    arch = studied.found.architecture
    return problem.found(arch, steps_to(problem, arch))


class Discarded(Exception):
    """A trial that does not count: its member was tried, or another worker began the last trial at
    the same moment."""


class Objective:
    """Samples a member, compares it with the limits and, where it keeps them, asks for its cost.

    A member that was tried before is discarded: populations of NSGA-II fill up with copies of one
    member otherwise, and get stuck there. After many in a row there may be nothing new, and a copy
    counts.
    """

    def __init__(self, job: Job, known: Iterable[FrozenTrial] = ()) -> None:
        self._job = job
        self.encoding = Encoding(job.space)
        self._limits = further_limits(job.limits, job.table)
        tried = [(self.encoding.decode(trial.params), trial) for trial in known]
        self._known: dict[Architecture, float] = {
            arch: trial.values[0] for arch, trial in tried if _kept(trial)
        }
        self._tried = {arch for arch, _ in tried}
        self._copies = 0

    def __call__(self, trial: Trial) -> float | tuple[float, float]:
        arch = self.encoding.decode(dict(self._sample(trial)))
        if arch in self._tried and self._copies < MOST_COPIES:
            self._copies += 1
            raise Discarded
        self._tried.add(arch)
        self._copies = 0
        ms = self._ms(arch)
        exceeded = self._exceeded(arch, ms)
        for name, part in exceeded.items():
            trial.set_constraint(name, part)
        trial.set_user_attr("ms", ms)
        cost = self.cost(arch) if max(exceeded.values()) <= 0 else math.inf
        return (cost, ms) if self._job.two_objectives else cost

    def cost(self, arch: Architecture) -> float:
        """Asked for once a member. Raises NasError where it is no number."""
        if arch not in self._known:
            cost = float(self._job.cost(arch))
            if not math.isfinite(cost):
                raise NasError(
                    f"the cost of a member is {cost}: widths {arch.widths}, depths {arch.depths}"
                )
            self._known[arch] = cost
        return self._known[arch]

    def members(self) -> list[Architecture]:
        """Return what a study begins with: the fastest member, those with the least of what else is
        limited, the published ones, and the largest."""
        space = self._job.space
        graph = Graph(self._job.space)
        smallest = [least(graph, limit.measure)[1] for limit in self._limits]
        return [
            fastest(space, self._job.table, graph)[1],
            *smallest,
            *space.published.values(),
            space.largest(),
        ]

    def _sample(self, trial: Trial) -> Iterator[tuple[str, int]]:
        for variable in self.encoding.variables:
            if variable.ordered:
                yield variable.name, trial.suggest_int(variable.name, variable.low, variable.high)
            else:
                choices = range(variable.low, variable.high + 1)
                yield variable.name, trial.suggest_categorical(variable.name, list(choices))

    def _ms(self, arch: Architecture) -> float:
        try:
            return self._job.table.total_ms(arch)
        except MissingRows:
            return _NEVER

    def _exceeded(self, arch: Architecture, ms: float) -> dict[str, float]:
        """By how much a member exceeds each limit, in parts of it; 0 or less where it keeps it."""
        target = math.inf if self._job.latency_ms is None else self._job.latency_ms
        over = _NEVER if ms == _NEVER else ms / target - 1
        return {
            "latency": over,
            **{
                limit.measure.name: limit.measure.total(arch) / limit.most - 1
                for limit in self._limits
            },
        }


def sampler_seed(job: Job, study: Study | None, worker: int) -> int:
    """Of a worker's sampler. What joins a study that others work on must not repeat what they
    sample."""
    import numpy as np

    trials = study.get_trials(deepcopy=False) if study else []
    others = any(not trial.state.is_finished() for trial in trials)
    numbers = [job.settings.seed, worker, len(trials), os.getpid() if others else 0]
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _kept(trial: FrozenTrial) -> bool:
    """Return whether a complete trial's member is within all limits."""
    return max(trial.constraints.values()) <= 0


def _result(job: Job, trials: list[FrozenTrial]) -> Studied:
    encoding = Encoding(job.space)
    kept = {encoding.decode(trial.params): trial for trial in reversed(trials) if _kept(trial)}
    if not kept:
        raise NasError(
            f"none of {len(trials)} trials is within the limits; the same search with more --trials"
            " goes on"
        )
    ranked = sorted(
        kept.items(), key=lambda pair: (pair[1].user_attrs["ms"], pair[1].values[0], pair[1].number)
    )
    front: list[FrontPoint] = []
    for arch, trial in ranked:
        if not front or trial.values[0] < front[-1].cost:
            front.append(FrontPoint(trial.user_attrs["ms"], trial.values[0], arch))
    best = front[-1]
    found = Found(replace(best.architecture, name=job.name), best.ms, best.cost, ())
    return Studied(found, tuple(front), len(trials), len(kept))
