"""SIGINT and SIGTERM: one exception for both, and a first signal that only asks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from nas.signals import STOPPING, Stopped, deferred, raise_on_signals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOPPING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_raises(number: signal.Signals) -> None:
    raise_on_signals()
    with pytest.raises(Stopped) as caught:
        os.kill(os.getpid(), number)
    assert caught.value.number == number and caught.value.exit_code == 128 + number
    assert isinstance(caught.value, KeyboardInterrupt) and not isinstance(caught.value, Exception)


@pytest.mark.parametrize("number", STOPPING)
def test_a_deferred_signal_asks_and_a_second_one_raises(number: signal.Signals) -> None:
    raise_on_signals()
    with deferred() as request:
        assert not request.number
        os.kill(os.getpid(), number)
        assert request.number == number
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Stopped):
        os.kill(os.getpid(), number)


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_on_signals()
    with deferred() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert not request.number
    os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_leave_signals_alone() -> None:
    seen = []

    def work() -> None:
        with deferred() as request:
            seen.append(request.number)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [0] and signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("kept", ["", "step 3 of 9 is saved in here"])
@pytest.mark.parametrize("number", STOPPING)
def test_the_command_exits_with_the_signals_code_and_one_line(
    number: signal.Signals, kept: str
) -> None:
    program = (
        "import os, sys, nas.__main__, nas.cli.spaces\n"
        "from nas.signals import keeping\n"
        "def stop(options):\n"
        f"    with keeping({kept!r}):\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "stop.__annotations__['options'] = nas.cli.spaces.SpacesOptions\n"
        "nas.cli.spaces.spaces = stop\n"
        "sys.argv = ['nas', 'spaces']\n"
        "nas.__main__.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 128 + number
    told = f"; {kept}. Resume: run the same command again" if kept else ""
    assert done.stderr == f"nas: stopped by {number.name}{told}\n" and done.stdout == ""


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_before_the_command_begins_has_the_same_code(number: signal.Signals) -> None:
    program = (
        "import os, nas.cli, nas.__main__\n"
        f"nas.cli.app = lambda **options: os.kill(os.getpid(), {int(number)})\n"
        "nas.__main__.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 128 + number and done.stderr == f"nas: stopped by {number.name}\n"


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_while_options_are_read_has_the_same_code(number: signal.Signals) -> None:
    program = (
        "import os, sys, nas.__main__, typer.core\n"
        f"typer.core.TyperGroup.parse_args = lambda *_: os.kill(os.getpid(), {int(number)})\n"
        "sys.argv = ['nas', 'spaces']\n"
        "nas.__main__.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 128 + number and done.stderr == f"nas: stopped by {number.name}\n"
