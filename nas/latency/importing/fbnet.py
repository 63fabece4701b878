"""Read latency files of FBNet (JSON), whose records are operators; blocks are sums of them."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from nas.blocks import BlockSpec, ConvEmbedding, DSConv, MBConv, MBConvDown, Shape
from nas.csv_files import MOST_DIGITS
from nas.errors import InputError
from nas.files import read_text
from nas.latency.importing.common import Format, Reading, Times, make_row


@dataclass(frozen=True)
class Add:
    """The sum of two maps."""

    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"the sum of two {self.channels}x{self.height}x{self.width}"


@dataclass(frozen=True)
class Conv:
    """A convolution of a map (channels, height, width) to `out` channels, with or without ReLU."""

    channels: int
    height: int
    width: int
    out: int
    kernel: int
    stride: int
    groups: int
    relu: bool

    @property
    def depthwise(self) -> bool:
        return self.groups == self.channels == self.out

    @property
    def pointwise(self) -> bool:
        return self.kernel == self.stride == self.groups == 1

    @property
    def input(self) -> Shape:
        return Shape(self.channels, self.height, self.width)

    @property
    def output(self) -> Shape:
        # Rounded up: these convolutions pad, so that stride 1 keeps the size.
        return Shape(self.out, -(-self.height // self.stride), -(-self.width // self.stride))

    def __str__(self) -> str:
        return (
            f"{self.kernel}x{self.kernel} convolution{' with ReLU' if self.relu else ''}, stride"
            f" {self.stride}, groups {self.groups}, {self.input} to {self.output}"
        )


Operator: TypeAlias = Conv | Add
Block: TypeAlias = tuple[BlockSpec, Shape, tuple[Operator, ...]]


def blocks(operators: Iterable[Operator]) -> Iterator[Block]:
    """Yield every block whose operators are all known, with its input and its operators.

    The blocks are conv_embedding, dsconv, mbconv and mbconv_down.
    """
    known = set(operators)
    convs = [operator for operator in known if isinstance(operator, Conv)]
    # A set has no order; sorted blocks give every import the same table file.
    convs.sort(key=str)
    # Pointwise convolutions around each depthwise one: those with ReLU expand into its input, those
    # without project its output.
    into = defaultdict(list)
    out_of = defaultdict(list)
    for conv in convs:
        if conv.pointwise and conv.relu:
            into[conv.output].append(conv)
        elif conv.pointwise:
            out_of[conv.input].append(conv)
    for conv in convs:
        if (conv.kernel, conv.stride, conv.groups, conv.relu) == (3, 2, 1, False):
            yield ConvEmbedding(conv.out), conv.input, (conv,)
        if conv.depthwise and conv.relu and conv.kernel % 2 and conv.stride in (1, 2):
            for project in out_of[conv.output]:
                yield from _around(conv, into[conv.input], project, known)


def _around(
    depthwise: Conv, expands: Iterable[Conv], project: Conv, known: set[Operator]
) -> Iterator[Block]:
    """Yield the blocks with this depthwise convolution and this projection after it."""
    kernel = depthwise.kernel
    # A block with a shortcut ends with a sum, whose time must be among the operators too.
    skip = Add(project.out, depthwise.height, depthwise.width)
    if depthwise.stride == 1 and project.out == depthwise.channels and skip in known:
        yield DSConv(kernel, "relu"), depthwise.input, (depthwise, project, skip)
    for expand in expands:
        expansion, rest = divmod(expand.out, expand.channels)
        parts = (expand, depthwise, project)
        if rest:
            continue
        if depthwise.stride == 2:
            yield MBConvDown(project.out, expansion, kernel, activation="relu"), expand.input, parts
        elif project.out == expand.channels and skip in known:
            yield MBConv(expansion, kernel, activation="relu"), expand.input, (*parts, skip)


NAME = "FBNet"
_ARGUMENT = re.compile(r'name:\s*"(\w+)"((?:\s*\w+:\s*(?:"[^"]*"|[^\s"]+))*)')
_VALUE = re.compile(r'\w+:\s*(?:"([^"]*)"|(\S+))')
_TIMES = tuple(f"runtime_us_{name}" for name in ("p10", "p50", "p90"))


@dataclass(frozen=True)
class _Record:
    where: str
    setting: tuple[str, str]
    operator: Operator
    times: Times


def read(path: Path) -> Reading:
    """Read the file; of several devices or precisions, only the one with the most operators.

    Raises:
        InputError: naming file, line, key and reason.
    """
    reading = Reading(f"{path.name} ({NAME})")
    records = []
    for where, data in _entries(path):
        try:
            times = _times(data)
            setting = _setting(data)
            operator = _operator(data)
        except KeyError as error:
            raise InputError(f"{path}: {where}: {error.args[0]}: is missing") from None
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: {where}: {error}") from None
        if isinstance(operator, str):
            reading.skip(where, operator)
        else:
            records.append(_Record(where, setting, operator, times))
    if not records:
        return reading
    setting = Counter(record.setting for record in records).most_common(1)[0][0]
    name, precision = setting
    reading.device.update(
        {"description": name, "runtime": "Caffe2", "compute_unit": "cpu", "precision": precision}
    )
    for record in [record for record in records if record.setting != setting]:
        records.remove(record)
        reading.skip(
            record.where,
            f"is of {' '.join(record.setting)}; most of the file is of {name} {precision}",
        )
    _assemble(records, reading)
    return reading


def _assemble(records: list[_Record], reading: Reading) -> None:
    """Add a row for each block that the operators make up; skip operators of no block."""
    first: dict[Operator, _Record] = {}
    for record in records:
        if record.operator in first:
            reading.skip(
                record.where, f"{record.operator} duplicates {first[record.operator].where}"
            )
        first.setdefault(record.operator, record)
    used: set[Operator] = set()
    for spec, shape, parts in blocks(first):
        times = [first[part].times for part in parts]
        total = Times(
            sum(t.median_ms for t in times),
            sum(t.p10_ms for t in times),
            sum(t.p90_ms for t in times),
        )
        alone = len(parts) == 1
        row = make_row(
            spec,
            shape,
            total,
            "measured" if alone else "estimated",
            reading.source,
            "" if alone else f"sum of {len(parts)} operators",
        )
        reading.add(row, " + ".join(first[part].where for part in parts))
        used.update(parts)
    for operator, record in first.items():
        if operator not in used:
            reading.skip(
                record.where,
                f"{operator} belongs to no block here that the file has all operators of",
            )


def _entries(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every record with its place; a record is an object, or a string that holds one."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        found = [
            (f"entry {number}", entry) for number, entry in enumerate(_json(path, 1, text), start=1)
        ]
    else:
        lines = enumerate(text.splitlines(), start=1)
        found = [
            (f"line {number}", _json(path, number, line)) for number, line in lines if line.strip()
        ]
    for where, entry in found:
        data = _json(path, int(where.split()[1]), entry) if isinstance(entry, str) else entry
        if not isinstance(data, dict) or "op_type" not in data:
            raise InputError(
                f"{path}: {where}: is not a record of an operator (expected {{op_type, op_args,"
                " ...})"
            )
        yield where, data
    if not found:
        raise InputError(f"{path}: is empty (expected one record of an operator per line)")


def _json(path: Path, line: int, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        at = line + error.lineno - 1 if isinstance(error, json.JSONDecodeError) else line
        raise InputError(f"{path}:{at}: malformed JSON: {error}") from None


def _times(data: Mapping[str, Any]) -> Times:
    values = []
    for name in _TIMES:
        if isinstance(data[name], bool) or not isinstance(data[name], (int, float)):
            raise ValueError(f"{name}: {data[name]!r} is not a number of microseconds")
        try:
            values.append(data[name] / 1000)
        except OverflowError:
            raise ValueError(f"{name}: is out of range") from None
    p10, median, p90 = values
    return Times(median, p10, p90)


def _setting(data: Mapping[str, Any]) -> tuple[str, str]:
    """Return device and precision."""
    return str(data["device"] or "an unnamed device"), "int8" if _is_int8(data) else "float32"


def _is_int8(data: Mapping[str, Any]) -> bool:
    return str(data["op_type"]).startswith("Int8")


def _operator(data: Mapping[str, Any]) -> Operator | str:
    """Return the operator, or the reason why no block has it."""
    kind = str(data["op_type"]).removeprefix("Int8")
    shapes = [_sizes(shape) for shape in data["input_shapes"]]
    arguments = dict(map(_argument, data["op_args"]))
    # Operators in int8 are always channels-last.
    last = _is_int8(data) or arguments.get("order") == "NHWC"
    if (
        kind in ("Add", "Sum")
        and len(shapes) == 2
        and shapes[0] == shapes[1]
        and len(shapes[0]) == 4
    ):
        return Add(*_map(shapes[0], last))
    if (
        kind not in ("Conv", "ConvRelu")
        or len(shapes) < 2
        or {len(shapes[0]), len(shapes[1])} != {4}
    ):
        return f"{data['op_type']} on {shapes} is not a part of any block of nas"
    (channels, *_), (out, *kernel, inner) = (
        _map(shapes[0], last),
        shapes[1] if last else _last(shapes[1]),
    )
    stride, pad, dilation = (
        _whole(arguments, *item) for item in (("stride", 1), ("pad", 0), ("dilation", 1))
    )
    if (
        channels % inner
        or shapes[0][0] != 1
        or kernel != [kernel[0]] * 2
        or pad != kernel[0] // 2
        or dilation != 1
    ):
        return (
            f"{data['op_type']} on {shapes}, pad {pad}, dilation {dilation} is not a part of any"
            " block of nas (expected a square kernel, the padding that keeps the size, and batch 1)"
        )
    return Conv(
        *_map(shapes[0], last), out, kernel[0], stride, channels // inner, kind == "ConvRelu"
    )


def _whole(arguments: Mapping[str, str], name: str, default: int) -> int:
    text = arguments.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
        raise ValueError(f"op_args: {name}: '{text}' is not a whole number")
    return int(text)


def _last(sizes: list[int]) -> list[int]:
    """Return the weights' sizes (out, in, kernel, kernel) as (out, kernel, kernel, in)."""
    return [sizes[0], *sizes[2:], sizes[1]]


