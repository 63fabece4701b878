"""A real adb server for tests, on a port of its own, so that the user's is never touched."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fake_phone.phone import FakePhone
from nas.devices.android.adb import adb_program, listing

PATIENCE_S = 10.0


@contextmanager
def adb_server(home: Path) -> Iterator[None]:
    """While it runs, adb and `nas` in this process and its children talk to it. `home` takes the
    server's keys."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    changes = {
        "ANDROID_ADB_SERVER_PORT": str(port),
        "ADB_USB": "0",
        "ADB_MDNS": "0",
    }  # it need not look for phones
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        start_server(home)
        yield
    finally:
        adb("kill-server")
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def start_server(home: Path) -> None:
    environment = os.environ | {"HOME": str(home)}
    subprocess.run(
        [adb_program(), "start-server"], env=environment, capture_output=True, check=True
    )


def adb(*arguments: str) -> str:
    """What an adb command prints."""
    done = subprocess.run(
        [adb_program(), *arguments], capture_output=True, text=True, timeout=PATIENCE_S
    )
    return done.stdout + done.stderr


def connect(phone: FakePhone, state: str = "device") -> None:
    """Makes the phone known to the server and waits until it is in this state. Raises TimeoutError
    if it never is."""
    end = time.monotonic() + PATIENCE_S
    while listing().get(phone.address) != state:
        if time.monotonic() > end:
            raise TimeoutError(f"adb has {listing()}")
        adb("connect", phone.address)
        time.sleep(0.02)


def disconnect(phone: FakePhone) -> None:
    adb("disconnect", phone.address)
