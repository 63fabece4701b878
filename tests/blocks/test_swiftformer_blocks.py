"""SwiftFormer's blocks and its head: their equations written out again, slicing, half precision and
export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.blocks import AdditiveEncoder, BlockSpec, ConvEncoder, MapHead, Shape
from nas.blocks.build import build_block
from nas.blocks.module import Block, fold
from nas.blocks.swiftformer.module import _unit
from nas.supernet.slicing import first, slice_block

SHAPE = Shape(8, 5, 6)


def randomised(spec: BlockSpec, shape: Shape = SHAPE) -> Block:
    """The block in eval mode with every tensor away from where branches count for nothing."""
    torch.manual_seed(0)
    block = build_block(spec, shape).eval()
    with torch.no_grad():
        for name, tensor in block.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor) * 0.3)
    return block


def tokens_linear(x_bnc: Tensor, conv: nn.Conv2d) -> Tensor:
    return F.linear(x_bnc, conv.weight.flatten(1), conv.bias)


def local_by_hand(block: nn.Module, x: Tensor, kernel: int = 3) -> Tensor:
    conv = block.depthwise.conv
    norm = block.depthwise.norm
    y = F.conv2d(x, conv.weight, conv.bias, padding=kernel // 2, groups=x.shape[1])
    y = F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    y = F.conv2d(
        F.gelu(F.conv2d(y, block.expand.weight, block.expand.bias)),
        block.project.weight,
        block.project.bias,
    )
    return x + block.scale.view(-1, 1, 1) * y


def attention_by_hand(attention: nn.Module, x: Tensor) -> Tensor:
    """Eq. 2 to 4 of the paper, token by token, with its factor 1 / sqrt(d)."""
    tokens = x.flatten(2).transpose(1, 2)
    mixed = torch.empty_like(tokens)
    for b, tokens_nc in enumerate(tokens):
        q = torch.stack(
            [row / row.square().sum().sqrt() for row in tokens_linear(tokens_nc, attention.query)]
        )
        k = torch.stack(
            [row / row.square().sum().sqrt() for row in tokens_linear(tokens_nc, attention.key)]
        )
        a = torch.stack([row @ attention.score.weight.flatten() / x.shape[1] ** 0.5 for row in q])
        a = a / a.square().sum().sqrt()
        g = sum(a_i * q_i for a_i, q_i in zip(a, q, strict=True))
        mixed[b] = tokens_linear(tokens_linear(g * k, attention.context) + q, attention.projection)
    return mixed.transpose(1, 2).reshape(x.shape)


@torch.no_grad()
@pytest.mark.parametrize("kernel", [3, 5])
def test_conv_encoder_is_the_papers_equation(kernel: int) -> None:
    block = randomised(ConvEncoder(kernel=kernel))
    x = torch.randn(SHAPE.tensor(2))
    torch.testing.assert_close(block(x), local_by_hand(block, x, kernel), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("size", [(5, 6), (9, 2)], ids=["built", "other"])
def test_additive_encoder_is_the_papers_equations_at_any_size(size: tuple[int, int]) -> None:
    block = randomised(AdditiveEncoder(expansion=3))
    x = torch.randn(2, 8, *size)
    y = local_by_hand(block.local, x)
    y = y + block.mixer_scale.view(-1, 1, 1) * attention_by_hand(block.attention, y)
    norm = block.mlp_norm
    hidden = F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    hidden = F.gelu(F.conv2d(hidden, block.expand.weight, block.expand.bias))
    y = y + block.mlp_scale.view(-1, 1, 1) * F.conv2d(
        hidden, block.project.weight, block.project.bias
    )
    torch.testing.assert_close(block(x), y, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_map_head_is_norm_mean_and_classifiers(norm: str) -> None:
    head = randomised(MapHead(5, norm))  # type: ignore[arg-type]
    x = torch.randn(SHAPE.tensor(3))
    if norm == "batch":
        y = F.batch_norm(
            x, head.norm.running_mean, head.norm.running_var, head.norm.weight, head.norm.bias
        )
    else:
        y = (x - x.mean(dim=1, keepdim=True)) / (
            x.var(dim=1, keepdim=True, unbiased=False) + 1e-6
        ).sqrt()
        y = y * head.norm.weight.view(-1, 1, 1) + head.norm.bias.view(-1, 1, 1)
    logits = [
        F.linear(y.mean(dim=(2, 3)), c.weight, c.bias) for c in (head.classifier, head.distilled)
    ]
    torch.testing.assert_close(head(x), (logits[0] + logits[1]) / 2, rtol=1e-4, atol=1e-5)
    trained = head.train()(x)
    assert isinstance(trained, tuple) and len(trained) == 2
    if norm == "layer":
        torch.testing.assert_close(trained, tuple(logits), rtol=1e-4, atol=1e-5)


def test_macs_grow_with_the_tokens_and_no_faster() -> None:
    small = Shape(64, 14, 14)
    large = Shape(64, 56, 56)
    for spec in (ConvEncoder(), AdditiveEncoder()):
        assert spec.macs(large) == 16 * spec.macs(small)
        assert (
            max(layer.written for layer in spec.layers(large)) == 4 * large.elements
        )  # no matrix of N x N


def test_initialisation_is_the_authors() -> None:
    """Layer scales start at 1 in the local block and the local representation, at 1e-5 around
    attention and MLP."""
    block = build_block(AdditiveEncoder(), SHAPE)
    assert (block.local.scale == 1).all() and (build_block(ConvEncoder(), SHAPE).scale == 1).all()
    assert (block.mixer_scale == 1e-5).all() and (block.mlp_scale == 1e-5).all()


# Slicing


def cut(wide: Block, narrow: Block, width: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Loads the narrow block with tensors of the wide one; channels that stay of the stream and
    every other group."""
    groups = {
        axis: wide.state_dict()[name].shape[dim]
        for name, axes in wide.axes.items()
        if name in wide.state_dict()
        for dim, axis in enumerate(axes)
        if isinstance(axis, str)
    }
    orders = {
        group: torch.randperm(size, generator=torch.manual_seed(7))
        for group, size in groups.items()
    }
    keep = {group: first(orders.pop(group), width) for group in ("in", "out") if group in orders}
    narrow.load_state_dict(slice_block(wide, narrow, keep, orders))
    return next(iter(keep.values())), {**orders, **keep}