def _sizes(shape: Any) -> list[int]:
    if not isinstance(shape, list) or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(f"input_shapes: {shape!r} is not a list of sizes")
    return shape


def _map(sizes: list[int], channels_last: bool) -> tuple[int, int, int]:
    """Return channels, height, width."""
    return (sizes[3], sizes[1], sizes[2]) if channels_last else (sizes[1], sizes[2], sizes[3])


def _argument(text: Any) -> tuple[str, str]:
    """Return name and value of an argument.

    A list that repeats one value, as `pads` may, gives that value under the singular name.
    """
    match = _ARGUMENT.fullmatch(str(text).strip())
    if not match:
        raise ValueError(f'op_args: {text!r} is not an argument (expected as: name: "kernel" i: 3)')
    values = {quoted or plain for quoted, plain in _VALUE.findall(match[2])}
    name = {"kernels": "kernel", "strides": "stride", "pads": "pad", "dilations": "dilation"}.get(
        match[1], match[1]
    )
    if len(values) > 1 and name != match[1]:
        raise ValueError(
            f"op_args: {match[1]} differ (got {', '.join(sorted(values))}; expected equal ones)"
        )
    return name, next(iter(values), "")


def holds(text: str) -> bool:
    """Return whether a text has the keys of FBNet's records."""
    return '"op_type"' in text and '"runtime_us_p50"' in text


FORMAT = Format(NAME, (".json", ".jsonl"), read, holds)
