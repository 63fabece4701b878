"""Conformance tests for a device: run by this project on its devices, and by others on their own.

    from nas.testing.devices import check_device
    check_device(MyDevice())

Every function raises AssertionError with what is wrong.
"""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

from nas.blocks import MB4D, Operation, Shape
from nas.convert.chain import Chain
from nas.devices.base import Device, Timing
from nas.devices.info import DeviceInfo, load_device_info
from nas.latency.profile.operation_timing import EMPTY

SMALL, LARGE = (
    Operation("block", MB4D(expansion=4), Shape(channels, 28, 28)) for channels in (16, 64)
)
"""The large one computes 16 times as much."""


def check_device(device: Device) -> None:
    """Run all checks of this module on a device, which is left open."""
    check_info(device)
    check_prepare(device)
    check_measure(device)
    check_profile(device)


def check_info(device: Device) -> None:
    """Check that a device's information is a valid `device.yaml`, and the same each time."""
    info = device.info()
    assert isinstance(info, DeviceInfo) and device.info() == info
    assert info.provenance == "measured", f"provenance is {info.provenance!r}: a device measures"
    with TemporaryDirectory() as folder:
        info.save(Path(folder) / "device.yaml")
        assert load_device_info(Path(folder) / "device.yaml") == info, (
            "device.yaml does not give it back"
        )
    assert device.copies > 1, f"copies {device.copies}: a stack has more than one"
    assert device.repeats > 0, f"repeats {device.repeats}: once at least"


def check_prepare(device: Device) -> None:
    """Check that one chain always has the same artifact, and other chains have others."""
    once, again, stack = (
        device.prepare(chain).result()
        for chain in (Chain.stack(SMALL), Chain.stack(SMALL), Chain.stack(SMALL, 3))
    )
    assert once == again, f"one chain is prepared as {once} and as {again}"
    assert once != stack, f"one operation and a stack of three are both {once}"


def check_measure(device: Device) -> None:
    """Check that timings are ordered, finite and positive.

    More work must take longer, and a network without operations the least.
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
        f"nothing takes {call.median_ms} ms, a block {small.median_ms} ms"
    )
    assert small.median_ms < stack.median_ms, (
        f"{device.copies} blocks take {stack.median_ms} ms, one {small.median_ms}"
    )
    assert small.median_ms < large.median_ms, (
        f"16 times the MACs take {large.median_ms} ms, one {small.median_ms}"
    )


def check_timing(timing: Timing) -> Timing:
    """Return the timing, after checking that its numbers are possible."""
    times = timing.p10_ms, timing.median_ms, timing.p90_ms
    assert all(map(math.isfinite, times)) and 0 <= times[0] <= times[1] <= times[2], (
        f"times {times} cannot be"
    )
    assert timing.median_ms > 0 and timing.runs > 0, (
        f"{timing.runs} runs of {timing.median_ms} ms cannot be"
    )
    return timing


def check_profile(device: Device) -> None:
    """Check that a device that times single operations gives one time each.

    The larger operation must take longer. Devices that cannot time operations return None.
    """
    times = device.profile([Chain.stack(SMALL), Chain.stack(LARGE)])
    if times is not None:
        assert len(times) == 2 and 0 < times[0] < times[1], (
            f"a block and one of 16 times its MACs take {times} ms"
        )
        assert device.profiled_by, "profiled_by does not say how operations are timed"
