"""Read latency files of once-for-all and ProxylessNAS (YAML, or JSON, which is YAML too).

A key names an operation, as
`expanded_conv-input:14x14x96-output:14x14x96-expand:6-kernel:5-stride:1-idskip:1`; the value has
`mean` in ms, and `count` and `var` (or `std`) of its runs. Shapes are height x width x channels. In the files
for MobileNetV3 `expand` is the hidden width itself, and `se` and `hs` follow
(squeeze-and-excitation, h-swish).
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from nas.blocks import BlockSpec, DSConv, MBConv, MBConvDown, Shape
from nas.files import YamlFile
from nas.latency.importing.common import Format, Reading, Times, make_row

NAME = "once-for-all"

_KEY = re.compile(
    r"(?P<kind>\w+)-input:(?P<input>[\dx]+)-output:(?P<output>[\dx]+)(?P<rest>(?:-\w+:\d+)*)"
)
_FIELDS = {"mean", "var", "std", "count"}
_P90 = 1.2816
"""Standard deviations from the mean to the 90th percentile of a normal distribution."""


def read(path: Path) -> Reading:
    """Read the file; its `expanded_conv` entries with a shortcut or of stride 2 become rows.

    Raises:
        InputError: naming file, line, key and reason.
    """
    file = YamlFile(path)
    reading = Reading(f"{path.name} ({NAME})")
    matches = {key: _KEY.fullmatch(str(key)) for key in file.data}
    if not any(matches.values()):
        raise file.error(
            [],
            "no key names an operation as once-for-all does (expected keys as"
            " expanded_conv-input:14x14x96-output:...)",
        )
    odd: set[str] = set()
    for key, match in matches.items():
        if match is None:
            reading.skip(str(key), "does not name an operation as once-for-all does")
            continue
        times = file.parse(_times, [key], file.data[key])
        for field in sorted(map(str, file.data[key].keys() - _FIELDS - odd)):
            odd.add(field)
            reading.skip(str(key), f"the field '{field}' is not understood, and ignored everywhere")
        try:
            spec, shape, note = _operation(match)
            row = make_row(
                spec, shape, times, "measured" if times.runs else "estimated", reading.source, note
            )
            if match["output"] != _text(spec.output_shape(shape)):
                raise ValueError(
                    f"the output differs from that of {spec.kind} (got {match['output']}, expected"
                    f" {_text(spec.output_shape(shape))})"
                )
        except ValueError as error:
            reading.skip(key, str(error))
            continue
        reading.add(row, key)
    return reading


def _operation(match: re.Match[str]) -> tuple[BlockSpec, Shape, str]:
    """Return a key's block, its input and a note on what differs.

    Raises:
        ValueError: where no block fits.
    """
    if match["kind"] != "expanded_conv":
        raise ValueError(f"'{match['kind']}' alone is not a block of nas (expected expanded_conv)")
    values = {name: int(value) for name, value in re.findall(r"-(\w+):(\d+)", match["rest"])}
    for name in ("expand", "kernel", "stride", "idskip"):
        if name not in values:
            raise ValueError(f"{name} is missing in the key")
    shape = _shape(match["input"])
    width = _shape(match["output"]).channels
    if values.get("se"):
        raise ValueError("has squeeze-and-excitation, which mbconv of nas has not")
    note = "" if "hs" in values else "ReLU6 where this row says relu"
    activation = "hardswish" if values.get("hs") else "relu"
    # Keys of MobileNetV3 have `hs`; their `expand` is the hidden width, not a factor.
    hidden = values["expand"] * (1 if "hs" in values else shape.channels)
    return _spec(values, shape.channels, width, hidden, activation), shape, note


def _spec(
    values: dict[str, int], channels: int, width: int, hidden: int, activation: Any
) -> BlockSpec:
    kernel = values["kernel"]
    stride = values["stride"]
    if not channels or hidden % channels or not hidden:
        raise ValueError(
            f"the hidden width {hidden} is not a multiple of the input's {channels} channels"
        )
    if stride == 1 and values["idskip"] and width == channels:
        # Without expansion their block has no expanding convolution, as `dsconv` here.
        if hidden == channels:
            return DSConv(kernel, activation)
        return MBConv(hidden // channels, kernel, activation=activation)
    if stride == 2 and not values["idskip"] and hidden != channels:
        return MBConvDown(width, hidden // channels, kernel, activation=activation)
    shortcut = "with" if values["idskip"] else "without"
    raise ValueError(
        f"no block of nas has stride {stride}, expansion {hidden // channels}, {channels} to"
        f" {width} channels, {shortcut} a shortcut"
    )


def _shape(text: str) -> Shape:
    sizes = text.split("x")
    if len(sizes) != 3 or not all(sizes):
        raise ValueError(f"'{text}' is not a shape (expected HEIGHTxWIDTHxCHANNELS)")
    height, width, channels = map(int, sizes)
    return Shape(channels, height, width)


def _text(shape: Shape) -> str:
    return f"{shape.height}x{shape.width}x{shape.channels}"


def _times(value: Any) -> Times:
    """Return mean and percentiles in ms.

    The file has no percentiles, so they are those of a normal distribution.
    """
    if not isinstance(value, dict) or "mean" not in value:
        raise ValueError("expected {count, mean, var} or {count, mean, std}")
    mean, var, std, count = (value.get(name, 0) for name in ("mean", "var", "std", "count"))
    for name, number in (("mean", mean), ("var", var), ("std", std), ("count", count)):
        if (
            isinstance(number, bool)
            or not isinstance(number, (int, float))
            or not 0 <= number < math.inf
        ):
            raise ValueError(f"{name}: {number!r} is not a number, 0 or more")
    if count != int(count):
        raise ValueError(f"count: {count!r} is not a whole number")
    spread = _P90 * (math.sqrt(var) if "var" in value else std)
    return Times(float(mean), max(0.0, mean - spread), mean + spread, int(count))


def holds(text: str) -> bool:
    """Return whether a text has a key that names an operation as once-for-all does."""
    # Without the word in front: to look for its end at every letter of a long word takes for ever.
    return re.search(r"\w-input:\d+x\d+x\d+-output:\d+x", text) is not None


FORMAT = Format(NAME, (".yaml", ".yml"), read, holds)
