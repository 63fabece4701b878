"""Conformance tests for a device and for a kind of device, and a fake device for tests.

This project runs the checks on its devices, and others on their own.

    from nas.testing.devices import check_device
    check_device(MyDevice())
    check_device_kind("my-kind")

Every function raises AssertionError with what is wrong.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from nas.blocks import MB4D, Operation, Shape
from nas.convert.chain import EMPTY, Chain, DeviceLost, OperationFailed
from nas.devices import opened
from nas.devices.base import Device, Timing
from nas.devices.info import DeviceInfo, load_device_info
from nas.devices.kinds import KINDS, Settings
from nas.devices.phones import phones
from nas.errors import NasError
from nas.export import TARGETS

SMALL, LARGE = (
    Operation("block", MB4D(expansion=4), Shape(channels, 28, 28)) for channels in (16, 64)
)
"""Two operations; the large one has 16 times the MACs of the small one."""


def check_device(device: Device) -> None:
    """Run all checks of this module on a device, and leave it open."""
    check_info(device)
    check_prepare(device)
    check_measure(device)
    check_start_up(device)
    check_profile(device)


def check_info(device: Device) -> None:
    """Check that a device's information is a valid `device.yaml`, and the same each time."""
    info = device.info()
    assert isinstance(info, DeviceInfo) and device.info() == info
    assert info.provenance == "measured", f"provenance is {info.provenance!r}, expected 'measured'"
    with TemporaryDirectory() as folder:
        info.save(Path(folder) / "device.yaml")
        assert load_device_info(Path(folder) / "device.yaml") == info, (
            "the information read from device.yaml differs"
        )
    assert device.copies > 1, f"copies is {device.copies}, expected more than 1"
    assert device.repeats > 0, f"repeats is {device.repeats}, expected more than 0"


def check_prepare(device: Device) -> None:
    """Check that one chain always has the same artifact, and that other chains have others."""
    once, again, stack = (
        device.prepare(chain).result()
        for chain in (Chain.stack(SMALL), Chain.stack(SMALL), Chain.stack(SMALL, 3))
    )
    assert once == again, f"one chain is prepared as {once} and as {again}"
    assert once != stack, f"one operation and a stack of three are both {once}"


def check_measure(device: Device) -> None:
    """Check that timings are ordered, finite and positive.

    More work must take longer, and a network without operations must take the least time.
    """
    call, small, stack, large = (
        check_timing(device.measure(device.prepare(chain).result()))
        for chain in (
            EMPTY,
            Chain.stack(SMALL),
            Chain.stack(SMALL, device.copies),
            Chain.stack(LARGE),
        )
    )
    assert call.median_ms <= small.median_ms, (
        f"a call without operations takes {call.median_ms} ms, a block {small.median_ms} ms"
    )
    assert small.median_ms < stack.median_ms, (
        f"{device.copies} blocks take {stack.median_ms} ms, one takes {small.median_ms} ms"
    )
    assert small.median_ms < large.median_ms, (
        f"a block takes {small.median_ms} ms, one of 16 times its MACs {large.median_ms} ms"
    )


def check_timing(timing: Timing) -> Timing:
    """Return the timing, after checking that its numbers are possible."""
    times = timing.p10_ms, timing.median_ms, timing.p90_ms
    assert all(map(math.isfinite, times)) and 0 <= times[0] <= times[1] <= times[2], (
        f"times (p10, median, p90) are {times} ms, expected finite, at least 0 and ascending"
    )
    assert timing.median_ms > 0 and timing.runs > 0, (
        f"{timing.runs} runs of {timing.median_ms} ms, expected more than 0 of both"
    )
    return timing


def check_start_up(device: Device) -> None:
    """Check that a device that tells the cost of a start gives possible numbers.

    Devices that cannot tell it return None.
    """
    file = device.prepare(Chain.stack(SMALL)).result()
    device.measure(file)
    start = device.start_up(file)
    if start is not None:
        for name, value in vars(start).items():
            known = value is not None or name == "memory_mb"
            assert known and 0 <= (value or 0) < math.inf, f"{name} is {value}, expected 0 or more"


def check_profile(device: Device) -> None:
    """Check that a device that times single operations returns one time per operation.

    The larger operation must take longer. Devices that cannot time operations return None.
    """
    times = device.profile([Chain.stack(SMALL), Chain.stack(LARGE)])
    if times is not None:
        assert len(times) == 2 and 0 < times[0] < times[1], (
            f"a block and one of 16 times its MACs take {times} ms, expected two rising times"
        )
        assert device.profiled_by, "profiled_by is empty, expected the method of timing operations"