def silence(wide: Block, narrow: Block, kept: dict[str, Tensor]) -> None:
    """Sets to 0, in the wide block, all that belongs to channels that the narrow one lacks."""
    sizes = {name: tensor.shape for name, tensor in narrow.state_dict().items()}
    for name, tensor in wide.state_dict().items():
        for dim, group in enumerate(wide.axes.get(name, ())):
            if isinstance(group, str):
                gone = torch.ones(tensor.shape[dim], dtype=torch.bool)
                gone[kept[group][: sizes[name][dim]]] = False
                tensor.index_fill_(dim, gone.nonzero().flatten(), 0.0)


@torch.no_grad()
@pytest.mark.parametrize(
    "wide, narrow, width",
    [
        (ConvEncoder(4), ConvEncoder(2), 8),
        (ConvEncoder(3), ConvEncoder(3), 5),
        (ConvEncoder(4), ConvEncoder(1, activation="relu"), 4),
        (AdditiveEncoder(4), AdditiveEncoder(2), 8),
        (AdditiveEncoder(3), AdditiveEncoder(3), 5),
        (AdditiveEncoder(4), AdditiveEncoder(1, activation="hardswish"), 4),
        (MapHead(3), MapHead(3), 5),
        (MapHead(3, distillation=False), MapHead(3, distillation=False), 5),
    ],
    ids=str,
)
def test_sliced_block_equals_the_wide_one_with_the_rest_silenced(
    wide: BlockSpec, narrow: BlockSpec, width: int
) -> None:
    block = randomised(wide)
    sliced = build_block(narrow, replace(SHAPE, channels=width)).eval()
    stream, kept = cut(block, sliced, width)
    x = torch.randn(2, width, 5, 6)
    silence(block, sliced, kept)
    if "activation" in narrow.hyperparameters():
        reference = build_block(replace(wide, activation=narrow.activation), SHAPE).eval()  # type: ignore[call-arg, attr-defined]
        reference.load_state_dict(block.state_dict())
        block = reference
    expected = block(torch.zeros(2, 8, 5, 6).index_copy(1, stream, x))
    expected = expected[:, stream] if expected.dim() == 4 else expected
    torch.testing.assert_close(sliced(x), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_sliced_layer_norm_head_norms_the_channels_that_stay() -> None:
    block = randomised(MapHead(3, "layer", False))
    sliced = build_block(MapHead(3, "layer", False), Shape(5, 5, 6))
    stream, _ = cut(block, sliced, 5)
    x = torch.randn(2, 5, 5, 6)
    y = F.layer_norm(
        x.permute(0, 2, 3, 1), (5,), block.norm.weight[stream], block.norm.bias[stream], 1e-6
    )
    expected = F.linear(
        y.mean(dim=(1, 2)), block.classifier.weight[:, stream], block.classifier.bias
    )
    torch.testing.assert_close(sliced(x), expected, rtol=1e-4, atol=1e-5)


# Half precision


@torch.no_grad()
@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float16, 0.02), (torch.bfloat16, 0.15)], ids=str
)
@pytest.mark.parametrize("scale", [1.0, 1e-4], ids=["scores", "tiny scores"])
def test_attention_over_many_tokens_in_half_precision(
    dtype: torch.dtype, tolerance: float, scale: float
) -> None:
    """Scores of 1e-4 have squares that fp16 does not hold."""
    block = randomised(AdditiveEncoder(expansion=1))
    block.attention.score.weight.mul_(scale)
    x = torch.randn(1, 8, 64, 64)
    expected = block.attention(x)
    half = block.to(dtype).attention(x.to(dtype)).float()
    assert (half - expected).abs().max() < tolerance * expected.abs().max()


