"""Conformance tests for a block, which other packages can run on their own blocks.

    from nas.testing.blocks import check_block, check_kind
    check_block(MyBlock(expansion=2), Shape(16, 8, 8))
    check_kind(MyBlock)  # every one of MyBlock.examples

Every function raises AssertionError with what is wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nas.blocks import BlockSpec, Shape, from_dict, parse
from nas.blocks.build import build_block
from nas.blocks.module import Block, fold, group_of
from nas.convert.chain import OperationFailed
from nas.supernet.slicing import (
    Keep,
    first,
    group_order,
    group_tensors,
    inner_orders,
    kept_channels,
    slice_block,
)
from nas.weights import LAYOUTS


def examples(kind: type[BlockSpec]) -> list[tuple[BlockSpec, Shape]]:
    """Return the small blocks that a kind gives for tests, with their input shapes."""
    return [
        (parse(kind.kind, hyperparameters), Shape.parse(shape))
        for hyperparameters, shape in kind.examples
    ]


def check_kind(
    kind: type[BlockSpec], convert: bool = True, no_gradient: Collection[str] = ()
) -> None:
    """Run `check_block` on every example of a kind, which must have one."""
    assert kind.examples, (
        f"{kind.kind}: has no examples (got (), expected (hyperparameters, shape))"
    )
    for spec, shape in examples(kind):
        check_block(spec, shape, convert=convert, no_gradient=no_gradient)


def check_block(
    spec: BlockSpec,
    shape: Shape,
    narrower: Sequence[tuple[BlockSpec, Shape]] = (),
    convert: bool = True,
    no_gradient: Collection[str] = (),
) -> None:
    """Run all checks of this module on one block, on inputs of one shape.

    Args:
        spec: the block, large enough to cut `narrower` out of it.
        shape: of its input; it takes one tensor.
        narrower: other blocks of the kind that are to be slices of it: fewer channels, smaller
            elastic hyperparameters.
        convert: whether to also convert it to LiteRT and run it, which takes some seconds.
        no_gradient: parameters that get no gradient, because the output does not depend on them. An
            example is the bias of attention's keys.
    """
    check_text(spec, shape)
    check_formulas(spec, shape)
    check_axes(spec, shape)
    check_gradients(spec, shape, no_gradient)
    check_deploy(spec, shape)
    for smaller, its_shape in narrower:
        check_slice(spec, shape, smaller, its_shape)
    if convert:
        check_conversion(spec, shape)


def check_text(spec: BlockSpec, shape: Shape) -> None:
    """Check that the text and the dictionary of a block parse to the same block."""
    assert parse(spec.kind, str(spec)) == spec, f"parse('{spec.kind}', '{spec}') is another block"
    assert from_dict(spec.to_dict()) == spec, f"from_dict({spec.to_dict()}) is another block"
    assert Shape.parse(str(shape)) == shape
    for layer in spec.layers(shape):
        assert layer.read > 0 or layer.params, f"a layer neither reads nor has parameters: {layer}"


def check_formulas(spec: BlockSpec, shape: Shape) -> None:
    """Check parameters, output shape and MACs (within 1 %) against the module that is built."""
    block = build_block(spec, shape)
    count = sum(parameter.numel() for parameter in block.parameters())
    assert count == spec.params(shape), (
        f"the module has {count} parameters, the formula gives {spec.params(shape)}"
    )
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        output = block.eval()(torch.randn(shape.tensor(batch=1)))
    expected = spec.output_shape(shape).tensor()
    assert tuple(output.shape) == expected, (
        f"the module returns {tuple(output.shape)}, the formula gives {expected}"
    )
    # The counter counts a multiply-accumulate as two operations.
    macs = flops.get_total_flops() / 2
    formula = spec.macs(shape)
    assert abs(macs - formula) <= 0.01 * formula, (
        f"the module takes {macs:.0f} MACs, the formula gives {formula}"
    )


def check_gradients(spec: BlockSpec, shape: Shape, none_for: Collection[str] = ()) -> None:
    """Check for finite gradients of every parameter and the input, in training and eval mode.

    In training mode a bias before a batch norm has a gradient of zero, so gradients that are not
    zero are required in eval mode only.
    """
    block = randomised(spec, shape)
    x = torch.randn(shape.tensor(batch=2), requires_grad=True)
    for training in (True, False):
        block.train(training).zero_grad()
        # Random weights of the outputs: a plain sum after a norm would have a gradient of zero.
        torch.stack([(y * torch.randn_like(y)).sum() for y in _tensors(block(x))]).sum().backward()  # type: ignore[no-untyped-call]
        for name, parameter in block.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), (
                f"{name}: the gradient is not finite"
            )
            excused = name in none_for or name in block.without_gradient
            assert training or excused or parameter.grad.any(), f"{name} has no gradient"
    assert x.grad is not None and x.grad.any(), "no gradient reaches the input"


def check_deploy(spec: BlockSpec, shape: Shape) -> None:
    """Check that deploying and folding batch norms keep the output."""
    block = randomised(spec, shape).eval()
    with torch.no_grad():
        x = torch.randn(shape.tensor(batch=2))
        before = block(x)
        block.deploy()
        _alike(block(x), before, "deploying changes the output")
        fold(block)
        _alike(block(x), before, "folding changes the output")


def check_axes(spec: BlockSpec, shape: Shape) -> None:
    """Check that `axes` and `published` name the module's tensors, each once, in all dimensions."""
    block = build_block(spec, shape)
    tensors = block.state_dict()
    for name, axes in block.axes.items():
        if name in tensors:
            dims = tensors[name].dim()
            assert len(axes) == dims, f"axes give {name} {len(axes)} dimensions, it has {dims}"
    for layout, names in block.published.items():
        known = LAYOUTS.get(layout)
        # Tensors that the layout's code base does not have, without their places.
        zeros = {own.partition(".")[2] for own in known.zeros} if known else set()
        for name in tensors.keys() - zeros:
            # With the dot, "norm" does not cover the tensors of "norm2".
            prefixes = [prefix for prefix in names if f"{name}.".startswith(f"{prefix}.")]
            assert len(prefixes) == 1, f"{layout}: {name} is covered by {prefixes}"


