"""Storages of Optuna's studies: opening, identity checks and one-line errors.

`nas.search.engines.optuna.engine` and its workers call it. `StudySettings` is part of every problem.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import InputError, NasError
from nas.extras import install_command
from nas.files import data_sha256
from nas.latency import LatencyTable
from nas.space import Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from sqlalchemy.engine import Engine


Progress = Callable[[str, int, int], None]
_EXAMPLES = "sqlite:///study.db or postgresql://USER@HOST/DATABASE"
_RACES = ("already exists", "locked", "unique", "duplicate")
"""Words of a database's error when two processes create its tables at once."""


def _silent(what: str, done: int, total: int) -> None:
    """Do nothing: the default of `StudySettings.progress`."""


@dataclass(frozen=True)
class StudySettings:
    """The settings of a study.

    Attributes:
        trials: total number of trials, those of earlier runs and other workers included.
        seed: of the sampler. One worker in memory, or alone on a new study, is reproducible.
        storage: URL of an SQLite or PostgreSQL database that keeps the trials; None for memory.
        study: name in the storage; by default made of space, device, target and sampler.
        workers: processes of this run. Further runs of the same command join the study, from other
            machines too.
        journal: a file that keeps the trials in place of `storage`, for processes of one machine.
        heartbeat_s: interval of the heartbeats of a running trial, in seconds. After three
            intervals without one, another worker takes the trial over.
        progress: called with the name of what is counted, the number done and the total.
    """

    trials: int = 1000
    seed: int = 0
    storage: str | None = None
    study: str | None = None
    workers: int = 1
    journal: Path | None = None
    heartbeat_s: int = 10
    progress: Progress = _silent

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("workers", 1), ("heartbeat_s", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} {getattr(self, name)}: expected {least} or more")

    @property
    def grace_s(self) -> int:
        """Return the seconds without a heartbeat after which a worker counts as dead."""
        return 3 * self.heartbeat_s


def fingerprint(space: Space, table: LatencyTable, **more: Any) -> dict[str, str]:
    """Return the marks that all trials of a study must have in common.

    They are checksums of space and table, and the values of `more` as text.
    """
    rows = sorted((*row.key, repr(row.median_ms)) for row in table.rows.values())
    line = table.device.calibration
    device = [table.device.name, *map(repr, (table.base_ms, line.scale, line.weights_ms))]
    known = {"space": checksum(space.to_dict()), "table": checksum([device, rows])}
    return known | {name: str(value) for name, value in more.items()}


def checksum(data: Any) -> str:
    """Return a short checksum of plain data."""
    return data_sha256(data)[:16]


def open_study(
    settings: StudySettings,
    name: str,
    sampler: BaseSampler,
    objectives: int,
    marks: Mapping[str, str],
) -> Study:
    """Return the study of this name in the storage of the settings, new or begun before.

    Args:
        settings: with the storage.
        name: of the study.
        sampler: of new trials.
        objectives: how many are minimised.
        marks: the marks that the study must have (`fingerprint`).

    Raises:
        InputError: the URL is not one of a database, or the study has another space, table or
            target.
        NasError: the storage cannot be reached.
    """
    import optuna

    with storage_errors(settings):
        study = optuna.create_study(
            storage=_storage(settings),
            study_name=name,
            sampler=sampler,
            load_if_exists=True,
            directions=["minimize"] * objectives,
        )
        _check_marks(study, settings, marks)
        if len(study.directions) != objectives:
            raise InputError(
                f"study '{name}' in {shown(settings.storage)}: its engine has another number of"
                f" objectives (got {objectives}, expected {len(study.directions)}). Fix: give"
                " another name with --study"
            )
    return study


