"""Drive a phone over adb, for `device` and `discovery`: commands, files, battery, heat, faults."""

from __future__ import annotations

import math
import os
import re
import shlex
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from nas.convert.chain import DeviceLost
from nas.errors import InputError, NasError
from nas.extras import need

if TYPE_CHECKING:
    from adbutils import AdbClient


# A line of `getprop` is `[name]: [value]`; a value may span lines.
_PROPERTY = re.compile(r"^\[(.+?)\]: \[(.*?)\]\r?$", re.MULTILINE | re.DOTALL)

CONNECT_S = 0.2
"""Timeout in seconds for a connection to the adb server."""
START_S = 20.0
"""Timeout in seconds for the start of the adb server."""
LIST_S = 5.0
"""Timeout in seconds for the list of phones, which the adb server on this computer holds."""
ANSWER_S = 60.0
"""Timeout in seconds for any answer of a phone."""
TEMPORARY = "/data/local/tmp"
"""The phone's folder for files and programs of the shell."""
BLOCK = 4096
"""Minimum storage of a file in bytes."""
_REFUSED = "FAIL"
"""Text of adbutils' error for a refused file: the status of adb's protocol, without a reason."""

_TRUST = (
    "unlock it and tap Allow at 'Allow USB debugging?' (switching USB debugging off and on makes it"
    " ask again)"
)
_PLUG = "plug it in again and wait until it has started up"
_STATES = {
    "unauthorized": ("it does not trust this computer", _TRUST),
    "authorizing": ("it does not trust this computer yet", _TRUST),
    "offline": ("it is there and does not answer", f"unlock it, then {_PLUG}"),
    "no permissions": (
        "this user may not open it: the udev rules for Android are missing, or the user is not in"
        " the group plugdev",
        "install the udev rules (Debian and Ubuntu: sudo apt install"
        " android-sdk-platform-tools-common; others: https://github.com/M0Rf30/android-udev-rules),"
        " then plug it in again",
    ),
    "not found": ("it is gone", _PLUG),
    "closed": ("the connection broke", _PLUG),
}
"""Meaning and remedy of adb's states and of parts of its error messages."""
_LOCKED = (
    f"lift what locks {TEMPORARY} for the shell (a device policy, a kiosk or work profile, damaged"
    " storage)"
)
"""Remedy where the phone forbids to write, which no other cable mends."""
_FORBIDDEN = re.compile(
    r"permission denied|read-only file system|operation not permitted", re.IGNORECASE
)
_NO_SERVER = (
    "the adb server has ended",
    "check whether another program ends it (an adb of another version does)",
)


@dataclass(frozen=True)
class Answer:
    """Exit code and output of a command on the phone."""

    code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


class NoAnswer(DeviceLost):
    """A phone that did not answer in time; it may be well, and the command alone slow."""


