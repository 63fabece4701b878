"""Measure whole networks on a device, for the calibration (`run`) and the check of a table.

A device that repeats measures them in turn until their times are settled.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from statistics import median

from nas.convert.chain import Chain, OperationFailed
from nas.devices.base import Device, StartUp
from nas.errors import NasError
from nas.files import remove
from nas.latency.network_times import NetworkTime, Progress, Role, resolution_id, space_id
from nas.latency.profile.journal import Journal
from nas.latency.profile.operation_timing import AGREE, settled
from nas.space import Architecture, Space

CONVERTING_SHARE = 0.8
"""Share of the networks' time budget for conversion, on devices that convert all of them first."""
KEPT_BYTES = 16_000_000
"""Maximum size of a whole network's file that stays in the cache, as files of operations do."""


def measure_networks(
    device: Device,
    space: Space,
    members: Sequence[Architecture],
    role: Role,
    known: Iterable[NetworkTime],
    book: Journal,
    progress: Progress,
    until: float = math.inf,
    anchors: Mapping[Architecture, float] | None = None,
) -> dict[Architecture, NetworkTime]:
    """Measure the members that are not `known` yet, each on disk before the next one starts.

    A device that repeats (`Device.repeats`) measures them once all are converted, as converting on
    the same computer disturbs it.

    Args:
        device: what measures.
        space: of the members.
        members: the networks to measure, in their order.
        role: what they are recorded for, calibration or check.
        known: networks that were measured before; those of other spaces and sizes are ignored.
        book: the open journal.
        progress: is called before each network.
        until: monotonic time in seconds. No network begins that is expected to end later.
        anchors: networks with the ms that they took before. They are measured beside the members
            and returned too. While a device that repeats is slower for them than it was, all are
            measured again, `Device.repeats` times at most.

    Returns:
        The anchors and members that have a time.

    Raises:
        NasError: when the device cannot run one of the networks.
    """
    blank = NetworkTime(
        role, space_id(space), resolution_id(space), "", 0.0, date=date.today().isoformat()
    )
    found = {
        net.network: net
        for net in known
        if (net.space, net.resolution) == (blank.space, blank.resolution)
    }
    anchors = anchors or {}
    wanted = [*anchors, *members]
    todo = [member for member in wanted if member.name not in found]
    bench = _NetworkBench(device, todo, until)

    def keep(times: Iterable[tuple[str, float]]) -> None:
        for network, ms in times:
            net = replace(blank, network=network, measured_ms=round(ms, 6))
            found[network] = net.started(bench.starts.get(network))
            book.append({"network": asdict(found[network])})

    def measured() -> dict[Architecture, NetworkTime]:
        return {member: found[member.name] for member in wanted if member.name in found}

    try:
        keep(bench.times(lambda what, done: progress(f"networks ({role}{what})", done, len(todo))))
        # The anchors' drift is the device's, not the table's. A disturbance may have lasted during
        # all times so far: then they agree, and are slow nevertheless.
        rounds = device.repeats if device.repeats > 1 and todo else 0
        for number in range(rounds):
            if (
                (slower := drift(anchors, measured())) is None
                or slower <= AGREE
                or time.monotonic() > until
            ):
                break
            progress(f"again: {100 * slower:.0f} % slower than before", number, rounds)
            keep(bench.round())
    finally:
        bench.close()
    return measured()


def drift(
    anchors: Mapping[Architecture, float], found: Mapping[Architecture, NetworkTime]
) -> float | None:
    """Return the median relative slowdown of the anchors; None where none was measured."""
    ratios = [found[arch].measured_ms / ms for arch, ms in anchors.items() if arch in found]
    return median(ratios) - 1 if ratios else None


def network_ms(device: Device, file: Path) -> float:
    """Return the latency of a network in ms; it gets a second try, as a failure may pass.

    Raises:
        OperationFailed: when both tries fail.
    """
    try:
        return device.measure(file).median_ms
    except OperationFailed:
        return device.measure(file).median_ms


