"""The workers of a study, in one process or several; `search_optuna` calls `run`.

A study gets exactly as many complete trials as asked for, even where workers die. A trial counts
from its start. The trial of a dead worker is failed, and another worker adds one.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import platform
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from nas.errors import InputError, NasError
from nas.search.engines.optuna.engine import Discarded, Job, Objective, sampler_seed
from nas.search.engines.optuna.storage import StudySettings, storage_errors
from nas.temporary import scratch_folder

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial


POLL_S = 0.2
"""Seconds between two looks at other workers."""
MOST_FAILURES = 5
"""Number of trials in a row that fail without an error of the cost, after which a study ends."""
GRACE_S = 5.0
"""Seconds that a worker has to end before it is killed."""
WORKER = "worker"
"""Attribute of a trial that identifies the process that works on it."""


def run(job: Job) -> list[FrozenTrial]:
    """Work until the study has as many complete trials as asked for, and return all of them.

    Raises:
        NasError: the storage is gone, or all workers ended before that. The same call resumes.
    """
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        if job.settings.storage is None and job.settings.workers > 1:
            # Processes of one machine share a journal file, which needs no database. It has no
            # heartbeats, but a dead process of this machine is seen by its id.
            with scratch_folder("nas-study-") as folder:
                journal = folder / "study.log"
                return _run(replace(job, settings=replace(job.settings, journal=journal)))
        return _run(job)
    finally:
        optuna.logging.set_verbosity(level)


def _run(job: Job) -> list[FrozenTrial]:
    study = job.open()
    with storage_errors(job.settings):
        # A new study begins with members that are known to matter (`Objective.members`).
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
        # Where the study has more trials than this run asks for, all of them count.
        return complete(study)


def complete(study: Study) -> list[FrozenTrial]:
    """Return the complete trials, in the order of their numbers."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def work(job: Job, study: Study, stop: Callable[[], bool] = lambda: False) -> None:
    """Add trials until there are as many complete ones as asked for.

    A trial counts from its start, so that workers together do not begin too many. Where a worker
    dies, its trial is failed after a while, and another worker adds one.

    Args:
        job: of the study.
        study: with this worker's sampler.
        stop: asked after each trial whether to end early.

    Raises:
        NasError: `MOST_FAILURES` trials in a row failed. What a cost raises is passed on at once.
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

    failures = 0

    def failed(reason: str) -> None:
        nonlocal failures
        failures += 1
        if failures >= MOST_FAILURES:
            raise NasError(
                f"study '{study.study_name}': {failures} trials in a row failed ({reason}). The same"
                " command resumes it"
            )

    def after_trial(study: Study, trial: FrozenTrial) -> None:
        nonlocal failures
        report()
        if trial.state is TrialState.COMPLETE:
            failures = 0
        # A discarded trial is a copy of another one, which is normal.
        elif not isinstance(evaluate.failure, Discarded):
            failed("the study does not take the values of this engine")
        if stop():
            study.stop()

    while not stop():
        if report() >= settings.trials:
            return
        if len(study.get_trials(deepcopy=False, states=begun)) >= settings.trials:
            # Enough trials are begun, and the running ones are those of other workers. Wait: one of
            # them may have died.
            abandoned.look()
            continue
        evaluate = _Evaluate(study, objective, settings.trials)
        enough = MaxTrialsCallback(settings.trials, states=begun)
        try:
            study.optimize(evaluate, catch=(Discarded,), callbacks=[after_trial, enough])
        except UpdateFinishedTrialError:
            # This worker was suspended for so long that another one took its trial over.
            failed("other workers took them over")
        except (ValueError, AssertionError) as error:
            # An error of the cost is passed on. One of Optuna is not, where another worker has
            # finished the trial: Optuna cannot finish it twice.
            if error is evaluate.failure or not evaluate.finished_by_another():
                raise
            failed("other workers took them over")


class _Evaluate:
    """The objective of one worker, which remembers its last trial and that trial's error.

    Attributes:
        failure: what the objective raised last.
    """

    def __init__(self, study: Study, objective: Objective, trials: int) -> None:
        self.failure: Exception | None = None
        self._study = study
        self._objective = objective
        self._trials = trials
        self._number = -1

    def __call__(self, trial: Trial) -> float | tuple[float, float]:
        self._number = trial.number
        self.failure = None
        trial.set_user_attr(WORKER, worker_id())
        try:
            # Several workers may begin the last trial at once. Those with the higher numbers drop
            # theirs.
            if _before(self._study, trial.number) >= self._trials:
                raise Discarded
            return self._objective(trial)
        except Exception as error:
            self.failure = error
            raise

    def finished_by_another(self) -> bool:
        """Return whether the last trial is finished in the storage."""
        trials = self._study.get_trials(deepcopy=False)
        return any(trial.number == self._number and trial.state.is_finished() for trial in trials)


def _before(study: Study, number: int) -> int:
    """Return the number of earlier trials that are complete or may yet be."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    return sum(
        trial.number < number and trial.state not in (TrialState.FAIL, TrialState.PRUNED)
        for trial in trials
    )