def check_slice(
    spec: BlockSpec, shape: Shape, narrower: BlockSpec, its_shape: Shape, silent: bool = True
) -> None:
    """Check that a narrower block cut out of this one has the right shape and output.

    The output must be that of this block with the removed channels silenced.

    Args:
        spec: the wide block.
        shape: of its input.
        narrower: the block that is cut out of it.
        its_shape: of the narrow block's input.
        silent: whether to compare the outputs. A block that normalises over channels has others by
            design.
    """
    wide = randomised(spec, shape).eval()
    narrow = build_block(narrower, its_shape).eval()
    groups = {group_of(axis) for axes in wide.axes.values() for axis in axes}
    counts = {"in": its_shape.channels, "out": narrower.output_shape(its_shape).channels}
    # The supernet keeps the most important channels of a stream; do the same with the block's own
    # input and output.
    keep = {
        group: first(group_order(group_tensors(wide, group)), counts[group])
        for group in counts
        if group in groups
    }
    inner = inner_orders(wide)
    sliced = slice_block(wide, narrow, keep, inner)
    for name, tensor in narrow.state_dict().items():
        shape_cut = tuple(sliced[name].shape)
        assert shape_cut == tuple(tensor.shape), (
            f"{name} is cut to {shape_cut}, the narrow block has {tuple(tensor.shape)}"
        )
    narrow.load_state_dict({name: tensor.clone() for name, tensor in sliced.items()})
    if not silent:
        return
    _silence(wide, narrow, keep, inner)
    silenced = build_block(_acting_as(spec, narrower), shape).eval()
    silenced.load_state_dict(wide.state_dict())
    # A block without a group "in" has one stream of channels, so its input is cut as its output.
    inputs = keep.get("in", keep.get("out", torch.arange(shape.channels)))
    with torch.no_grad():
        x = torch.randn(its_shape.tensor(batch=2))
        dim = _channels(x)
        # The wide block gets the narrow input in the kept channels and zeros elsewhere.
        output = silenced(torch.zeros(shape.tensor(batch=2)).index_copy(dim, inputs, x))
        expected = output.index_select(_channels(output), keep["out"]) if "out" in keep else output
        _alike(narrow(x), expected, "the output of the slice differs")


