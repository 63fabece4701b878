"""A phone on this computer that a real adb talks to: the protocol of adbd, over TCP on the loopback
interface.

    with FakePhone(folder) as phone:
        phone.shell.properties["ro.soc.model"] = "SM8650"
        ...  # adb connect phone.address

Its `benchmark_model` runs the models on this computer (`tool`). It can be unplugged and plugged in,
asks for trust, and answers garbage, so that what drives phones can be tested to the last fault.
"""

from __future__ import annotations

import socket
import stat
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from fake_phone.shell import Shell
from nas.convert.worker import Worker

_HEAD = struct.Struct("<6I")
_VERSION = 0x01000001
_MOST_BYTES = 1 << 18
_CNXN, _OPEN, _OKAY, _WRTE, _CLSE, _AUTH = (
    int.from_bytes(name, "little")
    for name in (b"CNXN", b"OPEN", b"OKAY", b"WRTE", b"CLSE", b"AUTH")
)
_AUTH_TOKEN = 1
_AUTH_PUBLIC_KEY = 3
_STDOUT = 1
_STDERR = 2
_EXIT = 3


class FakePhone:
    """Listens from `plug_in` on, which entering the context does, to `unplug`.

    Args:
        folder: where its files go; it is made.
        worker: what runs models; see `tool.Bench`.

    Attributes:
        shell: files, properties and state.
        before: is told each service that is asked for (`getprop`, `sync SEND /data/...`) before it
            is carried out.
        garbage: what a service is answered with instead of being carried out, where it is not
            empty.
        trusts: whether it trusts this computer; otherwise adb calls it unauthorized.
        services: those asked for so far.
    """

    def __init__(self, folder: Path, worker: Worker | None = None) -> None:
        self.shell = Shell(folder, worker)
        self.before: Callable[[str], None] = lambda service: None
        self.garbage: Callable[[str], bytes] = lambda service: b""
        self.trusts = True
        self.services: list[str] = []
        self.port = 0
        self._listener: socket.socket | None = None
        self._links: list[_Link] = []

    @property
    def address(self) -> str:
        """What `adb connect` takes; the serial number by which adb knows it."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> FakePhone:
        self.plug_in()
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()
        self.shell.bench.close()

    def plug_in(self) -> None:
        """On the port that it had before, if any."""
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def unplug(self) -> None:
        """Ends every connection, whatever is under way."""
        listener = self._listener
        self._listener = None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
            listener.close()
        for link in self._links:
            link.close()
        self._links.clear()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                link = _Link(self, listener.accept()[0])
                self._links.append(link)
                threading.Thread(target=link.serve, daemon=True).start()


class _Link:
    """One connection of an adb server."""

    def __init__(self, phone: FakePhone, connection: socket.socket) -> None:
        self.phone = phone
        self._connection = connection
        self._sending = threading.Lock()
        self._streams: dict[int, _Stream] = {}

    def close(self) -> None:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        head = _HEAD.pack(
            command, first, second, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF
        )
        with self._sending:
            self._connection.sendall(head + data)

    def serve(self) -> None:
        """Reads packets until the connection ends."""
        with suppress(OSError, EOFError):
            while True:
                command, first, second, size, _, _ = _HEAD.unpack(self._read(_HEAD.size))
                self._take(command, first, second, self._read(size))
        for stream in list(self._streams.values()):
            stream.end()
        self.close()

    def forget(self, stream: _Stream) -> None:
        self._streams.pop(stream.local, None)

    def _take(self, command: int, first: int, second: int, data: bytes) -> None:
        if command in (_CNXN, _AUTH):
            self._greet(command == _AUTH and first == _AUTH_PUBLIC_KEY)
        elif command == _OPEN:
            stream = _Stream(self, len(self.phone.services) + 1, first)
            self._streams[stream.local] = stream
            self.phone.services.append(service := data.rstrip(b"\0").decode())
            threading.Thread(target=_serve, args=(self.phone, stream, service), daemon=True).start()
        elif (known := self._streams.get(second)) is not None:
            if command == _WRTE:
                known.inbox.put(data)
                self.send(_OKAY, known.local, known.remote)
            elif command == _OKAY:
                known.taken.release()
            elif command == _CLSE:
                known.end()

    def _greet(self, offers_key: bool) -> None:
        if self.phone.trusts:
            names = ("ro.product.name", "ro.product.model", "ro.product.device")
            banner = "".join(f"{name}={self.phone.shell.properties[name]};" for name in names)
            self.send(
                _CNXN, _VERSION, _MOST_BYTES, f"device::{banner}features=shell_v2,cmd".encode()
            )
        elif not offers_key:  # to an offered key it says nothing until somebody taps Allow
            self.send(_AUTH, _AUTH_TOKEN, 0, bytes(20))

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self._connection.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return bytes(data)


class _Stream:
    """A service's end of a stream of bytes. Both ends have a number for it."""

    def __init__(self, link: _Link, local: int, remote: int) -> None:
        self.local = local
        self.remote = remote
        self.inbox: SimpleQueue[bytes] = SimpleQueue()
        self.taken = threading.Semaphore(0)
        self._link = link
        self._rest = b""
        self._ended = False

    def accept(self) -> None:
        self._link.send(_OKAY, self.local, self.remote)

    def write(self, data: bytes) -> None:
        """Sends, and waits until each packet has been taken."""
        for at in range(0, len(data), _MOST_BYTES):
            self._link.send(_WRTE, self.local, self.remote, data[at : at + _MOST_BYTES])
            self.taken.acquire()
            if self._ended:
                raise EOFError

    def read(self, size: int) -> bytes:
        while len(self._rest) < size:
            part = self.inbox.get()
            if not part:
                raise EOFError
            self._rest += part
        data = self._rest[:size]
        self._rest = self._rest[size:]
        return data

    def end(self) -> None:
        """The other end is gone: nobody waits any longer."""
        self._ended = True
        self.inbox.put(b"")
        self.taken.release()

    def close(self) -> None:
        self._link.send(_CLSE, self.local, self.remote)
        self._link.forget(self)


