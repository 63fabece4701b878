"""Commands that are killed, run out of disk or may not write: nothing half-written stays, and the
same command then ends as an undisturbed one."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from run import alone, called
from subjects import SPACE

REFUSED = 77
"""Exit code of a child whose output was not one line."""


@dataclass(frozen=True)
class Work:
    """A command that writes a folder.

    Attributes:
        out: the folder.
        use: words of the command, or a function.
        before: folders that are removed first.
    """

    out: str
    use: Sequence[str] | Callable[[], object]
    before: tuple[str, ...] = ()


def _profile() -> object:
    import nas
    from nas.latency.profile.run import profile
    from nas.testing.devices import FakeDevice

    return profile(nas.load_space(SPACE), FakeDevice(), Path("p"))[1].operations


SEARCH = ("search", "--space", SPACE, "--device", "toy", "--latency-ms", "0.21")
WORKS = {
    "search": Work("o", (*SEARCH, "--out", "o")),
    "front": Work("o", (*SEARCH, "--front", "--out", "o")),
    "evaluating search": Work(
        "o",
        (
            *(*SEARCH, "--engine", "slimming", "--score-by", "evaluate", "--supernet", "supernet"),
            *("--data", "digits", "--evaluate-images", "60", "--out", "o"),
        ),
    ),
    "export": Work("x", ("export", "run", "--to", "config,torch", "--out", "x")),
    "import": Work("x", ("profile", "--import", "mine.csv", "--device", "new", "--out", "x")),
    "calibrate": Work(
        "x", ("profile", "--calibrate", "times.csv", "--device", "iphone12", "--out", "x")
    ),
    "merge": Work("x", ("profile", "--merge", "bundle", "--out", "x")),
    "profile": Work("p", _profile),
    "train": Work(
        "t",
        (
            *("train", "--space", SPACE, "--data", "digits", "--limit", "100", "--epochs", "2"),
            *("--batch", "32", "--held-out", "30", "--score-images", "30", "--score-widths", "1"),
            *("--out", "t"),
        ),
    ),
    "score": Work(
        "supernet",
        ("score", "supernet", "--data", "digits", "--images", "50", "--widths", "1"),
    ),
    "report": Work("r", ("report", "run", "--out", "r/page.html")),
    "finetune": Work(
        "f",
        (
            *("finetune", "net.yaml", "--from-scratch", "--data", "digits", "--limit", "100"),
            *("--batch", "32", "--epochs", "2", "--out", "f"),
        ),
    ),
}
EQUAL = (".csv", ".safetensors")
"""Endings of files that must be equal; others have dates and times in them."""
UNEQUAL = {"metrics.csv", "networks.csv"}
"""Files that have measured times in them too."""


def run(folder: Path, work: Work, prepare: Callable[[], None]) -> tuple[int, str]:
    """Run a command in a forked process; return its status as `os.waitpid`'s, and its stderr."""
    log = folder.with_name(f"{folder.name}.log")
    # Opened here: the child may not make a file any more.
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    child = os.fork()
    if not child:
        try:
            alone()
            os.chdir(folder)
            prepare()
            code, _, err, trace = called(work.use)
            lines = [line for line in err.splitlines() if line.startswith("nas:")]
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2
            )
            os.write(out, f"{trace or err}\n".encode()[-2_000:])
            if trace or (code and len(lines) != 1):
                code = REFUSED
            os._exit(code or 0)
        except BaseException as error:
            os.write(out, f"{error!r}\n".encode())
            os._exit(REFUSED)
    os.close(out)
    _, status = os.waitpid(child, 0)
    return status, log.read_text(errors="replace")


def killed_at(count: int, folder: Path) -> Callable[[], None]:
    """Return a function that lets this process kill itself at the n-th change of a folder."""

    def prepare() -> None:
        left = count
        inside = str(folder) + os.sep

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            at = {"os.rename": 1, "os.mkdir": 0, "os.remove": 0, "open": 0, "os.truncate": 0}.get(
                event
            )
            if at is None or not isinstance(arguments[at], (str, bytes, os.PathLike)):
                return
            if event == "open" and not (
                isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            ):
                return
            if (os.path.abspath(os.fsdecode(arguments[at])) + os.sep).startswith(inside):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)

    return prepare