class _Abandoned:
    """A watch over the running trials of other workers, which fails those of dead workers."""

    def __init__(self, study: Study, settings: StudySettings) -> None:
        self._study = study
        self._settings = settings
        self._seen: dict[int, float] = {}

    def look(self) -> None:
        """Wait for `POLL_S` seconds, then fail the trials of workers that are dead.

        A database finds dead workers by missing heartbeats. That misses a worker that died before
        its first heartbeat, and a journal has none. So processes of this machine are looked up by
        their ids. A trial that names no worker is failed after the grace period.
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
                # Another worker may have failed it at the same moment, or its own worker may have
                # finished it after all.
                self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def worker_id() -> str:
    """Return the identity of this process, machine and process id, as trials record it."""
    return f"{platform.node()}:{os.getpid()}"


def _is_dead(worker: str) -> bool:
    """Return whether a worker's process has ended; False for processes of other machines."""
    machine, _, process = worker.rpartition(":")
    if machine != platform.node() or not process.isdecimal():
        return False
    try:
        # Signal 0 is not sent; it only checks that the process exists.
        os.kill(int(process), 0)
    # No process has an id of so many digits as a damaged storage may have.
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False
    return False


def _run_processes(job: Job, study: Study) -> None:
    """Run the workers in as many processes as asked for; where one dies, the others continue.

    Raises:
        InputError: the costs cannot be pickled, or a worker met wrong input.
        NasError: all workers ended before the study was complete.
    """
    # Threads of torch or of a database do not survive a fork.
    context = multiprocessing.get_context("spawn")
    # This process reports progress. The workers do not, and a callback may not be picklable.
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
            with _safe_path():
                process.start()
            # With the parent's end closed, reading raises EOFError once the worker has ended.
            sender.close()
            processes.append(process)
            receivers.append(receiver)
        # A list, not a generator: every process is asked, so that none stays a zombie.
        while any([process.is_alive() for process in processes]):
            job.settings.progress(
                "trials", min(len(complete(study)), job.settings.trials), job.settings.trials
            )
            time.sleep(POLL_S)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"workers {job.settings.workers}: the costs cannot be sent to another process"
            f" ({error}). Fix: use a function of a module, or one worker"
        ) from None
    finally:
        _end(processes)
    done = len(complete(study))
    job.settings.progress("trials", min(done, job.settings.trials), job.settings.trials)
    if done < job.settings.trials:
        raise _why(receivers, done, job.settings)


@contextmanager
def _safe_path() -> Iterator[None]:
    """Context manager: a process that is started inside imports nothing from the working directory.

    Files there are data. Without this, Python looks there first until the new process has got the
    parent's path of modules. (Python 3.10 does not know the variable.)
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _end(processes: Sequence[BaseProcess]) -> None:
    """End processes and wait until they have ended: they write into a folder that is then removed."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(GRACE_S)
        if process.is_alive():
            process.kill()
            process.join()


def _why(receivers: list[Connection], done: int, settings: StudySettings) -> NasError:
    """Return the first error that a worker reported, or that all of them ended."""
    for receiver in receivers:
        with suppress(EOFError):
            wrong_input, message = receiver.recv()
            return InputError(message) if wrong_input else NasError(message)
    return NasError(
        f"all {settings.workers} workers ended after {done} of {settings.trials} trials (killed, or"
        " out of memory?). Fix: run the same command again; with --storage it resumes"
    )


def _worker(job: Job, worker: int, parent: int, errors: Connection) -> None:
    """Run one worker process, with a study and a sampler of its own, until its parent ends."""
    import optuna

    # ctrl-C reaches all processes of a terminal. The parent takes it and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with storage_errors(job.settings):
            study = job.open()
            study.sampler = job.make_sampler(sampler_seed(job, study, worker))
            work(job, study, stop=lambda: os.getppid() != parent)
    except NasError as error:
        errors.send((isinstance(error, InputError), str(error)))
    except Exception as error:
        # An error of the cost function. A traceback of each worker would hide it.
        reason = " ".join(str(error).split())
        errors.send(
            (False, f"study '{job.name}': a trial failed ({type(error).__name__}: {reason})")
        )
