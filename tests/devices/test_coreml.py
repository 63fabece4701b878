"""iPhones through Core ML: a Mac with Xcode is made up, coremltools and the packages are real."""

from __future__ import annotations

import inspect
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import coremltools
import pytest
from coremltools.models import compute_device
from coremltools.models.compute_plan import MLComputePlanDeviceUsage
from coremltools.models.ml_program.experimental import perf_utils, remote_device

from nas.blocks import MB4D, Shape
from nas.convert.coreml import convert
from nas.devices import Chain, DeviceLost, OperationFailed
from nas.devices.coreml import MAC
from nas.devices.coreml.device import (
    BUNDLE,
    PROFILE,
    TEAM,
    UNITS,
    CoreML,
    connected_phones,
    mac,
)
from nas.devices.phones import Match, Phone
from nas.errors import InputError, NasError

PHONE = Phone(
    name="iphone12",
    kind="coreml",
    soc="Apple A14",
    match=Match(model=["iPhone13,2"]),
    compute_unit="all",
    precision="float16",
)
LISTED = {
    "result": {
        "devices": [
            {
                "connectionProperties": {"tunnelState": "connected"},
                "deviceProperties": {
                    "name": "Ann's phone",
                    "osVersionNumber": "18.1",
                    "osBuildUpdate": "22B83",
                },
                "hardwareProperties": {
                    "deviceType": "iPhone",
                    "udid": "0000-1",
                    "productType": "iPhone13,2",
                },
            },
            {
                "connectionProperties": {"tunnelState": "disconnected"},
                "deviceProperties": {"name": "Bob's phone"},
                "hardwareProperties": {
                    "deviceType": "iPhone",
                    "udid": "0000-2",
                    "productType": "iPhone14,5",
                },
            },
            {
                "connectionProperties": {"tunnelState": "connected"},
                "deviceProperties": {"name": "a watch"},
                "hardwareProperties": {
                    "deviceType": "appleWatch",
                    "udid": "0000-3",
                    "productType": "Watch6,1",
                },
            },
        ]
    }
}


class FakeSession:
    def __init__(self) -> None:
        self.alive = True

    def is_alive(self) -> bool:
        return self.alive

    def stop(self) -> None:
        self.alive = False


@dataclass
class World:
    """What the made-up Mac sees, and what was asked of it."""

    placement: tuple[str, ...] = ("NeuralEngine", "NeuralEngine", "CPU")
    connected: bool = True
    crashing: set[str] = field(default_factory=set)
    crashes_left: int = 100
    sessions: list[FakeSession] = field(default_factory=list)
    credentials: Any = None
    calls: list[tuple[str, int, bool]] = field(default_factory=list)
    units: list[Any] = field(default_factory=list)
    devices: list[Any] = field(default_factory=list)
    inputs: dict[str, Any] = field(default_factory=dict)


WORLD = World()


class FakePhone:
    """Stands for coremltools' Device."""

    def __init__(self, udid: str, session: FakeSession | None = None) -> None:
        self.udid = udid
        self.session = session

    @staticmethod
    def get_connected_devices(device_type: Any) -> list[FakePhone]:
        assert device_type is remote_device.DeviceType.IPHONE
        return [FakePhone("0000-9"), FakePhone("0000-1")] if WORLD.connected else []

    async def prepare_for_model_debugging(
        self, credentials: Any = None, working_directory: Any = None, clean: bool = False
    ) -> FakePhone:
        assert Path(working_directory).is_dir()
        WORLD.credentials = credentials
        WORLD.sessions.append(FakeSession())
        return FakePhone(self.udid, WORLD.sessions[-1])


class FakeBenchmarker:
    """Stands for MLModelBenchmarker."""

    def __init__(self, model: Any, device: Any = None) -> None:
        WORLD.units.append(model.compute_unit)
        WORLD.devices.append(device)
        self.session = device.session if device else None
        self.name = Path(model.weights_dir).parents[2].stem

    async def benchmark_predict(
        self, inputs: dict[str, Any] | None = None, iterations: int = 1, warmup: bool = False
    ) -> Any:
        WORLD.calls.append(("predict", iterations, warmup))
        WORLD.inputs = inputs or {}
        if self.name in WORLD.crashing and WORLD.crashes_left:
            WORLD.crashes_left -= 1
            if self.session:
                self.session.alive = False
            raise RuntimeError("the app is gone\nwith a second line")
        return REAL.Measurement(statistics=None, samples=[1.0 + i / 10 for i in range(iterations)])

    async def benchmark_operation_execution(
        self, inputs: dict[str, Any] | None = None, iterations: int = 1, warmup: bool = False
    ) -> list[Any]:
        found = [usage(unit) for unit in WORLD.placement]
        nothing = REAL.Measurement(statistics=None, samples=[])
        info = REAL.OperationExecutionInfo
        return [
            info(spec=None, path=None, compute_device_usage=each, measurement=nothing)
            for each in [None, *found]
        ]


