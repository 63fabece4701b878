"""Target `litert-int8`: weights and activations in 8 bits, their ranges from images (post-training
quantisation)."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import nn

from nas.blocks.module import Block
from nas.export.deploy import PIXEL
from nas.export.target import Model, Target
from nas.export.targets import litert


def in_float(network: nn.Module) -> str:
    """Return the pattern of tensor names, which carry the classes of modules, of what stays in
    float32.

    Layer norms everywhere, and what the network's blocks name (`Block.float_parts`), without the
    convolutions in it.
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
    """Quantise the float32 file; scales are symmetric and one a channel for weights, one a tensor
    for activations."""
    with TemporaryDirectory(dir=path.parent) as folder:
        plain = Path(folder) / "plain.tflite"
        litert.convert(model, plain)
        path.write_bytes(_quantised(plain, model))
    litert.add_files(model, path)


def _quantised(plain: Path, model: Model) -> bytes:
    from ai_edge_quantizer import qtyping, quantizer, recipe

    assert model.calibration is not None
    tool = quantizer.Quantizer(str(plain), recipe.static_wi8_ai8())
    tool.update_quantization_recipe(
        in_float(model.network()),
        qtyping.TFLOperationName.ALL_SUPPORTED,
        algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE,
    )
    samples, pixels = _samples(plain, model)
    ranges = tool.calibrate(samples, num_threads=1)
    # Ranges are moving averages over the images; that of a pixel is known, and makes its scale 1.
    ranges[pixels] = {
        "min": np.full((1, 1, 1, 1), 0.0, np.float32),
        "max": np.full((1, 1, 1, 1), PIXEL, np.float32),
    }
    return bytes(tool.quantize(ranges, enable_progress_report=False).quantized_model)


def _samples(plain: Path, model: Model) -> tuple[dict[str, list[dict[str, Any]]], str]:
    """Return the calibration images as the file's signature takes them, and the name of the tensor
    that they go into."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(plain))
    ((signature, names),) = interpreter.get_signature_list().items()
    (name,) = names["inputs"]
    assert model.calibration is not None
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
