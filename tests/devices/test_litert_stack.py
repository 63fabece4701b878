"""Stacks of copies, made of the file of one copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nas.blocks import (
    IRMB,
    MB3D,
    MB4D,
    AdditiveEncoder,
    ConvStem,
    EfficientViTModule,
    Operation,
    Shape,
)
from nas.convert.litert import build, convert, repeat
from nas.devices import Chain
from nas.errors import NasError

OPERATIONS = [
    Operation("map", MB4D(expansion=2), Shape(16, 8, 8)),
    Operation(
        "tokens", MB3D(heads=2, key_dim=8, value_ratio=2, expansion=2), Shape(16, 4, 4, "tokens")
    ),
    Operation("additive", AdditiveEncoder(expansion=2), Shape(16, 4, 4)),
    Operation("linear", EfficientViTModule(expansion=2, head_dim=8), Shape(16, 4, 4)),
    Operation("window", IRMB(expansion=2, attention=True, head_dim=8, window=2), Shape(16, 4, 4)),
]


def operators(path: Path) -> list[int]:
    from ai_edge_litert.tools.flatbuffer_utils import read_model

    model = read_model(path)
    return [
        model.operatorCodes[each.opcodeIndex].builtinCode for each in model.subgraphs[0].operators
    ]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_a_stack_gives_what_copies_give_in_a_row(operation: Operation, tmp_path: Path) -> None:
    """With the signature and without, as runtimes use either."""
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.interpreter import Interpreter

    chain = Chain.stack(operation, 3)
    path = tmp_path / "stack.tflite"
    convert(chain, path)
    single = tmp_path / "one.tflite"
    convert(Chain.stack(operation), single)
    assert operators(path) == 3 * operators(single)
    assert path.stat().st_size < 3 * single.stat().st_size, "one set of weights"
    torch.manual_seed(0)
    module, _ = build(Chain.stack(operation))
    x = torch.randn(operation.input.tensor())
    with torch.no_grad():
        expected = module(module(module(x)))
    image = operation.input.layout == "map"
    given = (x.permute(0, 2, 3, 1) if image else x).contiguous().numpy()
    wanted = (expected.permute(0, 2, 3, 1) if image else expected).contiguous().numpy()

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], given)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert np.allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())

    model = CompiledModel.from_file(str(path))
    inputs = model.create_input_buffers(0)
    outputs = model.create_output_buffers(0)
    inputs[0].write(given.ravel())
    model.run_by_index(0, inputs, outputs)
    assert np.allclose(
        outputs[0].read(wanted.size, np.float32), wanted.ravel(), atol=1e-4 * np.abs(wanted).max()
    )


def test_what_does_not_give_what_it_takes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stem.tflite"
    convert(Chain.stack(Operation("stem", ConvStem(width=8), Shape(3, 32, 32))), path)
    before = path.read_bytes()
    with pytest.raises(NasError, match=r"stem\.tflite"):
        repeat(path, 2)
    assert path.read_bytes() == before
