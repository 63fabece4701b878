"""Target `litert`: one float32 .tflite file with class names and normalisation inside."""

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
from nas.data.palette import colours
from nas.errors import InputError
from nas.export.deploy import Deployed, answering, deployed
from nas.export.target import DENSE, Contents, Images, Model, Outputs, Target

LABELS, ABOUT = "labels.txt", "metadata.json"
"""Associated files of TensorFlow Lite's metadata: a zip archive behind the model.

`unzip FILE` shows them.
"""
_DATE = (1980, 1, 1, 0, 0, 0)
_MOST_BYTES = 1 << 26
"""Maximum size of an associated file, unpacked: a small archive may hold gigabytes."""


def write(model: Model, path: Path) -> None:
    """Write a file that maps pixels (1, H, W, 3) to logits (1, classes).

    Pixels are RGB from 0 to 255 in float32. Dense prediction gives scores (1, h, w, classes) or
    labels (1, H, W). The layout is LiteRT's own and that of a camera's image: nothing is transposed at either end.
    """
    convert(model, path)
    add_files(model, path)


def convert(model: Model, path: Path) -> None:
    """Write the model alone, without the files that `add_files` adds."""
    import litert_torch

    height, width = model.architecture.resolution
    module = litert_torch.to_channel_last_io(
        answering(model, Deployed(deployed(model.network()))),
        args=[0],
        outputs=[0] if model.dense and not model.labels else None,
    )
    # Values of every size: a conversion that looks at its example must not find it constant.
    # (H*W*3,) to (1, H, W, 3).
    pixels = torch.linspace(0, 255, height * width * 3).view(1, height, width, 3)
    litert_torch.convert(module.eval(), (pixels,)).export(str(path))


def add_files(model: Model, path: Path, **more: Any) -> None:
    """Append the class names, one per line, and the metadata to the file of a model.

    Args:
        model: what the file holds.
        path: of the file.
        more: entries of the metadata that differ from those of a float32 file.
    """
    about = {
        **model.about,
        "input": "RGB pixels from 0 to 255, NHWC; normalised inside the model",
        "mean": MEAN,
        "std": STD,
        "output": output_text(model),
        **({"colours": colours(len(model.classes))} if model.dense else {}),
        **more,
    }
    # Line breaks inside a name would shift all labels after it.
    labels = "".join(f"{' '.join(name.splitlines())}\n" for name in model.classes)
    # A model is read from the start of a file and an archive from its end, so both fit into one.
    # The fixed date makes equal models equal files.
    with zipfile.ZipFile(path, "a") as archive:
        for name, text in (
            (LABELS, labels),
            (ABOUT, json.dumps(about, indent=1, ensure_ascii=False)),
        ):
            archive.writestr(zipfile.ZipInfo(name, _DATE), text)


def output_text(model: Model) -> str:
    """Return what an app must know of the output of a float32 file."""
    if model.labels:
        return "labels (1, H, W), int32: the class of each pixel"
    return (
        "scores (1, h, w, classes)"
        if model.dense
        else "logits (1, classes); softmax makes them probabilities"
    )


def read(path: Path) -> Contents:
    """Return the class names and the metadata of a float32 or an int8 file, and its input size."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        with zipfile.ZipFile(path) as archive:
            if max(archive.getinfo(name).file_size for name in (LABELS, ABOUT)) > _MOST_BYTES:
                raise ValueError("its class names are too large")
            labels = archive.read(LABELS).decode()
            about = dict(json.loads(archive.read(ABOUT)))
        (taken,) = Interpreter(model_path=str(path)).get_input_details()
        # (1, H, W, 3)
        _, height, width, _ = (int(side) for side in taken["shape"])
    # A damaged archive, its compressed parts, the metadata and the model all have errors of their own.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: is not a .tflite file of `nas export`, whose class names it would hold"
            f" ({reason}). Fix: nas export RUN --to litert"
        ) from None
    return Contents(
        classes=tuple(labels.splitlines()),
        resolution=(height, width),
        about={key: value for key, value in about.items() if isinstance(value, str)},
        dense=str(about.get("output", "")).startswith(DENSE),
    )


def run(path: Path, images: Images) -> Outputs:
    """Return the outputs of a float32 or an int8 file for images (N, 3, H, W).

    Inputs of an int8 file are quantised here, its outputs dequantised.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    outputs = []
    for image in images:
        # (3, H, W) to (1, H, W, 3).
        interpreter.set_tensor(
            taken["index"], _quantised(image.transpose(1, 2, 0)[None].astype(np.float32), taken)
        )
        interpreter.invoke()
        output = _plain(interpreter.get_tensor(given["index"]), given)
        # Scores (1, H, W, classes) to (1, classes, H, W); logits (1, classes) stay.
        outputs.append(output.transpose(0, 3, 1, 2) if output.ndim == 4 else output)
    return np.concatenate(outputs)


def _quantised(values: Outputs, details: dict[str, Any]) -> NDArray[Any]:
    """Return values as an input takes them: round(value / scale) + zero point, where it is int8."""
    if details["dtype"] == np.float32:
        return values
    scale, zero = details["quantization"]
    # Clipped, as a conversion to an integer type wraps around.
    limits = np.iinfo(details["dtype"])
    steps: NDArray[Any] = np.clip(np.round(values / scale) + zero, limits.min, limits.max).astype(
        details["dtype"]
    )
    return steps


def _plain(values: NDArray[Any], details: dict[str, Any]) -> Outputs:
    """Return an output in float32: (step - zero point) * scale, where it is int8."""
    if details["dtype"] == np.float32:
        return values
    if details["dtype"] != np.int8:  # labels
        return values.astype(np.float32)
    scale, zero = details["quantization"]
    # To float first: the difference of two int8 values may not fit into int8.
    return np.asarray((values.astype(np.float32) - zero) * scale, np.float32)


TARGET = Target(
    "model.tflite",
    write,
    packages=("litert-torch", "ai-edge-litert", "torch"),
    run=run,
    read=read,
    alone=litert_convert.convert,
)
