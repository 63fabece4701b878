"""Published networks that mix convolutions with attention or large depthwise kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from nas.blocks import Layer, Shape, Trace
from nas.blocks.spec import softmax_attention
from reference_networks.mobile import Layers, conv_bn, inverted


def attention_networks() -> dict[str, Callable[[Shape], Layers]]:
    """Return the function that lists each network's layers; see `reference_networks`."""
    networks: dict[str, Callable[[Shape], Layers]] = {"LeViT-128S": levit_128s}
    for name, numbers in _MOBILEVIT.items():
        networks[f"MobileViT-{name}"] = partial(mobilevit, **numbers)
    return networks


_MOBILEVIT: dict[str, dict[str, Any]] = {
    "XXS": {"widths": (16, 24, 48, 64, 80, 320), "dims": (64, 80, 96), "expansion": 2},
    "XS": {"widths": (32, 48, 64, 80, 96, 384), "dims": (96, 120, 144), "expansion": 4},
    "S": {"widths": (32, 64, 96, 128, 160, 640), "dims": (144, 192, 240), "expansion": 4},
}


def levit_128s(image: Shape) -> Layers:
    """Return the layers of LeViT-128S (arXiv:2104.01136) with one classifier.

    Batch norms fold into their layers, and attention has one bias per offset.
    """
    trace = Trace(image)
    for width in (16, 32, 64, 128):
        conv_bn(trace, width, 3, 2, act="" if width == 128 else "hardswish")
    trace.reshape("tokens")
    for stage, (width, heads, depth) in enumerate(((128, 4, 2), (256, 6, 3), (384, 8, 4))):
        if stage:
            _levit_attention(trace, trace.shape.channels // 16, 4, width, 2)
            _levit_mlp(trace)
        for _ in range(depth):
            _levit_attention(trace, heads, 2, width, 1)
            _levit_mlp(trace)
    trace.extra(Layer("pool", read=trace.shape.elements, written=trace.shape.channels))
    trace.shape = Shape(trace.shape.channels, 1, 1, "vector")
    return tuple(trace.batch_norm().linear(1000).layers)


def _levit_attention(trace: Trace, heads: int, ratio: int, width: int, stride: int) -> None:
    """Add attention with keys of 16 channels per head and values `ratio` times as wide.

    With stride 2 only every fourth position has a query, so the output has a quarter of the tokens.
    """
    before = trace.shape
    keys = 16 * heads
    queries = before.resized(stride)
    if stride == 1:
        trace.linear((2 + ratio) * keys, bias=False).batch_norm()
    else:
        trace.linear((1 + ratio) * keys, bias=False).batch_norm()
        asked = Trace(queries).linear(keys, bias=False).batch_norm().layers
        trace.extra(Layer("reshape", read=before.elements, written=queries.elements), *asked)
    trace.reshape("tokens")
    trace.extra(
        *softmax_attention(
            queries.tokens, before.tokens, heads, 16, 16 * ratio, biases=before.tokens
        )
    )
    # Attention's output: one token per query, with the values of all heads.
    trace.shape = replace(queries, channels=ratio * keys)
    trace.reshape("tokens").activation("hardswish").linear(width, bias=False).batch_norm()
    if stride == 1:
        trace.residual()


def _levit_mlp(trace: Trace) -> None:
    """Add a residual MLP with expansion 2."""
    width = trace.shape.channels
    trace.linear(2 * width, bias=False).batch_norm().activation("hardswish")
    trace.linear(width, bias=False).batch_norm().residual()


def mobilevit(image: Shape, widths: Sequence[int], dims: Sequence[int], expansion: int) -> Layers:
    """Return the layers of MobileViT (arXiv:2110.02178).

    Transformers attend to every fourth position, between convolutions.
    """
    trace = conv_bn(Trace(image), 16, 3, 2, act="silu")
    for width, stride in ((widths[0], 1), (widths[1], 2), (widths[1], 1), (widths[1], 1)):
        inverted(trace, expansion * trace.shape.channels, width, 3, stride, "silu")
    for width, dim, depth in zip(widths[2:5], dims, (2, 4, 3), strict=True):
        inverted(trace, expansion * trace.shape.channels, width, 3, 2, "silu")
        _mobilevit_block(trace, dim, depth)
    return tuple(conv_bn(trace, widths[5], act="silu").mean().linear(1000).layers)


def _mobilevit_block(trace: Trace, dim: int, depth: int) -> None:
    """Add a block: each position of a 2 x 2 patch attends to the same position of all patches."""
    width = trace.shape.channels
    conv_bn(trace, width, 3, act="silu").conv(dim, bias=False)
    grid = trace.shape
    patches = -(-grid.height // 2) * -(-grid.width // 2)
    trace.reshape("tokens")
    for _ in range(depth):
        trace.layer_norm().linear(3 * dim).reshape("tokens")
        # Four sequences, one per position in a patch, each with one token per patch and 4 heads.
        trace.extra(*softmax_attention(patches, patches, 4, dim // 4, dim // 4) * 4)
        trace.shape = replace(grid, layout="tokens")
        trace.reshape("tokens").linear(dim).residual()
        trace.layer_norm().linear(2 * dim).activation("silu").linear(dim).residual()
    trace.layer_norm().reshape("map")
    conv_bn(trace, width, act="silu")
    # The block's input is concatenated before the last convolution.
    trace.shape = replace(trace.shape, channels=2 * width)
    conv_bn(trace, width, 3, act="silu")
