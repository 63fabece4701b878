"""The process that converts or times."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas.convert.worker import Worker
from nas.devices import OperationFailed
from nas.errors import NasError


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    worker = Worker("echo_worker")
    yield worker
    worker.close()


def test_answers_without_a_word_on_the_terminal(
    worker: Worker, capfd: pytest.CaptureFixture[str]
) -> None:
    first = worker.ask(text="ä\n1")
    second = worker.ask(number=2)
    assert first["request"] == {"text": "ä\n1"} and second["request"] == {"number": 2}
    assert first["pid"] == second["pid"] != os.getpid()
    assert capfd.readouterr() == ("", "")


def test_error_comes_back_in_one_line_and_the_worker_lives(worker: Worker) -> None:
    pid = worker.ask()["pid"]
    with pytest.raises(OperationFailed, match=r"^ValueError: no such thing$"):
        worker.ask(fail=True)
    assert worker.ask()["pid"] == pid


def test_full_disk_is_not_the_operations_fault(worker: Worker) -> None:
    with pytest.raises(NasError, match=r"No space left on device\. Fix: make room") as raised:
        worker.ask(full=True)
    assert not isinstance(raised.value, OperationFailed)


def test_files_of_the_working_directory_are_data(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "runpy", "contextlib", "echo_worker", "nas"):
        (tmp_path / f"{name}.py").write_text(f"open('ran-{name}', 'w'); raise ImportError")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert worker.ask(number=2)["request"] == {"number": 2}
    assert not list(tmp_path.glob("ran-*"))


def test_death_costs_one_request(worker: Worker) -> None:
    pid = worker.ask()["pid"]
    with pytest.raises(OperationFailed, match="echo_worker died"):
        worker.ask(die=True)
    assert worker.ask()["pid"] != pid


def test_dies_with_its_parent() -> None:
    script = (
        "import sys, os, signal; sys.path.insert(0, sys.argv[1])\nfrom nas.convert.worker import"
        " Worker\nprint(Worker('echo_worker').ask()['pid'], flush=True)\nos.kill(os.getpid(),"
        " signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent)]
    pid = int(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    deadline = time.monotonic() + 10
    while _runs(pid):
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
