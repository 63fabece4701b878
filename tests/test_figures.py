"""Pictures are the same whether the engine was started beforehand, and whatever happens to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas import figures
from nas.figures import Figure

FIGURE = Figure(
    "one point",
    {
        "data": {"values": [{"a": 1, "b": 2}]},
        "mark": "point",
        "encoding": {"x": {"field": "a"}, "y": {"field": "b"}},
    },
)


@pytest.fixture(autouse=True)
def engine() -> Iterator[None]:
    """Leave no engine of this module's behind."""
    yield
    if figures._engine is not None:
        figures._engine.kill()
        figures._engine.communicate()
        figures._engine = None


def saved(figure: Figure, path: Path) -> bytes:
    figure.save(path)
    return path.read_bytes()


def test_the_engine_draws_what_this_process_draws(tmp_path: Path) -> None:
    here = saved(FIGURE, tmp_path / "here.png")
    figures.warm_up()
    started = figures._engine
    figures.warm_up()
    assert started is not None and figures._engine is started, "one engine is enough"
    for number in range(2):
        assert saved(FIGURE, tmp_path / f"{number}.png") == here
    assert figures._engine is started and started.poll() is None, "it drew both"


@pytest.mark.parametrize("begun", [False, True])
def test_an_engine_that_was_ended_costs_no_picture(tmp_path: Path, begun: bool) -> None:
    figures.warm_up()
    if begun:
        saved(FIGURE, tmp_path / "first.png")
    assert figures._engine is not None
    os.kill(figures._engine.pid, signal.SIGKILL)
    assert saved(FIGURE, tmp_path / "second.png").startswith(b"\x89PNG")
    assert figures._engine is None


def test_a_spec_that_cannot_be_drawn_is_an_error_with_an_engine_too(tmp_path: Path) -> None:
    bad = Figure("bad", {"mark": 7})
    figures.warm_up()
    with pytest.raises(ValueError):
        bad.save(tmp_path / "bad.png")
    assert not (tmp_path / "bad.png").exists()


def test_the_engine_ends_with_its_parent() -> None:
    """However that ends: here by signal 9."""
    script = (
        "import os\nfrom nas import figures\nfigures.warm_up()\n"
        "print(figures._engine.pid, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    deadline = time.monotonic() + 60
    while runs(int(done.stdout)):  # it sees the end of its stdin once it has started
        assert time.monotonic() < deadline, "the engine outlived its parent"
        time.sleep(0.05)


def runs(pid: int) -> bool:
    """Return whether a process runs, one that was not waited for aside."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_cache_that_cannot_be_written_costs_no_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("vl_convert.javascript_bundle", lambda snippet: "</script>bundle")
    assert figures.script() == r"<\/script>bundle"
