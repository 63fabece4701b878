"""Target `litert-int8`: weights and activations in 8 bits, by post-training quantisation.

The ranges of activations come from calibration images.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from nas.blocks.module import Block
from nas.export.deploy import PIXEL
from nas.export.target import Model, Target
from nas.export.targets import litert
from nas.files import beside


def in_float(network: nn.Module) -> str:
    """Return a pattern of the names of tensors that stay in float32.

    These are the tensors of layer norms and of the parts that the network's blocks name
    (`Block.float_parts`), without the convolutions in these parts. Names of tensors in a .tflite
    file contain the classes of their modules.
    """
    parts = {
        part
        for block in network.modules()
        if isinstance(block, Block)
        for part in block.float_parts
    }
    names = "|".join(sorted(re.escape(part.__name__) for part in parts))
    return nn.LayerNorm.__name__ + (rf"|({names})_\w+;" if names else "")


def write(model: Model, path: Path) -> None:
    """Write the float32 file, quantised.

    Scales of weights are symmetric, one per channel. Activations have one scale per tensor.
    """
    with beside(path.with_name("plain.tflite")) as plain:
        litert.convert(model, plain)
        path.write_bytes(_quantised(plain, model))
    litert.add_files(model, path)


def _quantised(plain: Path, model: Model) -> bytes:
    """Return the content of the quantised file of a float32 file."""
    from ai_edge_quantizer import qtyping, quantizer, recipe

    assert model.calibration is not None
    # Static: the ranges of activations are fixed now, not measured in each run. Weights int8,
    # activations int8.
    tool = quantizer.Quantizer(str(plain), recipe.static_wi8_ai8())
    tool.update_quantization_recipe(
        in_float(model.network()),
        qtyping.TFLOperationName.ALL_SUPPORTED,
        algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE,
    )
    samples, pixels = _samples(plain, model)
    ranges = tool.calibrate(samples, num_threads=1)
    # The tool's ranges are moving averages over the images. The range of pixels is known: 0 to 255
    # gives the input a scale of 1, so that pixels are not rounded.
    ranges[pixels] = {
        "min": np.full((1, 1, 1, 1), 0.0, np.float32),
        "max": np.full((1, 1, 1, 1), PIXEL, np.float32),
    }
    return bytes(tool.quantize(ranges, enable_progress_report=False).quantized_model)


def _samples(plain: Path, model: Model) -> tuple[dict[str, list[dict[str, Any]]], str]:
    """Return the calibration images by the file's signature, and the name of the input tensor."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(plain))
    ((signature, names),) = interpreter.get_signature_list().items()
    (name,) = names["inputs"]
    assert model.calibration is not None
    # Each (3, H, W) to (1, H, W, 3).
    images = [
        {name: image.transpose(1, 2, 0)[None].astype(np.float32)} for image in model.calibration
    ]
    return {signature: images}, interpreter.get_input_details()[0]["name"]


TARGET = Target(
    "model-int8.tflite",
    write,
    packages=("ai-edge-quantizer", *litert.TARGET.packages),
    run=litert.run,
    alone=litert.TARGET.alone,
    tolerance=0.5,
    calibrated=True,
)
