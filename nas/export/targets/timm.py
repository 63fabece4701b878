"""Target `timm`: arguments for `timm.create_model`, and the weights as timm's network of them names
and shapes them.

timm's classes take widths, depths and a few numbers more. A member is expressed when the network
that timm builds from these has the same operations, one by one; the first that differs is named.
Checked against timm 1.0 by its code, and against names and shapes recorded from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from nas.blocks import (
    MB3D,
    MB4D,
    AdditiveEncoder,
    AttentionFFN,
    BlockSpec,
    ConvEmbedding,
    ConvEncoder,
    ConvFFN,
    ConvHead,
    ConvStem,
    DualPathEmbedding,
    EfficientViTModule,
    EfficientViTStem,
    EntrySpec,
    FusedMBConv,
    FusedMBConvDown,
    HeadSpec,
    MapHead,
    MBConv,
    MBConvDown,
    TokenHead,
)
from nas.data.images import MEAN, STD
from nas.errors import NasError
from nas.export.target import Model, Target
from nas.files import write_yaml
from nas.space import Architecture, Stage
from nas.weights.importing import export_weights

RESOLUTION = (224, 224)
"""EfficientFormer's attention in timm has biases for 7x7 tokens, whatever the input."""
STAGES = 4


@dataclass(frozen=True)
class Expressed:
    """A network in timm's words.

    Attributes:
        model: a registered name, whose other settings stay as they are.
        arguments: for `timm.create_model` beside the name.
        layout: of its weights, in `nas.weights.LAYOUTS`.
        built: the architecture that timm builds from them.
    """

    model: str
    arguments: dict[str, Any]
    layout: str
    built: Architecture


def write(model: Model, path: Path) -> None:
    """Write a folder with arguments.yaml and model.safetensors.

    Raises:
        NasError: naming the operation that timm's code cannot express.
    """
    found = express(model.architecture)
    path.mkdir()
    write_yaml(
        path / "arguments.yaml",
        {
            "model": found.model,
            "arguments": found.arguments,
            "checkpoint": "model.safetensors",
            "mean": list(MEAN),
            "std": list(STD),
            "classes": list(model.classes),
        },
    )
    tensors = {name: tensor.contiguous() for name, tensor in state_dict(model, found).items()}
    save_file(tensors, path / "model.safetensors", {"model": found.model, "layout": found.layout})


def state_dict(model: Model, found: Expressed) -> dict[str, Tensor]:
    """Return what `load_state_dict` of the timm network takes with strict=True."""
    tensors = export_weights(model.network(), found.layout)
    if found.layout != "efficientvit/timm" and found.arguments.get("distillation", True):
        # The network has two classifiers and takes their mean; equal ones give what the only one
        # does.
        for part in ("weight", "bias"):
            tensors.setdefault(f"head_dist.{part}", tensors[f"head.{part}"].clone())
    if found.layout == "efficientformer/timm":
        for name in [name for name in tensors if name.endswith("attention_biases")]:
            tensors[name.replace("attention_biases", "attention_bias_idxs")] = _distances(7, 7)
    return tensors


def express(arch: Architecture) -> Expressed:
    """Return the arguments for the network, without weights.

    Raises:
        NasError: naming the operation that timm's code cannot express.
    """
    operations = arch.operations()
    family = next(
        (FAMILIES[each.spec.kind] for each in operations if each.spec.kind in FAMILIES), None
    )
    if family is None:
        raise _refusal(arch, 0, "timm has no network of such blocks")
    if len(arch.stages) != STAGES:
        raise NasError(
            f"cannot express {len(arch.stages)} stages: timm's networks of such blocks have"
            f" {STAGES}"
        )
    found = family(arch)
    for index, (ours, theirs) in enumerate(zip(operations, found.built.operations(), strict=False)):
        if (ours.spec, ours.input) != (theirs.spec, theirs.input):
            raise _refusal(
                arch,
                index,
                f"{found.model} with these arguments has {theirs.spec.kind} ({theirs.spec}) there",
            )
    return found


