"""Worker that converts chains to ML programs (.mlpackage); `converter` starts it as a process."""

from __future__ import annotations

import gc
import os
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn
from torch.export import ExportedProgram

from nas.blocks import Shape
from nas.convert.chain import Chain
from nas.convert.litert import build
from nas.convert.worker import serve
from nas.files import beside

PERIOD = 4093
"""Number of values in the pattern of random weights.

It is prime, so that rows of a matrix differ, and takes 8 kB in float16: the window of deflate, 32
kB, holds several periods. So many different values cannot be palettised.
"""
STRIDE = 37
"""Offset in the pattern between a tensor and the next."""


def main() -> None:
    serve(_answer, _start)


def _start() -> None:
    import coremltools  # noqa: F401 (for the freeze to find it there)

    torch.set_num_threads(1)
    gc.freeze()  # as in nas.convert.litert


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    if request["cores"]:
        os.sched_setaffinity(0, request["cores"])
    convert(Chain.from_dict(request["chain"]), Path(request["path"]))
    return {}


def convert(chain: Chain, path: Path) -> None:
    """Write a chain in its deployed form as a float16 ML program.

    It has its weights, or random ones. Maps stay (1, C, H, W), and tensors have at most five
    dimensions, as Core ML requires. Input and output are float16 too. Otherwise a type conversion
    at either end, which no operation inside a network has, would run on the CPU.
    """
    # The copies of a stack have weights of their own: it is not documented whether a Neural Engine
    # fetches shared ones once or each time.
    model = to_ml_program(replace(chain, tied=False))
    # The package gets its name last. It is a folder, and a kill must not leave an incomplete one
    # under the name by which the cache finds it.
    with beside(path) as package:
        model.save(str(package))
        shutil.rmtree(path, ignore_errors=True)
        package.rename(path)


def to_ml_program(chain: Chain) -> Any:
    """Return the `coremltools.models.MLModel` of a chain, for iOS 16 and macOS 13 and later."""
    import coremltools as ct

    register_operations()
    torch.manual_seed(0)
    module, _ = build(chain)
    if chain.weights is None:
        tile_weights(module)
    shapes = [shape.tensor() for shape in _inputs(chain)]
    program = torch.export.export(
        module, tuple(torch.randn(*shape) for shape in shapes)
    ).run_decompositions({})
    # The model is not loaded, which only macOS can do: the conversion runs on Linux too.
    return ct.convert(
        without_aliases(program),
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS16,
        compute_precision=ct.precision.FLOAT16,
        skip_model_load=True,
        inputs=[
            ct.TensorType(f"x{index}", shape, dtype=np.float16)
            for index, shape in enumerate(shapes)
        ],
        outputs=[ct.TensorType("y", dtype=np.float16)],
    )


def tile_weights(module: nn.Module) -> None:
    """Replace the random weights of a module by a pattern that repeats, in place.

    Only the time of a chain without trained weights is of interest. It does not depend on the
    values, and a file of a repeating pattern takes a hundredth of its size once it is compressed.
    Each tensor keeps its mean and spread, so that no activation overflows float16 or dies.
    """
    pattern = torch.randn(PERIOD, generator=torch.Generator().manual_seed(0))
    for index, tensor in enumerate([*module.parameters(), *module.buffers()]):
        if not tensor.is_floating_point() or tensor.numel() <= PERIOD:
            continue
        # Each tensor begins elsewhere in the pattern. Equal ones would be merged by coremltools,
        # and the copies of a stack would share weights.
        start = index * STRIDE % PERIOD
        repeats = -(-(tensor.numel() + start) // PERIOD)
        values = pattern.repeat(repeats)[start : start + tensor.numel()].reshape(tensor.shape)
        with torch.no_grad():
            tensor.copy_(values * tensor.std() + tensor.mean())


def _inputs(chain: Chain) -> tuple[Shape, ...]:
    return chain.input.levels if chain.input.layout == "pyramid" else (chain.input,)


@cache
def register_operations() -> None:
    """Tell coremltools how Core ML computes bicubic upsampling, for which it has no operation.

    Both conversions (here and in `nas.export.targets.coreml`) call it before they begin.
    """
    from coremltools.converters.mil import Builder, register_torch_op

    @register_torch_op(torch_alias=["upsample_bicubic2d.vec"])  # type: ignore[untyped-decorator]
    def upsample_bicubic2d(context: Any, node: Any) -> None:
        maps = context[node.inputs[0]]  # (B, C, H, W)
        height, width = node.inputs[1]
        rows = bicubic_matrix(maps.shape[2], height)
        columns = bicubic_matrix(maps.shape[3], width)
        # The interpolation is linear and works on rows and columns separately, so it is R X C^T.
        tall = Builder.matmul(x=rows, y=maps)
        context.add(Builder.matmul(x=tall, y=columns.T.copy(), name=node.name))


def bicubic_matrix(before: int, after: int) -> NDArray[np.float32]:
    """Return the matrix (after, before) that resizes a column of values as torch does."""
    # The columns of the identity are the unit vectors, and along the other side nothing is resized.
    unit = torch.eye(before)[None, None]
    resized = F.interpolate(unit, size=(after, before), mode="bicubic", align_corners=False)
    matrix: NDArray[np.float32] = resized[0, 0].numpy()
    return matrix


def without_aliases(program: ExportedProgram) -> ExportedProgram:
    """Remove the operations `alias`, which coremltools 9 does not know, from a program in place.

    They compute nothing. A slice that keeps every element becomes one.
    """
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten.alias.default:
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
    return program


if __name__ == "__main__":
    main()
