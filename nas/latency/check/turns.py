"""Measure several networks on a device by turns, for `nas check RUN` and `nas check FILE`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from nas.convert.chain import Chain, OperationFailed
from nas.devices.base import Device, StartUp
from nas.errors import NasError
from nas.latency.network_times import Progress
from nas.latency.profile.network_timing import network_ms, release, start_of
from nas.latency.profile.operation_timing import settled

APART_S = 2.0
"""Pause in seconds between measurements of a network on a device that repeats.

Disturbances last for tens of seconds.
"""


@dataclass(frozen=True)
class Turns:
    """Networks that were measured by turns, by key.

    Attributes:
        ms: latency of each.
        starts: cost of the start of each; None where the device cannot tell it.
        failures: why an optional network has no latency.
    """

    ms: dict[str, float]
    starts: dict[str, StartUp | None]
    failures: dict[str, str]


def measure_by_turns(
    device: Device,
    networks: Mapping[str, Chain | Path],
    names: Mapping[str, str],
    progress: Progress = lambda *_: None,
    *,
    optional: Collection[str] = (),
    least: int = 1,
) -> Turns:
    """Measure networks by turns, until the times of all of them can be trusted.

    Drift of the device then affects all of them alike.

    Args:
        device: what measures.
        networks: a file, or a chain to convert, by key.
        names: of the networks by key, for messages.
        progress: is called for "networks".
        optional: keys of networks that may fail.
        least: minimum number of turns.

    Raises:
        NasError: when the device cannot run a network that is not optional.
        DeviceLost: when the device went away.
    """
    files: dict[str, Path] = {}
    taken: dict[str, list[float]] = {}
    starts: dict[str, StartUp | None] = {}
    failures: dict[str, str] = {}

    def fail(key: str, error: OperationFailed) -> None:
        """Record why an optional network does not run; raise NasError for any other."""
        if key not in optional:
            raise NasError(f"{names[key]} could not be measured: {error}") from error
        failures[key] = str(error)

    def waiting() -> list[str]:
        """Return the networks that need another turn; one that failed has left `files`."""
        return [
            key
            for key in files
            if len(taken[key]) < least or not settled(taken[key], device.repeats)
        ]

    progress("networks", 0, len(networks))
    for key, network in networks.items():
        try:
            files[key] = device.prepare(network).result() if isinstance(network, Chain) else network
        except OperationFailed as error:
            fail(key, error)
        else:
            taken[key] = []
    begun = False
    while waiting():
        if begun and device.repeats > 1:
            time.sleep(APART_S)
        begun = True
        for key in list(files):
            try:
                taken[key].append(network_ms(device, files[key]))
            except OperationFailed as error:
                fail(key, error)
                _release(files.pop(key), networks[key])
            else:
                if key not in starts:
                    starts[key] = start_of(device, files[key])
        progress("networks", len(files) - len(waiting()), len(networks))
    for key, file in files.items():
        _release(file, networks[key])
    progress("networks", len(networks), len(networks))
    # Other load makes runs slower, never faster: the lowest time of a device that repeats counts,
    # as in its table. The rows of another device are of one measurement each, so the median is
    # comparable to them.
    best = min if device.repeats > 1 else statistics.median
    return Turns({key: best(taken[key]) for key in files}, starts, failures)


def _release(file: Path, network: Chain | Path) -> None:
    """Release a file that was converted here; any other is the caller's."""
    if isinstance(network, Chain):
        release(file)
