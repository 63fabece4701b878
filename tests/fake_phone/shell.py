"""The inside of the phone: its files in a folder, its properties, and the commands that `nas` sends
to phones."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from fake_phone.tool import Bench, Run
from nas.convert.worker import Worker

PROPERTIES = {
    "ro.build.display.id": "UQ1A.240205.004",
    "ro.build.fingerprint": "maker/phone/phone:14/UQ1A.240205.004/1:user/release-keys",
    "ro.build.id": "UQ1A.240205.004",
    "ro.build.version.release": "14",
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.product.device": "phone",
    "ro.product.model": "Test Phone",
    "ro.product.name": "phone",
    "ro.serialno": "R0TEST00001",
    "ro.soc.manufacturer": "QTI",
    "ro.soc.model": "SM8550",
}
TEMPORARY = "/data/local/tmp"
CORES = 8
ELF_ARM64 = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\xb7\x00" + bytes(44)
"""The head of a program for arm64: stands in for `benchmark_model` where a file of the tool is
asked for."""

_BATTERY = """\
Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Max charging current: 500000
  status: 2
  health: 2
  present: true
  level: {level}
  scale: 100
  voltage: 4123
  temperature: 287
  technology: Li-ion
"""
_THERMAL = """\
IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 3
\tkilled: false
\tbroadcasts count: -1
Thermal Status: {status}
Cached temperatures:
\tTemperature{{mValue=38.1, mType=0, mName=AP, mStatus=0}}
\tTemperature{{mValue=36.2, mType=3, mName=SKIN, mStatus={status}}}
HAL Ready: true
Current temperatures from HAL:
\tTemperature{{mValue=41.0, mType=0, mName=AP, mStatus=0}}
"""


class Shell:
    """Runs one simple command of quoted words at a time; anything else that a shell could do is
    refused.

    Attributes:
        properties: as `getprop` gives them.
        battery, thermal: charge in percent, and the number of the thermal state.
        free_bytes: of its storage; None for plenty.
        crashes: models, by their files, that end the tool with a segmentation fault.
        writes_results: whether the tool writes its result file, which older ones do not.
    """

    def __init__(self, root: Path, worker: Worker | None = None) -> None:
        self.root = root
        self.properties = dict(PROPERTIES)
        self.battery = 87
        self.thermal = 0
        self.free_bytes: int | None = None
        self.crashes: Callable[[Path], bool] = lambda model: False
        self.writes_results = True
        self.bench = Bench(worker)
        self.path(TEMPORARY).mkdir(parents=True)

    def path(self, remote: str) -> Path:
        """Where a file of the phone is on this computer. Raises PermissionError for one outside of
        its own folders."""
        parts = PurePosixPath(remote).parts
        if not remote.startswith("/") or ".." in parts:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), remote)
        return self.root.joinpath(*parts[1:])

    def write(self, remote: str, content: bytes, mode: int) -> None:
        if self.free_bytes is not None and len(content) > self.free_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        path = self.path(remote)
        path.write_bytes(content)
        path.chmod(mode & 0o777)

    def run(self, line: str) -> Run:
        try:
            words = shlex.split(line)
        except ValueError:
            words = []
        if shlex.join(words) != line:
            return Run(
                2,
                "",
                f"sh: syntax error: this phone takes one command of quoted words, not {line!r}\n",
            )
        return self.execute(words)

    def execute(self, words: list[str]) -> Run:
        name, *arguments = words or [""]
        try:
            if name.startswith("/"):
                return self._program(name, arguments)
            command = getattr(self, f"_{name}", None) if name in _COMMANDS else None
            if command is None:
                return Run(127, "", f"/system/bin/sh: {name}: inaccessible or not found\n")
            ran: Run = command(*arguments)
            return ran
        except OSError as error:
            return Run(1, "", f"{name}: {error.filename or ''}: {error.strerror}\n")
        except TypeError:
            return Run(1, "", f"{name}: Needs other arguments\n")

    def _getprop(self) -> Run:
        return Run(
            0,
            "".join(f"[{name}]: [{value}]\n" for name, value in sorted(self.properties.items())),
            "",
        )

    def _dumpsys(self, service: str) -> Run:
        texts = {
            "battery": _BATTERY.format(level=self.battery),
            "thermalservice": _THERMAL.format(status=self.thermal),
        }
        return (
            Run(0, texts[service], "")
            if service in texts
            else Run(0, "", f"Can't find service: {service}\n")
        )

    def _mkdir(self, option: str, remote: str) -> Run:
        if self.free_bytes == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), remote)
        self.path(remote).mkdir(parents=option == "-p", exist_ok=option == "-p")
        return Run(0, "", "")

    def _df(self, option: str, remote: str) -> Run:
        free = 10_000_000 if self.free_bytes is None else self.free_bytes // 1024
        lines = (
            "Filesystem      1K-blocks     Used Available Use% Mounted on",
            f"/dev/block/dm-45 112345678 23456789 {free:9} 21% /data/user/0",
        )
        return Run(0, "".join(f"{line}\n" for line in lines), "")

    def _touch(self, remote: str) -> Run:
        self.path(remote).touch()
        return Run(0, "", "")

    def _ls(self, remote: str) -> Run:
        return Run(0, "".join(f"{path.name}\n" for path in sorted(self.path(remote).iterdir())), "")

    def _rm(self, option: str, *remotes: str) -> Run:
        if not remotes:
            return Run(1, "", "rm: Needs 1 argument\n")
        for path in map(self.path, remotes):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=option == "-rf")
        return Run(0, "", "")

    def _mv(self, source: str, target: str) -> Run:
        self.path(source).replace(self.path(target))
        return Run(0, "", "")

    def _chmod(self, mode: str, remote: str) -> Run:
        self.path(remote).chmod(int(mode, 8))
        return Run(0, "", "")

    def _sha256sum(self, remote: str) -> Run:
        return Run(
            0, f"{hashlib.sha256(self.path(remote).read_bytes()).hexdigest()}  {remote}\n", ""
        )

    def _taskset(self, mask: str, *words: str) -> Run:
        if not re.fullmatch(r"[0-9a-fA-F]+", mask):
            return Run(1, "", f"taskset: bad mask '{mask}'\n")
        if not int(mask, 16) & ((1 << CORES) - 1):
            return Run(1, "", "taskset: failed to set pid 4711's affinity: Invalid argument\n")
        return self.execute(list(words))

    def _env(self, *words: str) -> Run:
        """Drop the variables, of which no program here takes notice."""
        rest = list(words)
        while rest and re.match(r"\w+=", rest[0]):
            rest.pop(0)
        return self.execute(rest)

    def _pkill(self, option: str, pattern: str) -> Run:
        return Run(0, "", "")

    def _true(self) -> Run:
        return Run(0, "", "")

    def _program(self, remote: str, arguments: list[str]) -> Run:
        """Any program for arm64 is `benchmark_model`."""
        path = self.path(remote)
        if not path.is_file():
            return Run(127, "", f"/system/bin/sh: {remote}: inaccessible or not found\n")
        if not path.stat().st_mode & 0o100 or not path.read_bytes().startswith(ELF_ARM64[:6]):
            return Run(126, "", f"/system/bin/sh: {remote}: can't execute: Permission denied\n")
        flags = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
        model = self.path(flags["graph"])
        if self.crashes(model):
            return Run(
                139,
                "INFO: STARTING!\n",
                "ERROR: [model.cc:7] Node 3 is not supported\nSegmentation fault\n",
            )
        run = self.bench.run(model, flags)
        if run.result and self.writes_results:
            self.write(flags["result_file_path"], run.result, 0o644)
        return run


_COMMANDS = (
    "chmod",
    "df",
    "dumpsys",
    "env",
    "getprop",
    "ls",
    "mkdir",
    "mv",
    "pkill",
    "rm",
    "sha256sum",
    "taskset",
    "touch",
    "true",
)