REAL = perf_utils.MLModelBenchmarker


def usage(unit: str) -> MLComputePlanDeviceUsage:
    """A real one; what it holds cannot be made without Core ML."""
    device = object.__new__(getattr(compute_device, f"ML{unit}ComputeDevice"))
    return MLComputePlanDeviceUsage(
        preferred_compute_device=device, supported_compute_devices=[device]
    )


@pytest.mark.parametrize(
    ("fake", "real", "methods"),
    [
        (FakeBenchmarker, REAL, ("__init__", "benchmark_predict", "benchmark_operation_execution")),
        (FakePhone, remote_device.Device, ("get_connected_devices", "prepare_for_model_debugging")),
        (FakeSession, remote_device._AppSession, ("is_alive", "stop")),
    ],
)
def test_fakes_have_the_signatures_of_the_installed_coremltools(
    fake: Any, real: Any, methods: tuple[str, ...]
) -> None:
    for method in methods:
        ours, theirs = (
            inspect.signature(getattr(each, method)).parameters for each in (fake, real)
        )
        assert [(p.name, p.default, p.kind) for p in ours.values()] == [
            (p.name, p.default, p.kind) for p in theirs.values()
        ], method
        assert inspect.iscoroutinefunction(getattr(fake, method)) == inspect.iscoroutinefunction(
            getattr(real, method)
        )


def test_what_else_is_used_of_coremltools_is_there() -> None:
    names = {entry.name for entry in remote_device.Device.__dataclass_fields__.values()}
    assert {"udid", "session"} <= names
    remote_device.AppSigningCredentials(
        development_team="T", provisioning_profile_uuid=None, bundle_identifier=None
    )
    assert all(
        issubclass(getattr(compute_device, name), compute_device.MLComputeDevice) for name in UNITS
    )
    assert {"spec", "path", "compute_device_usage", "measurement"} == set(
        REAL.OperationExecutionInfo.__dataclass_fields__
    )


@pytest.fixture
def a_mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A Mac with Xcode to which an iPhone 12 is connected."""
    global WORLD
    WORLD = World()
    tools = tmp_path / "bin"
    tools.mkdir()
    (tmp_path / "listed.json").write_text(json.dumps(LISTED))
    for name, script in {
        "xcrun": (
            f'[ "$1 $2 $3 $4" = "devicectl list devices -j" ] && cp "{tmp_path}/listed.json" "$5"'
        ),
        "devicectl": "exit 1",
        "xcodebuild": "exit 1",
        "sysctl": "echo Apple M9",
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    monkeypatch.setattr(perf_utils, "MLModelBenchmarker", FakeBenchmarker)
    monkeypatch.setattr(remote_device, "Device", FakePhone)
    monkeypatch.setenv(TEAM, "ABCDE12345")
    return WORLD


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a name to a package of it."""
    folder = tmp_path_factory.mktemp("packages")
    convert(Chain((MB4D(expansion=2),), Shape(64, 2, 2)), folder / "first.mlpackage")

    def named(name: str) -> Path:
        path = folder / f"{name}.mlpackage"
        if not path.exists():
            path.symlink_to(folder / "first.mlpackage")
        return path

    return named


@pytest.fixture
def phone(a_mac: World, tmp_path: Path) -> Iterator[CoreML]:
    device = CoreML(PHONE, cache=tmp_path / "cache")
    yield device
    device.close()


