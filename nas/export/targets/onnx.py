"""Target `onnx`: one ONNX file with normalisation and metadata inside."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from nas.convert.chain import Chain
from nas.data.images import MEAN, STD
from nas.data.palette import colours
from nas.errors import InputError
from nas.export.deploy import Deployed, answering, deployed
from nas.export.target import DENSE, Contents, Images, Model, Outputs, Target

OPSET = 18
"""ONNX operator set: the first that torch's exporter writes without a version conversion."""
INPUT = "image"
OUTPUT = "logits"
LABELS = "labels"
"""Name of the output where it is the class of each pixel."""


def write(model: Model, path: Path) -> None:
    """Write a file that maps pixels (1, 3, H, W) to logits (1, classes).

    Pixels are RGB from 0 to 255 in float32. Dense prediction gives scores (1, classes, h, w) or
    labels (1, H, W). Names of the classes are in `metadata_props`.

    The exporter does not optimise the graph; ONNX Runtime does so when it loads a file. The
    exporter's optimiser drops the addition of a small number as if it were 0. EfficientViT's
    attention adds 1e-15 to avoid a division by 0.
    """
    import onnx

    height, width = model.architecture.resolution
    program = torch.onnx.export(
        answering(model, Deployed(deployed(model.network()))).eval(),
        (torch.zeros(1, 3, height, width),),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=[LABELS if model.labels else OUTPUT],
        optimize=False,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, metadata(model))
    proto.doc_string = model.about["description"]
    proto.producer_name = "nas"
    # The exporter stamps the newest version of the container. Runtimes refuse one that they do not
    # know, although they know every operator inside.
    proto.ir_version = onnx.helper.find_min_ir_version_for(list(proto.opset_import))
    onnx.save(proto, str(path))


def metadata(model: Model) -> dict[str, str]:
    """Return the entries of `metadata_props`; lists are JSON."""
    return {
        **model.about,
        "classes": json.dumps(model.classes, ensure_ascii=False),
        "input": "RGB pixels from 0 to 255, NCHW, float32; normalised inside the model",
        "mean": json.dumps(MEAN),
        "std": json.dumps(STD),
        "output": _output(model),
        **({"colours": json.dumps(colours(len(model.classes)))} if model.dense else {}),
    }


def _output(model: Model) -> str:
    """Return what an app must know of the output."""
    if model.labels:
        return "labels (1, H, W), int32: the class of each pixel"
    return (
        "scores (1, classes, h, w)"
        if model.dense
        else "logits (1, classes); softmax makes them probabilities"
    )


def read(path: Path) -> Contents:
    """Return the class names and the metadata of a file, and its input size."""
    import onnx

    try:
        proto = onnx.load(str(path), load_external_data=False)
        about = {each.key: each.value for each in proto.metadata_props}
        classes = tuple(map(str, json.loads(about["classes"])))
        sides = proto.graph.input[0].type.tensor_type.shape.dim
        # (1, 3, H, W)
        _, _, height, width = (int(side.dim_value) for side in sides)
    # onnx raises protobuf's own error for a damaged file.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: is not an .onnx file of `nas export`, whose class names it would hold"
            f" ({reason}). Fix: nas export RUN --to onnx"
        ) from None
    dense = about.get("output", "").startswith(DENSE)
    return Contents(classes, (height, width), about, dense)


def run(path: Path, images: Images) -> Outputs:
    """Return the outputs of a file for images (N, 3, H, W)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # One image at a time: the graph has a fixed batch of 1.
    return np.concatenate(
        [session.run(None, {INPUT: image[None].astype(np.float32)})[0] for image in images]
    )


def alone(chain: Chain, path: Path) -> None:
    """Write a chain of operations alone, to find out whether ONNX can express it."""
    from nas.convert.litert import build

    module, _ = build(chain)
    inputs = chain.input.levels if chain.input.layout == "pyramid" else (chain.input,)
    examples = tuple(torch.zeros(*each.tensor()) for each in inputs)
    torch.onnx.export(module, examples, str(path), dynamo=True, opset_version=OPSET, verbose=False)


TARGET = Target(
    "model.onnx",
    write,
    packages=("onnx", "onnxscript", "onnxruntime", "torch"),
    run=run,
    read=read,
    alone=alone,
)