def left_over(folder: Path) -> list[str]:
    """Return files that only an interrupted process leaves."""
    names = [path.name for path in folder.rglob("*")]
    return [name for name in names if name.endswith((".part", ".tmp"))]


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder that must be equal, and the names of all others."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or path.name == ".lock" or "tfevents" in path.name:
            continue
        exact = path.suffix in EQUAL and path.name not in UNEQUAL
        found[name] = _canonical(path) if exact else b""
    return found


def _canonical(path: Path) -> bytes:
    """Return the content of a file; of safetensors without its header, whose keys have any order."""
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        return content[8 + int.from_bytes(content[:8], "little") :]
    return content


@pytest.fixture
def copy(template: Path, place: Path) -> Iterator[Callable[[str], Path]]:
    """A function that makes a workplace of a name."""

    def make(name: str) -> Path:
        shutil.copytree(template, place / name, symlinks=True)
        return place / name

    place.mkdir()
    yield make


@pytest.mark.parametrize("name", WORKS)
def test_a_killed_command_is_finished_by_the_same_one(
    name: str, copy: Callable[[str], Path]
) -> None:
    work = WORKS[name]
    whole = copy("whole")
    assert run(whole, work, lambda: None)[0] == 0
    expected = contents(whole / work.out)
    wrong = []
    for count in (1, 2, 3, 4, 5, 7, 9, 12, 16, 24):
        folder = copy(f"killed-{count}")
        status, _ = run(folder, work, killed_at(count, folder / work.out))
        if not os.WIFSIGNALED(status):
            break
        status, text = run(folder, work, lambda: None)
        found = contents(folder / work.out)
        different = sorted(
            each for each in expected.keys() | found if expected.get(each) != found.get(each)
        )
        left = left_over(folder) + [each for each in found if each == "begun.yaml"]
        if status or different or left:
            wrong.append(f"killed at change {count}: {status=} {different=} {left=} {text}")
        shutil.rmtree(folder)
    assert count > 1, f"{name}: nothing is written into {work.out}"
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("size", [0, 100, 3_000, 40_000])
@pytest.mark.parametrize("name", WORKS)
def test_a_full_disk_is_one_line_and_with_room_the_command_ends(
    name: str, size: int, copy: Callable[[str], Path]
) -> None:
    work = WORKS[name]
    whole, folder = copy("whole"), copy("full")

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    assert run(whole, work, lambda: None)[0] == 0
    status, text = run(folder, work, limited)
    assert os.WEXITSTATUS(status) in (0, 1, 2), f"no single line, or a traceback: {text}"
    assert not left_over(folder)
    if os.WEXITSTATUS(status):
        assert run(folder, work, lambda: None)[0] == 0
    assert contents(folder / work.out) == contents(whole / work.out)


NEW_NAMESPACE, PRIVATE, BIND, READ_ONLY = 0x20000, 0x44000, 0x1000, 0x1021
SKIPPED = 76
"""Exit code of a child that may not make a mount of its own."""


def read_only(folder: Path) -> None:
    """Make a folder read-only for this process, also for root, by a mount that it alone sees."""
    libc = ctypes.CDLL(None, use_errno=True)
    name = os.fsencode(folder)
    steps = (
        lambda: libc.unshare(NEW_NAMESPACE),
        lambda: libc.mount(None, b"/", None, PRIVATE, None),
        lambda: libc.mount(name, name, None, BIND, None),
        lambda: libc.mount(None, name, None, READ_ONLY, None),
    )
    if any(step() for step in steps):
        os._exit(SKIPPED)
    os.chdir(folder)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mounts of Linux")
@pytest.mark.parametrize("name", WORKS)
def test_a_folder_that_may_not_be_written_is_named(name: str, copy: Callable[[str], Path]) -> None:
    folder = copy("read-only")
    before = contents(folder)
    status, text = run(folder, WORKS[name], lambda: read_only(folder))
    if os.WEXITSTATUS(status) == SKIPPED:
        pytest.skip("this user may not mount")
    assert os.WEXITSTATUS(status) in (1, 2), f"no single line, or a traceback: {text}"
    assert contents(folder) == before
