"""Storages of Optuna's studies: opening, identity checks and one-line errors.

`nas.search.engines.optuna.engine` and its workers call it. `StudySettings` is part of every problem.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import InputError, NasError, check_count, check_type
from nas.extras import install_command
from nas.files import data_sha256
from nas.latency import LatencyTable
from nas.passwords import MASK, expanded, masked, masked_text, without
from nas.space import Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from sqlalchemy.engine import URL, Engine


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
            `${NAME}` in it stands for a variable of the environment, such as a password.
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
    storage: str | None = field(default=None, repr=False)  # may hold a password
    study: str | None = None
    workers: int = 1
    journal: Path | None = None
    heartbeat_s: int = 10
    progress: Progress = _silent

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("workers", 1), ("heartbeat_s", 1), ("seed", 0)):
            check_count(name, getattr(self, name), least)
        for name in ("storage", "study"):
            if getattr(self, name) is not None:
                check_type(name, getattr(self, name), str)

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
        # Before anything is written into it. Optuna would take a study of other directions, and
        # then fail each trial of this search without an error.
        there = [direction.name.lower() for direction in study.directions]
        asked = ["minimize"] * objectives
        if there != asked:
            raise InputError(
                f"study '{name}' in {masked(settings.storage or '')}: was begun by an engine with other"
                f" objectives (got {', '.join(asked)}, expected {', '.join(there)}). Fix: another"
                " --study"
            )
        _check_marks(study, settings, marks)
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
    url = address(settings.storage)
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite and url.database in (None, "", ":memory:"):
        raise InputError(
            f"storage {masked(settings.storage)}: keeps nothing (expected the path of a file). Fix:"
            " sqlite:///study.db"
        )
    # Optuna fills {SCHEMA_VERSION} into the text. Doubled braces are plain ones.
    text = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    for attempt in range(10):
        try:
            # SQLite waits up to 60 s for a lock; the pool of a server's connections tests each one
            # before use, since a server may have closed it.
            storage = optuna.storages.RDBStorage(
                text,
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
                f"storage {masked(settings.storage)}: its tables are of another version of Optuna"
                f" than {optuna.__version__}. Fix: optuna storage upgrade --storage"
                f" {masked(settings.storage)}, or the Optuna that made them"
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
                f"study '{study.study_name}' in {masked(settings.storage or '')} is of another"
                f" {name.replace('_', ' ')} (got {known.get(name, 'not stated')}, expected"
                f" {value}). Fix: give another name with --study"
            )


def address(storage: str) -> URL:
    """Return the address of a storage, with variables of the environment filled in.

    Each part is filled in by itself, so that a password from the environment needs no escapes.

    Raises:
        InputError: it is not an address, a variable is not set, or a password is a mask.
        ArgumentError: SQLAlchemy does not take it for an address.
    """
    from sqlalchemy.engine import make_url

    try:
        # One variable may hold the whole address.
        url = _filled(make_url(storage)) if "://" in storage else make_url(expanded(storage))
    except ValueError as error:
        # SQLAlchemy reads the port as a number and quotes what is there, which may be a password.
        reason = str(error) if "${" in storage else "the port is not a number"
        raise InputError(f"storage {masked(storage)}: {reason}") from None
    if "@" in (url.host or ""):
        # The driver would look for a host whose name begins with a part of the password.
        raise InputError(
            f"storage {masked(storage)}: the password has an '@' that is not escaped. Fix: %40 in"
            " its place"
        )
    if MASK in _secrets(url):
        raise InputError(
            f"storage {masked(storage)}: the password is masked, as in a recorded command. Fix:"
            " ${PGPASSWORD} in its place, and export PGPASSWORD"
        )
    return url


def _filled(url: URL) -> URL:
    """Return an address with variables of the environment in its parts filled in."""
    query = {name: tuple(map(expanded, values)) for name, values in url.normalized_query.items()}
    # `set` leaves a part that is None as it is.
    return url.set(
        username=expanded(url.username) if url.username else None,
        password=expanded(url.password) if url.password else None,
        host=expanded(url.host) if url.host else None,
        database=expanded(url.database) if url.database else None,
        query=query,
    )


def _secrets(url: URL) -> list[str]:
    """Return the passwords in an address: before its host, and in its query."""
    pairs = [(name, value) for name, values in url.normalized_query.items() for value in values]
    secrets = [value for name, value in pairs if masked(f"{name}={value}") != f"{name}={value}"]
    # The mask itself is masked by itself.
    secrets += [value for _, value in pairs if value == MASK]
    return [*secrets, *([str(url.password)] if url.password else [])]


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

    where = f"storage {masked(settings.storage or '')}"
    hook = threading.excepthook
    threading.excepthook = _quiet(threading.excepthook)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    except ArgumentError as error:
        raise InputError(
            f"{where}: is not the URL of a database ({_line(error, settings)});"
            f" expected {_EXAMPLES}"
        ) from None
    except ImportError as error:
        if settings.storage is None:
            raise
        reason = _line(error.__cause__ or error, settings)
        raise InputError(
            f"{where}: the driver of this database is not installed"
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
            f"{where}: cannot be used ({_line(cause.__cause__ or cause, settings)}). Its trials are"
            " kept. Fix: make it available, and the same command resumes"
        ) from error
    except (ValueError, KeyError) as error:
        # The database itself is whole, but not what Optuna wrote into it. Errors of the search's own
        # code go on.
        if isinstance(error, NasError) or not _from_optuna(error):
            raise
        raise NasError(
            f"{where}: is damaged ({_line(error, settings)}). Fix: restore it, or give another --study"
        ) from None
    finally:
        threading.excepthook = hook


def _from_optuna(error: Exception) -> bool:
    """Return whether an error was raised while Optuna read its storage."""
    frame = error.__traceback__
    modules = []
    while frame is not None:
        modules.append(str(frame.tb_frame.f_globals.get("__name__", "")))
        frame = frame.tb_next
    inner = [name for name in modules if not name.startswith(("json", "sqlalchemy"))]
    return bool(inner) and inner[-1].startswith("optuna.")


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


def _line(error: BaseException, settings: StudySettings) -> str:
    """Return the driver's reason for an error, else the first line of its message.

    Drivers may repeat what they were given, so passwords are cut out.
    """
    from sqlalchemy.exc import ArgumentError

    reason = getattr(error, "orig", None) or error
    if not str(reason):
        return type(reason).__name__
    line = " ".join(str(reason).splitlines()[0].split())
    try:
        secrets = _secrets(address(settings.storage or ""))
    except (ValueError, ArgumentError):  # not an address, whose parts are not known either
        secrets = [settings.storage or ""]
    return masked_text(without(line, secrets))