def _refusal(arch: Architecture, index: int, reason: str) -> NasError:
    operation = arch.operations()[index]
    return NasError(f"cannot express {operation.name}, {operation}: {reason}")


def _efficientformer(arch: Architecture) -> Expressed:
    blocks = _blocks(arch)
    last = arch.stages[-1].present
    attention = sum(isinstance(block, MB3D) for block in last)
    if not attention:
        raise _refusal(arch, -2, "timm's EfficientFormer has attention at least in its last block")
    if arch.resolution != RESOLUTION:
        raise _refusal(
            arch,
            -2,
            "timm's EfficientFormer has attention biases for 7x7 tokens alone, of 224x224 pixels",
        )
    ratio = _first(blocks, "expansion", 4)
    pool = _first(blocks, "pool", 3)
    stages = [
        [MB4D(ratio, pool)] * (depth - count) + [MB3D(expansion=ratio)] * count
        for depth, count in zip(arch.depths, (0, 0, 0, attention), strict=True)
    ]
    entries: list[EntrySpec] = [ConvStem(arch.widths[0]), *map(ConvEmbedding, arch.widths[1:])]
    head = TokenHead(arch.classes, _distilled(arch))
    arguments = {
        "depths": list(arch.depths),
        "embed_dims": list(arch.widths),
        "num_vit": attention,
        "mlp_ratios": ratio,
        "pool_size": pool,
        "num_classes": arch.classes,
    }
    return Expressed(
        "efficientformer_l1", arguments, "efficientformer/timm", _built(arch, entries, stages, head)
    )


def _efficientformerv2(arch: Architecture) -> Expressed:
    attention = max(
        sum(isinstance(block, AttentionFFN) for block in stage.present) for stage in arch.stages
    )
    ratios = [[_first([block], "expansion", 4) for block in stage.present] for stage in arch.stages]
    stages: list[list[BlockSpec]] = []
    for index, expansions in enumerate(ratios):
        local = len(expansions) - (attention if index >= 2 else 0)
        stride = 2 if index == 2 else 1
        stages.append(
            [
                ConvFFN(ratio) if position < local else AttentionFFN(ratio, stride=stride)
                for position, ratio in enumerate(expansions)
            ]
        )
    one, two, three, four = arch.widths
    entries: list[EntrySpec] = [
        ConvStem(one, "gelu"),
        ConvEmbedding(two),
        ConvEmbedding(three),
        DualPathEmbedding(four),
    ]
    arguments = {
        "depths": list(arch.depths),
        "embed_dims": list(arch.widths),
        "mlp_ratios": ratios,
        "num_vit": attention,
        "img_size": list(arch.resolution),
        "distillation": _distilled(arch),
        "num_classes": arch.classes,
    }
    head = MapHead(arch.classes, distillation=_distilled(arch))
    return Expressed(
        "efficientformerv2_s0",
        arguments,
        "efficientformerv2/timm",
        _built(arch, entries, stages, head),
    )


def _swiftformer(arch: Architecture) -> Expressed:
    ratio = _first(_blocks(arch), "expansion", 4)
    stages = [
        [ConvEncoder(ratio)] * (depth - 1) + [AdditiveEncoder(ratio)] * min(depth, 1)
        for depth in arch.depths
    ]
    entries: list[EntrySpec] = [ConvStem(arch.widths[0]), *map(ConvEmbedding, arch.widths[1:])]
    arguments = {
        "layers": list(arch.depths),
        "embed_dims": list(arch.widths),
        "mlp_ratios": ratio,
        "num_classes": arch.classes,
    }
    head = MapHead(arch.classes, distillation=_distilled(arch))
    return Expressed(
        "swiftformer_xs", arguments, "swiftformer/timm", _built(arch, entries, stages, head)
    )


