"""Compare int8 with float32 on this host, and decide what stays in float32. Prints JSON, ms.

    python benchmarks/int8_speed.py [--members efficientvit_b2,emo_2m] [--data digits]
        [--without-operators] [--seconds 20]

Each member is exported as float32, as int8 with every operator in int8 (`all_int8`), as `litert-int8`
writes it (`int8`), as that with one more of the operators of `nas/convert/int8_operators.yaml` in
int8, and as that with one more of all other operators in float32. The files of a member run by turns
in one process on one thread of one core, so that a slow moment of the machine affects all of them. A
file's figure is the median over its rounds.

`speedup` is the time of float32 over that of int8. `in_int8` is, per operator, the time with the
operator in int8 over the time with it in float32: above 1 it belongs into the list. `in_float` is,
per other operator, the time with it in float32 over the time with it in int8: below 1 it may belong
into the list too.
`agreement` compares the outputs of int8 with those of float32 on real images.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

import nas
from nas.convert.int8 import slow_operators
from nas.convert.worker import go_first
from nas.devices.board.runner.timer import load
from nas.devices.host.device import _processor
from nas.export.compare import differences
from nas.export.images import RealImages, load_images
from nas.export.target import Model
from nas.export.targets import litert
from nas.export.targets.litert_int8 import quantised
from nas.space import load_space
from nas.versions import versions

MEMBERS = {
    "efficientformer_l3": "efficientformer",
    "efficientformerv2_s1": "efficientformerv2",
    "swiftformer_s": "swiftformer",
    "efficientvit_b2": "efficientvit",
    "emo_2m": "emo",
}
"""The middle member of each family, and its space."""
MULTIPLIES = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
"""Operators that int8 is for."""
IN_FLOAT = "float "
"""What the name of a variant with one more operator in float32 begins with."""
ROUND_S = 0.2
"""Minimum seconds of one file's turn."""
CALIBRATION_IMAGES = 8
JUDGED_IMAGES = 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", default=",".join(MEMBERS))
    parser.add_argument("--data", default="digits")
    parser.add_argument("--without-operators", action="store_true")
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    # Converters print; the only text on stdout is the JSON.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        members = {
            name: compare(name, options.data, not options.without_operators, Path(folder), options)
            for name in options.members.split(",")
        }
    print(
        json.dumps(
            {
                "processor": _processor(),
                "versions": versions("ai-edge-litert", "ai-edge-quantizer", "litert-torch"),
                "operators_in_float32": list(slow_operators()),
                "members": members,
            },
            indent=1,
        )
    )


def compare(
    name: str, data: str, by_operator: bool, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Return the times and ratios of one member's files, and how well int8 agrees with float32."""
    files, images = write_files(name, data, by_operator, folder)
    times = by_turns(list(files.values()), options.seconds)
    ms = {key: round(each, 4) for key, each in zip(files, times, strict=True)}
    evaluated = images.evaluated.images
    agreement = differences(
        litert.run(files["float32"], evaluated), litert.run(files["int8"], evaluated)
    )
    return {
        "ms": ms,
        "speedup": round(ms["float32"] / ms["int8"], 3),
        "speedup_all_int8": round(ms["float32"] / ms["all_int8"], 3),
        "in_int8": {
            operator: round(ms[operator] / ms["int8"], 3)
            for operator in slow_operators()
            if operator in ms
        },
        "in_float": {
            key.removeprefix(IN_FLOAT): round(ms[key] / ms["int8"], 3)
            for key in ms
            if key.startswith(IN_FLOAT)
        },
        "agreement": {
            "images": agreement.images,
            "data": data,
            "top1_percent": agreement.top1_agreement,
            "relative": agreement.relative,
        },
    }


def write_files(
    name: str, data: str, by_operator: bool, folder: Path
) -> tuple[dict[str, Path], RealImages]:
    """Write a member's files; return them by what is in them, and the images."""
    architecture = load_space(MEMBERS[name]).published[name]
    images = load_images(data, architecture.resolution, JUDGED_IMAGES, CALIBRATION_IMAGES)
    torch.manual_seed(0)
    # Random weights: the time of a convolution does not depend on its weights.
    model = Model(
        architecture,
        nas.build(architecture).state_dict(),
        tuple(f"class {index}" for index in range(architecture.classes)),
        {},
        images.calibration.images,
    )
    files = {"float32": folder / f"{name}.tflite"}
    litert.convert(model, files["float32"])
    slow = slow_operators()
    variants: dict[str, Sequence[str]] = {"all_int8": (), "int8": slow}
    if by_operator:
        there = operators_of(files["float32"])
        variants |= {
            operator: [other for other in slow if other != operator]
            for operator in slow
            if operator in there
        }
        variants |= {
            IN_FLOAT + operator: [*slow, operator]
            for operator in sorted(there - {*slow, *MULTIPLIES})
            if operator in quantisable()
        }
    for key, in_float in variants.items():
        files[key] = folder / f"{name}-{key}.tflite"
        files[key].write_bytes(quantised(files["float32"], model, in_float))
    return files, images


def quantisable() -> set[str]:
    """Return the operators that the quantiser can put into int8."""
    from ai_edge_quantizer.qtyping import TFLOperationName

    return {each.value for each in TFLOperationName}


def operators_of(path: Path) -> set[str]:
    """Return the names of the operators in a .tflite file."""
    from ai_edge_litert.interpreter import Interpreter

    return {each["op_name"] for each in Interpreter(model_path=str(path))._get_ops_details()}


def by_turns(files: Sequence[Path], seconds: float) -> list[float]:
    """Return the median ms of each file's run over its rounds, on one thread of the last core."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    go_first()
    runs = [load(str(file), 1) for file in files]
    rounds: list[list[float]] = [[] for _ in files]
    end = time.perf_counter() + seconds
    # The first turn warms up.
    for run in runs:
        run()
    while time.perf_counter() < end or len(rounds[0]) < 3:
        for run, taken in zip(runs, rounds, strict=True):
            samples: list[float] = []
            begin = before = time.perf_counter()
            while before - begin < ROUND_S:
                run()
                after = time.perf_counter()
                samples.append(after - before)
                before = after
            taken.append(median(samples))
    return [median(taken) * 1e3 for taken in rounds]


if __name__ == "__main__":
    main()