class Adb:
    """One phone, by its serial number.

    Commands are lists of words, each of which is quoted for the phone's shell. Every method raises
    DeviceLost when the phone or the adb server is gone, silent, or sends invalid data.
    """

    def __init__(self, serial: str) -> None:
        self.serial = serial
        self._phone = _client(ANSWER_S).device(serial)

    def run(self, *command: str, timeout_s: float = ANSWER_S) -> Answer:
        """Run a command and wait for it; the caller checks its exit code."""
        # Version 2 of adb's shell protocol keeps exit code, stdout and stderr apart.
        with self._talking(timeout_s):
            done = self._phone.shell2(shlex.join(command), timeout=timeout_s, v2=True)
        return Answer(done.returncode, done.stdout, done.stderr)

    def check(self, *command: str) -> str:
        """Return the output of a command that has to succeed; raise DeviceLost where it fails."""
        answer = self.run(*command)
        if answer.code:
            raise self._failed(
                f"'{shlex.join(command)}' failed with exit code {answer.code}", answer.output
            )
        return answer.stdout

    def properties(self) -> dict[str, str]:
        """Return the system properties by name."""
        properties = dict(_PROPERTY.findall(self.check("getprop")))
        if not properties:
            raise self.lost(*_garbage("no properties"))
        return properties

    def push(self, path: Path, remote: str, mode: int = 0o644) -> None:
        """Write a file on the phone."""
        from adbutils import AdbError

        with self._talking():
            try:
                # adbutils does not check how much arrives while it sends; `check` compares the
                # size of the file on the phone afterwards.
                self._phone.sync.push(path, remote, mode, check=True)
                return
            except AdbError as error:
                if error.args != (_REFUSED,):
                    raise
        # The refusal carries no reason. A shell command on the same file gives one.
        reason = self.run("touch", remote).output
        raise self._failed(f"{remote} could not be written", reason, path.stat().st_size)

    def pull(self, remote: str) -> bytes | None:
        """Return the content of a file on the phone; None where there is none."""
        with self._talking():
            sync = self._phone.sync
            # The sync protocol answers mode 0 for a path that does not exist.
            return sync.read_bytes(remote) if sync.stat(remote).mode else None

    def remove(self, *remote: str) -> None:
        """Delete files and folders where they exist; do nothing when the phone is gone."""
        try:
            self.run("rm", "-rf", *remote)
        except DeviceLost:
            return

    def lost(self, what: str, remedy: str = _PLUG) -> DeviceLost:
        """Return the error for what happened, with a remedy after which the command resumes."""
        reason = f"{what}. Fix: {remedy}, then run the same command again"
        return DeviceLost(f"phone {self.serial}: {reason}", reason=reason)

    def _failed(self, what: str, output: str, needed: int = BLOCK) -> DeviceLost:
        """Return the error for something that the phone refused.

        Args:
            what: was refused, in words.
            output: of the phone; its first line is the reason.
            needed: bytes of storage that it would have taken.
        """
        # Most often the storage is full; the phone's own words for that differ.
        if self._free_bytes() < needed:
            return self.lost("its storage is full", "delete something on it")
        reason = reason_in(output)
        remedy = _LOCKED if _FORBIDDEN.search(reason) else _PLUG
        return self.lost(f"{what} ({reason})" if reason else what, remedy)

    def _free_bytes(self) -> float:
        """Return the free bytes of the folder for temporary files; infinity where unknown."""
        answer = self.run("df", "-k", TEMPORARY)
        columns = answer.stdout.splitlines()[-1:]
        # Filesystem, 1K-blocks, Used, Available, Use%, Mounted on
        figures = "".join(columns).split()[1:4]
        if answer.code or len(figures) < 3 or not figures[2].isdecimal():
            return math.inf
        return 1024 * int(figures[2])

    def _closed(self) -> tuple[str, str]:
        """Return what happened and the remedy, when a connection has closed."""
        return _STATES["closed"] if server_runs() else _NO_SERVER

    @contextmanager
    def _talking(self, timeout_s: float = ANSWER_S) -> Iterator[None]:
        """Turn adbutils' and the network's errors into DeviceLost, within the context."""
        from adbutils import AdbError, AdbTimeout

        # adbutils starts a server by itself where none runs; one that has ended is a fault here.
        if not server_runs():
            raise self.lost(*_NO_SERVER)
        try:
            yield
        except (AdbTimeout, TimeoutError):
            error = self.lost(
                f"no answer in {timeout_s:.0f} s", "unlock it and check whether it hangs"
            )
            raise NoAnswer(str(error), reason=error.reason) from None
        except AdbError as error:
            # An error without text: adbutils read nothing where an answer belongs. A server that
            # ends meanwhile gives an error of any text.
            if not error.args or not error.args[-1] or not server_runs():
                raise self.lost(*self._closed()) from None
            reason = " ".join(" ".join(map(str, error.args)).split())
            raise self.lost(*(_meaning(reason) or (f"adb says '{reason}'", _PLUG))) from None
        except (EOFError, OSError):
            raise self.lost(*self._closed()) from None
        except (ValueError, IndexError, AssertionError, struct.error) as error:
            raise self.lost(*_garbage(error)) from None


