"""iPhones connected to a Mac, and the Mac itself, measured by coremltools' benchmarker.

The benchmarker builds a small app with Xcode and installs it. Every prediction is a call over USB
that takes seconds, and the chip idles in between. So there are few runs, and stacks of many copies,
whose slope is an operation's latency.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from nas.convert.chain import Chain, DeviceLost, OperationFailed
from nas.convert.converter import COREML, Converter
from nas.devices.base import Device, Timing
from nas.devices.coreml import COPIES, KIND, MAC
from nas.devices.info import DeviceInfo
from nas.devices.phones import Match, Phone
from nas.errors import InputError, NasError
from nas.extras import need
from nas.versions import versions

PHONE_RUNS = 5
"""Predictions per measurement on a phone."""
MAC_RUNS = 50
"""Predictions per measurement on a Mac, where a call does not go over USB."""
TEAM, PROFILE, BUNDLE = "NAS_APPLE_TEAM", "NAS_APPLE_PROFILE", "NAS_APPLE_BUNDLE"
"""Environment variables for the signature of the app.

It takes the team of the developer account, or the UUID of a provisioning profile and the bundle
identifier that this is for.
"""
UNITS = {
    "MLNeuralEngineComputeDevice": "ne",
    "MLGPUComputeDevice": "gpu",
    "MLCPUComputeDevice": "cpu",
}
"""Names in the column `placement` by coremltools' class of compute device."""


_PLAIN = {TEAM: r"[A-Za-z0-9]+", PROFILE: r"[A-Za-z0-9-]+", BUNDLE: r"[A-Za-z0-9.-]+"}
"""Form of the variables' values, which coremltools puts into a line for the shell."""
_SIGNING_LINES = 3
"""Maximum number of xcodebuild's errors in a message."""


@dataclass(frozen=True)
class Connected:
    """An iPhone as Xcode's devicectl lists it; one that sleeps or is locked is not `reachable`."""

    udid: str
    product: str
    name: str
    os: str
    reachable: bool = True


