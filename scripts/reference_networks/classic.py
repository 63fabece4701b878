"""Published networks that many others are compared with, from ResNet to DeiT.

These are ResNet, SqueezeNet, PoolFormer, ConvNeXt, ViT and DeiT.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from nas.blocks import Layer, Shape, Trace
from nas.blocks.spec import softmax_attention
from reference_networks.mobile import Layers, conv_bn, max_pool


def classic_networks() -> dict[str, Callable[[Shape], Layers]]:
    """Return the function that lists each network's layers; see `reference_networks`."""
    networks: dict[str, Callable[[Shape], Layers]] = {
        "SqueezeNet-1.1": squeezenet,
        "ResNet18": resnet18,
    }
    for name, resnet_depths in _RESNET.items():
        networks[f"ResNet{name}"] = partial(resnet, depths=resnet_depths)
    for name, (widths, depths) in _POOLFORMER.items():
        networks[f"PoolFormer-{name}"] = partial(poolformer, widths=widths, depths=depths)
    for name, (widths, depths) in _CONVNEXT.items():
        networks[f"ConvNeXt-{name}"] = partial(convnext, widths=widths, depths=depths)
    networks["ViT-B-16"] = partial(deit, width=768)
    for name, width in (("T", 192), ("S", 384), ("B", 768)):
        networks[f"DeiT-{name}"] = partial(deit, width=width)
    return networks


_RESNET = {"50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3)}
_POOLFORMER = {
    "S12": ((64, 128, 320, 512), (2, 2, 6, 2)),
    "S24": ((64, 128, 320, 512), (4, 4, 12, 4)),
    "S36": ((64, 128, 320, 512), (6, 6, 18, 6)),
    "M36": ((96, 192, 384, 768), (6, 6, 18, 6)),
    "M48": ((96, 192, 384, 768), (8, 8, 24, 8)),
}
_CONVNEXT = {
    "T": ((96, 192, 384, 768), (3, 3, 9, 3)),
    "S": ((96, 192, 384, 768), (3, 3, 27, 3)),
    "B": ((128, 256, 512, 1024), (3, 3, 27, 3)),
}


def squeezenet(image: Shape) -> Layers:
    """Return the layers of SqueezeNet 1.1 (arXiv:1602.07360), which halves maps without padding."""
    trace = (
        Trace(replace(image, height=image.height - 2, width=image.width - 2))
        .conv(64, 3, 2)
        .activation("relu")
    )
    for index, (squeezed, width) in enumerate(
        ((16, 64),) * 2 + ((32, 128),) * 2 + ((48, 192),) * 2 + ((64, 256),) * 2
    ):
        if index in (0, 2, 4):
            trace.shape = replace(
                trace.shape, height=trace.shape.height - 1, width=trace.shape.width - 1
            )
            max_pool(trace)
        trace.conv(squeezed).activation("relu")
        # A fire module: 1x1 and 3x3 convolutions of the squeezed map, concatenated.
        branch = Trace(trace.shape).conv(width).activation("relu")
        trace.extra(*branch.layers).conv(width, 3).activation("relu")
        trace.shape = replace(trace.shape, channels=2 * width)
    return tuple(trace.conv(1000).activation("relu").mean().layers)


def resnet18(image: Shape) -> Layers:
    """Return the layers of ResNet-18 (arXiv:1512.03385), with two 3x3 convolutions per block."""
    trace = conv_bn(Trace(image), 64, 7, 2, act="relu")
    max_pool(trace)
    for index in range(4):
        for position in range(2):
            before = trace.shape
            stride = 2 if index and not position else 1
            conv_bn(trace, 64 << index, 3, stride, act="relu")
            conv_bn(trace, 64 << index, 3)
            if stride == 2:
                trace.extra(*conv_bn(Trace(before), 64 << index, 1, stride).layers)
            trace.residual().activation("relu")
    return tuple(trace.mean().linear(1000).layers)


def resnet(image: Shape, depths: Sequence[int]) -> Layers:
    """Return the layers of ResNet with bottlenecks (arXiv:1512.03385).

    The stride is on the 3x3 convolution.
    """
    trace = conv_bn(Trace(image), 64, 7, 2, act="relu")
    max_pool(trace)
    for index, depth in enumerate(depths):
        for position in range(depth):
            before = trace.shape
            stride = 2 if index and not position else 1
            conv_bn(trace, 64 << index, act="relu")
            conv_bn(trace, 64 << index, 3, stride, act="relu")
            conv_bn(trace, 256 << index)
            if not position:
                # The shortcut is a 1x1 convolution where the shape changes.
                trace.extra(*conv_bn(Trace(before), 256 << index, 1, stride).layers)
            trace.residual().activation("relu")
    return tuple(trace.mean().linear(1000).layers)


def poolformer(image: Shape, widths: Sequence[int], depths: Sequence[int]) -> Layers:
    """Return the layers of PoolFormer (arXiv:2111.11418).

    It has patch embeddings, pooling mixers, group norm over all channels, and layer scale.
    """
    trace = Trace(image)
    for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        trace.conv(width, *((3, 2) if index else (7, 4)))
        for _ in range(depth):
            _group_norm(trace).pool().residual().layer_scale().residual()
            _group_norm(trace).conv(4 * width).activation("gelu").conv(
                width
            ).layer_scale().residual()
    return tuple(_group_norm(trace).mean().linear(1000).layers)


def convnext(image: Shape, widths: Sequence[int], depths: Sequence[int]) -> Layers:
    """Return the layers of ConvNeXt (arXiv:2201.03545)."""
    trace = Trace(image).conv(widths[0], 4, 4).layer_norm()
    for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        if index:
            trace.layer_norm().conv(width, 2, 2)
        for _ in range(depth):
            trace.conv(width, 7, 1, width).layer_norm()
            trace.linear(4 * width).activation("gelu").linear(width).layer_scale().residual()
    return tuple(trace.mean().layer_norm().linear(1000).layers)


def deit(image: Shape, width: int) -> Layers:
    """Return the layers of DeiT without distillation token (arXiv:2012.12877).

    It has 12 blocks, heads of 64 channels and a class token.
    """
    trace = Trace(image).conv(width, 16, 16)
    grid = trace.shape
    trace.reshape("tokens")
    # The class token is one more token.
    trace.shape = Shape(width, grid.tokens + 1, 1, "tokens")
    # Position embeddings cost as much as a layer scale, but have one parameter per element, and the
    # class token has `width` more.
    trace.layer_scale()
    trace.layers[-1] = replace(trace.layers[-1], params=width + trace.shape.elements)
    for _ in range(12):
        tokens = trace.shape.tokens
        heads = width // 64
        trace.layer_norm().linear(3 * width).reshape("tokens")
        trace.extra(*softmax_attention(tokens, tokens, heads, 64, 64))
        trace.shape = replace(trace.shape, channels=width)
        trace.reshape("tokens").linear(width).residual()
        trace.layer_norm().linear(4 * width).activation("gelu").linear(width).residual()
    trace.layer_norm()
    # The classifier reads the class token alone.
    trace.shape = Shape(width, 1, 1, "vector")
    return tuple(trace.linear(1000).layers)


def _group_norm(trace: Trace) -> Trace:
    """Add a norm of one group over a whole map.

    It takes much less time than a layer norm over tokens, so it is a kind of its own.
    """
    return trace.extra(
        Layer("group_norm", 0, 2 * trace.shape.channels, trace.shape.elements, trace.shape.elements)
    )
