"""Limits of a search beside latency: parameters, MACs, memory, and the mobile efficiency score
(MES)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import fsum, inf
from typing import Literal, get_args

from nas.blocks import BlockSpec, Operation, Shape
from nas.errors import InputError, nearest
from nas.latency import LatencyTable, MissingRows
from nas.search.graph import Arc
from nas.space import Architecture
from nas.space.place import Place

SCORE = 100.0
UNIT_PARAMS = 3e6
UNIT_MS = 1.0
PARAMS_POWER = 0.5
MS_POWER = 1.0


def mes(params: int, ms: float) -> float:
    """Return 100 (params / 3 M)^-0.5 (ms / 1 ms)^-1; more is better. MobileNetV2 (3.5 M, 0.9 ms on
    an iPhone 12) has 102.9."""
    return float(SCORE * (params / UNIT_PARAMS) ** -PARAMS_POWER * (ms / UNIT_MS) ** -MS_POWER)


LimitName = Literal["macs", "params", "memory_mb"]
"""The limits that a search takes beside its latency: multiply-accumulates of one image, learned
parameters, and megabytes (10^6 bytes) of peak activation memory."""

SMALL = 1e-12
"""As good as a divisor of what is no whole number: ms and points."""

BITS = {
    "float32": 32,
    "fp32": 32,
    "float16": 16,
    "fp16": 16,
    "bfloat16": 16,
    "bf16": 16,
    "int16": 16,
    "int8": 8,
    "uint8": 8,
    "int4": 4,
}
"""Bits of an activation by the precision that a table states; imported tables use the short names
too."""

_IN_PLACE = ("folded_norm", "activation")
"""Layers that every runtime does within the one before them."""


@dataclass(frozen=True)
class Measure:
    """Something that a member takes an amount of.

    Attributes:
        key: as options and files name it.
        name, unit: for messages: "parameters", "M".
        saved: what is saved of it, for messages: "time" of latency.
        named: whether an amount needs the name beside its unit: "1.2 ms" says all, "3 M" does not.
        size: of that unit, in what the amounts count.
        of: the amount of one arc of a space's graph; infinite where no member can have it.
        total: the amount of a whole member.
        step: amounts are whole numbers of this, or as good as.
        base: what every member takes besides its operations.
        peak: whether the total is that of the largest operation, not of all together.
    """

    key: str
    name: str
    unit: str
    size: float
    of: Callable[[Arc], float]
    total: Callable[[Architecture], float]
    step: float = 1.0
    base: float = 0.0
    peak: bool = False
    saved: str = ""
    named: bool = True

    def text(self, amount: float) -> str:
        if 0 < amount < self.size / 100 and self.size > 1:
            return f"{amount:.4g} {self.name}"
        shown = f"{amount / self.size:.4g} {self.unit}"
        return f"{shown} {self.name}" if self.named else shown


@dataclass(frozen=True)
class Limit:
    """`most` of something, in what its measure counts."""

    measure: Measure
    most: float

    def holds(self, arch: Architecture) -> bool:
        return self.measure.total(arch) <= self.most

    def __str__(self) -> str:
        return self.measure.text(self.most)


def latency(table: LatencyTable) -> Measure:
    """Return predicted milliseconds on the table's device; infinite for what it cannot run.

    The total raises MissingRows, as the table does, for rows that nobody has tried to measure.
    """

    def of(arc: Arc) -> float:
        parts = (table.ms(operation) for operation in arc.operations)
        return fsum(inf if ms is None else ms for ms in parts)

    def total(arch: Architecture) -> float:
        try:
            return table.total_ms(arch)
        except MissingRows as missing:
            if all(operation.key in table.unsupported for operation in missing.operations):
                return inf
            raise

    return Measure(
        "latency_ms",
        "latency",
        "ms",
        1.0,
        of,
        total,
        step=SMALL,
        base=table.base_ms,
        saved="time",
        named=False,
    )


def _macs(arc: Arc) -> float:
    return sum(operation.macs for operation in arc.operations)


def _params(arc: Arc) -> float:
    return sum(operation.params for operation in arc.operations)


MACS = Measure("macs", "MACs", "M", 1e6, _macs, lambda arch: arch.macs)
PARAMS = Measure("params", "parameters", "M", 1e6, _params, lambda arch: arch.params)


def memory(precision: str) -> Measure:
    """Return peak activation memory in MB where an activation takes as many bits as `precision`
    says (float16, int8)."""
    if precision not in BITS:
        raise InputError(
            f"memory_mb: the table's precision '{precision}' does not say how many bits a value has"
            f" (expected one of {', '.join(BITS)}). Fix: state it in the table's device.yaml"
        )
    megabytes = BITS[precision] / 8e6

    def of(arc: Arc) -> float:
        return (
            max((live_elements(operation, arc.held) for operation in arc.operations), default=0)
            * megabytes
        )

    return Measure(
        "memory_mb",
        "peak memory",
        "MB",
        1.0,
        of,
        lambda arch: peak_elements(arch) * megabytes,
        peak=True,
    )


def peak_elements(arch: Architecture) -> int:
    """Return the most activation elements that are live at once while one image goes through: the
    largest `live_elements`.

    Where the head takes the maps of several stages, those of earlier stages wait through the later
    ones.
    """
    levels = arch.head.levels
    maps = _maps(arch)
    first = len(maps) - levels

    def held(operation: Operation) -> int:
        before = Place.parse(operation.name).stage or 0
        return sum(shape.elements for shape in maps[first:before]) if levels else 0

    return max(live_elements(operation, held(operation)) for operation in arch.operations())


def _maps(arch: Architecture) -> list[Shape]:
    """Return the output of every stage."""
    ends: dict[int | None, Shape] = {}
    for operation in arch.operations():
        place = Place.parse(operation.name)
        enters = place == Place.entry(0, arch.stem is not None)
        ends[0 if enters else place.stage] = operation.output
    return [ends[index] for index in range(len(arch.stages))]


def live_elements(operation: Operation, held: int = 0) -> int:
    """Return the most activation elements that are live at once during an operation: what one of
    its layers reads and writes, the operation's input where a residual (or a head that takes
    several maps) needs it later, and `held` others.

    Batch norms and activation functions count as part of the layer before them.
    """
    return _live(operation.spec, operation.input) + (
        0 if operation.input.layout == "pyramid" else held
    )


@lru_cache(maxsize=65536)
def _live(spec: BlockSpec, shape: Shape) -> int:
    kept = shape.elements if shape.layout == "pyramid" or spec.output_shape(shape) == shape else 0
    most = 0
    for index, layer in enumerate(
        layer for layer in spec.layers(shape) if layer.kind not in _IN_PLACE
    ):
        adds = layer.kind == "elementwise" and layer.read == 2 * layer.written
        alone = (index == 0 or adds) and shape.layout != "pyramid"
        most = max(most, layer.read + layer.written + (0 if alone else kept))
    return most


def further_limits(given: Mapping[str, float], table: LatencyTable) -> tuple[Limit, ...]:
    """Return the limits beside latency, by `LimitName`.

    Raises:
        InputError: for another name, or a limit that is no positive number.
    """
    measures = {
        "macs": lambda: MACS,
        "params": lambda: PARAMS,
        "memory_mb": lambda: memory(table.device.precision),
    }
    for name, most in given.items():
        if name not in measures:
            raise InputError(f"unknown limit '{name}'{nearest(name, get_args(LimitName))}")
        if not 0 < most < inf:
            raise InputError(f"{name} {most:g}: expected a positive number")
    return tuple(Limit(measures[name](), most) for name, most in given.items())