class CoreML(Device):
    """A connected iPhone, or this Mac.

    Args:
        phone: what is measured and how; its name is MAC for the computer itself.
        cache: folder of converted files (default: the user's cache).
        table: name of the device's table (default: that of the phone).

    Raises:
        InputError: naming what is missing: a Mac, Xcode, coremltools, a signature, or the phone.
    """

    copies = COPIES

    def __init__(self, phone: Phone, cache: Path | None = None, table: str = "") -> None:
        _require(phone.name)
        if phone.precision != "float16":
            raise InputError(
                f"{phone.name}: precision is not available (got {phone.precision}, expected"
                " float16, in which converted ML programs compute)"
            )
        self.phone = phone
        self._table = table or phone.name
        self._here = phone.name == MAC
        self._found = None if self._here else _connected(phone)
        self._credentials = {} if self._here else _credentials(phone.name)
        self._loop = asyncio.new_event_loop()
        self._session: Any = None
        # The last package that ran: the control after a failure.
        self._good: Path | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="nas-coreml-")
        if not self._here:
            _check_paths(phone.name, Path(self._folder.name))
        self._converter = Converter(1, cache=cache, target=COREML)

    def info(self) -> DeviceInfo:
        system = (
            f"macOS {platform.mac_ver()[0]}" if self._found is None else f"iOS {self._found.os}"
        )
        model = platform.machine() if self._found is None else self._found.product
        return DeviceInfo(
            name=self._table,
            description=" ".join(filter(None, (self.phone.description, f"({model})"))),
            kind=KIND.name,
            soc=self.phone.soc,
            os=system,
            runtime="Core ML",
            runtime_version=system,
            compute_unit=self.phone.compute_unit,
            placement="in each row",
            precision=self.phone.precision,
            tools=versions("coremltools", "torch", "numpy"),
            date=date.today().isoformat(),
            provenance="measured",
        )

    def prepare(self, chain: Chain) -> Future[Path]:
        return self._converter.prepare(chain)

    def measure(self, artifact: Path) -> Timing:
        """Run a package and return its timing in ms.

        After an error the app is started again, since a model may have crashed it. A second error
        is the operation's fault if a package that ran before still runs, else the device's.

        Raises:
            OperationFailed: when the package cannot run here.
            DeviceLost: when no package runs any more.
        """
        try:
            return self._measured(artifact)
        except _Fault:
            self._session = None
        # Second try, with a new app.
        try:
            return self._measured(artifact)
        except _Fault as fault:
            self._session = None
            failure = fault
        # The control: a package that ran before. Where nothing has run yet, a device that cannot
        # measure is more likely than a fault of the first package.
        try:
            if self._good is None:
                raise failure
            self._measured(self._good)
        except _Fault as fault:
            raise DeviceLost(
                f"{self.phone.name} does not measure ({fault}). Measured rows are kept. Fix:"
                " connect and unlock it, with Developer Mode on, then run the same command again"
            ) from fault
        raise OperationFailed(str(failure))

    def close(self) -> None:
        self._converter.close()
        if self._session is not None:
            self._session.session.stop()
        self._loop.close()
        self._folder.cleanup()

    def _measured(self, artifact: Path) -> Timing:
        """Return the timing of a package, which is the control from now on. Raises _Fault."""
        with contextlib.redirect_stderr(io.StringIO()):  # coremltools draws a bar for every message
            timing = self._loop.run_until_complete(self._time(artifact))
        self._good = artifact
        return timing

    async def _time(self, artifact: Path) -> Timing:
        """Return the timing of a package and where Core ML places its operations. Raises _Fault."""
        import coremltools as ct
        from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker

        unit = ct.ComputeUnit[self.phone.compute_unit.upper()]
        model = ct.models.MLModel(str(artifact), compute_units=unit, skip_model_load=True)
        inputs = _inputs(model.get_spec())
        runs = MAC_RUNS if self._here else PHONE_RUNS
        # Two measurements: the latency of whole predictions, and one run that reports the compute
        # unit of every operation.
        with _faults():
            benchmarker = MLModelBenchmarker(model=model, device=await self._device())
            timed = await benchmarker.benchmark_predict(inputs=inputs, iterations=runs, warmup=True)
            operations = await benchmarker.benchmark_operation_execution(
                inputs=inputs, iterations=1, warmup=False
            )
        p10, median, p90 = (float(value) for value in np.percentile(timed.samples, [10, 50, 90]))
        return Timing(median, p10, p90, len(timed.samples), self._notes(operations))

    async def _device(self) -> Any:
        """Return the phone's session with the app running; None for this Mac."""
        if self._found is None:
            return None
        # The phone is looked up again: it may have been unplugged since the last session.
        if self._session is None or not self._session.session.is_alive():
            from coremltools.models.ml_program.experimental.remote_device import (
                AppSigningCredentials,
                Device,
                DeviceType,
            )

            listed = Device.get_connected_devices(device_type=DeviceType.IPHONE)
            phone = next((each for each in listed if each.udid == self._found.udid), None)
            if phone is None:
                raise _Fault("it is no longer connected")
            try:
                self._session = await phone.prepare_for_model_debugging(
                    credentials=AppSigningCredentials(**self._credentials),
                    working_directory=Path(self._folder.name),
                )
            except Exception as error:
                said = _said_by_xcodebuild(error)
                if said is None:
                    raise
                raise NasError(
                    f"{self.phone.name}: Xcode cannot build and sign the app that measures ({said})."
                    f" Fix: sign in to your team in Xcode's Settings, Accounts, and set {TEAM} to it;"
                    f" where the identifier is taken, set {BUNDLE} to one of your own"
                ) from error
        return self._session

    def _notes(self, operations: list[Any]) -> tuple[tuple[str, str], ...]:
        """Return the row's columns `placement` and, where an operation missed its unit, `note`."""
        # Operations without a usage (constants) run nowhere.
        usages = [
            each.compute_device_usage
            for each in operations
            if each.compute_device_usage is not None
        ]
        units = Counter(
            UNITS.get(type(usage.preferred_compute_device).__name__, "other") for usage in usages
        )
        total = sum(units.values())
        placement = ", ".join(f"{unit} {count}/{total}" for unit, count in units.most_common())
        # A unit that includes the Neural Engine allows the others too. Core ML decides per
        # operation, and reports it only in this second measurement.
        fell = self.phone.compute_unit in ("all", "cpu_and_ne") and units["ne"] < total
        return ("placement", placement or "unknown"), *(
            [("note", "left the Neural Engine")] if fell else []
        )


class _Fault(Exception):
    """A failed measurement, by coremltools, its app or the phone. The message is one line."""


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    """Turn every error of coremltools into a `_Fault`, within the context.

    Its errors have no base class but Exception, and their own classes are private. Errors of nas
    and of the machine pass.
    """
    try:
        yield
    except (_Fault, NasError, ImportError, MemoryError):
        raise
    except Exception as error:
        raise _Fault(_line(error)) from error


def connected_phones() -> list[Connected]:
    """Return the iPhones that are connected to this Mac and can be reached.

    Raises:
        NasError: when Xcode's devicectl does not answer as expected.
    """
    return [each for each in _listed() if each.reachable]


