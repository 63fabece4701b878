"""Runs commands on damaged files in this process, and says what was wrong with their answers."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import select
import shutil
import signal
import sys
import traceback
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mutations import Mutation
from subjects import Subject

CPU_SECONDS = 10
WALL_PER_CPU = int(os.environ.get("FAULTS_WALL_PER_CPU", "4"))
"""Seconds by the clock for each one of the processor: other work may run beside this."""
MEMORY = 10 << 30


class TooLong(BaseException):
    """The time of one command is over."""


@dataclass(frozen=True)
class Outcome:
    """What a command did with a damaged file.

    Attributes:
        subject: name of the subject.
        kind: of the mutation.
        mutation: its name.
        code: exit code; None where it ended otherwise.
        bad: what was wrong, by kind; "" where nothing was.
        text: the message, or the end of the traceback.
    """

    subject: str
    kind: str
    mutation: str
    code: int | None
    bad: str
    text: str


def listing(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return mode, size and time of every file of a folder by its relative name."""
    found = {}
    for above, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(above, name)
            state = path.lstat()
            is_folder = name in folders and not path.is_symlink()
            size = 0 if is_folder else state.st_size
            found[str(path.relative_to(folder))] = (
                state.st_mode,
                size,
                0 if is_folder else state.st_mtime_ns,
            )
    return found


def restore(folder: Path, template: Path, before: dict[str, Any]) -> None:
    """Make a folder equal to its template again, from which it was copied."""
    now = listing(folder)
    for name in sorted(now.keys() - before.keys(), reverse=True) + [
        name for name in now if name in before and now[name] != before[name]
    ]:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for name in sorted(before):
        path = folder / name
        if not os.path.lexists(path):
            origin = template / name
            if origin.is_dir():
                path.mkdir()
            else:
                shutil.copy2(origin, path)


def tried(subject: Subject, mutation: Mutation, folder: Path, before: dict[str, Any]) -> Outcome:
    """Apply a mutation in a workplace, run the subject's command, and return what it did."""
    path = folder / subject.file
    mutation.apply(path)
    damaged = listing(folder)
    code, out, err, trace = called(subject.use, CPU_SECONDS)
    bad = ""
    text = err.strip()
    if trace:
        bad, text = trace
    elif code is None or code not in (0, 1, 2):
        bad = "code"
    else:
        bad = _message(subject, code, out, err)
        if code and not bad:
            after = listing(folder)
            left = sorted(
                name
                for name in after.keys() - damaged.keys()
                if not name.endswith((".lock", ".db-shm", ".db-wal"))
            )
            lost = sorted(damaged.keys() - after.keys())
            if left or lost:
                bad, text = "leftovers", f"{left} {lost} {text}"
        if not code and not bad:
            if mutation.wrong and not subject.optional:
                bad = "accepted"
            elif any(
                word in f" {out} ".lower().replace("\n", " ").replace(",", " ")
                for word in (" nan ", " inf ", ": nan", " nan%", " -inf ", "infinity")
            ):
                bad = "nonsense"
            text = (out + err).strip()[-300:]
    if any((above / "escaped").exists() for above in folder.parents):
        bad = "escaped"
    return Outcome(subject.name, mutation.kind, mutation.name, code, bad, text[-700:])


def _message(subject: Subject, code: int, out: str, err: str) -> str:
    """Return what is wrong with the output of a command; "" where nothing is."""
    for text in (out, err):
        if any(unicodedata.category(letter) == "Cc" for letter in text if letter not in "\n\t"):
            return "control"
    if code == 0:
        return ""
    lines = [line for line in err.splitlines() if line.startswith("nas:")]
    if len(lines) != 1:
        return "lines"
    if len(lines[0]) > 1500:
        return "long message"
    names = (Path(subject.file).name, subject.file, *subject.mentions)
    if not any(name in lines[0] for name in names):
        return "unnamed"
    return ""


def called(use: Any, seconds: int = 0) -> tuple[int | None, str, str, tuple[str, str] | None]:
    """Return the exit code, both outputs, and the kind and text of an error that escaped.

    Args:
        use: words of a command, or a function.
        seconds: maximum time on the processor; 0 for any. `_child` handles the signals.
    """
    out, err = io.StringIO(), io.StringIO()
    # warnings and print keep the streams of sys, so both are replaced.
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, seconds * WALL_PER_CPU)
        try:
            code = _command(use) if isinstance(use, (tuple, list)) else _function(use)
        except TooLong:
            return None, out.getvalue(), err.getvalue(), ("hang", _place())
        except MemoryError:
            return None, out.getvalue(), err.getvalue(), ("memory", _place())
        except BaseException:
            return None, out.getvalue(), err.getvalue(), ("traceback", _place())
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
    return code, out.getvalue(), err.getvalue(), None


def _place() -> str:
    """Return the error that is handled, and the last lines of nas that it went through."""
    kind, error, trace = sys.exc_info()
    frames = [f for f in traceback.extract_tb(trace) if "/nas/" in f.filename]
    places = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-4:]))
    text = " ".join(str(error).split())[:200]
    return f"{kind.__name__ if kind else ''}: {text} [{places}]"


def _command(words: Sequence[str]) -> int:
    from nas.__main__ import main

    sys.argv = ["nas", *words]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _function(call: Any) -> int:
    from nas.errors import NasError

    try:
        print(repr(call())[:10_000])
    except NasError as error:
        # A message of the API has no `nas:` in front.
        print(f"nas: {_printable(str(error))}", file=sys.stderr)
        return error.exit_code
    return 0


def _printable(text: str) -> str:
    from nas.display import printable

    return printable(text)


def alone() -> None:
    """Forget the parent's drawing engine in a forked process, whose pipe both would write to."""
    import nas.figures

    nas.figures._engine = None


def _too_long(*_: object) -> None:
    raise TooLong


def outcomes(
    subject: Subject, chosen: Sequence[Mutation], template: Path, folder: Path
) -> Iterator[Outcome]:
    """Yield what a subject's command does with each mutation.

    It runs in a process of its own, as a damaged file may end a whole process in a library.
    """
    number = 0
    while number < len(chosen):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            _child(subject, chosen[number:], template, folder, writer)
        os.close(writer)
        with open(reader, encoding="utf-8") as lines:
            # A library that waits for a pipe never returns to Python, where the timer would end it.
            while select.select([lines], [], [], 2 * WALL_PER_CPU * CPU_SECONDS)[0] and (
                line := lines.readline()
            ):
                yield Outcome(**json.loads(line))
                number += 1
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if number < len(chosen):
            mutation = chosen[number]
            yield Outcome(subject.name, mutation.kind, mutation.name, None, "crash", f"{status}")
            number += 1


def _child(
    subject: Subject, chosen: Sequence[Mutation], template: Path, folder: Path, writer: int
) -> None:
    """Try mutations in this process, write an outcome per line, and end."""
    alone()
    signal.signal(signal.SIGPROF, _too_long)
    signal.signal(signal.SIGALRM, _too_long)
    if not (isinstance(subject.use, tuple) and subject.use[0] in ("report", "search")):
        # The drawing engine reserves more address space than this.
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder, symlinks=True)
    os.chdir(folder)
    before = listing(folder)
    try:
        with open(writer, "w", encoding="utf-8") as lines:
            for mutation in chosen:
                outcome = tried(subject, mutation, folder, before)
                lines.write(json.dumps(asdict(outcome)) + "\n")
                lines.flush()
                os.chdir(folder)
                restore(folder, template, before)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)
