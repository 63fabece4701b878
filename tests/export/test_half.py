"""What a network needs to compute in float16 alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nas
from nas.blocks import AdditiveEncoder, BlockSpec, EfficientViTModule, Shape
from nas.blocks.build import build_block
from nas.blocks.efficientvit.module import LiteMLA, attend
from nas.export.deploy import deployed
from nas.export.target import Model
from nas.export.targets import coreml
from nas.export.targets.coreml import SMALLEST, raise_guards, rescale
from nas.space import Architecture

MODULES = {
    "linear": (EfficientViTModule(expansion=2, head_dim=8), Shape(16, 8, 8)),
    "quadratic": (EfficientViTModule(expansion=2, head_dim=8), Shape(16, 2, 2)),
}
"""Of both forms of the attention."""


@torch.no_grad()
@pytest.mark.parametrize("form", MODULES)
def test_rescaling_changes_nothing_in_float32(form: str) -> None:
    spec, shape = MODULES[form]
    block = build_block(spec, shape).eval()
    for parameter in block.parameters():
        parameter.normal_(0, 0.5)
    x_bchw = torch.randn(2, *shape.tensor()[1:])
    expected = block(x_bchw)
    before = block.attention.qkv.weight.clone()
    found = rescale(copy.deepcopy(block))
    torch.testing.assert_close(found(x_bchw), expected, rtol=1e-4, atol=1e-4)
    factor = 2.0 ** -round(np.log2(shape.tokens) / 2)
    assert factor < 1
    torch.testing.assert_close(
        found.attention.qkv.weight[:32], before[:32] * factor, rtol=0, atol=0
    )
    torch.testing.assert_close(found.attention.qkv.weight[32:], before[32:], rtol=0, atol=0)


@torch.no_grad()
def test_sums_overflow_float16_without_rescaling_and_not_with_it() -> None:
    """Products in float16, as a Neural Engine computes them; torch's own module computes them in
    float32."""
    spec = EfficientViTModule(expansion=2, head_dim=16)
    shape = Shape(32, 28, 28)
    block = build_block(spec, shape).eval()
    block.attention.qkv.weight.normal_(0, 1.0)
    x_bchw = torch.randn(1, *shape.tensor()[1:])
    assert not torch.isfinite(_in_half(block.attention, x_bchw)).all()
    expected = _exact(block.attention, x_bchw)
    found = _in_half(rescale(block).attention, x_bchw)
    assert torch.isfinite(found).all()
    assert (found.float() - expected).abs().mean() < 0.02 * expected.std()


def _exact(attention: LiteMLA, x_bchw: Tensor) -> Tensor:
    return attend(*_heads(attention, x_bchw))


def _in_half(attention: LiteMLA, x_bchw: Tensor) -> Tensor:
    """`nas.blocks.efficientvit.module.linear` with its eps raised, every product rounded to
    float16."""
    q, k, v = (part.half() for part in _heads(attention, x_bchw))
    q = q.relu()
    k = k.relu()
    sums = torch.nn.functional.pad(v, (0, 0, 0, 1), value=1.0) @ k.transpose(2, 3)
    mixed = sums @ q
    return mixed[:, :, :-1] / (mixed[:, :, -1:] + SMALLEST)


def _heads(attention: LiteMLA, x_bchw: Tensor) -> tuple[Tensor, ...]:
    qkv = attention.qkv(x_bchw)
    return tuple(
        part.reshape(1, -1, attention.head_dim, x_bchw.shape[2] * x_bchw.shape[3])
        for part in qkv.chunk(3, 1)
    )


def constants(module: nn.Module, shape: Shape) -> list[float]:
    """What an exported module adds to, or does not fall below, as numbers in its graph."""
    program = torch.export.export(module, (torch.randn(*shape.tensor()),)).run_decompositions({})
    raise_guards(program)
    return [
        value
        for node in program.graph.nodes
        if "add" in str(node.target) or "clamp" in str(node.target)
        for value in node.args
        if isinstance(value, float)
    ]


@pytest.mark.parametrize(
    ("spec", "shape"),
    [*MODULES.values(), (AdditiveEncoder(expansion=2), Shape(8, 4, 4))],
    ids=[*MODULES, "additive"],
)
def test_no_guard_is_0_in_float16(spec: BlockSpec, shape: Shape) -> None:
    found = constants(build_block(spec, shape).eval(), shape)
    assert SMALLEST in found
    assert all(np.float16(value) >= SMALLEST for value in found if value > 0)


@pytest.mark.parametrize(
    "block", [EfficientViTModule(2, 8), AdditiveEncoder(2)], ids=lambda block: block.kind
)
def test_the_ml_program_divides_by_no_0(
    block: BlockSpec, make_small: Callable[..., Architecture], make_model: Callable[..., Model]
) -> None:
    """Every small constant that is added, or that is a floor, is a normal number of float16."""
    found = guards(coreml.convert(make_model(make_small(block))).get_spec())
    assert found, "the attention has a guard"
    assert min(found) >= SMALLEST


def guards(spec: object) -> list[float]:
    """Scalar float16 constants of additions, maxima and clips of an ML program."""
    values: dict[str, float] = {}
    for operation in coreml.operations(spec):
        if operation.type == "const":
            tensor = operation.attributes["val"].immediateValue.tensor
            if tensor.WhichOneof("value") == "bytes" and len(tensor.bytes.values) == 2:
                values[operation.outputs[0].name] = float(
                    np.frombuffer(tensor.bytes.values, np.float16)[0]
                )
    return [
        abs(values[argument.name])
        for operation in coreml.operations(spec)
        if operation.type in ("add", "maximum", "clip")
        for name in operation.inputs
        for argument in operation.inputs[name].arguments
        if argument.name in values and name in ("x", "y", "alpha")
    ]


@torch.no_grad()
def test_a_whole_network_gives_the_same(
    tiny: Callable[..., Architecture], make_model: Callable[..., Model]
) -> None:
    model = make_model(tiny("efficientvit_b0"))
    x_bchw = torch.randn(2, 3, 64, 64)
    found = rescale(deployed(model.network()))(x_bchw)
    torch.testing.assert_close(found, model.network()(x_bchw), rtol=1e-4, atol=1e-4)
    assert isinstance(model.network(), nas.Network)
