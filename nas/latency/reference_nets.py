"""Published networks, layer by layer: what an estimated table is fitted to, beside the members of the shipped spaces.

Only their layer lists are here (nothing is built); a test holds parameters and MACs against known figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from nas.specs import Layer, Shape, Trace
from nas.specs.attention import softmax_attention

Layers = tuple[Layer, ...]


def reference_nets() -> dict[str, Callable[[Shape], Layers]]:
    """By the name in the published figures: what lists a network's layers for an image of some shape, 1000 classes."""
    return {
        **{f"MobileNetV2x{factor}": partial(mobilenet_v2, factor=factor) for factor in (1.0, 1.4)},
        **{f"ResNet{name}": partial(resnet, depths=depths) for name, depths in _RESNET.items()},
        **{f"PoolFormer-{name}": partial(poolformer, widths=w, depths=d) for name, (w, d) in _POOLFORMER.items()},
        **{f"MobileOne-{name}": partial(mobileone, factors=factors) for name, factors in _MOBILEONE.items()},
        **{f"ConvNeXt-{name}": partial(convnext, widths=w, depths=d) for name, (w, d) in _CONVNEXT.items()},
        **{f"DeiT-{name}": partial(deit, width=width) for name, width in (("T", 192), ("S", 384), ("B", 768))},
    }


_RESNET = {"50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3)}
_POOLFORMER = {
    "S12": ((64, 128, 320, 512), (2, 2, 6, 2)),
    "S24": ((64, 128, 320, 512), (4, 4, 12, 4)),
    "S36": ((64, 128, 320, 512), (6, 6, 18, 6)),
    "M36": ((96, 192, 384, 768), (6, 6, 18, 6)),
    "M48": ((96, 192, 384, 768), (8, 8, 24, 8)),
}
_MOBILEONE = {
    "S0": (0.75, 1.0, 1.0, 2.0),
    "S1": (1.5, 1.5, 2.0, 2.5),
    "S2": (1.5, 2.0, 2.5, 4.0),
    "S3": (2.0, 2.5, 3.0, 4.0),
}
_CONVNEXT = {
    "T": ((96, 192, 384, 768), (3, 3, 9, 3)),
    "S": ((96, 192, 384, 768), (3, 3, 27, 3)),
    "B": ((128, 256, 512, 1024), (3, 3, 27, 3)),
}


def mobilenet_v2(image: Shape, factor: float) -> Layers:
    """MobileNetV2 (arXiv:1801.04381), its widths times `factor` and rounded to multiples of 8."""

    def width(base: float) -> int:
        rounded = max(8, int(base * factor + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * base * factor else rounded

    trace = _conv_bn(Trace(image), width(32), 3, 2, act="relu")
    for expansion, base, depth, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for position in range(depth):
            before, step = trace.shape, stride if position == 0 else 1
            hidden = expansion * before.channels
            if expansion > 1:
                _conv_bn(trace, hidden, act="relu")
            _conv_bn(trace, hidden, 3, step, hidden, act="relu")
            _conv_bn(trace, width(base))
            if trace.shape == before:
                trace.residual()
    _conv_bn(trace, int(1280 * max(1.0, factor)), act="relu")
    return tuple(trace.mean().linear(1000).layers)


def resnet(image: Shape, depths: Sequence[int]) -> Layers:
    """ResNet with bottlenecks (arXiv:1512.03385), the stride on the 3x3 convolution."""
    trace = _conv_bn(Trace(image), 64, 7, 2, act="relu")
    _max_pool(trace)
    for index, depth in enumerate(depths):
        for position in range(depth):
            before, stride = trace.shape, 2 if index and not position else 1
            _conv_bn(trace, 64 << index, act="relu")
            _conv_bn(trace, 64 << index, 3, stride, act="relu")
            _conv_bn(trace, 256 << index)
            if not position:
                trace.extra(*_conv_bn(Trace(before), 256 << index, 1, stride).layers)
            trace.residual().activation("relu")
    return tuple(trace.mean().linear(1000).layers)


def poolformer(image: Shape, widths: Sequence[int], depths: Sequence[int]) -> Layers:
    """PoolFormer (arXiv:2111.11418): patch embeddings, pooling mixers, group norm over all channels, layer scale."""
    trace = Trace(image)
    for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        trace.conv(width, *((3, 2) if index else (7, 4)))
        for _ in range(depth):
            _group_norm(trace).pool().residual().layer_scale().residual()
            _group_norm(trace).conv(4 * width).activation("gelu").conv(width).layer_scale().residual()
    return tuple(_group_norm(trace).mean().linear(1000).layers)


def mobileone(image: Shape, factors: Sequence[float]) -> Layers:
    """MobileOne (arXiv:2206.04040) as deployed: 3x3 depthwise and 1x1 convolutions with a bias, no branches."""
    trace = Trace(image).conv(min(64, int(64 * factors[0])), 3, 2).activation("relu")
    for base, depth, factor in zip((64, 128, 256, 512), (2, 8, 10, 1), factors, strict=True):
        for position in range(depth):
            trace.conv(trace.shape.channels, 3, 1 if position else 2, trace.shape.channels).activation("relu")
            trace.conv(int(base * factor)).activation("relu")
    return tuple(trace.mean().linear(1000).layers)


def convnext(image: Shape, widths: Sequence[int], depths: Sequence[int]) -> Layers:
    """ConvNeXt (arXiv:2201.03545)."""
    trace = Trace(image).conv(widths[0], 4, 4).layer_norm()
    for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        if index:
            trace.layer_norm().conv(width, 2, 2)
        for _ in range(depth):
            trace.conv(width, 7, 1, width).layer_norm()
            trace.linear(4 * width).activation("gelu").linear(width).layer_scale().residual()
    return tuple(trace.mean().layer_norm().linear(1000).layers)


def deit(image: Shape, width: int) -> Layers:
    """DeiT without distillation token (arXiv:2012.12877): 12 blocks, heads of 64 channels, a class token."""
    trace = Trace(image).conv(width, 16, 16)
    grid = trace.shape
    trace.reshape("tokens")
    trace.shape = Shape(width, grid.tokens + 1, 1, "tokens")
    trace.layer_scale()
    trace.layers[-1] = replace(trace.layers[-1], params=width + trace.shape.elements)
    for _ in range(12):
        tokens, heads = trace.shape.tokens, width // 64
        trace.layer_norm().linear(3 * width).reshape("tokens")
        trace.extra(*softmax_attention(tokens, tokens, heads, 64, 64))
        trace.shape = replace(trace.shape, channels=width)
        trace.reshape("tokens").linear(width).residual()
        trace.layer_norm().linear(4 * width).activation("gelu").linear(width).residual()
    trace.layer_norm()
    trace.shape = Shape(width, 1, 1, "vector")
    return tuple(trace.linear(1000).layers)


def _conv_bn(trace: Trace, width: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: str = "") -> Trace:
    """A convolution without bias, batch norm, and an activation where one is named."""
    trace.conv(width, kernel, stride, groups, bias=False).batch_norm()
    return trace.activation(act) if act else trace


def _max_pool(trace: Trace) -> None:
    after = trace.shape.resized(2)
    trace.extra(Layer("pool", read=trace.shape.elements, written=after.elements))
    trace.shape = after


def _group_norm(trace: Trace) -> Trace:
    """A norm of one group over a whole map; it takes much less time than a layer norm over tokens."""
    return trace.extra(Layer("group_norm", 0, 2 * trace.shape.channels, trace.shape.elements, trace.shape.elements))
