"""Worker that converts chains to int8 LiteRT files; `converter` starts it as a process.

The file is that of `nas.convert.litert`, quantised as the target `litert-int8` of an export is. So
an operation is measured with the same operators in int8 as in an exported network.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.convert import litert
from nas.convert.chain import Chain
from nas.convert.int8 import ends, float_tensors, quantise, signatures
from nas.convert.worker import serve
from nas.files import beside, replacing

SAMPLES = 2
"""Number of random inputs that ranges of activations are taken from.

Ranges decide the accuracy of a file, not its latency. They need to be finite.
"""
STACKED = (-4.0, 4.0)
"""Range of the input and of the output of a stack of copies: that of a normal distribution.

Both get one range, so that the output of a copy is the input of the next one without a conversion.
"""


def main() -> None:
    serve(_answer, litert.start)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    if request["cores"]:
        os.sched_setaffinity(0, request["cores"])
    convert(Chain.from_dict(request["chain"]), Path(request["path"]))
    return {}


def convert(chain: Chain, path: Path) -> None:
    """Write a chain in its deployed form as an int8 .tflite file, for timing.

    Weights are those of the chain, or random ones; ranges of activations come from random inputs.
    """
    single, copies = litert.single(chain)
    with beside(path.with_name(f"plain-{path.name}")) as plain, replacing(path) as temporary:
        litert.convert(single, plain)
        taken, given = ends(plain)
        ranges = {each["name"]: STACKED for each in (*taken, *given)} if copies > 1 else {}
        module, _ = litert.build(replace(single, weights=None))
        temporary.write_bytes(
            quantise(plain, _samples(plain), tensors=float_tensors(module), ranges=ranges)
        )
        if copies > 1:
            litert.repeat(temporary, copies)


def _samples(plain: Path) -> list[dict[str, NDArray[np.float32]]]:
    """Return random inputs of a file by their names in its signature."""
    from ai_edge_litert.interpreter import Interpreter

    ((signature, _),) = signatures(plain).items()
    details = Interpreter(model_path=str(plain)).get_signature_runner(signature).get_input_details()
    generator = np.random.default_rng(0)
    return [
        {
            name: generator.standard_normal(each["shape"], np.float32)
            for name, each in details.items()
        }
        for _ in range(SAMPLES)
    ]


if __name__ == "__main__":
    main()
