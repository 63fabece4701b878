"""The workers of a study: how many trials it gets, in one process or several, whoever of them dies."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from nas.errors import InputError, NasError
from nas.search.optuna_engines import Discarded, Job, Objective, sampler_seed
from nas.search.studies import StudySettings, storage_errors

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

POLL_S = 0.2


def run(job: Job) -> list[FrozenTrial]:
    """Works until the study has as many complete trials as asked for, and gives those.

    Raises:
        NasError: when the storage is gone or all workers ended before that; the same call goes on.
    """
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        if job.settings.storage is None and job.settings.workers > 1:
            with tempfile.TemporaryDirectory(prefix="nas-study-") as folder:
                return _run(replace(job, settings=replace(job.settings, storage=f"sqlite:///{folder}/study.db")))
        return _run(job)
    finally:
        optuna.logging.set_verbosity(level)


def _run(job: Job) -> list[FrozenTrial]:
    study = job.open()
    with storage_errors(job.settings):
        if not study.get_trials(deepcopy=False):
            seed, objective = sampler_seed(job, None, 0), Objective(job)
            for member in objective.members():
                study.enqueue_trial(objective.encoding.encode(member), skip_if_exists=True)
        else:
            seed = sampler_seed(job, study, 0)
        if len(complete(study)) < job.settings.trials:
            if job.settings.workers == 1:
                study.sampler = job.make_sampler(seed)
                work(job, study)
            else:
                _run_processes(job, study)
        return complete(study)[: job.settings.trials]


def complete(study: Study) -> list[FrozenTrial]:
    """The complete trials, by number."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def work(job: Job, study: Study, stop: Callable[[], bool] = lambda: False) -> None:
    """Adds trials one at a time until there are as many complete ones as asked for.

    A trial counts from its start, so that workers together do not begin more than those; where one dies, its trial is
    failed after a while and the rest goes on with one more.
    """
    from optuna.trial import TrialState

    settings, objective = job.settings, Objective(job, complete(study))
    stale = _Stale(study, settings)
    while not stop():
        begun = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING))
        done = sum(trial.state == TrialState.COMPLETE for trial in begun)
        settings.progress("trials", done, settings.trials)
        if done >= settings.trials:
            return
        if len(begun) >= settings.trials:
            stale.look()
        else:
            _one_trial(study, objective, settings.trials)


def _one_trial(study: Study, objective: Objective, trials: int) -> None:
    """Adds a trial, unless another worker took it over meanwhile, as this one stood still for too long."""
    from optuna.exceptions import UpdateFinishedTrialError

    failure: Exception | None = None
    number = -1

    def evaluate(trial: Trial) -> float | tuple[float, float]:
        nonlocal failure, number
        number = trial.number
        try:
            if _before(study, trial.number) >= trials:
                raise Discarded
            return objective(trial)
        except Exception as error:
            failure = error
            raise

    try:
        study.optimize(evaluate, n_trials=1, catch=(Discarded,))
    except UpdateFinishedTrialError:
        pass
    except (ValueError, AssertionError) as error:  # of a cost, or of Optuna, which cannot finish a trial twice
        if error is failure or not any(t.number == number and t.state.is_finished() for t in study.get_trials()):
            raise


def _before(study: Study, number: int) -> int:
    """How many trials before this one are, or may yet be, complete."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    return sum(trial.number < number and trial.state not in (TrialState.FAIL, TrialState.PRUNED) for trial in trials)


class _Stale:
    """Fails the trials of dead workers while this one waits for the last trials of the others."""

    def __init__(self, study: Study, settings: StudySettings) -> None:
        self._study, self._settings = study, settings
        self._seen: dict[int, float] = {}
        self._helped: set[int] = set()

    def look(self) -> None:
        """One look, after a short while.

        The trial of a worker that died before its first heartbeat would never count as stale: after as long as a living
        one may be silent it gets one heartbeat from here.
        """
        import optuna
        from optuna.storages._heartbeat import BaseHeartbeat
        from optuna.trial import TrialState

        time.sleep(POLL_S)
        if self._settings.storage is None:
            return
        optuna.storages.fail_stale_trials(self._study)
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            since = self._seen.setdefault(trial.number, time.monotonic())
            silent = time.monotonic() - since > self._settings.grace_s
            storage = self._study._storage
            if silent and trial.number not in self._helped and isinstance(storage, BaseHeartbeat):
                self._helped.add(trial.number)
                storage.record_heartbeat(trial._trial_id)


def _run_processes(job: Job, study: Study) -> None:
    """Works in as many processes as asked for; those that are left go on where one dies."""
    context = multiprocessing.get_context("spawn")  # threads of torch or of a database do not survive a fork
    quiet = replace(job, settings=StudySettings(**{**vars(job.settings), "progress": StudySettings().progress}))
    processes: list[BaseProcess] = []
    receivers: list[Connection] = []
    try:
        for worker in range(job.settings.workers):
            receiver, sender = context.Pipe(duplex=False)
            process: BaseProcess = context.Process(
                target=_worker, args=(quiet, worker, os.getpid(), sender), daemon=True
            )
            process.start()
            sender.close()
            processes.append(process)
            receivers.append(receiver)
        while any(process.is_alive() for process in processes):
            job.settings.progress("trials", min(len(complete(study)), job.settings.trials), job.settings.trials)
            time.sleep(POLL_S)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(f"workers {job.settings.workers}: the costs cannot be sent to another process ({error}); "
                         "use a function of a module, or one worker") from None  # fmt: skip
    finally:
        for process in processes:
            process.terminate()
    done = len(complete(study))
    job.settings.progress("trials", min(done, job.settings.trials), job.settings.trials)
    if done < job.settings.trials:
        raise _why(receivers, done, job.settings)


def _why(receivers: list[Connection], done: int, settings: StudySettings) -> NasError:
    """The first error that a worker told of."""
    for receiver in receivers:
        with suppress(EOFError):
            wrong_input, message = receiver.recv()
            return InputError(message) if wrong_input else NasError(message)
    return NasError(f"all {settings.workers} workers ended after {done} of {settings.trials} trials (killed, or out of "
                    "memory?); the same command goes on")  # fmt: skip


def _worker(job: Job, worker: int, parent: int, errors: Connection) -> None:
    """One process: a study and a sampler of its own. It ends when its parent does."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with storage_errors(job.settings):
            study = job.open()
            study.sampler = job.make_sampler(sampler_seed(job, study, worker))
            work(job, study, stop=lambda: os.getppid() != parent)
    except NasError as error:
        errors.send((isinstance(error, InputError), str(error)))