@torch.no_grad()
def test_vectors_of_zero_stay_zero_in_half_precision() -> None:
    block = build_block(AdditiveEncoder(), SHAPE).eval().half()
    assert block(torch.zeros(SHAPE.tensor(), dtype=torch.float16)).isfinite().all()


def test_double_precision_stays_double() -> None:
    block = build_block(AdditiveEncoder(), SHAPE).double()
    assert block(torch.randn(SHAPE.tensor(), dtype=torch.float64)).dtype == torch.float64
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(_unit(x, dim=1), F.normalize(x, dim=1), rtol=1e-12, atol=0)


def test_training_under_autocast() -> None:
    block = build_block(AdditiveEncoder(), SHAPE)
    with torch.autocast("cpu", torch.bfloat16):
        output = block(torch.randn(SHAPE.tensor(2)))
    output.float().square().sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for parameter in block.parameters()
    )


# Deployment


@torch.no_grad()
@pytest.mark.parametrize(
    "spec", [ConvEncoder(), AdditiveEncoder(), MapHead(3), MapHead(3, "layer")], ids=str
)
def test_exported_block_has_small_ranks_and_no_batch_norm(spec: BlockSpec) -> None:
    block = randomised(spec)
    x = torch.randn(SHAPE.tensor())
    expected = block(x)
    block.deploy()
    fold(block)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in block.modules())
    program = torch.export.export(block, (x,))
    torch.testing.assert_close(program.module()(x), expected, rtol=1e-4, atol=1e-5)
    ranks = [
        node.meta["val"].dim()
        for node in program.graph.nodes
        if isinstance(node.meta.get("val"), Tensor)
    ]
    assert len(ranks) > 4 and max(ranks) <= 4


@torch.no_grad()
def test_additive_encoder_converts_to_litert() -> None:
    """F.normalize, and a broadcast that only torch takes, would be refused here."""
    litert_torch = pytest.importorskip("litert_torch")
    block = randomised(AdditiveEncoder(expansion=1))
    x = torch.randn(SHAPE.tensor())
    expected = block(x)
    block.deploy()
    fold(block)
    np.testing.assert_allclose(
        litert_torch.convert(block, (x,))(x), expected.numpy(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: ConvEncoder(kernel=4), "kernel 4 must be odd, to keep the map's size"),
        (lambda: AdditiveEncoder(kernel=0), "kernel 0 must be odd"),
        (lambda: ConvEncoder(expansion=0), "expansion 0 must be at least 0.25"),
        (lambda: AdditiveEncoder(expansion=0), "expansion 0 must be at least 0.25"),
        (lambda: AdditiveEncoder(activation="tanh"), "activation 'tanh' is not one of relu, gelu"),  # type: ignore[arg-type]
        (lambda: MapHead(10, norm="group"), "norm 'group' is not one of batch, layer"),  # type: ignore[arg-type]
        (lambda: MapHead(1), "classes 1 must be at least 2"),
    ],
)
def test_bad_specs_give_the_reason(make: Callable[[], BlockSpec], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make()