def _efficientvit(arch: Architecture) -> Expressed:
    assert isinstance(arch.stem, EfficientViTStem)
    large = arch.stem.block == "res_block"
    head_dim = _first(_blocks(arch), "head_dim", 32)
    width = _first([arch.head], "width", 1)
    features = _first([arch.head], "features", 1)
    arguments = {
        "widths": [arch.stem.width, *arch.widths],
        "head_dim": head_dim,
        "head_widths": [width, features],
        "num_classes": arch.classes,
    }
    if large:
        model, activation, entries, stages = "efficientvit_l1", "gelu_tanh", *_large(arch, head_dim)
        arguments["depths"] = [1, *arch.depths]
    else:
        ratio = _first([arch.stages[0].entry], "expansion", 4)
        model, activation, entries, stages = (
            "efficientvit_b0",
            "hardswish",
            *_small(arch, head_dim, ratio),
        )
        # Of the stages without attention timm counts the block that enters one.
        arguments |= {
            "depths": [1, *(d + (i < 2) for i, d in enumerate(arch.depths))],
            "expand_ratio": ratio,
        }
    stem = EfficientViTStem(arch.stem.width, arch.stem.block, activation)  # type: ignore[arg-type]
    head = ConvHead(arch.classes, width, features, activation)  # type: ignore[arg-type]
    built = replace(_built(arch, entries, stages, head), stem=stem)
    return Expressed(model, arguments, "efficientvit/timm", built)


def _small(
    arch: Architecture, head_dim: int, ratio: int
) -> tuple[list[EntrySpec], list[list[BlockSpec]]]:
    entries: list[EntrySpec] = [
        MBConvDown(w, ratio, fewer_norm=i >= 2) for i, w in enumerate(arch.widths)
    ]
    stages: list[list[BlockSpec]] = [
        [EfficientViTModule(ratio, head_dim) if index >= 2 else MBConv(ratio)] * depth
        for index, depth in enumerate(arch.depths)
    ]
    return entries, stages


def _large(arch: Architecture, head_dim: int) -> tuple[list[EntrySpec], list[list[BlockSpec]]]:
    act: Any = "gelu_tanh"
    one, two, three, four = arch.widths
    entries: list[EntrySpec] = [
        FusedMBConvDown(one, 16, activation=act),
        FusedMBConvDown(two, 16, activation=act),
        MBConvDown(three, 16, fewer_norm=True, activation=act),
        MBConvDown(four, 24, fewer_norm=True, activation=act),
    ]
    kinds: tuple[BlockSpec, ...] = (
        FusedMBConv(4, activation=act),
        FusedMBConv(4, activation=act),
        MBConv(4, fewer_norm=True, activation=act),
        EfficientViTModule(6, head_dim, activation=act),
    )
    return entries, [[kind] * depth for kind, depth in zip(kinds, arch.depths, strict=True)]


def _built(
    arch: Architecture,
    entries: Sequence[EntrySpec],
    stages: Sequence[Sequence[BlockSpec]],
    head: HeadSpec,
) -> Architecture:
    return replace(
        arch,
        stem=None,
        head=head,
        stages=tuple(
            Stage(entry, tuple(blocks)) for entry, blocks in zip(entries, stages, strict=True)
        ),
    )


def _blocks(arch: Architecture) -> list[BlockSpec]:
    return [block for stage in arch.stages for block in stage.present]


def _first(blocks: Sequence[BlockSpec], name: str, default: int) -> int:
    """Return the hyperparameter of the first block that has it."""
    found = (block.hyperparameters().get(name) for block in blocks)
    return next((int(value) for value in found if value is not None), default)


def _distilled(arch: Architecture) -> bool:
    return bool(getattr(arch.head, "distillation", True))


def _distances(height: int, width: int) -> Tensor:
    """For each pair of tokens the index (|dy|, |dx|) of its bias."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()])
    apart = (places[:, :, None] - places[:, None]).abs()
    return apart[0] * width + apart[1]


FAMILIES: dict[str, Callable[[Architecture], Expressed]] = {
    "mb4d": _efficientformer,
    "mb3d": _efficientformer,
    "conv_ffn": _efficientformerv2,
    "attention_ffn": _efficientformerv2,
    "conv_encoder": _swiftformer,
    "additive_encoder": _swiftformer,
    "efficientvit_stem": _efficientvit,
}
"""Kinds of blocks to the family of timm's that has them."""

TARGET = Target("timm", write, packages=("torch", "safetensors"))