def _serve(phone: FakePhone, stream: _Stream, service: str) -> None:
    name, _, argument = service.partition(":")
    with suppress(OSError, EOFError):
        if name.split(",")[:2] == ["shell", "v2"]:
            stream.accept()
            _serve_shell(phone, stream, argument)
        elif name == "sync":
            stream.accept()
            _serve_sync(phone, stream)
        stream.close()


def _serve_shell(phone: FakePhone, stream: _Stream, line: str) -> None:
    phone.before(line)
    if garbage := phone.garbage(line):
        return stream.write(garbage)
    run = phone.shell.run(line)
    for channel, text in ((_STDOUT, run.stdout), (_STDERR, run.stderr)):
        if text:
            stream.write(struct.pack("<BI", channel, len(text.encode())) + text.encode())
    stream.write(struct.pack("<BIB", _EXIT, 1, run.code))


def _serve_sync(phone: FakePhone, stream: _Stream) -> None:
    while True:
        request, size = struct.unpack("<4sI", stream.read(8))
        path = stream.read(size).decode()
        phone.before(f"sync {request.decode()} {path}")
        if request == b"QUIT":
            return
        if garbage := phone.garbage(f"sync {request.decode()} {path}"):
            return stream.write(garbage)
        try:
            {b"SEND": _receive, b"RECV": _send, b"STAT": _stat}[request](phone, stream, path)
        except OSError as error:
            reason = f"{path}: {error.strerror}".encode()
            stream.write(b"FAIL" + struct.pack("<I", len(reason)) + reason)


def _receive(phone: FakePhone, stream: _Stream, target: str) -> None:
    remote, _, mode = target.rpartition(",")
    content = bytearray()
    while True:
        kind, size = struct.unpack("<4sI", stream.read(8))
        if kind == b"DONE":  # what stands where the size stood is the time of change
            break
        content += stream.read(size)
    phone.shell.write(remote, bytes(content), int(mode))
    stream.write(b"OKAY" + bytes(4))


def _send(phone: FakePhone, stream: _Stream, remote: str) -> None:
    content = phone.shell.path(remote).read_bytes()
    for at in range(0, len(content), 1 << 16):
        part = content[at : at + (1 << 16)]
        stream.write(b"DATA" + struct.pack("<I", len(part)) + part)
    stream.write(b"DONE" + bytes(4))


def _stat(phone: FakePhone, stream: _Stream, remote: str) -> None:
    try:
        found = phone.shell.path(remote).stat()
        figures = (
            found.st_mode if stat.S_ISDIR(found.st_mode) else stat.S_IFREG | 0o644,
            found.st_size,
            int(found.st_mtime),
        )
    except OSError:
        figures = (0, 0, 0)
    stream.write(b"STAT" + struct.pack("<3I", *figures))