def test_package_is_timed_and_its_placement_noted(
    phone: CoreML, packages: Callable[[str], Path], a_mac: World, capfd: pytest.CaptureFixture[str]
) -> None:
    timing = phone.measure(packages("first"))
    assert (timing.median_ms, timing.p10_ms, timing.p90_ms) == pytest.approx((1.2, 1.04, 1.36))
    assert timing.runs == 5
    assert timing.notes == (("placement", "ne 2/3, cpu 1/3"), ("note", "left the Neural Engine"))
    assert a_mac.calls == [("predict", 5, True)] and a_mac.units == [coremltools.ComputeUnit.ALL]
    assert a_mac.credentials.development_team == "ABCDE12345"
    assert {name: (value.shape, str(value.dtype)) for name, value in a_mac.inputs.items()} == {
        "x0": ((1, 64, 2, 2), "float16")
    }
    phone.measure(packages("first"))
    assert len(a_mac.sessions) == 1, "the app is built and started once"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("unit", "placement", "notes"),
    [
        ("all", ("NeuralEngine",), [("placement", "ne 1/1")]),
        ("all", (), [("placement", "unknown")]),
        (
            "all",
            ("GPU", "GPU", "CPU"),
            [("placement", "gpu 2/3, cpu 1/3"), ("note", "left the Neural Engine")],
        ),
        ("cpu_and_ne", ("CPU",), [("placement", "cpu 1/1"), ("note", "left the Neural Engine")]),
        ("cpu_only", ("CPU",), [("placement", "cpu 1/1")]),
        ("cpu_and_gpu", ("GPU",), [("placement", "gpu 1/1")]),
    ],
)
def test_an_operation_that_fell_off_the_neural_engine_says_so(
    a_mac: World,
    packages: Callable[[str], Path],
    tmp_path: Path,
    unit: str,
    placement: tuple[str, ...],
    notes: list[tuple[str, str]],
) -> None:
    a_mac.placement = placement
    device = CoreML(replace(PHONE, compute_unit=unit), cache=tmp_path / "cache")
    assert list(device.measure(packages("first")).notes) == notes
    assert a_mac.units == [coremltools.ComputeUnit[unit.upper()]]
    device.close()


def test_info_names_the_phone_and_its_system(phone: CoreML, tmp_path: Path) -> None:
    info = phone.info()
    assert (info.name, info.kind, info.os, info.compute_unit) == (
        "iphone12",
        "coreml",
        "iOS 18.1 (22B83)",
        "all",
    )
    assert "iPhone13,2" in info.description and info.tools["coremltools"] == coremltools.__version__
    info.save(tmp_path / "device.yaml")


def test_a_crash_is_tried_again_in_a_new_session(
    phone: CoreML, packages: Callable[[str], Path], a_mac: World
) -> None:
    a_mac.crashing = {"bad"}
    a_mac.crashes_left = 1
    assert phone.measure(packages("bad")).runs == 5
    assert len(a_mac.sessions) == 2


def test_what_crashes_twice_failed_if_others_run(
    phone: CoreML, packages: Callable[[str], Path], a_mac: World
) -> None:
    a_mac.crashing = {"bad"}
    phone.measure(packages("good"))
    with pytest.raises(OperationFailed, match=r"^RuntimeError: the app is gone$"):
        phone.measure(packages("bad"))
    assert phone.measure(packages("good")).runs == 5


def test_phone_is_lost_if_nothing_runs(
    phone: CoreML, packages: Callable[[str], Path], a_mac: World
) -> None:
    phone.measure(packages("good"))
    a_mac.crashing = {"good", "bad"}
    with pytest.raises(
        DeviceLost,
        match=r"iphone12 does not measure \(RuntimeError: the app is gone\).*command again$",
    ):
        phone.measure(packages("bad"))


def test_unplugged_phone_is_lost(
    phone: CoreML, packages: Callable[[str], Path], a_mac: World
) -> None:
    phone.measure(packages("good"))
    a_mac.connected = False
    a_mac.sessions[-1].alive = False
    with pytest.raises(DeviceLost, match="it is no longer connected"):
        phone.measure(packages("good"))


def test_this_mac_needs_no_signature(
    a_mac: World, packages: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TEAM)
    device = CoreML(mac(), cache=tmp_path / "cache")
    assert device.measure(packages("first")).runs == 50
    assert a_mac.devices == [None] and not a_mac.sessions
    assert (device.info().name, device.info().soc, device.info().os) == (
        MAC,
        "Apple M9",
        "macOS 15.1",
    )
    device.close()


