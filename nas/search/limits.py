"""Measures and limits of a search: latency, MACs, parameters, memory, and the MES score.

`nas.search.pose` makes limits by `further_limits`; engines weigh arcs and members by `Measure`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from math import fsum, inf
from typing import Literal, get_args

from nas.blocks import BlockSpec, Operation, Shape
from nas.errors import InputError, nearest
from nas.latency import LatencyTable, MissingRows
from nas.search.graph import Arc
from nas.space import Architecture
from nas.space.place import Place

# The constants of the mobile efficiency score, EfficientFormerV2 (arXiv:2212.08059), Eq. 9.
SCORE = 100.0
UNIT_PARAMS = 3e6
UNIT_MS = 1.0
PARAMS_POWER = 0.5
MS_POWER = 1.0


def mes(params: int, ms: float) -> float:
    """Return the mobile efficiency score; more is better.

    EfficientFormerV2 (arXiv:2212.08059, Eq. 9):

        MES = 100 (params / 3 M)^-0.5 (ms / 1 ms)^-1

    MobileNetV2 (3.5 M parameters, 0.9 ms on an iPhone 12) has 102.9. It is infinite at 0 ms, which
    tables of other programs may have.
    """
    if ms <= 0:
        return inf
    return float(SCORE * (params / UNIT_PARAMS) ** -PARAMS_POWER * (ms / UNIT_MS) ** -MS_POWER)


LimitName = Literal["macs", "params", "memory_mb"]
"""Limits beside latency: multiply-accumulates per image, learned parameters, and peak activation
memory in MB (10^6 bytes)."""

SMALL = 1e-12
"""Unit to which ms and points are rounded, so that they are summed as whole numbers."""

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
"""Bits of an activation by a table's precision; imported tables use the short names too."""

_IN_PLACE = ("folded_norm", "activation")
"""Layers that every runtime fuses into the one before them."""


DIGITS = 4
"""Significant digits of amounts in messages."""
_ALL_DIGITS = 17
"""Significant digits that tell any two floating-point numbers apart."""


def rounded(value: float, digits: int = DIGITS, up: bool = False) -> str:
    """Return a number with some significant digits, rounded to the nearest one or up.

    The least amount of all is rounded up in messages, as the reader makes it a limit.
    """
    nearest = f"{value:.{digits}g}"
    if not up or float(nearest) >= value:
        return nearest
    # One unit of the last digit more.
    shown = Decimal(nearest)
    return f"{float(shown + Decimal(10) ** (shown.adjusted() - digits + 1)):.{digits}g}"


@dataclass(frozen=True)
class Measure:
    """A quantity that members take an amount of, such as latency or parameters.

    Attributes:
        key: its name in options and files.
        name, unit: its name and unit in messages, such as "parameters" and "M".
        size: amount of one such unit.
        of: returns the amount of one arc of a space's graph; infinite where no member can have it.
        total: returns the amount of a whole member.
        step: amounts are whole multiples of it, exactly or up to rounding.
        base: amount of every member besides its operations.
        peak: whether the total is the maximum over the operations, not their sum.
        saved: what less of it saves, in messages ("time" for latency); `name` where empty.
        named: whether messages need the name beside the unit: "1.2 ms" does not, "3 M" does.
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

    def text(self, amount: float, digits: int = DIGITS, up: bool = False) -> str:
        """Return an amount in the measure's unit, for messages.

        Args:
            amount: in the measure's own unit.
            digits: number of significant digits.
            up: round up, so that a limit of this text lets the amount through.
        """
        # A small amount of a large unit is given without it: "1200 parameters", not "0.0012 M".
        if 0 < amount < self.size / 100 and self.size > 1:
            return f"{rounded(amount, digits, up)} {self.name}"
        shown = f"{rounded(amount / self.size, digits, up)} {self.unit}"
        return f"{shown} {self.name}" if self.named else shown

    def texts(self, one: float, other: float) -> tuple[str, str]:
        """Return two amounts, with as many digits as tell them apart."""
        for digits in range(DIGITS, _ALL_DIGITS):
            texts = self.text(one, digits), self.text(other, digits)
            if texts[0] != texts[1]:
                return texts
        return self.text(one, _ALL_DIGITS), self.text(other, _ALL_DIGITS)


@dataclass(frozen=True)
class Limit:
    """An upper limit of `most` on the amounts of a measure."""

    measure: Measure
    most: float

    def holds(self, arch: Architecture) -> bool:
        return self.measure.total(arch) <= self.most

    def __str__(self) -> str:
        return self.measure.text(self.most)


def latency(table: LatencyTable) -> Measure:
    """Return the measure of predicted latency in ms on the table's device.

    It is infinite for what the device cannot run. Its `total` raises MissingRows, as the table
    does, for rows that were never measured.
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
    """Return the measure of peak activation memory in MB (10^6 bytes).

    Args:
        precision: of activations, such as "float16" or "int8".

    Raises:
        InputError: the precision does not say how many bits an activation has.
    """
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
    """Return the peak number of live activation elements over all operations, for one image.

    Where the head takes the maps of several stages, earlier ones are held through the later stages.
    """
    levels = arch.head.levels
    maps = _maps(arch)
    first = len(maps) - levels

    def held(operation: Operation) -> int:
        before = Place.parse(operation.name).stage or 0
        return sum(shape.elements for shape in maps[first:before]) if levels else 0

    return max(live_elements(operation, held(operation)) for operation in arch.operations())


def _maps(arch: Architecture) -> list[Shape]:
    """Return the output shape of every stage."""
    ends: dict[int | None, Shape] = {}
    for operation in arch.operations():
        place = Place.parse(operation.name)
        # The entry of the first stage may be the network's stem, whose place names no stage.
        enters = place == Place.entry(0, arch.stem is not None)
        ends[0 if enters else place.stage] = operation.output
    return [ends[index] for index in range(len(arch.stages))]


def live_elements(operation: Operation, held: int = 0) -> int:
    """Return the peak number of live activation elements during an operation.

    It is the maximum over the operation's layers of what a layer reads and writes, plus the
    operation's input where a residual (or a head of several levels) needs it later, plus `held`.
    Batch norms and activation functions count as part of the layer before them.

    Args:
        operation: with its input shape.
        held: elements of maps that wait for the head meanwhile.
    """
    return _live(operation.spec, operation.input) + (
        0 if operation.input.layout == "pyramid" else held
    )


@lru_cache(maxsize=65536)
def _live(spec: BlockSpec, shape: Shape) -> int:
    # A block whose output has the shape of its input counts as one with a residual, which keeps the
    # input to the end.
    kept = shape.elements if shape.layout == "pyramid" or spec.output_shape(shape) == shape else 0
    most = 0
    for index, layer in enumerate(
        layer for layer in spec.deployed_layers(shape) if layer.kind not in _IN_PLACE
    ):
        # The first layer reads the kept input itself, and so does the addition of a residual, which
        # reads two maps and writes one. There it must not count twice.
        adds = layer.kind == "elementwise" and layer.read == 2 * layer.written
        alone = (index == 0 or adds) and shape.layout != "pyramid"
        most = max(most, layer.read + layer.written + (0 if alone else kept))
    return most


def further_limits(given: Mapping[str, float], table: LatencyTable) -> tuple[Limit, ...]:
    """Return the limits beside latency, given by `LimitName`.

    Raises:
        InputError: a name is unknown, or a limit is not a positive number.
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