def _storage(settings: StudySettings) -> BaseStorage | None:
    """Return the opened storage; None for memory.

    Opening creates the tables where there are none. It is repeated where another process creates
    them at the same moment.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    if settings.journal is not None:
        from optuna.storages.journal import JournalFileBackend

        backend = JournalFileBackend(str(settings.journal))
        return optuna.storages.JournalStorage(backend)
    if settings.storage is None:
        return None
    sqlite = settings.storage.startswith("sqlite")
    for attempt in range(10):
        try:
            # SQLite waits up to 60 s for a lock; the pool of a server's connections tests each one
            # before use, since a server may have closed it.
            storage = optuna.storages.RDBStorage(
                settings.storage,
                engine_kwargs=(
                    {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
                ),
                heartbeat_interval=settings.heartbeat_s,
                grace_period=settings.grace_s,
                heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(
                    max_retry=1
                ),
            )
            if sqlite:
                _set_up_sqlite(storage.engine)
            return storage
        except RuntimeError:
            # Optuna raises RuntimeError here for one reason only: tables of another version.
            raise InputError(
                f"storage {shown(settings.storage)}: its tables are of another version of Optuna"
                f" than {optuna.__version__}. Fix: optuna storage upgrade --storage"
                f" {shown(settings.storage)}, or the Optuna that made them"
            ) from None
        except SQLAlchemyError as error:
            if attempt == 9 or not any(text in str(error).lower() for text in _RACES):
                raise
            time.sleep(0.1 * (attempt + 1))
    raise AssertionError("the last attempt returns or raises")


def _set_up_sqlite(engine: Engine) -> None:
    """Set up SQLite for several workers.

    Transactions lock the file from their start. SQLite has no SELECT FOR UPDATE, so that two
    workers that ask at once would get the same queued trial otherwise. A write-ahead log that is
    synced only at checkpoints makes transactions fast; each variable of a trial is one. A killed
    worker loses nothing by that.
    """
    from sqlalchemy import event

    def prepare(connection: Any, record: Any) -> None:
        # Without the driver's own BEGIN, which would come after the reads.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    # Connections that are open already were not prepared.
    engine.dispose()


def _check_marks(study: Study, settings: StudySettings, marks: Mapping[str, str]) -> None:
    """Write the marks into a new study; raise InputError where those of an old one differ."""
    # A study that has trials but no marks was not begun by this program: all marks differ.
    known = study.user_attrs.get("nas")
    if known is None and study.get_trials(deepcopy=False):
        known = {}
    if known is None:
        study.set_user_attr("nas", dict(marks))
        return
    for name, value in marks.items():
        if known.get(name) != value:
            raise InputError(
                f"study '{study.study_name}' in {shown(settings.storage)} is of another"
                f" {name.replace('_', ' ')} (got {known.get(name, 'not stated')}, expected"
                f" {value}). Fix: give another name with --study"
            )


def shown(url: str | None) -> str:
    """Return the URL without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url or "").render_as_string(hide_password=True)
    except ArgumentError:
        # A text that is not a URL is shown as it is, unless it may hold a password.
        return "the storage" if not url or "@" in url else url


@contextmanager
def storage_errors(settings: StudySettings) -> Iterator[None]:
    """Turn a storage's errors into one-line ones, in heartbeat threads too (a context manager).

    Optuna's warnings about experimental features are suppressed.

    Raises:
        InputError: the URL is not one of a database, or its driver is not installed.
        NasError: the storage cannot be used.
    """
    from optuna.exceptions import ExperimentalWarning, StorageInternalError
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    hook = threading.excepthook
    threading.excepthook = _quiet(threading.excepthook)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    except ArgumentError as error:
        raise InputError(
            f"storage {shown(settings.storage)}: is not the URL of a database ({_line(error)});"
            f" expected {_EXAMPLES}"
        ) from None
    except ImportError as error:
        if settings.storage is None:
            raise
        reason = _line(error.__cause__ or error)
        raise InputError(
            f"storage {shown(settings.storage)}: the driver of this database is not installed"
            f" ({reason}). Fix, for PostgreSQL: {install_command('postgres')}"
        ) from None
    except (SQLAlchemyError, StorageInternalError, UnboundLocalError, AssertionError) as error:
        # Where the storage goes away during a trial, Optuna 5.0 raises UnboundLocalError or
        # AssertionError from its own code; the storage's error is in the chain of contexts.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, (SQLAlchemyError, StorageInternalError)):
            cause = cause.__context__
        if cause is None:
            raise
        raise NasError(
            f"storage {shown(settings.storage)}: cannot be used"
            f" ({_line(cause.__cause__ or cause)}). Its trials are kept. Fix: make it available,"
            " and the same command resumes"
        ) from error
    finally:
        threading.excepthook = hook


def _quiet(
    hook: Callable[[threading.ExceptHookArgs], Any],
) -> Callable[[threading.ExceptHookArgs], Any]:
    """Return a thread hook that is silent about storage errors, which the worker itself reports."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    def report(args: threading.ExceptHookArgs) -> None:
        if not issubclass(args.exc_type, (SQLAlchemyError, StorageInternalError)):
            hook(args)

    return report


def _line(error: BaseException) -> str:
    """Return the driver's reason for an error, else the first line of its message."""
    reason = getattr(error, "orig", None) or error
    return " ".join(str(reason).splitlines()[0].split()) if str(reason) else type(reason).__name__