def check_conversion(spec: BlockSpec, shape: Shape) -> None:
    """Check that LiteRT runs the deployed block and computes the same as torch."""
    from ai_edge_litert.compiled_model import CompiledModel

    from nas.convert.chain import Chain
    from nas.convert.converter import Converter
    from nas.convert.litert import build

    chain = Chain((spec,), shape)
    with TemporaryDirectory() as folder:
        converter = Converter(cache=Path(folder))
        try:
            model = CompiledModel.from_file(str(converter.prepare(chain).result()))
        except OperationFailed as error:
            raise AssertionError(f"LiteRT cannot express the block: {error}") from error
        finally:
            converter.close()
        torch.manual_seed(0)
        block, _ = build(chain)
        x = torch.randn(shape.tensor())
        with torch.no_grad():
            expected = block(x)
        inputs = model.create_input_buffers(0)
        outputs = model.create_output_buffers(0)
        # LiteRT's maps are (B, H, W, C).
        inputs[0].write(_channels_last(x).numpy().ravel())
        model.run_by_index(0, inputs, outputs)
        found = torch.from_numpy(outputs[0].read(expected.numel(), np.float32)).reshape(
            _channels_last(expected).shape
        )
    _alike(found, _channels_last(expected), "the output of LiteRT differs", rtol=1e-3, atol=1e-4)


def randomised(spec: BlockSpec, shape: Shape) -> Block:
    """Return the block with random offsets on its parameters.

    A new block may have branches that are initialised to zero. Errors in these would not show in
    the output.
    """
    torch.manual_seed(0)
    block = build_block(spec, shape)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return block


def _alike(
    found: Tensor, expected: Tensor, what: str, rtol: float = 1e-4, atol: float = 1e-5
) -> None:
    """Raise AssertionError unless two tensors agree, relative to the largest expected value."""
    scale = max(float(expected.abs().max()), 1.0)
    torch.testing.assert_close(
        found, expected, rtol=rtol, atol=atol * scale, msg=lambda text: f"{what}: {text}"
    )


def _tensors(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (output,) if isinstance(output, Tensor) else output


def _acting_as(spec: BlockSpec, other: BlockSpec) -> BlockSpec:
    """Return the block with the activation of the other one, as slices may differ in it."""
    values = spec.hyperparameters()
    if "activation" not in values:
        return spec
    return type(spec)(**values | {"activation": other.hyperparameters()["activation"]})


@torch.no_grad()
def _silence(wide: Block, narrow: Block, keep: Keep, inner: Keep) -> None:
    """Set to 0, in the wide block, all weights of channels that the narrow one lacks."""
    sizes = {name: tensor.shape for name, tensor in narrow.state_dict().items()}
    for name, tensor in wide.state_dict().items():
        for dim, axis in enumerate(wide.axes.get(name, ())):
            if axis is not None and sizes[name][dim] != tensor.shape[dim]:
                gone = torch.ones(tensor.shape[dim], dtype=torch.bool)
                gone[kept_channels(axis, tensor.shape[dim], sizes[name][dim], keep, inner)] = False
                tensor.index_fill_(dim, gone.nonzero().flatten(), 0.0)


def _channels(tensor: Tensor) -> int:
    """Return the dimension of the channels: the last one of tokens (B, N, C), else the second."""
    return 2 if tensor.dim() == 3 else 1


def _channels_last(tensor: Tensor) -> Tensor:
    """Return a map as (B, H, W, C); other tensors unchanged."""
    return tensor.permute(0, 2, 3, 1).contiguous() if tensor.dim() == 4 else tensor
