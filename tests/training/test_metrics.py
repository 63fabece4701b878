"""metrics.csv and the event files: whatever a full disk leaves, the next attempt goes on."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from nas.errors import NasError
from nas.training.metrics import Log, Progress, append, truncate


def progress(step: int) -> Progress:
    return Progress(step, 9, 1.0, 0.5, 50.0, 0.1, 100.0)


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        ("", []),
        ("step,lo", []),
        ("step,loss\n", []),
        ("step,loss\n1,0.5\n2,0.4\n3,0.", ["1,0.5", "2,0.4"]),
        ("step,loss\n1,0.5\n2,0.4\n3,0.3\n", ["1,0.5", "2,0.4"]),
    ],
    ids=str.split("empty header rows torn whole"),
)
def test_rows_up_to_a_step_are_kept_whatever_is_there(
    tmp_path: Path, left: str, kept: list[str]
) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(left)
    truncate(path, 2)
    append(path, [{"step": 3, "loss": 0.25}])
    assert path.read_text().splitlines() == ["step,loss", *kept, "3,0.25"]


def test_event_files_that_cannot_be_written_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = threading.excepthook
    log = Log(tmp_path / "metrics.csv", tmp_path / "tensorboard", 0)

    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log.writer, "flush", full)
    with pytest.raises(NasError, match=r"tensorboard: could not be written \(No space left"):
        log.write(progress(1))
    monkeypatch.setattr(log.writer, "close", full)
    with pytest.raises(NasError, match=r"tensorboard: could not be written"):
        log.close()
    assert threading.excepthook == hook


def test_a_thread_of_the_event_files_reports_its_error_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    log = Log(tmp_path / "metrics.csv", tmp_path / "tensorboard", 0)
    theirs = next(each for each in threading.enumerate() if "tensorboard" in type(each).__module__)
    for thread in (theirs, threading.current_thread()):
        error = OSError(28, "No space left on device")
        threading.excepthook(threading.ExceptHookArgs((OSError, error, None, thread)))
    log.close()
    assert [args.thread for args in reported] == [threading.current_thread()]