def check_device_kind(name: str) -> None:
    """Check that a kind of device is what the commands expect of it. Measures nothing."""
    kind = KINDS[name]
    assert kind.name == name, f"its name is '{kind.name}', the registry has it as '{name}'"
    assert kind.units, "units is empty, expected the compute units that --unit may name"
    assert kind.export_target in TARGETS, f"export_target '{kind.export_target}' is unknown"
    assert isinstance(kind.unlisted(), str), "unlisted() gave no text"
    for device in kind.connected():
        assert device.kind == name, f"{device.name} is connected as one of '{device.kind}'"
        # A name that has a phone.yaml is found by that file.
        assert device.name in phones() or kind.has(device.name), f"has('{device.name}') is false"
    assert not kind.has("no such device"), "has() is true for any name"
    check_unknown_unit(name)
    recipe = kind.bundle_recipe()
    if recipe is not None:
        assert recipe.copies > 1, f"copies of bundles is {recipe.copies}, expected more than 1"
        assert recipe.bound > 0, f"the bound of bundles is {recipe.bound}, expected more than 0"
        assert recipe.how and recipe.description, "the recipe of bundles lacks how or description"


def check_unknown_unit(name: str) -> None:
    """Check that the connected devices of a kind refuse a compute unit that the kind lacks."""
    for device in KINDS[name].connected():
        try:
            with opened(device.name, Settings(unit="no-such-unit")):
                pass
        except NasError:
            continue
        raise AssertionError(f"{device.name} was opened with the unknown unit 'no-such-unit'")


CALL_MS = 0.002
"""Latency of a call without operations on the fake device, in ms."""


def true_ms(chain: Chain) -> float:
    """Return the latency of a chain in ms, by the formula.

    It is a constant per call plus, per block, a constant, the MACs at 40 GMACs/s and the moved
    elements at 20 billion per second.
    """
    total = CALL_MS
    for link in chain.links():
        moved = sum(layer.read + layer.written for layer in link.spec.deployed_layers(link.input))
        total += 1e-4 + link.spec.macs(link.input) / 4e7 + moved / 2e7
    return total


class FakeDevice(Device):
    """A device that takes `true_ms` times `factor(number of measurements so far)`.

    Chains for which `fails` returns True cannot run.

    Attributes:
        measured: the chains that were measured, in order.
        stop_after: the number of measurements after which it is interrupted, as by ctrl-C.
        lost_after: the number of measurements after which it is disconnected.
    """

    copies = 3
    slope = True
    repeats = 1
    profiled_by = "by a formula"

    def __init__(self, threads: int = 1, delay_s: float = 0.0, unit: str = "") -> None:
        self.threads = threads
        self.delay_s = delay_s
        self.unit = unit
        self.measured: list[Chain] = []
        self.stop_after: int | None = None
        self.lost_after: int | None = None
        self.fails: Callable[[Chain], bool] = lambda chain: False
        self.factor: Callable[[int], float] = lambda count: 1.0
        self.closed = False
        self._chains: dict[Path, Chain] = {}

    def info(self) -> DeviceInfo:
        return DeviceInfo(
            name="host",
            kind="fake",
            soc="formula",
            os="none",
            runtime="fake",
            runtime_version="1",
            compute_unit="cpu",
            precision="float32",
            provenance="measured",
            date="2026-01-31",
            threads=self.threads,
        )

    def prepare(self, chain: Chain) -> Future[Path]:
        future: Future[Path] = Future()
        # No file is written: the path alone identifies the chain.
        path = Path(f"/nowhere/{chain.digest()}")
        self._chains[path] = chain
        future.set_result(path)
        return future

    def measure(self, artifact: Path) -> Timing:
        """Return the latency of a prepared chain, or fail as the attributes say."""
        chain = self._chains[artifact]
        if self.stop_after is not None and len(self.measured) >= self.stop_after:
            raise KeyboardInterrupt
        if self.lost_after is not None and len(self.measured) >= self.lost_after:
            raise DeviceLost(
                f"{self.unit} was unplugged. Fix: connect it; the same command resumes"
            )
        if self.delay_s:
            time.sleep(self.delay_s)
        self.measured.append(chain)
        if self.fails(chain):
            raise OperationFailed("RuntimeError: unsupported")
        ms = true_ms(chain) * self.factor(len(self.measured))
        return Timing(
            ms, ms * 0.99, ms * 1.02, runs=100, notes=(("unit", self.unit),) if self.unit else ()
        )

    def profile(self, chains: Sequence[Chain]) -> list[float] | None:
        return (
            None
            if self.profiled_by == ""
            else [self.measure(self.prepare(chain).result()).median_ms for chain in chains]
        )

    def close(self) -> None:
        self.closed = True


def other_settings(device: FakeDevice) -> FakeDevice:
    """Return the same device with a newer runtime."""
    info = replace(device.info(), runtime_version="2")
    changed = FakeDevice()
    changed.info = lambda: info  # type: ignore[method-assign]
    return changed