def start_of(device: Device, file: Path) -> StartUp | None:
    """Return the cost of the start of a file that was measured; None where it cannot be told."""
    # The file ran before: what fails here is the start alone, and its latency stands.
    try:
        return device.start_up(file)
    except OperationFailed:
        return None


def release(file: Path) -> None:
    """Remove the converted file of a whole network from the cache, where it is large.

    Every check measures the calibration's networks again, but those of a phone's space take tens of
    MB each.
    """
    if not (file.is_file() and file.stat().st_size <= KEPT_BYTES):
        remove(file)


_Tell = Callable[[str, int], None]
"""Is called with what is done beside the first measurement, and with the number of networks done."""


class _NetworkBench:
    """Networks that are being converted and measured on one device.

    Attributes:
        _artifacts: the future of each network's file, by name, in the order of the members.
        _taken: times in ms of each measured network, by name.
        starts: the cost of the start of each measured network whose device tells it, by name.
    """

    def __init__(self, device: Device, members: Sequence[Architecture], until: float) -> None:
        self._device = device
        self._until = until
        self._artifacts = {m.name: device.prepare(Chain.network(m.operations())) for m in members}
        self._taken: dict[str, list[float]] = {}
        self.starts: dict[str, StartUp | None] = {}

    def times(self, tell: _Tell) -> Iterator[tuple[str, float]]:
        """Yield names of networks with their ms; a network comes again when its time gets lower."""
        # One pass measures all networks. Then those that are not settled are repeated in turn, so
        # that the repeats of one lie as far apart as possible.
        networks = self._converted(tell) if self._device.repeats > 1 else self._in_time()
        for number, network in enumerate(networks):
            tell("", number)
            yield from self._measure(network)
        while again := [
            network for network, taken in self._taken.items() if not self._settled(taken)
        ]:
            tell(", repeated until times agree", len(self._taken) - len(again))
            for network in again:
                if time.monotonic() > self._until:
                    return
                yield from self._measure(network)
        if self._artifacts:
            tell("", len(self._artifacts))

    def _converted(self, tell: _Tell) -> list[str]:
        """Return the networks that could be converted in time, once nothing is being converted."""
        # Nothing is measured here, so the cores that are reserved for it may convert.
        with self._device.borrow_cores():
            for number, network in enumerate(self._in_time(CONVERTING_SHARE)):
                tell(", being converted", number)
                wait([self._artifacts[network]])
            # Conversions that still wait in the queue are cancelled; those that have begun end.
            names = [
                network for network, artifact in self._artifacts.items() if not artifact.cancel()
            ]
            wait([self._artifacts[network] for network in names])
        return names

    def _in_time(self, share: float = 1.0) -> Iterator[str]:
        """Yield the networks in their order, while they can be done in this share of the time.

        Each is expected to take the mean of those before it.
        """
        begin = time.monotonic()
        for number, network in enumerate(self._artifacts):
            # The time so far, extrapolated to include this network, against its share of the
            # budget.
            if (time.monotonic() - begin) * (number + 1) / max(number, 1) > share * (
                self._until - begin
            ):
                break
            yield network

    def round(self) -> Iterator[tuple[str, float]]:
        """Measure every network once more; yield as `times` does."""
        for network in self._taken:
            yield from self._measure(network)

    def close(self) -> None:
        """Release the files that are left."""
        for artifact in self._artifacts.values():
            if not artifact.cancel() and artifact.done() and not artifact.exception():
                release(artifact.result())

    def _settled(self, taken: Sequence[float]) -> bool:
        return settled(taken, self._device.repeats)

    def _measure(self, network: str) -> Iterator[tuple[str, float]]:
        """Measure a network; yield its name and ms where this is its lowest time so far."""
        taken = self._taken.setdefault(network, [])
        artifact = self._artifacts[network]
        try:
            taken.append(network_ms(self._device, artifact.result()))
        except OperationFailed as error:
            raise NasError(f"network {network} could not be measured: {error}") from error
        if network not in self.starts:
            self.starts[network] = start_of(self._device, self._artifacts[network].result())
        if taken[-1] == min(taken):
            yield network, taken[-1]
        if self._device.repeats == 1:
            release(self._artifacts[network].result())
