"""The engines `nsga2` and `tpe`: sampling by Optuna, for costs of any kind.

`nas.search.solve` calls `nsga2` and `tpe`. `search_optuna` is for costs that are any function of a
member, such as a measurement by a sliced supernet.

NSGA-II: Deb et al., IEEE Trans. Evol. Comput. 6(2), 2002, with its constrained domination. TPE:
Bergstra et al., NeurIPS 2011, over all variables jointly. The rules of the space hold by
construction (`nas.search.engines.optuna.encoding`). Latency and other limits are constraints: a
member beyond a limit is a trial, but its cost is never computed.
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
"""Members per generation of NSGA-II, and random trials before TPE begins to model."""
MOST_COPIES = 5
"""Maximum number of trials in a row that are discarded because their member was tried before."""
_NEVER = 1e9
"""Latency in ms, and constraint violation, of a member that the device cannot run at all."""


@dataclass(frozen=True)
class Studied:
    """The result of a study.

    Attributes:
        found: the member of least cost within all limits, the fastest of equal ones. It has no
            trace of moves.
        front: the members within the limits that no other trial beat in both latency and cost,
            fastest first.
        trials: total number of trials in the study.
        evaluated: number of different members whose cost was computed.
    """

    found: Found
    front: tuple[FrontPoint, ...]
    trials: int
    evaluated: int


@dataclass(frozen=True)
class Job:
    """A study to be run, with the arguments of `search_optuna`; it is sent to worker processes."""

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
        """Return the name of the study."""
        target = "front" if self.latency_ms is None else f"{self.latency_ms:g}ms"
        return (
            self.settings.study
            or f"{self.space.name}-{self.table.device.name}-{target}-{self.sampler}"
        )

    @property
    def two_objectives(self) -> bool:
        """Return whether latency is minimised too.

        NSGA-II does so below a target as well, which keeps its population diverse.
        """
        return self.latency_ms is None or self.sampler == "nsga2"

    def open(self, sampler: BaseSampler | None = None) -> Study:
        """Return the job's study after a check that its space, table, costs and limits are the job's."""
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
        """Return a new sampler of the job's kind."""
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
    """Return the member of least cost within the limits that a study finds, and a front.

    Args:
        space: to search.
        table: of the device.
        cost: expected accuracy drop of a member in points, lower is better. With several workers
            `multiprocessing` must be able to pickle it, such as a module's function or a bound
            method of plain data.
        latency_ms: maximum latency; `math.inf` for none, None to search the whole front of cost
            against latency.
        sampler: "nsga2" or "tpe".
        settings: of the study.
        limits: further limits, by the names of `nas.search.limits`.
        cost_id: identifies where the costs are from. A study that was begun with another is refused.
        study: fields of `StudySettings`, which override `settings`.

    Raises:
        InputError: a setting is out of range, or the study in that storage has another space, table
            or target.
        NasError: the storage is gone, a cost is not a number, or no trial is within the limits.
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
    """Return the best member that NSGA-II finds."""
    return _engine(problem, "nsga2")


def tpe(problem: Problem) -> Found:
    """Return the best member that TPE finds."""
    return _engine(problem, "tpe")


def _engine(problem: Problem, sampler: Sampler) -> Found:
    """Return the best of a study, with the moves that turn the largest member into it."""
    scores = problem.cautious_scores
    limits = {limit.measure.key: limit.most for limit in problem.limits}
    studied = search_optuna(
        problem.space,
        problem.table,
        scores.cost,
        problem.target_ms,
        sampler,
        problem.study,
        limits,
        scores.fingerprint,
    )
    arch = studied.found.architecture
    return replace(problem.found(arch, steps_to(problem, arch)), trials=studied.trials)


class Discarded(Exception):
    """Raised for a trial that does not count.

    Its member was tried before, or another worker began the last trial at the same moment.
    """


class Objective:
    """The objective of a study: samples a member and, where it keeps the limits, computes its cost.

    A trial whose member was tried before is discarded. Otherwise the population of NSGA-II fills up
    with copies of one member and gets stuck. After `MOST_COPIES` such trials in a row there may be
    nothing new to sample, so that a copy counts.

    Args:
        job: of the study.
        known: its complete trials so far, whose costs are not computed again.
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
        # Different settings may be the same member, so copies are recognised by the member.
        if arch in self._tried and self._copies < MOST_COPIES:
            self._copies += 1
            raise Discarded
        self._tried.add(arch)
        self._copies = 0
        ms = self._ms(arch)
        exceeded = self._exceeded(arch, ms)
        for name, part in exceeded.items():
            # Optuna takes a trial as feasible where all constraints are at most 0. Shares of the
            # limits make violations of different limits comparable.
            trial.set_constraint(name, part)
        trial.set_user_attr("ms", ms)
        # An infeasible member never beats a feasible one whatever its cost, so the cost, which may
        # take an evaluation, is not computed.
        cost = self.cost(arch) if max(exceeded.values()) <= 0 else math.inf
        return (cost, ms) if self._job.two_objectives else cost

    def cost(self, arch: Architecture) -> float:
        """Return the cost of a member in points, computed once per member.

        Raises:
            NasError: the cost is not a finite number.
        """
        if arch not in self._known:
            cost = float(self._job.cost(arch))
            if not math.isfinite(cost):
                raise NasError(
                    f"the cost of a member is {cost}: widths {arch.widths}, depths {arch.depths}"
                )
            self._known[arch] = cost
        return self._known[arch]

    def members(self) -> list[Architecture]:
        """Return the members that a study begins with.

        These are the fastest, the ones with the least of each limited amount, the published ones
        and the largest. So the first generation has members that keep each limit.
        """
        space = self._job.space
        graph = Graph(self._job.space)
        # In a space with frozen parts not every published member is a member.
        published = [arch for arch in space.published.values() if space.contains(arch)]
        smallest = [least(graph, limit.measure)[1] for limit in self._limits]
        return [
            fastest(space, self._job.table, graph)[1],
            *smallest,
            *published,
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
        """Return by what share a member exceeds each limit; 0 or less where it keeps the limit."""
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
    """Return the seed of a worker's sampler, which depends on how many trials there are.

    A worker that joins a study on which others work must not repeat what they sample, so its
    process id counts too. Alone, the same seed gives the same outcome.
    """
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
    # Of copies of a member, the earliest trial is kept.
    kept = {encoding.decode(trial.params): trial for trial in reversed(trials) if _kept(trial)}
    if not kept:
        raise NasError(
            f"none of {len(trials)} trials is within the limits. Fix: the same search with more"
            " --trials; with --storage it resumes"
        )
    ranked = sorted(
        kept.items(), key=lambda pair: (pair[1].user_attrs["ms"], pair[1].values[0], pair[1].number)
    )
    front: list[FrontPoint] = []
    for arch, trial in ranked:
        # In ascending latency, a member is on the front where it costs less than all faster ones.
        if not front or trial.values[0] < front[-1].cost:
            front.append(FrontPoint(trial.user_attrs["ms"], trial.values[0], arch))
    # The slowest member of the front within the limits is the one of least cost.
    best = front[-1]
    found = Found(replace(best.architecture, name=job.name), best.ms, best.cost, ())
    return Studied(found, tuple(front), len(trials), len(kept))
