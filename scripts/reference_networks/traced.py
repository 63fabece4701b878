"""Networks of torchvision and timm, whose layers are recorded from a forward pass without numbers.

The pass runs on torch's `meta` device: tensors have shapes and no values, so that no weights are
made. It needs the extras `train` and `vision` and the package timm; the recorded file needs none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from nas.blocks import Layer, Shape

TORCHVISION = {
    "DenseNet-121": ("densenet121", "DenseNet"),
    "GoogLeNet": ("googlenet", "Inception"),
    "Inception-v3": ("inception_v3", "Inception"),
    "ResNeXt50-32x4d": ("resnext50_32x4d", "ResNeXt"),
    "ResNeXt101-32x8d": ("resnext101_32x8d", "ResNeXt"),
    "WideResNet50-2": ("wide_resnet50_2", "ResNet"),
    "Swin-T": ("swin_t", "Swin"),
    "Swin-S": ("swin_s", "Swin"),
    "Swin-B": ("swin_b", "Swin"),
    "SwinV2-B": ("swin_v2_b", "Swin"),
}
"""Name of a network in published latencies, and its name in torchvision and its family."""
TIMM = {
    "ConvNeXtV2-B": ("convnextv2_base", "ConvNeXt"),
    "DLA-102-X": ("dla102x", "DLA"),
    "EfficientNet-Lite4": ("tf_efficientnet_lite4", "EfficientNet"),
    "RegNetX-3.2GF": ("regnetx_032", "RegNet"),
    "RegNetY-800MF": ("regnety_008", "RegNet"),
    "NASNet-A-Large": ("nasnetalarge", "NASNet"),
}
"""As `TORCHVISION`, with names in timm."""

ACTIVATIONS = {
    "relu": "relu",
    "relu_": "relu",
    "hardtanh": "relu",
    "hardtanh_": "relu",
    "clamp_min": "relu",
    "gelu": "gelu",
    "silu": "silu",
    "silu_": "silu",
    "sigmoid": "sigmoid",
    "sigmoid_": "sigmoid",
    "tanh": "sigmoid",
    "hardswish": "hardswish",
    "hardswish_": "hardswish",
    "hardsigmoid": "hardswish",
}
"""Activation of each operator; those of the same cost (`nas.latency.cost_model`) share a name."""
ARITHMETIC = ("add", "add_", "mul", "mul_", "sub", "div")
POOLS = (
    "max_pool2d_with_indices",
    "avg_pool2d",
    "mean",
    "_adaptive_avg_pool2d",
    "adaptive_avg_pool2d",
)
MOVES = ("permute", "transpose")
"""Operators that change the layout of an activation."""
COPIES = ("cat", "roll", "constant_pad_nd", "stack")


def traced_networks() -> dict[str, Callable[[Shape], tuple[Layer, ...]]]:
    """Return, by name, the function that lists a network's layers at the shape of an image."""
    return {
        **{
            name: partial(_recorded, _of_torchvision, model)
            for name, (model, _) in TORCHVISION.items()
        },
        **{name: partial(_recorded, _of_timm, model) for name, (model, _) in TIMM.items()},
    }


def _of_torchvision(model: str, side: int) -> Any:
    from torchvision import models

    # Auxiliary classifiers exist in training alone.
    more = {"aux_logits": False} if model in ("googlenet", "inception_v3") else {}
    return (
        models.get_model(model, weights=None, init_weights=False, **more)
        if more
        else (models.get_model(model, weights=None))
    )


def _of_timm(model: str, side: int) -> Any:
    import timm
    from timm.layers import set_fused_attn

    # A fused attention would hide its products and its softmax.
    set_fused_attn(False)
    return timm.create_model(model)


def _recorded(build: Callable[[str, int], Any], model: str, shape: Shape) -> tuple[Layer, ...]:
    import torch

    with torch.device("meta"):
        network = build(model, shape.height).eval()
        image = torch.empty(1, shape.channels, shape.height, shape.width)
    return record(network, image)


def record(network: Any, image: Any) -> tuple[Layer, ...]:
    """Return the layers of a forward pass of `network` on `image`, both on the meta device."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    layers: list[Layer] = []
    # Activations by id: what depends on the image. They are kept alive, so that ids stay theirs.
    # What does not depend on it (tables of positions) is computed once, before any prediction.
    activations = {id(image): image}

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            given = [each for each in _flat(args) if isinstance(each, torch.Tensor)]
            moving = [each for each in given if id(each) in activations]
            if moving:
                for each in _flat((result,)):
                    if isinstance(each, torch.Tensor):
                        activations[id(each)] = each
                layer = _layer(func.__name__.split(".")[0], args, given, moving, result)
                if layer is not None:
                    layers.append(layer)
            return result

    with torch.no_grad(), Recorder():
        network(image)
    return tuple(layers)


def _flat(values: Any) -> list[Any]:
    flat: list[Any] = []
    for value in values:
        flat += _flat(value) if isinstance(value, (tuple, list)) else [value]
    return flat


def _layer(name: str, args: Any, given: list[Any], moving: list[Any], result: Any) -> Layer | None:
    """Return the layer of one operator; None where it computes and moves nothing.

    Args:
        name: of the operator, as in `torch.ops.aten`.
        args: its arguments.
        given: the tensors among them.
        moving: the activations among these.
        result: what it returned.
    """
    output = result[0] if isinstance(result, tuple) else result
    read = sum(each.numel() for each in moving)
    written = output.numel() if not isinstance(output, list) else 0
    learned = sum(each.numel() for each in given if not any(each is one for one in moving))
    if name == "convolution":
        weight = args[1]
        groups = args[8]
        # Every output position takes each weight of its filter once.
        macs = output.shape[2] * output.shape[3] * weight.numel()
        depthwise = groups > 1 and groups == args[0].shape[1]
        return Layer("depthwise" if depthwise else "conv", macs, learned, read, written)
    if name in ("addmm", "mm", "bmm", "baddbmm"):
        matrices = [each for each in args if not isinstance(each, (int, float))][-2:]
        macs = matrices[0].numel() * matrices[1].shape[-1]
        product = all(any(each is one for one in moving) for each in matrices)
        return Layer("matmul" if product else "linear", macs, learned, read, written)
    if name in ("_softmax",):
        return Layer("softmax", read=read, written=written)
    if name in ("native_layer_norm",):
        return Layer("norm", params=learned, read=read, written=written)
    if name in ("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"):
        # Running statistics are not learned.
        return Layer("folded_norm", params=learned // 2, read=read, written=written)
    if name in ("native_group_norm",):
        return Layer("group_norm", params=learned, read=read, written=written)
    if name in ACTIVATIONS:
        return Layer("activation", read=read, written=written, name=ACTIVATIONS[name])
    if name in ARITHMETIC:
        # A product with a number is folded into its neighbours.
        return Layer("elementwise", 0, learned, read, written) if len(given) > 1 else None
    if name in POOLS:
        return Layer("pool", read=read, written=written)
    if name in MOVES:
        return Layer("reshape", read=read, written=written)
    if name in COPIES:
        return Layer("gather", read=read, written=written)
    return None
