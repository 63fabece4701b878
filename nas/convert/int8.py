"""Quantisation of a float32 .tflite file to int8, for exports and for the tables of int8.

The target `litert-int8` (`nas.export.targets.litert_int8`) and the worker `nas.convert.litert_int8`
call `quantise`. Operators that are slower in int8 than in float32 stay in float32;
`int8_operators.yaml` lists them with the measurements that say so. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.files import YamlFile

if TYPE_CHECKING:
    from torch import nn

OPERATORS_FILE = Path(__file__).with_name("int8_operators.yaml")
"""Operators of LiteRT that stay in float32, with what each costs in int8.

`benchmarks/int8_speed.py` measures the figures.
"""

Sample = Mapping[str, NDArray[np.float32]]
"""Inputs of one run by their names in the file's signature."""
Range = tuple[float, float]
"""Minimum and maximum of a tensor."""


@cache
def slow_operators() -> tuple[str, ...]:
    """Return the operators that are faster in float32 than in int8, as LiteRT names them."""
    return tuple(YamlFile(OPERATORS_FILE).data["operators"])


def float_tensors(network: nn.Module) -> str:
    """Return a pattern of the names of tensors that stay in float32 for the sake of accuracy.

    These are the tensors of layer norms and of the parts that the network's blocks name
    (`Block.float_parts`), without the convolutions in these parts. Names of tensors in a .tflite
    file contain the classes of their modules.
    """
    from torch.nn import LayerNorm

    from nas.blocks.module import Block

    parts = {
        part
        for block in network.modules()
        if isinstance(block, Block)
        for part in block.float_parts
    }
    names = "|".join(sorted(re.escape(part.__name__) for part in parts))
    return LayerNorm.__name__ + (rf"|({names})_\w+;" if names else "")


def quantise(
    plain: Path,
    samples: Iterable[Sample],
    *,
    tensors: str,
    ranges: Mapping[str, Range],
    operators: Sequence[str] | None = None,
) -> bytes:
    """Return the content of a file with weights and activations in int8.

    Scales of weights are symmetric, one per channel. Activations have one scale per tensor. It is
    fixed here, from the ranges of activations in the samples, and not measured in each run.

    Args:
        plain: the float32 file, with one signature.
        samples: inputs to calibrate with.
        tensors: pattern of the tensors that stay in float32 (`float_tensors`).
        ranges: known ranges by the name of the tensor; they replace the calibrated ones.
        operators: operators that stay in float32 (default: `slow_operators`).
    """
    from ai_edge_quantizer import qtyping, quantizer, recipe

    tool = quantizer.Quantizer(str(plain), recipe.static_wi8_ai8())
    in_float = quantizer.AlgorithmName.NO_QUANTIZE
    # The later entry of a recipe wins. A pattern of its own per entry, as an entry for all
    # operators clears those that have its pattern.
    for operator in slow_operators() if operators is None else operators:
        tool.update_quantization_recipe(
            ".*", qtyping.TFLOperationName(operator), algorithm_key=in_float
        )
    tool.update_quantization_recipe(
        tensors, qtyping.TFLOperationName.ALL_SUPPORTED, algorithm_key=in_float
    )
    signature = next(iter(signatures(plain)))
    found = tool.calibrate({signature: [dict(each) for each in samples]}, num_threads=1)
    for name, (low, high) in ranges.items():
        found[name] = {
            "min": np.full((1, 1, 1, 1), low, np.float32),
            "max": np.full((1, 1, 1, 1), high, np.float32),
        }
    return bytes(tool.quantize(found, enable_progress_report=False).quantized_model)


def signatures(path: Path) -> dict[str, dict[str, list[str]]]:
    """Return the signatures of a .tflite file, each with the names of its `inputs` and `outputs`."""
    from ai_edge_litert.interpreter import Interpreter

    found: dict[str, dict[str, list[str]]] = Interpreter(model_path=str(path)).get_signature_list()
    return found


def ends(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return LiteRT's details of the inputs and of the outputs of a .tflite file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    return interpreter.get_input_details(), interpreter.get_output_details()
