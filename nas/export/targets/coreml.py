"""Core ML export: an ML program of a network, in half precision where that is safe."""

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
from nas.errors import NasError
from nas.export.deploy import Deployed, deployed
from nas.export.target import Model, Target

INPUT = "image"
SCORES = "scores"
LABEL = "classLabel"
SPECIFICATION = 7
"""Of iOS 16 and macOS 13."""
NOTE = "converted and inspected, not run: Core ML runs on Apple's systems alone"


def write(model: Model, path: Path) -> None:
    convert(model).save(str(path))


def convert(model: Model) -> Any:
    """Return the `coremltools.models.MLModel`: an image to a class label and each class's
    probability, or to scores.

    The image comes as it is, and the graph normalises it, in float16 as all else: an image input's
    own scale and bias become float32 operations, which no Neural Engine runs, and know no deviation
    of each channel.
    """
    import coremltools as ct

    shape = (1, 3, *model.architecture.resolution)
    module: nn.Module = Deployed(rescale(deployed(model.network())))
    if not model.dense:
        module = nn.Sequential(module, nn.Softmax(dim=1))
    program = torch.export.export(module.eval(), (torch.rand(shape),)).run_decompositions({})
    ends: dict[str, Any] = {"classifier_config": ct.ClassifierConfig(list(model.classes), LABEL)}
    if model.dense:
        ends = {"outputs": [ct.TensorType(SCORES)]}
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
    height, width = model.architecture.resolution
    converted.author = model.about["author"]
    converted.version = model.about["version"]
    converted.short_description = model.about["description"]
    converted.input_description[INPUT] = (
        f"RGB image of {width}x{height} pixels; normalised inside the model"
    )
    output = SCORES if model.dense else f"{LABEL}_probs"
    converted.output_description[output] = (
        "Scores of each class" if model.dense else "Probability of each class"
    )
    converted.user_defined_metadata["classes"] = json.dumps(model.classes, ensure_ascii=False)
    for name in ("name", "weights"):
        converted.user_defined_metadata[name] = model.about[name]


def inspect(path: Path, model: Model) -> dict[str, Any]:
    """Return shapes, types, image input and class labels by the program's specification.

    Raises:
        NasError: when one of them is not as an app expects it.
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
        "types": ["FLOAT16"],
        "labels": 0 if model.dense else len(model.classes),
    }
    wrong = [
        f"{name} {found[name]}, expected {value}"
        for name, value in wanted.items()
        if found[name] != value
    ]
    if not model.dense and _labels(spec) != list(model.classes):
        wrong.append("other class labels")
    if wrong:
        raise NasError(f"the ML program is not what was asked for: {'; '.join(wrong)}")
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
    """Return what the program computes in; constants aside, which may be kept in fewer bits, and
    the cast to the outputs."""
    from coremltools.proto import MIL_pb2

    return {
        MIL_pb2.DataType.Name(output.type.tensorType.dataType)
        for operation in operations(spec)
        for output in operation.outputs
        if operation.type not in ("const", "cast", "classify")
    }


def _labels(spec: Any) -> list[str]:
    """Return the labels in the operation that classifies."""
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
TARGET = Target(
    "model.mlpackage",
    write,
    packages=PACKAGES,
    alone=coreml_convert.convert,
    inspect=inspect,
    note=NOTE,
)


SMALLEST = float(np.finfo(np.float16).smallest_normal)
"""6.1e-5. What is smaller has fewer digits, and is 0 on hardware that flushes it, as Neural Engines
are said to do."""

_GUARDS = (
    torch.ops.aten.add.Tensor,
    torch.ops.aten.add.Scalar,
    torch.ops.aten.clamp_min.default,
    torch.ops.aten.clamp.default,
    torch.ops.aten.maximum.default,
)


def rescale(network: nn.Module) -> nn.Module:
    """Make the sums inside blocks fit float16, in place; what the network gives stays the same."""
    for block in network.modules():
        if isinstance(block, Block):
            block.fit_float16()
    return network


def raise_guards(program: ExportedProgram) -> ExportedProgram:
    """Make what keeps a division from dividing by 0 a number that float16 holds, in place.

    An eps of 1e-15 that is added to a denominator, or a floor of 1e-24 under a sum of squares, is 0
    in float16: where nothing else is there, 0 / 0 results. Constants between 0 and SMALLEST become
    SMALLEST.
    """
    for node in program.graph.nodes:
        if node.op == "call_function" and node.target in _GUARDS:
            node.args = tuple(_raised(value) for value in node.args)
    return program


def _raised(value: Any) -> Any:
    return SMALLEST if isinstance(value, float) and 0 < value < SMALLEST else value
