"""Published convolutional networks for phones, layer by layer: MobileNets and their successors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from nas.blocks import Layer, Shape, Trace

Layers = tuple[Layer, ...]


def mobile_networks() -> dict[str, Callable[[Shape], Layers]]:
    """Return the function that lists each network's layers; see `reference_networks`."""
    networks: dict[str, Callable[[Shape], Layers]] = {
        "MobileNetV1": mobilenet_v1,
        "MobileNetV3-Large": partial(mobilenet_v3, stages=_V3_LARGE, last=1280),
        "MobileNetV3-Small": partial(mobilenet_v3, stages=_V3_SMALL, last=1024),
        "MNASNet05": partial(mnasnet, factor=0.5),
        "EfficientNet-V2-s": efficientnet_v2_s,
        "MNv4-Conv-S": partial(mobilenet_v4, stages=_V4_SMALL),
        "MNv4-Conv-M": partial(mobilenet_v4, stages=_V4_MEDIUM),
    }
    for factor in (0.5, 1.0, 1.4, 1.5, 2.0):
        networks[f"MobileNetV2x{factor}"] = partial(mobilenet_v2, factor=factor)
    for number, (width, depth) in enumerate(_EFFICIENTNET):
        networks[f"EfficientNet-B{number}"] = partial(efficientnet, width=width, depth=depth)
    for name, widths in _SHUFFLENET.items():
        networks[f"ShuffleNetV2-{name}"] = partial(shufflenet_v2, widths=widths)
    for name, (factors, squeezed) in _MOBILEONE.items():
        networks[f"MobileOne-{name}"] = partial(mobileone, factors=factors, squeezed=squeezed)
    return networks


_V3_LARGE = (  # kernel, hidden width, width, squeeze-and-excitation, activation, stride; per block
    (3, 16, 16, False, "relu", 1), (3, 64, 24, False, "relu", 2), (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2), (5, 120, 40, True, "relu", 1), (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "hardswish", 2), (3, 200, 80, False, "hardswish", 1), (3, 184, 80, False, "hardswish", 1),
    (3, 184, 80, False, "hardswish", 1), (3, 480, 112, True, "hardswish", 1), (3, 672, 112, True, "hardswish", 1),
    (5, 672, 160, True, "hardswish", 2), (5, 960, 160, True, "hardswish", 1), (5, 960, 160, True, "hardswish", 1),
)  # fmt: skip
_V3_SMALL = (
    (3, 16, 16, True, "relu", 2), (3, 72, 24, False, "relu", 2), (3, 88, 24, False, "relu", 1),
    (5, 96, 40, True, "hardswish", 2), (5, 240, 40, True, "hardswish", 1), (5, 240, 40, True, "hardswish", 1),
    (5, 120, 48, True, "hardswish", 1), (5, 144, 48, True, "hardswish", 1), (5, 288, 96, True, "hardswish", 2),
    (5, 576, 96, True, "hardswish", 1), (5, 576, 96, True, "hardswish", 1),
)  # fmt: skip
# "conv": kernel, width, stride; "inverted": first and middle depthwise kernel, expansion, width,
# stride
_V4_SMALL = (
    ("conv", 3, 32, 2), ("conv", 1, 32, 1), ("conv", 3, 96, 2), ("conv", 1, 64, 1),
    ("inverted", 5, 5, 3, 96, 2), *(("inverted", 0, 3, 2, 96, 1),) * 4, ("inverted", 3, 0, 4, 96, 1),
    ("inverted", 3, 3, 6, 128, 2), ("inverted", 5, 5, 4, 128, 1), ("inverted", 0, 5, 4, 128, 1),
    ("inverted", 0, 5, 3, 128, 1), *(("inverted", 0, 3, 4, 128, 1),) * 2,
)  # fmt: skip
_V4_MEDIUM = (
    ("conv", 3, 128, 2), ("conv", 1, 48, 1), ("inverted", 3, 5, 4, 80, 2), ("inverted", 3, 3, 2, 80, 1),
    ("inverted", 3, 5, 6, 160, 2), *(("inverted", 3, 3, 4, 160, 1),) * 2, ("inverted", 3, 5, 4, 160, 1),
    ("inverted", 3, 3, 4, 160, 1), ("inverted", 3, 0, 4, 160, 1), ("inverted", 0, 0, 2, 160, 1),
    ("inverted", 3, 0, 4, 160, 1), ("inverted", 5, 5, 6, 256, 2), ("inverted", 5, 5, 4, 256, 1),
    *(("inverted", 3, 5, 4, 256, 1),) * 2, ("inverted", 0, 0, 4, 256, 1), ("inverted", 3, 0, 4, 256, 1),
    ("inverted", 3, 5, 2, 256, 1), ("inverted", 5, 5, 4, 256, 1), *(("inverted", 0, 0, 4, 256, 1),) * 2,
    ("inverted", 5, 0, 2, 256, 1),
)  # fmt: skip
_EFFICIENTNET = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8), (1.6, 2.2), (1.8, 2.6))
_SHUFFLENET = {
    "0.5": (48, 96, 192, 1024),
    "1.0": (116, 232, 464, 1024),
    "1.5": (176, 352, 704, 1024),
    "2.0": (244, 488, 976, 2048),
}
_MOBILEONE = {  # widths over the base, and how many of the last blocks of the last two stages squeeze
    "S0": ((0.75, 1.0, 1.0, 2.0), (0, 0)),
    "S1": ((1.5, 1.5, 2.0, 2.5), (0, 0)),
    "S2": ((1.5, 2.0, 2.5, 4.0), (0, 0)),
    "S3": ((2.0, 2.5, 3.0, 4.0), (0, 0)),
    "S4": ((3.0, 3.5, 3.5, 4.0), (5, 1)),
}


