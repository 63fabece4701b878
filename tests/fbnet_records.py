"""Records of operators as FBNet's look-up tables have them, for tests of what reads them."""

from __future__ import annotations

import json
from typing import Any


def args(**values: int | str) -> list[str]:
    kinds = {int: "i", str: "s"}
    return [
        f'name: "{name}"\n{kinds[type(value)]}: {json.dumps(value)}\n'
        for name, value in values.items()
    ]


def record(
    op_type: str, shapes: list[list[int]], us: float = 1000.0, **given: Any
) -> dict[str, Any]:
    """Return one record, whose median latency is `us` microseconds."""
    return {
        "op_type": op_type,
        "op_args": args(**given),
        "input_shapes": shapes,
        "input_dtypes": [1] * len(shapes),
        "runtime_us_p0": us / 4,
        "runtime_us_p10": us / 2,
        "runtime_us_p50": us,
        "runtime_us_p90": us * 2,
        "runtime_us_p100": us * 4,
        "device": "SM-X",
    }


# An inverted bottleneck of expansion 4, 8 channels at 16x16: its int8 operators, channels last.
BOTTLENECK = [
    record(
        "Int8ConvRelu",
        [[1, 16, 16, 8], [32, 1, 1, 8], [32]],
        100,
        kernel=1,
        stride=1,
        pad=0,
        order="NHWC",
    ),
    record(
        "Int8ConvRelu",
        [[1, 16, 16, 32], [32, 3, 3, 1], [32]],
        200,
        kernel=3,
        stride=1,
        pad=1,
        group=32,
    ),
    record("Int8Conv", [[1, 16, 16, 32], [8, 1, 1, 32], [8]], 300, kernel=1, stride=1, pad=0),
    record("Int8Add", [[1, 16, 16, 8], [1, 16, 16, 8]], 50),
]
EMBEDDING = record(
    "Conv", [[1, 24, 56, 56], [48, 24, 3, 3], [48]], 700, kernels=3, pads=1, strides=2, order="NCHW"
)
