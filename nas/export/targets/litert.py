"""Target `litert`: one float32 .tflite file, its class names and normalisation in it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nas.convert import litert as litert_convert
from nas.data.images import MEAN, STD
from nas.export.deploy import Deployed, deployed
from nas.export.target import Images, Model, Outputs, Target

LABELS, ABOUT = "labels.txt", "metadata.json"
"""Associated files: a zip archive behind the model, as TensorFlow Lite's metadata has them; `unzip
FILE` shows them."""
_DATE = (1980, 1, 1, 0, 0, 0)


def write(model: Model, path: Path) -> None:
    """(1, H, W, 3) RGB pixels from 0 to 255, float32, to logits (1, classes), or to scores (1, H,
    W, classes).

    The layout is LiteRT's own and that of a camera's image: nothing is transposed at either end.
    """
    convert(model, path)
    add_files(model, path)


def convert(model: Model, path: Path) -> None:
    """The model alone, without the files that are added to it."""
    import litert_torch

    height, width = model.architecture.resolution
    module = litert_torch.to_channel_last_io(
        Deployed(deployed(model.network())), args=[0], outputs=[0] if model.dense else None
    )
    # Values of every size: a conversion that goes by its example's must not find it constant.
    pixels = torch.linspace(0, 255, height * width * 3).view(1, height, width, 3)
    litert_torch.convert(module.eval(), (pixels,)).export(str(path))


def add_files(model: Model, path: Path) -> None:
    """Put the class names, a line each, and what else is to be known of the model into its file."""
    about = {
        **model.about,
        "input": "RGB pixels from 0 to 255, NHWC; normalised inside the model",
        "mean": MEAN,
        "std": STD,
        "output": (
            "scores (1, H, W, classes)"
            if model.dense
            else "logits (1, classes); softmax makes them probabilities"
        ),
    }
    labels = "".join(f"{' '.join(name.splitlines())}\n" for name in model.classes)
    with zipfile.ZipFile(path, "a") as archive:
        for name, text in (
            (LABELS, labels),
            (ABOUT, json.dumps(about, indent=1, ensure_ascii=False)),
        ):
            archive.writestr(zipfile.ZipInfo(name, _DATE), text)


def run(path: Path, images: Images) -> Outputs:
    """Run a float32 or an int8 file; what is int8 at its ends is quantised here and back."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    outputs = []
    for image in images:
        interpreter.set_tensor(
            taken["index"], _quantised(image.transpose(1, 2, 0)[None].astype(np.float32), taken)
        )
        interpreter.invoke()
        output = _plain(interpreter.get_tensor(given["index"]), given)
        outputs.append(output.transpose(0, 3, 1, 2) if output.ndim == 4 else output)
    return np.concatenate(outputs)


def _quantised(values: Outputs, details: dict[str, Any]) -> NDArray[Any]:
    if details["dtype"] == np.float32:
        return values
    scale, zero = details["quantization"]
    limits = np.iinfo(details["dtype"])
    steps: NDArray[Any] = np.clip(np.round(values / scale) + zero, limits.min, limits.max).astype(
        details["dtype"]
    )
    return steps


def _plain(values: NDArray[Any], details: dict[str, Any]) -> Outputs:
    if details["dtype"] == np.float32:
        return values
    scale, zero = details["quantization"]
    return np.asarray((values.astype(np.float32) - zero) * scale, np.float32)


TARGET = Target(
    "model.tflite",
    write,
    packages=("litert-torch", "ai-edge-litert", "torch"),
    run=run,
    alone=litert_convert.convert,
)
