"""ML programs: every block of the vocabulary, small, as Core ML wants it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nas.blocks import MB4D, SPECS, FPNHead, Operation, Shape, parse
from nas.convert.coreml import convert, to_ml_program
from nas.devices import Chain
from nas.space import Space

EXAMPLES = [(kind, *example) for kind, spec in SPECS.items() for example in spec.examples]


@pytest.mark.parametrize("kind, hyperparameters, shape", EXAMPLES)
def test_block_converts(kind: str, hyperparameters: str, shape: str) -> None:
    """The windows of irmb and the levels of the head are more than one."""
    chain = Chain((parse(kind, hyperparameters),), Shape.parse(shape))
    check(to_ml_program(chain), chain)


def test_linear_attention_converts_too() -> None:
    """Six by six tokens for heads of four channels: the form that is published for many tokens."""
    chain = Chain((parse("efficientvit_module", "expansion=2;head_dim=4"),), Shape(16, 6, 6))
    check(to_ml_program(chain), chain)


@pytest.mark.parametrize("dense", [False, True])
def test_network_converts(small_space: Callable[..., Space], dense: bool) -> None:
    space = small_space().with_head(FPNHead(5)) if dense else small_space()
    chain = Chain.network(space.smallest().operations())
    check(to_ml_program(chain), chain)


def test_copies_of_a_stack_have_weights_of_their_own(tmp_path: Path) -> None:
    operation = Operation("block", MB4D(expansion=4), Shape(32, 4, 4))
    sizes = []
    for copies in (1, 3):
        package = tmp_path / "packages" / f"{copies}.mlpackage"
        convert(Chain.stack(operation, copies), package)
        sizes.append(next(package.rglob("weight.bin")).stat().st_size)
    assert sizes[1] > 2.8 * sizes[0] > 2.8 * 2 * operation.params * 0.9
    assert sorted(path.name for path in package.parent.iterdir()) == ["1.mlpackage", "3.mlpackage"]


def test_package_replaces_an_older_one(tmp_path: Path) -> None:
    package = tmp_path / "a.mlpackage"
    package.mkdir()
    (package / "rubbish").touch()
    convert(Chain((MB4D(expansion=1),), Shape(4, 2, 2)), package)
    assert not (package / "rubbish").exists() and (package / "Manifest.json").is_file()


def check(model: Any, chain: Chain) -> None:
    """Names, shapes and types of what goes in and out; no tensor of more than five dimensions, and
    none of float32."""
    spec = model.get_spec()
    levels = chain.input.levels if chain.input.layout == "pyramid" else (chain.input,)
    last = chain.links()[-1]
    output = last.spec.output_shape(last.input)
    assert [feature(each) for each in spec.description.input] == [
        (f"x{i}", s.tensor()) for i, s in enumerate(levels)
    ]
    assert [feature(each) for each in spec.description.output] == [("y", output.tensor())]
    assert spec.specificationVersion == 7, "iOS 16 and macOS 13"
    ranks = [tensor.rank for _, tensor in tensors(spec)]
    assert ranks and max(ranks) <= 5
    halves = {type_name for type_name, _ in tensors(spec)}
    assert "FLOAT16" in halves and "FLOAT32" not in halves


def feature(description: Any) -> tuple[str, tuple[int, ...]]:
    array = description.type.multiArrayType
    assert array.ArrayDataType.Name(array.dataType) == "FLOAT16"
    return description.name, tuple(array.shape)


def tensors(spec: Any) -> Iterator[tuple[str, Any]]:
    """Element type and tensor type of what every operation of an ML program gives, constants left
    out."""
    from coremltools.proto import MIL_pb2

    for function in spec.mlProgram.functions.values():
        for block in function.block_specializations.values():
            for operation in block.operations:
                for output in operation.outputs:
                    if operation.type != "const":
                        yield (
                            MIL_pb2.DataType.Name(output.type.tensorType.dataType),
                            output.type.tensorType,
                        )