def _listed() -> list[Connected]:
    """Return the iPhones that are paired with this Mac.

    coremltools lists them too, but without their product type, by which a phone is recognised.

    Raises:
        NasError: when Xcode's devicectl does not answer as expected.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "devices.json"
        command = ["xcrun", "devicectl", "list", "devices", "-j", str(file)]
        try:
            subprocess.run(command, capture_output=True, check=True, timeout=60)
            return list(_parse(json.loads(file.read_text())))
        except (
            OSError,
            subprocess.SubprocessError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
        ) as error:
            raise NasError(
                f"{' '.join(command[:4])}: failed ({_line(error)}). Fix: install Xcode and open it"
                " once"
            ) from error


def _parse(listed: Any) -> list[Connected]:
    """Return the paired iPhones in the JSON of `devicectl list devices`."""
    return [
        Connected(
            udid=device["hardwareProperties"]["udid"],
            product=device["hardwareProperties"].get("productType", ""),
            name=device["deviceProperties"].get("name", ""),
            os=(
                f"{device['deviceProperties'].get('osVersionNumber', '?')} "
                f"({device['deviceProperties'].get('osBuildUpdate', '?')})"
            ),
            # Only a phone that is awake and connected has a tunnel.
            reachable=device["connectionProperties"].get("tunnelState") == "connected",
        )
        for device in listed["result"]["devices"]
        if device["hardwareProperties"].get("deviceType") == "iPhone"
    ]


def mac() -> Phone:
    """Return this Mac as if it were a phone. Raises InputError where this is not a Mac."""
    _require(MAC)
    chip = subprocess.run(
        ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
    )
    return Phone(
        name=MAC,
        kind=KIND.name,
        soc=chip.stdout.strip() or platform.machine(),
        match=Match(model=["Mac*"]),
        compute_unit="all",
        precision="float16",
        description="the Mac that runs nas",
    )


def _require(name: str) -> None:
    """Raise InputError naming what this computer lacks to measure through Core ML."""
    if platform.system() != "Darwin":
        raise InputError(
            f"{name}: is measured through Core ML, on a Mac with Xcode (xcodebuild, devicectl) and"
            f" coremltools (got {platform.system()}). Fix: write a bundle here, nas profile --space"
            f" SPACE --device {name} --bundle DIR, and measure it on a Mac, nas profile --run DIR"
        )
    missing = [tool for tool in ("xcodebuild", "devicectl", "xcrun") if shutil.which(tool) is None]
    if missing and name != MAC:
        raise InputError(
            f"{name}: needs Xcode, but {', '.join(missing)} is not on the PATH. Fix: install Xcode,"
            " open it once, and add its Contents/Developer/usr/bin to the PATH"
        )
    need(f"--device {name}", "coreml")


def _connected(phone: Phone) -> Connected:
    """Return the first connected iPhone that matches. Raises InputError where none does."""
    paired = _listed()
    listed = [each for each in paired if each.reachable]
    matching = [each for each in paired if phone.match.takes("", each.product)]
    for each in matching:
        if each.reachable:
            return each
    if matching:
        raise InputError(
            f"{phone.name}: {matching[0].name} is paired with this Mac but asleep, locked or not"
            " plugged in. Fix: plug it in, unlock it, and keep it awake (Settings, Display &"
            " Brightness, Auto-Lock: Never)"
        )
    others = ", ".join(f"{each.name} ({each.product})" for each in listed) or "none"
    raise InputError(
        f"{phone.name}: is not connected (connected: {others}). Fix: plug it in, unlock it, trust"
        " this Mac, and switch on Developer Mode in Settings, Privacy & Security"
    )


def _credentials(name: str) -> dict[str, str | None]:
    """Return coremltools' credentials from the environment. Raises InputError without any."""
    team, profile, bundle = (os.environ.get(variable) for variable in (TEAM, PROFILE, BUNDLE))
    if not team and not (profile and bundle):
        raise InputError(
            f"{name}: runs only signed apps. Fix: set {TEAM} to the team of your Apple developer"
            f" account, or {PROFILE} to the UUID of a provisioning profile and {BUNDLE} to its"
            " identifier"
        )
    for variable, form in _PLAIN.items():
        value = os.environ.get(variable)
        if value and not re.fullmatch(form, value):
            raise InputError(f"{variable}: has other characters than it may (expected {form})")
    return {
        "development_team": team,
        "provisioning_profile_uuid": profile,
        "bundle_identifier": bundle,
    }


def _check_paths(name: str, working: Path) -> None:
    """Raise InputError where coremltools could not name its files to Xcode.

    It writes them into a line for the shell without quotes.
    """
    import coremltools

    package = Path(coremltools.__file__).parent
    for path, remedy in (
        (package, "install nas into an environment in a folder without blanks"),
        (working, "set TMPDIR to a folder without blanks"),
    ):
        if shlex.quote(str(path)) != str(path):
            raise InputError(
                f"{name}: Xcode cannot build in {path}, whose name has blanks or signs of the shell."
                f" Fix: {remedy}"
            )


def _said_by_xcodebuild(error: BaseException) -> str | None:
    """Return the errors that xcodebuild printed; None where it is not what failed."""
    # coremltools' own error reads a stream that it did not capture; the text is in the error that
    # it was made of.
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, subprocess.CalledProcessError) and "xcodebuild" in str(link.cmd):
            output = link.output or b""
            text = output.decode(errors="replace") if isinstance(output, bytes) else str(output)
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            said = [line for line in lines if re.search(r"\berror: ", line)] or lines[-1:]
            shown = "; ".join(dict.fromkeys(said[:_SIGNING_LINES]))
            return shown[:600] or f"exit code {link.returncode} and no message"
        link = link.__cause__ or link.__context__
    return None


def _inputs(spec: Any) -> dict[str, Any]:
    """Return random inputs in float16, the model's type; the benchmarker's own are not float16."""
    rng = np.random.default_rng(0)
    return {
        each.name: rng.standard_normal(tuple(each.type.multiArrayType.shape)).astype(np.float16)
        for each in spec.description.input
    }


def _line(error: BaseException) -> str:
    """Return an error's class and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"
