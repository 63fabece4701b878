"""Signals that stop a command: SIGINT (ctrl-C) and SIGTERM, as schedulers send it.

`nas.__main__` turns both into `Stopped`, so that everything that cleans up after an error cleans up
after them too. `nas.training.loop` defers them to the end of a step, to save its state first.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal stopped the command.

    It is a KeyboardInterrupt, so no `except Exception` takes it for an error of the work.

    Attributes:
        number: number of the signal.
        kept: what is on disk for the same command to resume from, in words; empty where nothing is.
    """

    def __init__(self, number: int = signal.SIGINT, kept: str = "") -> None:
        super().__init__(kept)
        self.number = signal.Signals(number)
        self.kept = kept

    @property
    def exit_code(self) -> int:
        """Return the exit code of a command that the signal stopped: 130 or 143."""
        return 128 + self.number


class CommandStopped(Exception):
    """A command was stopped by a signal, as an exception that command-line libraries let pass.

    They turn every KeyboardInterrupt into one exit code and drop what it says.
    """

    def __init__(self, stop: Stopped) -> None:
        super().__init__(str(stop))
        self.stop = stop


_raised: Stopped | None = None


def last_stop() -> Stopped:
    """Return the last `Stopped` of a signal handler, for who knows only that there was one."""
    return _raised or Stopped()


def raise_on_signals() -> None:
    """Make SIGINT and SIGTERM raise `Stopped` in the main thread.

    A signal that the process inherited as ignored stays ignored, as `nohup` and shells in the
    background set it.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        global _raised
        # Schedulers repeat SIGTERM; a second one must not interrupt the clean-up.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _raised = Stopped(number)
        raise _raised

    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


@contextmanager
def keeping(what: str) -> Iterator[None]:
    """Context manager: a signal inside leaves `what` on disk, for the same command to resume from.

    Where `what` is empty nothing is kept.
    """
    try:
        yield
    except Stopped as stop:
        stop.kept = stop.kept or what
        raise
    except KeyboardInterrupt:
        raise Stopped(signal.SIGINT, what) from None


class Request:
    """The wish to stop, as a signal expresses it; `number` is 0 until one arrives."""

    def __init__(self) -> None:
        self.number = 0


@contextmanager
def deferred() -> Iterator[Request]:
    """Context manager: inside, the first signal only sets the request; the second one raises.

    Handlers belong to the main thread. In any other thread signals are left as they are, and the
    request stays unset.
    """
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if request.number:
            raise Stopped(number)
        request.number = number

    before: dict[signal.Signals, Any] = {}
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
