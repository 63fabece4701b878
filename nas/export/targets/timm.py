"""Target `timm`: arguments for `timm.create_model`, and weights under timm's names.

timm's classes take widths, depths and a few other numbers. A member can be expressed when the
network that timm builds from these has the same operations, one by one. Otherwise the error names
the first that differs. Checked against the code of timm 1.0, and against names and shapes recorded
from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
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
from nas.blocks.fastvit.spec import (
    FastViTAttention,
    FastViTDown,
    FastViTHead,
    FastViTStem,
    RepMixer,
)
from nas.blocks.repvit.spec import RepViTBlock, RepViTDown, RepViTHead, RepViTStem
from nas.blocks.spec import hidden_width
from nas.data.images import MEAN, STD
from nas.errors import NasError
from nas.export.target import Model, Target
from nas.files import write_yaml
from nas.runs.trained_on import TrainedOn
from nas.space import Architecture, Stage, load_space
from nas.weights.files import save_tensors
from nas.weights.importing import export_weights

RESOLUTION = (224, 224)
"""Input size of timm's EfficientFormer, whose attention has biases for 7x7 tokens at any size."""
STAGES = 4


@dataclass(frozen=True)
class Expressed:
    """The call of `timm.create_model` for a network.

    Attributes:
        model: a name that timm registers; settings that are not in `arguments` are this model's.
        arguments: the arguments beside the name.
        layout: layout of the weights, in `nas.weights.LAYOUTS`.
        built: the architecture that timm builds from the call.
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
    header = {"model": found.model, "layout": found.layout, **TrainedOn(model.classes).header()}
    save_tensors(path / "model.safetensors", state_dict(model, found), header)


def state_dict(model: Model, found: Expressed) -> dict[str, Tensor]:
    """Return the state dict that the timm network loads with strict=True."""
    tensors = export_weights(model.network(), found.layout)
    if "head.weight" in tensors and found.arguments.get("distillation", True):
        # timm's network has two classifiers and answers with their mean. Two equal ones answer as
        # the single one of ours does.
        for part in ("weight", "bias"):
            tensors.setdefault(f"head_dist.{part}", tensors[f"head.{part}"].clone())
    # timm stores the index of each pair's bias beside the table of biases.
    if found.layout == "efficientformer/timm":
        for name in [name for name in tensors if name.endswith("attention_biases")]:
            tensors[name.replace("attention_biases", "attention_bias_idxs")] = _distances(7, 7)
    return tensors


def express(arch: Architecture) -> Expressed:
    """Return the call of `timm.create_model` for an architecture.

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
    # A family reads the numbers that timm takes off the architecture and builds what timm would
    # build from them. Where both have the same operations, the call expresses the architecture.
    found = family(arch)
    for index, (ours, theirs) in enumerate(zip(operations, found.built.operations(), strict=False)):
        if (ours.spec, ours.input) != (theirs.spec, theirs.input):
            raise _refusal(
                arch,
                index,
                f"{found.model} with these arguments has {theirs.spec.kind} ({theirs.spec}) there",
            )
        # A fraction of the channels is rounded to 8 here, and not by timm.
        expansion = ours.spec.hyperparameters().get("expansion", 1)
        exact = expansion * ours.input.channels
        if hidden_width(expansion, ours.input.channels) != exact:
            raise _refusal(arch, index, f"timm does not round its hidden width of {exact:g}")
    if len(operations) != len(found.built.operations()):
        raise NasError(
            f"cannot express {len(operations)} operations: {found.model} with these arguments has"
            f" {len(found.built.operations())}"
        )
    return found


def _refusal(arch: Architecture, index: int, reason: str) -> NasError:
    operation = arch.operations()[index]
    return NasError(f"cannot express {operation.name}, {operation}: {reason}")


def _efficientformer(arch: Architecture) -> Expressed:
    """Return timm's EfficientFormer nearest to an architecture."""
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
    # timm takes one ratio and one pool for all blocks, and puts attention at the end of the last
    # stage. A member that differs is refused by the comparison in `express`.
    ratio = _expansion(blocks)
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
    """Return timm's EfficientFormerV2 nearest to an architecture."""
    # timm takes one number of attention blocks, for each of the last two stages, but a ratio for
    # every block.
    attention = max(
        sum(isinstance(block, AttentionFFN) for block in stage.present) for stage in arch.stages
    )
    ratios = [[_expansion([block]) for block in stage.present] for stage in arch.stages]
    stages: list[list[BlockSpec]] = []
    for index, expansions in enumerate(ratios):
        # Attention stands at the end of the last two stages. In the third it works on a grid of
        # half the size.
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
    """Return timm's SwiftFormer nearest to an architecture."""
    ratio = _expansion(_blocks(arch))
    # Every stage ends with one additive encoder.
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
    """Return timm's EfficientViT, of class B or L by its stem, nearest to an architecture."""
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
        # In the two stages without attention timm's depth includes the block that enters the stage.
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
    """Return the entries and stages of timm's EfficientViT-B, with one ratio for all blocks."""
    entries: list[EntrySpec] = [
        MBConvDown(w, ratio, fewer_norm=i >= 2) for i, w in enumerate(arch.widths)
    ]
    stages: list[list[BlockSpec]] = [
        [EfficientViTModule(ratio, head_dim) if index >= 2 else MBConv(ratio)] * depth
        for index, depth in enumerate(arch.depths)
    ]
    return entries, stages


def _large(arch: Architecture, head_dim: int) -> tuple[list[EntrySpec], list[list[BlockSpec]]]:
    """Return the entries and stages of timm's EfficientViT-L, whose code fixes all ratios."""
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


