"""The workers of a study: how many trials it gets, in one process or several, whoever of them dies."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import platform
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

from nas.errors import InputError, NasError
from nas.search.engines.optuna.engine import Discarded, Job, Objective, sampler_seed
from nas.search.engines.optuna.storage import StudySettings, storage_errors

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial


POLL_S = 0.2
WORKER = "worker"
"""The attribute of a trial that says which process works on it."""


def run(job: Job) -> list[FrozenTrial]:
    """Work until the study has as many complete trials as asked for, and gives those.

    Raises:
        NasError: when the storage is gone or all workers ended before that; the same call goes on.
    """
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        if job.settings.storage is None and job.settings.workers > 1:
            # Processes of one machine share a file; it needs no database, and this process sees
            # when one of them dies.
            with tempfile.TemporaryDirectory(prefix="nas-study-") as folder:
                journal = Path(folder) / "study.log"
                return _run(replace(job, settings=replace(job.settings, journal=journal)))
        return _run(job)
    finally:
        optuna.logging.set_verbosity(level)


def _run(job: Job) -> list[FrozenTrial]:
    study = job.open()
    with storage_errors(job.settings):
        if not study.get_trials(deepcopy=False):
            seed = sampler_seed(job, None, 0)
            objective = Objective(job)
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
    """Return the complete trials, by number."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def work(job: Job, study: Study, stop: Callable[[], bool] = lambda: False) -> None:
    """Add trials until there are as many complete ones as asked for.

    A trial counts from its start, so that workers together do not begin more than those; where one
    dies, its trial is failed after a while and the rest goes on with one more.
    """
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.study import MaxTrialsCallback
    from optuna.trial import TrialState

    settings = job.settings
    objective = Objective(job, complete(study))
    abandoned = _Abandoned(study, settings)
    begun = (TrialState.COMPLETE, TrialState.RUNNING)

    reported = -1

    def report() -> int:
        nonlocal reported
        done = len(complete(study))
        if done != reported:
            settings.progress("trials", done, settings.trials)
        reported = done
        return done

    def after_trial(study: Study, trial: FrozenTrial) -> None:
        report()
        if stop():
            study.stop()

    while not stop():
        if report() >= settings.trials:
            return
        if len(study.get_trials(deepcopy=False, states=begun)) >= settings.trials:
            abandoned.look()  # the last trials are those of other workers
            continue
        evaluate = _Evaluate(study, objective, settings.trials)
        enough = MaxTrialsCallback(settings.trials, states=begun)
        try:
            study.optimize(evaluate, catch=(Discarded,), callbacks=[after_trial, enough])
        except UpdateFinishedTrialError:
            pass  # this worker stood still for so long that another one took its trial over
        except (ValueError, AssertionError) as error:
            # Of a cost, or of Optuna, which cannot finish a trial twice.
            if error is evaluate.failure or not evaluate.finished_by_another():
                raise


class _Evaluate:
    """Evaluates the trial of one worker, and remembers which and what came of it."""

    def __init__(self, study: Study, objective: Objective, trials: int) -> None:
        self.failure: Exception | None = None
        self._study = study
        self._objective = objective
        self._trials = trials
        self._number = -1

    def __call__(self, trial: Trial) -> float | tuple[float, float]:
        self._number = trial.number
        trial.set_user_attr(WORKER, worker_id())
        try:
            if _before(self._study, trial.number) >= self._trials:
                raise Discarded
            return self._objective(trial)
        except Exception as error:
            self.failure = error
            raise

    def finished_by_another(self) -> bool:
        trials = self._study.get_trials(deepcopy=False)
        return any(trial.number == self._number and trial.state.is_finished() for trial in trials)


def _before(study: Study, number: int) -> int:
    """Return how many trials before this one are, or may yet be, complete."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    return sum(
        trial.number < number and trial.state not in (TrialState.FAIL, TrialState.PRUNED)
        for trial in trials
    )


class _Abandoned:
    """Fails the trials of dead workers while this one waits for the last trials of the others."""

    def __init__(self, study: Study, settings: StudySettings) -> None:
        self._study = study
        self._settings = settings
        self._seen: dict[int, float] = {}

    def look(self) -> None:
        """Look once, after a short while.

        A database knows by missing heartbeats whose worker is dead. That says nothing of a worker
        that died before its first one, and a journal has none: processes of this machine are looked
        for, and what did not even say who works on it is given as long as a living worker may be
        silent.
        """
        import optuna
        from optuna.trial import TrialState

        time.sleep(POLL_S)
        if self._settings.storage is not None:
            optuna.storages.fail_stale_trials(self._study)
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            since = self._seen.setdefault(trial.number, time.monotonic())
            silent = time.monotonic() - since > self._settings.grace_s
            worker = trial.user_attrs.get(WORKER)
            if silent if worker is None else _is_dead(worker):
                # Another worker may have failed it at the same moment, or have finished it after
                # all.
                self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def worker_id() -> str:
    """Return what a trial says of the process that works on it."""
    return f"{platform.node()}:{os.getpid()}"


def _is_dead(worker: str) -> bool:
    """Return whether a process of this machine has ended; False for those of other machines."""
    machine, _, process = worker.rpartition(":")
    if machine != platform.node() or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)  # signal 0 is not sent, only looked whether it could be
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _run_processes(job: Job, study: Study) -> None:
    """Work in as many processes as asked for; those that are left go on where one dies."""
    context = multiprocessing.get_context(
        "spawn"
    )  # threads of torch or of a database do not survive a fork
    quiet = replace(
        job, settings=StudySettings(**{**vars(job.settings), "progress": StudySettings().progress})
    )
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
        while any(
            [process.is_alive() for process in processes]
        ):  # asks each, so that none stays a zombie
            job.settings.progress(
                "trials", min(len(complete(study)), job.settings.trials), job.settings.trials
            )
            time.sleep(POLL_S)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"workers {job.settings.workers}: the costs cannot be sent to another process"
            f" ({error}); use a function of a module, or one worker"
        ) from None
    finally:
        for process in processes:
            process.terminate()
    done = len(complete(study))
    job.settings.progress("trials", min(done, job.settings.trials), job.settings.trials)
    if done < job.settings.trials:
        raise _why(receivers, done, job.settings)


def _why(receivers: list[Connection], done: int, settings: StudySettings) -> NasError:
    """Return the first error that a worker told of."""
    for receiver in receivers:
        with suppress(EOFError):
            wrong_input, message = receiver.recv()
            return InputError(message) if wrong_input else NasError(message)
    return NasError(
        f"all {settings.workers} workers ended after {done} of {settings.trials} trials (killed, or"
        " out of memory?); the same command goes on"
    )


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
