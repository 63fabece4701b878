"""Studies of Optuna: where their trials are kept, who may join one, and what happens to the trials
of dead workers."""

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
"""What a database says when two processes make its tables at once."""


def _silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class StudySettings:
    """How a study is run.

    Attributes:
        trials: how many the study is to have in all, those of earlier runs and other workers
            included.
        seed: one worker in memory, or alone on a new study, gives the same outcome for the same
            seed.
        storage: the URL of an SQLite or PostgreSQL database that keeps the trials; in memory where
            None.
        study: its name there; by default it tells space, device, target and sampler.
        workers: processes of this run. Further runs of the same command, on other machines too,
            join the study.
        journal: a file that keeps the trials instead, for processes of one machine.
        heartbeat_s: a running trial says so this often; after three times as long without, another
            worker takes it.
        progress: called with what is counted, how many are done, and how many there are.
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
        """After how long without a heartbeat a worker counts as dead."""
        return 3 * self.heartbeat_s


def fingerprint(space: Space, table: LatencyTable, **more: Any) -> dict[str, str]:
    """Return what all trials of a study must have in common: checksums of space and table, and the
    texts of `more`."""
    rows = sorted((*row.key, repr(row.median_ms)) for row in table.rows.values())
    line = table.device.calibration
    device = [table.device.name, *map(repr, (table.base_ms, line.scale, line.weights_ms))]
    known = {"space": checksum(space.to_dict()), "table": checksum([device, rows])}
    return known | {name: str(value) for name, value in more.items()}


def checksum(data: Any) -> str:
    """Of plain data, short."""
    return data_sha256(data)[:16]


def open_study(
    settings: StudySettings,
    name: str,
    sampler: BaseSampler,
    objectives: int,
    marks: Mapping[str, str],
) -> Study:
    """Return the study of this name in the storage of the settings, new or begun before.

    Raises:
        InputError: when the URL is none, or the study there is of another space, table or target.
        NasError: when the storage cannot be reached.
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
    """Return the opened storage. Makes its tables where there are none, again where another process
    makes them just then."""
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
            # The only one that it raises: its tables are of another version.
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
    """Make SQLite fit for several workers.

    Transactions lock the file from their start: two workers that ask at once get the same queued
    trial otherwise, as SQLite knows no SELECT FOR UPDATE. A write-ahead log that is synced at
    checkpoints only makes them fast (every variable of a trial is one); a killed worker loses
    nothing by it.
    """
    from sqlalchemy import event

    def prepare(connection: Any, record: Any) -> None:
        connection.isolation_level = (
            None  # no BEGIN of the driver's own, which would come after the reads
        )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    engine.dispose()  # those that are open already were not prepared


def _check_marks(study: Study, settings: StudySettings, marks: Mapping[str, str]) -> None:
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
                f" {name.replace('_', ' ')} ({known.get(name, 'not stated')}, this search has"
                f" {value}); give another name with --study"
            )


def shown(url: str | None) -> str:
    """Return the URL without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url or "").render_as_string(hide_password=True)
    except ArgumentError:
        # What is no URL is shown as it is, unless it may hold a password.
        return "the storage" if not url or "@" in url else url


@contextmanager
def storage_errors(settings: StudySettings) -> Iterator[None]:
    """Turn what a storage raises into one line, in heartbeat threads too. Optuna's notes on itself
    are kept quiet."""
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
        # Optuna 5.0 hides the storage's error behind one of its own where the storage goes away
        # during a trial.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, (SQLAlchemyError, StorageInternalError)):
            cause = cause.__context__
        if cause is None:
            raise
        raise NasError(
            f"storage {shown(settings.storage)}: cannot be used"
            f" ({_line(cause.__cause__ or cause)}); trials that are in it stay, once it is back the"
            " same command goes on"
        ) from error
    finally:
        threading.excepthook = hook


def _quiet(
    hook: Callable[[threading.ExceptHookArgs], Any],
) -> Callable[[threading.ExceptHookArgs], Any]:
    """Return a hook that leaves a storage's errors to the worker itself, which meets them too."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    def report(args: threading.ExceptHookArgs) -> None:
        if not issubclass(args.exc_type, (SQLAlchemyError, StorageInternalError)):
            hook(args)

    return report


def _line(error: BaseException) -> str:
    """Return the reason that a driver gives, else the first line of the message."""
    reason = getattr(error, "orig", None) or error
    return " ".join(str(reason).splitlines()[0].split()) if str(reason) else type(reason).__name__