def _garbage(what: object) -> tuple[str, str]:
    return f"it sends invalid data ({what})", "restart it, or use another cable or port"


def listing(start: bool = True) -> dict[str, str]:
    """Return the states of the phones that adb knows, by serial (`device` when usable).

    Args:
        start: start an adb server where none runs. If false, it is started only where a phone
            seems to be plugged in.

    Raises:
        NasError: when the adb server cannot be started or does not answer.
    """
    running = server_runs()
    if not running and not start and not _phone_is_plugged_in():
        return {}
    need("an Android phone", "android")
    if not running:
        _start_server()
    # Not imported before a server runs: it takes half a second.
    from adbutils import AdbError

    try:
        with _client(LIST_S).make_connection() as connection:
            connection.send_command("host:devices")
            connection.check_okay()
            text = connection.read_string_block()
    except (AdbError, OSError, ValueError) as error:
        host, port = _address()
        raise NasError(
            f"the adb server at {host}:{port} does not answer ({error or 'time-out'}). Fix: end what"
            " uses this port (`adb kill-server` if it is adb), then run the same command again"
        ) from None
    # A line is a serial number, a tab and a state. Both may have blanks, so adbutils' own list,
    # which splits at any of them, loses phones.
    lines = [line.partition("\t") for line in text.splitlines()]
    return {serial: state.strip() for serial, tab, state in lines if tab}


def why_not(state: str) -> str:
    """Return the meaning and remedy of a state other than `device`, in words."""
    return "; ".join(
        _meaning(state)
        or (f"adb calls it '{state}'", "start it up as usual, with USB debugging on")
    )


def _meaning(text: str) -> tuple[str, str] | None:
    """Return the entry of the first of `_STATES` that occurs in a text of adb."""
    return next((meaning for part, meaning in _STATES.items() if part in text), None)


@cache
def adb_program() -> str:
    """Return the path of the adb on the PATH, or of the one that comes with adbutils.

    Raises:
        NasError: where there is none.
    """
    from adbutils import AdbError, adb_path

    try:
        return str(adb_path())
    except AdbError:
        raise NasError(
            "adb: is not on the PATH, and adbutils has none for this system. Fix: install Android's"
            " platform-tools (Debian and Ubuntu: sudo apt install adb) and put adb on the PATH"
        ) from None


def server_runs() -> bool:
    """Return whether an adb server accepts connections."""
    host, port = _address()
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except OSError:
        return False
    return True


