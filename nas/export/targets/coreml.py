"""Target `coreml`: an ML program of a network that computes in float16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram

from nas.blocks.module import Block
from nas.convert import coreml as coreml_convert
from nas.data.palette import colours
from nas.errors import NasError
from nas.export.deploy import Deployed, answering, deployed
from nas.export.target import Model, Target

INPUT = "image"
SCORES, LABELS = "scores", "labels"
LABEL = "classLabel"
SPECIFICATION = 7
"""Version of the Core ML specification that iOS 16 and macOS 13 introduced."""
PREVIEW_TYPE = "com.apple.coreml.model.preview.type"
PREVIEW_PARAMS = "com.apple.coreml.model.preview.params"
NOTE = "converted and inspected, not run: Core ML runs on Apple's systems alone"


def write(model: Model, path: Path) -> None:
    convert(model).save(str(path))


def convert(model: Model) -> Any:
    """Return the `coremltools.models.MLModel` of a network.

    It takes an image and gives a class label and the probability of each class, or scores or labels
    of dense prediction.

    The graph normalises the image, in float16 as everything else. The scale and bias of
    `ct.ImageType` are not used: they become float32 operations, which no Neural Engine runs, and
    have no standard deviation per channel.
    """
    import coremltools as ct

    shape = (1, 3, *model.architecture.resolution)
    # An app expects probabilities from a classifier; the network ends with logits (1, classes).
    module = answering(model, Deployed(rescale(deployed(model.network()))))
    if not model.dense:
        module = nn.Sequential(module, nn.Softmax(dim=1))
    program = torch.export.export(module.eval(), (torch.rand(shape),)).run_decompositions({})
    ends: dict[str, Any] = {"classifier_config": ct.ClassifierConfig(list(model.classes), LABEL)}
    if model.dense:
        ends = {"outputs": [ct.TensorType(_output(model))]}
    # Core ML loads models on Apple's systems alone, so the conversion does not try.
    coreml_convert.register_operations()
    converted = ct.convert(
        raise_guards(coreml_convert.without_aliases(program)),
        convert_to="mlprogram",
        skip_model_load=True,
        minimum_deployment_target=ct.target.iOS16,
        compute_precision=ct.precision.FLOAT16,
        inputs=[ct.ImageType(INPUT, shape, color_layout=ct.colorlayout.RGB)],
        **ends,
    )
    _describe(converted, model)
    return converted


def _describe(converted: Any, model: Model) -> None:
    """Fill in the texts that Xcode shows, and the metadata."""
    height, width = model.architecture.resolution
    converted.author = model.about["author"]
    converted.version = model.about["version"]
    converted.short_description = model.about["description"]
    converted.input_description[INPUT] = (
        f"RGB image of {width}x{height} pixels; normalised inside the model"
    )
    converted.output_description[_output(model)] = {
        SCORES: "Scores of each class",
        LABELS: "Class of each pixel",
    }.get(_output(model), "Probability of each class")
    if model.dense:
        # Xcode shows the segmentation of a photo in these colours.
        params = {"labels": list(model.classes), "colors": colours(len(model.classes))}
        converted.user_defined_metadata[PREVIEW_TYPE] = "imageSegmenter"
        converted.user_defined_metadata[PREVIEW_PARAMS] = json.dumps(params, ensure_ascii=False)
    converted.user_defined_metadata["classes"] = json.dumps(model.classes, ensure_ascii=False)
    for name in ("name", "weights"):
        converted.user_defined_metadata[name] = model.about[name]


def _output(model: Model) -> str:
    """Return the name of the output."""
    if not model.dense:
        return f"{LABEL}_probs"
    return LABELS if model.labels else SCORES


def inspect(path: Path, model: Model) -> dict[str, Any]:
    """Return specification version, image input, types and number of labels of an ML program.

    Raises:
        NasError: when one of them is not as expected.
    """
    import coremltools as ct

    spec = ct.utils.load_spec(str(path))
    image = spec.description.input[0].type.imageType
    found = {
        "specification": spec.specificationVersion,
        "image": [image.height, image.width, image.ColorSpace.Name(image.colorSpace)],
        "types": sorted(_types(spec)),
        "labels": len(_labels(spec)),
    }
    wanted: dict[str, Any] = {
        "specification": SPECIFICATION,
        "image": [*model.architecture.resolution, "RGB"],
        # The number of a class is an integer.
        "types": ["FLOAT16", "INT32"] if model.labels else ["FLOAT16"],
        "labels": 0 if model.dense else len(model.classes),
    }
    wrong = [
        f"{name} {found[name]}, expected {value}"
        for name, value in wanted.items()
        if found[name] != value
    ]
    if not model.dense and _labels(spec) != list(model.classes):
        wrong.append("class labels differ from the network's")
    if wrong:
        raise NasError(f"the ML program differs from the request: {'; '.join(wrong)}")
    return found


def operations(spec: Any) -> list[Any]:
    """Return the operations of an ML program."""
    return [
        operation
        for function in spec.mlProgram.functions.values()
        for block in function.block_specializations.values()
        for operation in block.operations
    ]


def _types(spec: Any) -> set[str]:
    """Return the types in which the program computes.

    Constants do not count, as they may be stored in fewer bits. Nor do the casts to the outputs.
    """
    from coremltools.proto import MIL_pb2

    return {
        MIL_pb2.DataType.Name(output.type.tensorType.dataType)
        for operation in operations(spec)
        for output in operation.outputs
        if operation.type not in ("const", "cast", "classify")
    }


def _labels(spec: Any) -> list[str]:
    """Return the labels in the operation that classifies, or [] without one."""
    for operation in operations(spec):
        if operation.type == "classify":
            (classes,) = operation.inputs["classes"].arguments
            return [
                text
                for value in classes.value.immediateValue.list.values
                for text in value.immediateValue.tensor.strings.values
            ]
    return []


PACKAGES = ("coremltools", "torch")
MARK = "Manifest.json"
"""File in every Core ML package."""
TARGET = Target(
    "model.mlpackage",
    write,
    packages=PACKAGES,
    alone=coreml_convert.convert,
    inspect=inspect,
    note=NOTE,
    mark=MARK,
)


SMALLEST = float(np.finfo(np.float16).smallest_normal)
"""The smallest normal number of float16, 6.1e-5.

Smaller ones have fewer digits. Hardware that flushes them to 0, as Neural Engines are said to,
loses them.
"""

_GUARDS = (
    torch.ops.aten.add.Tensor,
    torch.ops.aten.add.Scalar,
    torch.ops.aten.clamp_min.default,
    torch.ops.aten.clamp.default,
    torch.ops.aten.maximum.default,
)


def rescale(network: nn.Module) -> nn.Module:
    """Rescale weights in place so that sums inside blocks fit float16; outputs stay the same."""
    for block in network.modules():
        if isinstance(block, Block):
            block.fit_float16()
    return network


def raise_guards(program: ExportedProgram) -> ExportedProgram:
    """Raise constants that guard a division to numbers that float16 holds, in place.

    An eps of 1e-15 that is added to a denominator, or a floor of 1e-24 under a sum of squares, is 0
    in float16, and 0 / 0 may result. Constants between 0 and SMALLEST become SMALLEST.
    """
    # Only additions and floors guard. A small factor, say, must stay as it is.
    for node in program.graph.nodes:
        if node.op == "call_function" and node.target in _GUARDS:
            node.args = tuple(_raised(value) for value in node.args)
    return program


def _raised(value: Any) -> Any:
    return SMALLEST if isinstance(value, float) and 0 < value < SMALLEST else value