def _repvit(arch: Architecture) -> Expressed:
    """Return timm's RepViT nearest to an architecture."""
    # timm takes a ratio for each stage, of its downsampling too, and one kernel for all.
    ratios = [_first([*stage.present, stage.entry], "expansion", 2) for stage in arch.stages]
    kernel = _first(_blocks(arch), "kernel", 3)
    entries: list[EntrySpec] = [RepViTStem(arch.widths[0])]
    entries += [
        RepViTDown(width, ratio, kernel)
        for width, ratio in zip(arch.widths[1:], ratios[1:], strict=True)
    ]
    # Every second block has squeeze-and-excitation, from the first one on.
    stages = [
        [RepViTBlock(ratio, kernel, squeeze=position % 2 == 0) for position in range(depth)]
        for ratio, depth in zip(ratios, arch.depths, strict=True)
    ]
    distilled = _distilled(arch)
    arguments = {
        "embed_dim": list(arch.widths),
        "depth": list(arch.depths),
        "mlp_ratio": ratios,
        "kernel_size": kernel,
        "distillation": distilled,
        "num_classes": arch.classes,
    }
    head = RepViTHead(arch.classes, distilled)
    return Expressed("repvit_m0_9", arguments, "repvit/timm", _built(arch, entries, stages, head))


def _fastvit(arch: Architecture) -> Expressed:
    """Return timm's FastViT nearest to an architecture."""
    # A stage has one kind of token mixer. Positional encodings are functions, which no YAML file
    # holds: a model that has timm's own, of 7x7 before stage 4, stands for them.
    mixers = [
        "attention" if any(block.mixer == "attention" for block in stage.present) else "repmixer"
        for stage in arch.stages
    ]
    encoded = bool(_first(arch.stages[-1].present[:1], "encoding", 0))
    ratios = [_first(stage.present, "expansion", 4) for stage in arch.stages]
    downs = [stage.entry.hyperparameters() for stage in arch.stages]
    squeeze = [bool(down.get("squeeze", False)) for down in downs]
    middle = bool(downs[-1].get("middle_activation", False))
    entries: list[EntrySpec] = [FastViTStem(arch.widths[0])]
    entries += [
        FastViTDown(width, squeeze=gate, middle_activation=middle)
        for width, gate in zip(arch.widths[1:], squeeze[1:], strict=True)
    ]
    stages: list[list[BlockSpec]] = [
        [
            FastViTAttention(ratio, encoding=7 if encoded and index == 3 and not position else 0)
            if mixer == "attention"
            else RepMixer(ratio)
            for position in range(depth)
        ]
        for index, (mixer, ratio, depth) in enumerate(zip(mixers, ratios, arch.depths, strict=True))
    ]
    arguments = {
        "layers": list(arch.depths),
        "embed_dims": list(arch.widths),
        "mlp_ratios": ratios,
        "token_mixers": mixers,
        "se_downsamples": squeeze,
        "lkc_use_act": middle,
        "num_classes": arch.classes,
    }
    return Expressed(
        "fastvit_sa12" if encoded else "fastvit_t8",
        arguments,
        "fastvit/timm",
        _built(arch, entries, stages, FastViTHead(arch.classes)),
    )


MOBILENETV4 = {
    "mobilenetv4_conv_s": "mobilenetv4_conv_small",
    "mobilenetv4_conv_m": "mobilenetv4_conv_medium",
    "mobilenetv4_conv_l": "mobilenetv4_conv_large",
    "mobilenetv4_hybrid_m": "mobilenetv4_hybrid_medium",
    "mobilenetv4_hybrid_l": "mobilenetv4_hybrid_large",
}
"""timm's names of the published members. Its functions take no other widths, depths or kernels."""


def _mobilenetv4(arch: Architecture) -> Expressed:
    """Return the published MobileNetV4 nearest to an architecture: with the most equal operations."""
    ours = arch.operations()

    def common(name: str) -> int:
        theirs = published[name].operations()
        return sum(one.spec == other.spec for one, other in zip(ours, theirs, strict=False))

    space = load_space("mobilenetv4")
    published = {
        name: space.published[name].at(arch.resolution, arch.classes) for name in MOBILENETV4
    }
    nearest = max(published, key=common)
    return Expressed(
        MOBILENETV4[nearest],
        {"num_classes": arch.classes},
        "mobilenetv4/timm",
        published[nearest],
    )


def _built(
    arch: Architecture,
    entries: Sequence[EntrySpec],
    stages: Sequence[Sequence[BlockSpec]],
    head: HeadSpec,
) -> Architecture:
    """Return an architecture of these parts, with the rest of `arch`."""
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
    """Return a hyperparameter of the first block that has it, or the default."""
    found = (block.hyperparameters().get(name) for block in blocks)
    return next((int(value) for value in found if value is not None), default)


def _expansion(blocks: Sequence[BlockSpec]) -> float:
    """Return the expansion of the first block that has one, or 4."""
    found = (block.hyperparameters().get("expansion") for block in blocks)
    return next((value for value in found if value is not None), 4)


def _distilled(arch: Architecture) -> bool:
    return bool(getattr(arch.head, "distillation", True))


def _distances(height: int, width: int) -> Tensor:
    """Return the index |dy| * width + |dx| of the bias of each pair of tokens (N, N)."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()])  # (2, N)
    # (2, N, 1) - (2, 1, N) is (2, N, N).
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
    "repvit_stem": _repvit,
    "fastvit_stem": _fastvit,
    "mobilenetv4_stem": _mobilenetv4,
}
"""Kind of a block to the function of the timm family that has it."""

TARGET = Target("timm", write, packages=("torch", "safetensors"), mark="arguments.yaml")