def test_elsewhere_the_bundle_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    with pytest.raises(
        InputError, match=r"a Mac with Xcode \(xcodebuild, devicectl\).*\(got Linux\).*--bundle DIR"
    ):
        CoreML(PHONE)
    with pytest.raises(InputError, match=r"\(got Linux\)"):
        mac()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda patch, folder: (folder / "bin" / "devicectl").unlink(),
            r"devicectl is not on the PATH\. Fix: install Xcode",
        ),
        (
            lambda patch, folder: patch.delenv(TEAM),
            f"set {TEAM} to the team .* or {PROFILE} .* and {BUNDLE}",
        ),
        (
            lambda patch, folder: (folder / "listed.json").write_text(
                '{"result": {"devices": []}}'
            ),
            r"iphone12: is not connected \(connected: none\)\. Fix: plug it in, unlock it",
        ),
    ],
)
def test_what_is_missing_is_named(
    a_mac: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[..., Any],
    message: str,
) -> None:
    change(monkeypatch, tmp_path)
    with pytest.raises(InputError, match=message):
        CoreML(PHONE)


def test_other_phones_that_are_connected_are_named(a_mac: World) -> None:
    with pytest.raises(InputError, match=r"connected: Ann's phone \(iPhone13,2\)"):
        CoreML(replace(PHONE, match=Match(model=["iPhone15,3"])))


def test_a_profile_signs_as_well_as_a_team(
    a_mac: World, packages: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TEAM)
    monkeypatch.setenv(PROFILE, "1234")
    monkeypatch.setenv(BUNDLE, "org.example.runner")
    device = CoreML(PHONE, cache=tmp_path / "cache")
    device.measure(packages("first"))
    device.close()
    assert a_mac.credentials == remote_device.AppSigningCredentials(
        None, "1234", "org.example.runner"
    )


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"result": {"devices": [{}]}}', '{"result": {"devices": [1]}}']
)
def test_what_devicectl_should_not_say(a_mac: World, tmp_path: Path, text: str) -> None:
    (tmp_path / "listed.json").write_text(text)
    with pytest.raises(
        NasError,
        match=r"^xcrun devicectl list devices: failed \(\w+: .*Fix: install Xcode and open it once$",
    ):
        connected_phones()


def test_single_precision_is_refused(a_mac: World) -> None:
    with pytest.raises(InputError, match="float32"):
        CoreML(replace(PHONE, precision="float32"))


def test_a_mistake_of_ours_is_not_taken_for_the_phones(
    phone: CoreML, packages: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(operations: list[Any]) -> None:
        raise TypeError("not what was expected")

    monkeypatch.setattr(phone, "_notes", mistaken)
    with pytest.raises(TypeError, match="not what was expected"):
        phone.measure(packages("good"))


SIGNING = (
    "error: No profiles for 'com.coremltools.modelrunnerd' were found: Xcode couldn't find any iOS App"
    " Development provisioning profiles matching it. (in target 'modelrunnerd')"
)


def test_what_xcodebuild_says_about_signing_reaches_the_user(
    phone: CoreML, packages: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """coremltools' own error has None in place of the text, which is in the error's context."""
    printed = f"Command line invocation:\nnote: x\n{SIGNING}\nwarning: y\n** BUILD FAILED **\n"

    async def refuse(self: Any, **_: Any) -> None:
        try:
            raise subprocess.CalledProcessError(65, "xcodebuild -workspace x", printed.encode())
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"Error Code {error.returncode} {error.stderr}")  # noqa: B904

    monkeypatch.setattr(FakePhone, "prepare_for_model_debugging", refuse)
    with pytest.raises(NasError, match=rf"No profiles for .*Fix: .*{TEAM}.*{BUNDLE}") as raised:
        phone.measure(packages("first"))
    text = str(raised.value)
    assert not isinstance(raised.value, DeviceLost | OperationFailed)
    assert (
        "None" not in text and "unlock" not in text and "\n" not in text and "warning" not in text
    )


def test_sleeping_phone_is_told_from_one_that_is_not_there(a_mac: World) -> None:
    with pytest.raises(InputError, match=r"Bob's phone is paired .* asleep.*Fix: .*unlock it"):
        CoreML(replace(PHONE, match=Match(model=["iPhone14,5"])))


def test_paths_that_xcode_cannot_take_are_refused(
    a_mac: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my folder"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(InputError, match=r"my folder.*Fix: set TMPDIR"):
        CoreML(PHONE)


@pytest.mark.parametrize(
    ("variable", "value"), [(TEAM, "$(reboot)"), (BUNDLE, "a; b"), (PROFILE, "x y")]
)
def test_variables_never_reach_a_shell_as_more_than_words(
    a_mac: World, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=f"{variable}: has other characters"):
        CoreML(PHONE)