def _start_server() -> None:
    program = adb_program()
    try:
        done = subprocess.run(
            [program, "start-server"], capture_output=True, text=True, timeout=START_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NasError(f"{program}: the adb server could not be started ({error})") from None
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise NasError(f"{program}: the adb server could not be started ({''.join(reason)})")


def _client(timeout_s: float) -> AdbClient:
    from adbutils import AdbClient

    return AdbClient(*_address(), socket_timeout=timeout_s)


def _address() -> tuple[str, int]:
    """Return host and port of the adb server, from adb's own environment variables.

    ADB_SERVER_SOCKET wins, as in adb. ANDROID_ADB_SERVER_HOST is adbutils' name for
    ANDROID_ADB_SERVER_ADDRESS.
    """
    given = os.environ.get("ADB_SERVER_SOCKET")
    if given:
        # tcp:PORT, tcp:HOST:PORT or tcp:[HOST]:PORT for IPv6
        matched = re.fullmatch(r"tcp:(?:\[?([^\]]+?)\]?:)?(\d{1,5})", given)
        if not matched or not 0 < int(matched[2]) < 65536:
            raise InputError(
                f"ADB_SERVER_SOCKET: is not supported (got '{given}', expected tcp:HOST:PORT). Fix:"
                " set it to the address of an adb server"
            )
        return matched[1] or "127.0.0.1", int(matched[2])
    port = os.environ.get("ANDROID_ADB_SERVER_PORT") or "5037"
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(
            f"ANDROID_ADB_SERVER_PORT: is not a port number (got '{port}', expected 1 to 65535)"
        )
    names = ("ANDROID_ADB_SERVER_ADDRESS", "ANDROID_ADB_SERVER_HOST")
    hosts = [os.environ[name] for name in names if os.environ.get(name)]
    return hosts[0] if hosts else "127.0.0.1", int(port)


def _phone_is_plugged_in() -> bool:
    """Return whether a USB device offers adb; true where that cannot be known.

    Starting the server takes up to three seconds, which this saves where nothing is plugged in.
    """
    if sys.platform != "linux":
        return True
    interfaces = Path("/sys/bus/usb/devices").glob("*/bInterfaceClass")
    return any(_adb_interface(path.parent) for path in interfaces)


def _adb_interface(folder: Path) -> bool:
    """Return whether a USB interface in /sys is adb's: class ff, subclass 42, protocol 1."""
    names = ("bInterfaceClass", "bInterfaceSubClass", "bInterfaceProtocol")
    try:
        return [(folder / name).read_text().strip() for name in names] == ["ff", "42", "01"]
    except OSError:  # unplugged a moment ago
        return False


_NOISE = re.compile(r"^(?:WARNING: linker: |linker: )", re.IGNORECASE)
"""Beginning of lines that Android's linker writes before any program runs."""
_ENDS = re.compile(
    r"^(?:Aborted|Segmentation fault|Bus error|Illegal instruction|Killed|Trap.*)(?: \(core dumped\))?$"
)
"""What the shell writes behind a program's own last line."""
_SEVERE = re.compile(r"^(?:ERROR|FATAL): (?:(?:ERROR: )?\[\S+\] )?(.*\S)")
_UNLINKED = "CANNOT LINK EXECUTABLE"
_MOST_CHARACTERS = 300


def reason_in(output: str) -> str:
    """Return the line of a command's output that says why it failed; empty where there is none.

    It is the first error that a program logged, else its last line. Warnings of the linker before
    it and the shell's words behind it count only where there is nothing else.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    own = [line for line in lines if not _NOISE.match(line) and not _ENDS.match(line)]
    severe = [matched[1] for line in own if (matched := _SEVERE.match(line))]
    unlinked = [line for line in own if line.startswith(_UNLINKED)]
    candidates = unlinked[:1] or severe[:1] or own[-1:] or lines[-1:]
    return candidates[0][:_MOST_CHARACTERS] if candidates else ""


def cannot_link(output: str) -> bool:
    """Return whether the phone's linker refused to start a program."""
    return any(line.startswith(_UNLINKED) for line in output.splitlines())


_THERMAL = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""Android's thermal states by number (`PowerManager.THERMAL_STATUS_*`)."""
MODERATE = 2
"""Thermal state from which on the chip is clocked down noticeably."""


def battery_percent(text: str) -> int | None:
    """Return the charge in percent from the output of `dumpsys battery`; None where missing."""
    level, scale = (
        re.search(rf"^\s*{name}: (\d+)\s*$", text, re.MULTILINE) for name in ("level", "scale")
    )
    if level is None:
        return None
    whole = int(scale.group(1)) if scale else 100
    return round(100 * int(level.group(1)) / whole) if whole else None


def thermal_status(text: str) -> int | None:
    """Return the thermal state from the output of `dumpsys thermalservice`; None where missing.

    Android has the service from version 10 on.
    """
    status = re.search(r"^\s*Thermal Status: (\d+)\s*$", text, re.MULTILINE)
    return int(status.group(1)) if status else None


def thermal_name(status: int) -> str:
    return _THERMAL[status] if status < len(_THERMAL) else str(status)