def mobilenet_v1(image: Shape) -> Layers:
    """Return the layers of MobileNet (arXiv:1704.04861)."""
    trace = conv_bn(Trace(image), 32, 3, 2, act="relu")
    for width, stride in (
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *((512, 1),) * 5,
        (1024, 2),
        (1024, 1),
    ):
        conv_bn(trace, trace.shape.channels, 3, stride, trace.shape.channels, act="relu")
        conv_bn(trace, width, act="relu")
    return tuple(trace.mean().linear(1000).layers)


def mobilenet_v2(image: Shape, factor: float) -> Layers:
    """Return the layers of MobileNetV2 (arXiv:1801.04381).

    Its widths are multiplied by `factor` and rounded to multiples of 8.
    """
    trace = conv_bn(Trace(image), _eights(32 * factor), 3, 2, act="relu")
    # Table 2: expansion, width, number of blocks, stride of the first.
    for expansion, base, depth, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for position in range(depth):
            hidden = expansion * trace.shape.channels
            inverted(trace, hidden, _eights(base * factor), 3, 1 if position else stride, "relu")
    conv_bn(trace, _eights(1280 * max(1.0, factor)), act="relu")
    return tuple(trace.mean().linear(1000).layers)


def mobilenet_v3(
    image: Shape, stages: Sequence[tuple[int, int, int, bool, str, int]], last: int
) -> Layers:
    """Return the layers of MobileNetV3 (arXiv:1905.02244).

    Args:
        stages: the blocks, as in `_V3_LARGE`.
        last: width of the hidden linear layer.
    """
    trace = conv_bn(Trace(image), 16, 3, 2, act="hardswish")
    for kernel, hidden, width, squeezed, act, stride in stages:
        inverted(trace, hidden, width, kernel, stride, act, _eights(hidden // 4) * squeezed)
    conv_bn(trace, 6 * trace.shape.channels, act="hardswish").mean()
    return tuple(trace.linear(last).activation("hardswish").linear(1000).layers)


def mobilenet_v4(image: Shape, stages: Sequence[tuple[str | int, ...]]) -> Layers:
    """Return the layers of MobileNetV4 without attention (arXiv:2404.10518).

    It consists of universal inverted bottlenecks: depthwise convolutions before the expansion,
    after it, at both places or at neither.
    """
    trace = conv_bn(Trace(image), 32, 3, 2, act="relu")
    for kind, *numbers in stages:
        if kind == "conv":
            kernel, width, stride = map(int, numbers)
            conv_bn(trace, width, kernel, stride, act="relu")
            continue
        first, middle, expansion, width, stride = map(int, numbers)
        before = trace.shape
        if first:
            # The stride is on the middle depthwise convolution, or without one on the first.
            conv_bn(trace, before.channels, first, 1 if middle else stride, before.channels)
        hidden = _eights(expansion * before.channels)
        conv_bn(trace, hidden, act="relu")
        if middle:
            conv_bn(trace, hidden, middle, stride, hidden, act="relu")
        conv_bn(trace, width)
        if trace.shape == before:
            trace.residual()
    conv_bn(trace, 960, act="relu").mean()
    return tuple(trace.linear(1280, bias=False).batch_norm().activation("relu").linear(1000).layers)


def mnasnet(image: Shape, factor: float) -> Layers:
    """Return the layers of MnasNet-B1 (arXiv:1807.11626), without squeeze-and-excitation."""
    trace = conv_bn(Trace(image), _eights(32 * factor), 3, 2, act="relu")
    conv_bn(trace, trace.shape.channels, 3, 1, trace.shape.channels, act="relu")
    conv_bn(trace, _eights(16 * factor))
    for kernel, expansion, base, depth, stride in (
        (3, 3, 24, 3, 2),
        (5, 3, 40, 3, 2),
        (5, 6, 80, 3, 2),
        (3, 6, 96, 2, 1),
        (5, 6, 192, 4, 2),
        (3, 6, 320, 1, 1),
    ):
        for position in range(depth):
            hidden = expansion * trace.shape.channels
            inverted(
                trace, hidden, _eights(base * factor), kernel, 1 if position else stride, "relu"
            )
    conv_bn(trace, 1280, act="relu")
    return tuple(trace.mean().linear(1000).layers)


def efficientnet(image: Shape, width: float, depth: float) -> Layers:
    """Return the layers of EfficientNet (arXiv:1905.11946): B0 with scaled widths and depths."""
    trace = conv_bn(Trace(image), _eights(32 * width), 3, 2, act="silu")
    # Table 1, B0: kernel, expansion, width, number of blocks, stride of the first.
    for kernel, expansion, base, repeats, stride in (
        (3, 1, 16, 1, 1),
        (3, 6, 24, 2, 2),
        (5, 6, 40, 2, 2),
        (3, 6, 80, 3, 2),
        (5, 6, 112, 3, 1),
        (5, 6, 192, 4, 2),
        (3, 6, 320, 1, 1),
    ):
        # Depths round up; squeeze-and-excitation has a quarter of the block's input channels.
        for position in range(-int(-repeats * depth // 1)):
            before = trace.shape.channels
            step = 1 if position else stride
            inverted(
                trace, expansion * before, _eights(base * width), kernel, step, "silu", before // 4
            )
    conv_bn(trace, 4 * trace.shape.channels, act="silu")
    return tuple(trace.mean().linear(1000).layers)


def efficientnet_v2_s(image: Shape) -> Layers:
    """Return the layers of EfficientNetV2-S (arXiv:2104.00298).

    The first stages fuse the expansion and the depthwise convolution into one.
    """
    trace = conv_bn(Trace(image), 24, 3, 2, act="silu")
    # Table 4, the first three stages: fused, without squeeze-and-excitation.
    for expansion, width, depth, stride in ((1, 24, 2, 1), (4, 48, 4, 2), (4, 64, 4, 2)):
        for position in range(depth):
            before = trace.shape
            conv_bn(
                trace,
                width if expansion == 1 else expansion * before.channels,
                3,
                1 if position else stride,
                act="silu",
            )
            if expansion > 1:
                conv_bn(trace, width)
            if trace.shape == before:
                trace.residual()
    for expansion, width, depth, stride in ((4, 128, 6, 2), (6, 160, 9, 1), (6, 256, 15, 2)):
        for position in range(depth):
            channels = trace.shape.channels
            inverted(
                trace,
                expansion * channels,
                width,
                3,
                1 if position else stride,
                "silu",
                channels // 4,
            )
    conv_bn(trace, 1280, act="silu")
    return tuple(trace.mean().linear(1000).layers)


def shufflenet_v2(image: Shape, widths: Sequence[int]) -> Layers:
    """Return the layers of ShuffleNetV2 (arXiv:1807.11164).

    Half of the channels bypass each block, and are concatenated and shuffled after it.
    """
    trace = conv_bn(Trace(image), 24, 3, 2, act="relu")
    max_pool(trace)
    for width, depth in zip(widths, (4, 8, 4), strict=False):
        for position in range(depth):
            before = trace.shape
            half = width // 2
            stride = 1 if position else 2
            # The first block of a stage takes all channels, the others half of them.
            branch = Trace(replace(before, channels=half) if position else before)
            conv_bn(branch, half, act="relu")
            conv_bn(conv_bn(branch, half, 3, stride, half), half, act="relu")
            trace.extra(*branch.layers)
            if not position:
                # In the first block of a stage the bypass is a branch of its own, with stride 2.
                side = conv_bn(Trace(before), before.channels, 3, 2, before.channels)
                trace.extra(*conv_bn(side, half, act="relu").layers)
            trace.shape = replace(branch.shape, channels=width)
            trace.reshape("map")
    conv_bn(trace, widths[-1], act="relu")
    return tuple(trace.mean().linear(1000).layers)


def mobileone(image: Shape, factors: Sequence[float], squeezed: tuple[int, int]) -> Layers:
    """Return the layers of MobileOne (arXiv:2206.04040) as deployed.

    These are 3x3 depthwise and 1x1 convolutions with a bias, without branches.
    """
    trace = Trace(image).conv(min(64, int(64 * factors[0])), 3, 2).activation("relu")
    for base, depth, factor, last in zip(
        (64, 128, 256, 512), (2, 8, 10, 1), factors, (0, 0, *squeezed), strict=True
    ):
        for position in range(depth):
            for width, kernel in ((trace.shape.channels, 3), (int(base * factor), 1)):
                stride = 1 if position or kernel == 1 else 2
                # The 3x3 convolution is depthwise, the 1x1 convolution is not.
                trace.conv(width, kernel, stride, width if kernel == 3 else 1)
                if position >= depth - last:
                    squeeze(trace, width // 16)
                trace.activation("relu")
    return tuple(trace.mean().linear(1000).layers)


def conv_bn(
    trace: Trace, width: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: str = ""
) -> Trace:
    """Add a convolution without bias, batch norm, and an activation where one is named."""
    trace.conv(width, kernel, stride, groups, bias=False).batch_norm()
    return trace.activation(act) if act else trace


def max_pool(trace: Trace) -> None:
    """Add a maximum over 3 x 3 positions with stride 2."""
    after = trace.shape.resized(2)
    trace.extra(Layer("pool", read=trace.shape.elements, written=after.elements))
    trace.shape = after


def inverted(
    trace: Trace, hidden: int, width: int, kernel: int, stride: int, act: str, squeezed: int = 0
) -> None:
    """Add an inverted residual block; without expansion the depthwise convolution comes first."""
    before = trace.shape
    if hidden != before.channels:
        conv_bn(trace, hidden, act=act)
    conv_bn(trace, hidden, kernel, stride, hidden, act=act)
    if squeezed:
        squeeze(trace, squeezed)
    conv_bn(trace, width)
    if trace.shape == before:
        trace.residual()


def squeeze(trace: Trace, hidden: int) -> None:
    """Add squeeze-and-excitation (arXiv:1709.01507): channels scaled by a function of means."""
    shape = trace.shape
    trace.extra(
        *Trace(shape).mean().linear(hidden).activation("relu").linear(shape.channels).layers
    )
    trace.extra(Layer("elementwise", read=shape.elements + shape.channels, written=shape.elements))


def _eights(width: float) -> int:
    """Return the nearest multiple of 8 that is not below 90 % of `width`."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded
