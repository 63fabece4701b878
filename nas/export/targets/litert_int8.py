"""Target `litert-int8`: weights and activations in 8 bits, by post-training quantisation.

The ranges of activations come from calibration images. What LiteRT runs slower in 8 bits stays in
float32 (`nas.convert.int8`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas.convert.int8 import ends, float_tensors, quantise, signatures
from nas.export.deploy import PIXEL
from nas.export.target import Model, Target
from nas.export.targets import litert
from nas.files import beside


def write(model: Model, path: Path) -> None:
    """Write the float32 file, quantised."""
    with beside(path.with_name("plain.tflite")) as plain:
        litert.convert(model, plain)
        path.write_bytes(quantised(plain, model))
    litert.add_files(model, path, **_ends_in_words(path, model))


def quantised(plain: Path, model: Model, operators: Sequence[str] | None = None) -> bytes:
    """Return the content of the quantised file of a float32 file.

    Args:
        plain: the float32 file.
        model: the network with its calibration images.
        operators: operators that stay in float32 (default: those that are slower in int8).
    """
    assert model.calibration is not None
    ((_, names),) = signatures(plain).items()
    (name,) = names["inputs"]
    ((taken,), _) = ends(plain)
    # Each (3, H, W) to (1, H, W, 3).
    samples = [
        {name: image.transpose(1, 2, 0)[None].astype(np.float32)} for image in model.calibration
    ]
    # The calibrated ranges are moving averages over the images. The range of pixels is known: 0 to
    # 255 gives the input a scale of 1, so that pixels are not rounded.
    return quantise(
        plain,
        samples,
        tensors=float_tensors(model.network()),
        ranges={taken["name"]: (0.0, float(PIXEL))},
        operators=operators,
    )


def _ends_in_words(path: Path, model: Model) -> dict[str, Any]:
    """Return what an app must know of the file's input and output, for its metadata."""
    ((taken,), (given,)) = ends(path)
    values = litert.output_text(model).partition(";")[0]
    return {
        "input": f"RGB pixels, NHWC, {_stored('pixel', taken)}; normalised inside the model",
        "output": values if model.labels else f"{values}, {_stored('value', given)}",
        "input_quantization": _quantization(taken),
        "output_quantization": _quantization(given),
    }


def _stored(what: str, details: dict[str, Any]) -> str:
    """Return how an input or output stores its values, in words."""
    scale, zero_point = details["quantization"]
    name = np.dtype(details["dtype"]).name
    return f"{name}: stored = {what} / {scale:.9g} + {zero_point}" if scale else name


def _quantization(details: dict[str, Any]) -> dict[str, Any]:
    """Return type, scale and zero point of an input or output; a scale of 0 means float."""
    scale, zero_point = details["quantization"]
    return {
        "type": np.dtype(details["dtype"]).name,
        "scale": float(scale),
        "zero_point": int(zero_point),
    }


TARGET = Target(
    "model-int8.tflite",
    write,
    packages=("ai-edge-quantizer", *litert.TARGET.packages),
    run=litert.run,
    read=litert.read,
    alone=litert.TARGET.alone,
    tolerance=0.5,
    disagreement=25.0,
    calibrated=True,
    note="the input is int8, a pixel less 128; metadata.json in the file says what the output is",
)
