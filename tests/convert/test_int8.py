"""Chains in int8: what stays in float32, stacks that run, and names in the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.blocks import MB3D, MB4D, BlockSpec, EfficientViTModule, Operation, Shape
from nas.convert import litert_int8
from nas.convert.chain import Chain
from nas.convert.converter import LITERT, LITERT_INT8, Converter
from nas.convert.int8 import OPERATORS_FILE, slow_operators
from nas.devices.board.runner.timer import load
from nas.files import YamlFile
from nas.space import Space

Found = dict[str, set[str]]


def operators(path: Path) -> Found:
    """The operators of a file, each with the types of its tensors that are no constants."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    assert len(model.subgraphs) == 1
    names = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    types = {value: name for name, value in vars(schema.TensorType).items()}
    found: Found = {}
    for operator in model.subgraphs[0].operators:
        code = model.operatorCodes[operator.opcodeIndex]
        tensors = [
            model.subgraphs[0].tensors[i] for i in [*operator.inputs, *operator.outputs] if i >= 0
        ]
        moving = {types[each.type] for each in tensors if model.buffers[each.buffer].data is None}
        name = str(names[max(code.builtinCode, code.deprecatedBuiltinCode)])
        found[name] = found.get(name, set()) | moving
    return found


def graph(path: Path) -> Any:
    """The only graph of a file."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0).subgraphs[0]


BLOCKS: dict[str, tuple[BlockSpec, Shape, set[str]]] = {
    "mb4d": (MB4D(expansion=2), Shape(16, 8, 8), {"AVERAGE_POOL_2D", "GELU"}),
    "mb3d": (
        MB3D(heads=2, key_dim=4, value_ratio=2, expansion=2),
        Shape(8, 3, 3, "tokens"),
        {"BATCH_MATMUL", "SOFTMAX", "GELU"},
    ),
    "efficientvit": (
        EfficientViTModule(expansion=2, head_dim=4),
        Shape(8, 4, 4),
        {"BATCH_MATMUL", "HARD_SWISH"},
    ),
}
"""Blocks with their input, and operators that they have and int8 makes slower."""


@pytest.mark.parametrize("name", BLOCKS)
def test_what_int8_makes_slower_stays_float32_and_convolutions_do_not(
    name: str, tmp_path: Path
) -> None:
    spec, shape, slow = BLOCKS[name]
    litert_int8.convert(Chain.stack(Operation("block", spec, shape)), tmp_path / "one.tflite")
    found = operators(tmp_path / "one.tflite")
    assert slow <= found.keys()
    for operator in set(slow_operators()) & found.keys():
        assert "INT8" not in found[operator], operator
    multiplies = found.keys() & {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
    assert multiplies
    assert any("INT8" in found[each] for each in multiplies)
    assert [path.name for path in tmp_path.iterdir()] == ["one.tflite"], "no float32 file is left"


def test_a_stack_runs_and_a_copy_follows_a_copy(tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    spec, shape, _ = BLOCKS["mb4d"]
    counts = []
    for copies in (1, 3):
        path = tmp_path / f"{copies}.tflite"
        litert_int8.convert(Chain.stack(Operation("block", spec, shape), copies), path)
        load(str(path), 1)()
        interpreter = Interpreter(model_path=str(path))
        interpreter.allocate_tensors()
        (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
        assert taken["dtype"] == given["dtype"] == np.int8
        counts.append(len(graph(path).operators))
        if copies > 1:
            assert taken["quantization"] == given["quantization"], "no conversion in between"
    # A conversion at either end of the stack, if there is one, is repeated too.
    assert counts[1] == 3 * counts[0]


def test_the_list_has_a_figure_for_every_operator() -> None:
    """An operator that is slower in int8 in no network that was measured is not in the list."""
    listed: dict[str, dict[str, Any]] = YamlFile(OPERATORS_FILE).data["operators"]
    assert tuple(listed) == slow_operators()
    for operator, times in listed.items():
        assert max(times.values()) > 1, operator


def test_a_file_depends_on_the_list(
    small_space: Callable[..., Space], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain.stack(small_space().published["small_s"].operations()[0])

    def name(**settings: Any) -> str:
        converter = Converter(cache=tmp_path, **settings)
        try:
            return converter._name(chain)
        finally:
            converter.close()

    names = [name(target=LITERT), name(target=LITERT_INT8)]
    monkeypatch.setattr("nas.convert.int8.OPERATORS_FILE", tmp_path / "other.yaml")
    (tmp_path / "other.yaml").write_text("operators: {GELU: {emo_2m: 1.1}}\n")
    slow_operators.cache_clear()
    try:
        names.append(name(target=LITERT_INT8))
    finally:
        slow_operators.cache_clear()
    assert len(set(names)) == 3
