"""Records what a reference implementation computes, from your own checkout of its repository.

    python tests/references/record.py efficientformer official ~/EfficientFormer
    python tests/references/record.py efficientformer timm ~/pytorch-image-models
    python tests/references/record.py efficientvit dense ~/efficientvit

Every parameter and buffer is filled from its name (`seeded`), two seeded images go through in eval
mode, and the tensors' names and shapes (CSV) and the outputs (NPZ) are written beside this file.
The checkouts are only read; nothing of their code is kept here. What they import beyond torch and
their own files is stood in for.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.machinery
import json
import subprocess
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import seeded
import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
IMAGES = (2, 3, 224, 224)
SAMPLES = 256
"""How many evenly spaced elements of each stage's output are kept."""


@dataclass(frozen=True)
class Source:
    """Where a reference implementation of some family is found in its repository.

    Attributes:
        module: what to import, from the checkout's root.
        members: our name of the member, and the function in `module` that makes it, or one that
            takes `module`.
        stages: the modules whose outputs are the four stages' features (of a list, its last one's),
            or the one whose last four children are; by member where they differ.
        stubs: stands in for what the code imports and the checkout does not hold.
        images: size of the seeded images.
    """

    module: str
    members: Mapping[str, str | Callable[[types.ModuleType], nn.Module]]
    stages: tuple[str, ...] | Mapping[str, tuple[str, ...]]
    stubs: Callable[[Path], None]
    images: tuple[int, int, int, int] = IMAGES


def stub_for_snap_research(checkout: Path) -> None:
    """The five names that the EfficientFormer repository takes from an old timm."""
    del checkout
    _module("timm")
    _module("timm.data", IMAGENET_DEFAULT_MEAN=(), IMAGENET_DEFAULT_STD=())
    _module("timm.models")
    _module("timm.models.registry", register_model=lambda make: make)
    _module("timm.models.layers", DropPath=nn.Identity, trunc_normal_=nn.init.trunc_normal_)
    _module("timm.models.layers.helpers", to_2tuple=lambda x: x if isinstance(x, tuple) else (x, x))


def stub_for_swiftformer(checkout: Path) -> None:
    """What the SwiftFormer repository takes from an old timm, and the one pattern of einops that it
    uses."""
    stub_for_snap_research(checkout)
    _module("einops", repeat=lambda x_bd, pattern, repeat: x_bd[:, None].expand(-1, repeat, -1))


class SqueezeExcite(nn.Module):
    """timm's squeeze-and-excitation, which EMO's stem takes from it."""

    def __init__(self, channels: int, rd_ratio: float, act_layer: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, round(channels * rd_ratio), 1)
        self.act = act_layer()
        self.conv_expand = nn.Conv2d(round(channels * rd_ratio), channels, 1)

    def forward(self, x_bchw: Tensor) -> Tensor:
        squeezed = x_bchw.mean(dim=(2, 3), keepdim=True)
        return x_bchw * torch.sigmoid(self.conv_expand(self.act(self.conv_reduce(squeezed))))


def stub_for_emo(checkout: Path) -> None:
    """What EMO's repository takes from an old timm, and its registry of models; einops itself must
    be importable."""
    unused = ("Sigmoid", "Swish", "Mish", "HardSigmoid", "HardSwish", "HardMish", "Tanh", "PReLU")
    _module(
        "model",
        folder=checkout / "model",
        MODEL=types.SimpleNamespace(register_module=lambda make: make),
    )
    _module("cv2")
    _module("timm")
    _module("timm.models")
    _module(
        "timm.models.layers",
        DropPath=nn.Identity,
        trunc_normal_=nn.init.trunc_normal_,
        create_attn=None,
    )
    _module("timm.models.layers.weight_init", trunc_normal_=nn.init.trunc_normal_)
    _module(
        "timm.models.layers.activations",
        torch=torch,
        nn=nn,
        F=nn.functional,
        GELU=lambda inplace=False: nn.GELU(),
    )
    vars(sys.modules["timm.models.layers.activations"]).update(dict.fromkeys(unused, nn.Identity))
    _module("timm.models.efficientnet_blocks", num_groups=None, SqueezeExcite=SqueezeExcite)
    _module("timm.models.efficientnet_builder", _parse_ksize=None)


class TwoLayerGate(nn.Module):
    """timm's squeeze-and-excitation under the names of RepViT's and MobileCLIP's checkpoints."""

    def __init__(self, channels: int, rd_ratio: float) -> None:
        super().__init__()
        # The nearest multiple of 8.
        hidden = max(8, int(channels * rd_ratio + 4) // 8 * 8)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x_bchw: Tensor) -> Tensor:
        squeezed = self.fc1(x_bchw.mean(dim=(2, 3), keepdim=True)).relu()
        return x_bchw * torch.sigmoid(self.fc2(squeezed))


def stub_for_repvit(checkout: Path) -> None:
    """What the repositories of RepViT and MobileCLIP take from an old timm."""
    stub_for_snap_research(checkout)
    vars(sys.modules["timm.models"]).update(register_model=lambda make: make)
    vars(sys.modules["timm.models.layers"]).update(SqueezeExcite=TwoLayerGate)
    _module("timm.models.vision_transformer", trunc_normal_=nn.init.trunc_normal_)
    _module("model", folder=checkout / "model")


def repvit(name: str) -> Callable[[types.ModuleType], nn.Module]:
    """With both classifiers, as the checkpoints that were trained with a teacher."""

    def make(module: types.ModuleType) -> nn.Module:
        model: nn.Module = getattr(module, name)(distillation=True)
        return model

    return make


def stub_for_mobileclip(checkout: Path) -> None:
    """The image encoder without the text encoder beside it."""
    stub_for_repvit(checkout)
    for package in ("mobileclip", "mobileclip.models"):
        _module(package, folder=checkout / package.replace(".", "/"))


def mobileclip(size: str) -> Callable[[types.ModuleType], nn.Module]:
    """As MobileCLIP makes it: the classifier is a projection to the 512 features of its texts."""

    def make(module: types.ModuleType) -> nn.Module:
        model: nn.Module = getattr(module, size)()
        heads = importlib.import_module("mobileclip.modules.image.image_projection")
        model.head = heads.GlobalPool2D(model.head.in_features, 512)
        return model

    return make


def stub_for_timm(checkout: Path) -> None:
    """timm without torchvision: the model files and layers are the checkout's, its data pipeline is
    left out."""
    _module("timm", folder=checkout / "timm", __version__="checkout")
    _module("timm.models", folder=checkout / "timm" / "models")
    statistics = ("IMAGENET_DEFAULT", "IMAGENET_INCEPTION", "OPENAI_CLIP")
    _module("timm.data", **{f"{n}_{part}": () for n in statistics for part in ("MEAN", "STD")})
    # First, as an installed one may have been compiled for another torch.
    sys.meta_path.insert(0, _Absent("torchvision"))


def stub_for_efficientvit(checkout: Path) -> None:
    """The packages without what their __init__ imports besides: segmentation, SAM, autoencoders,
    kernels in Triton."""
    _module(
        "efficientvit.models.efficientvit",
        folder=checkout / "efficientvit" / "models" / "efficientvit",
    )
    _module("efficientvit.apps.trainer.run_config", Scheduler=None)
    _module("efficientvit.models.nn.triton_rms_norm", TritonRMSNorm2dFunc=None)


def efficientvit(size: str) -> Callable[[types.ModuleType], nn.Module]:
    """As the repository's model zoo makes it: in the L series norms have an eps of 1e-7.

    L0 is a backbone alone; it gets the head that L1 has.
    """

    def make(module: types.ModuleType) -> nn.Module:
        model: nn.Module
        if size == "l0":
            backbone = importlib.import_module("efficientvit.models.efficientvit.backbone")
            head = module.ClsHead(512, [3072, 3200], act_func="gelu")
            model = module.EfficientViTCls(backbone.efficientvit_backbone_l0(), head)
        else:
            model = getattr(module, f"efficientvit_cls_{size}")()
        for part in model.modules():
            if size.startswith("l") and isinstance(part, (nn.BatchNorm2d, nn.LayerNorm)):
                part.eps = 1e-7
        return model

    return make


def efficientvit_seg(size: str, data: str) -> Callable[[types.ModuleType], nn.Module]:
    """As the repository's model zoo makes it: in the L series norms have an eps of 1e-7."""

    def make(module: types.ModuleType) -> nn.Module:
        model: nn.Module = getattr(module, f"efficientvit_seg_{size}")(dataset=data)
        for part in model.modules():
            if size.startswith("l") and isinstance(part, nn.BatchNorm2d):
                part.eps = 1e-7
        return model

    return make


def efficientvit_timm(name: str) -> Callable[[types.ModuleType], nn.Module]:
    """With the authors' eps of 1e-15 under the attention's sums, which the checkpoints were trained
    with.

    timm's is 1e-5; that is felt where a query has next to no positive products (4e-4 in B1's logits
    here).
    """

    def make(module: types.ModuleType) -> nn.Module:
        model: nn.Module = getattr(module, name)()
        for part in model.modules():
            if isinstance(part, module.LiteMLA):
                part.eps = 1e-15
        return model

    return make


EFFICIENTVITS = {
    f"efficientvit_{series}{size}": efficientvit(f"{series}{size}")
    for series in "bl"
    for size in range(4)
}
EFFICIENTVITS_TIMM = {
    name: efficientvit_timm(name) for name in EFFICIENTVITS if name != "efficientvit_l0"
}
EFFICIENTVITS_SEG = {
    f"efficientvit_seg_{size}_{data}": efficientvit_seg(size, data)
    for data, sizes in (
        ("cityscapes", ("b0", "b1", "b2", "b3", "l1", "l2")),
        ("ade20k", ("b1", "b2", "b3", "l1", "l2")),
    )
    for size in sizes
}
MOBILENETV4S = {
    f"mobilenetv4_{ours}": f"mobilenetv4_{theirs}"
    for ours, theirs in (
        ("conv_s", "conv_small"),
        ("conv_m", "conv_medium"),
        ("conv_l", "conv_large"),
        ("hybrid_m", "hybrid_medium"),
        ("hybrid_l", "hybrid_large"),
    )
}
FASTVITS = tuple(
    f"fastvit_{size}"
    for size in ("t8", "t12", "s12", "sa12", "sa24", "sa36", "ma36", "mci0", "mci1", "mci2")
)
FASTVITS_ALONE = tuple(name for name in FASTVITS if "mci" not in name)
REPVITS = tuple(f"repvit_m{size}" for size in ("0_9", "1_0", "1_1", "1_5", "2_3"))
REPVIT_DEPTHS = {
    "repvit_m0_9": (2, 2, 14, 2),
    "repvit_m1_0": (2, 2, 14, 2),
    "repvit_m1_1": (2, 2, 12, 2),
    "repvit_m1_5": (4, 4, 24, 4),
    "repvit_m2_3": (6, 6, 34, 2),
}


def repvit_stages(depths: Sequence[int]) -> tuple[str, ...]:
    """The last block of each stage in the authors' list, where a downsampling is two blocks."""
    ends = [sum(depths[: stage + 1]) + 2 * stage for stage in range(len(depths))]
    return tuple(f"features.{end}" for end in ends)


EFFICIENTFORMERV2S = {
    f"efficientformerv2_{size}": f"efficientformerv2_{size}" for size in ("s0", "s1", "s2", "l")
}
EFFICIENTFORMERS = {f"efficientformer_l{size}": f"efficientformer_l{size}" for size in (1, 3, 7)}

SWIFTFORMERS = ("swiftformer_xs", "swiftformer_s", "swiftformer_l1", "swiftformer_l3")

SOURCES: dict[str, dict[str, Source]] = {
    "emo": {
        "official": Source(
            "model.emo",
            {f"emo_{size}m": f"EMO_{size}M" for size in (1, 2, 5, 6)},
            ("stage1", "stage2", "stage3", "stage4"),
            stub_for_emo,
        ),
    },
    "efficientformer": {
        "official": Source(
            "models.efficientformer",
            EFFICIENTFORMERS,
            ("network.0", "network.2", "network.4", "network.6"),
            stub_for_snap_research,
        ),
        "timm": Source(
            "timm.models.efficientformer",
            EFFICIENTFORMERS,
            ("stages.0", "stages.1", "stages.2", "stages.3"),
            stub_for_timm,
        ),
    },
    "swiftformer": {
        "official": Source(
            "models.swiftformer",
            {name: f"SwiftFormer_{name[12:].upper()}" for name in SWIFTFORMERS},
            ("network.0", "network.2", "network.4", "network.6"),
            stub_for_swiftformer,
        ),
        "timm": Source(
            "timm.models.swiftformer",
            {name: name for name in SWIFTFORMERS},
            ("stages.0", "stages.1", "stages.2", "stages.3"),
            stub_for_timm,
        ),
    },
    "efficientformerv2": {
        "official": Source(
            "models.efficientformer_v2",
            EFFICIENTFORMERV2S,
            ("network.0", "network.2", "network.4", "network.6"),
            stub_for_snap_research,
        ),
        "timm": Source(
            "timm.models.efficientformer_v2",
            EFFICIENTFORMERV2S,
            ("stages.0", "stages.1", "stages.2", "stages.3"),
            stub_for_timm,
        ),
    },
    "efficientvit": {
        "official": Source(
            "efficientvit.models.efficientvit.cls",
            EFFICIENTVITS,
            ("backbone.stages",),
            stub_for_efficientvit,
        ),
        "dense": Source(
            "efficientvit.models.efficientvit.seg",
            EFFICIENTVITS_SEG,
            ("backbone.stages",),
            stub_for_efficientvit,
            images=(1, 3, 64, 64),
        ),
        "timm": Source(
            "timm.models.efficientvit_mit", EFFICIENTVITS_TIMM, ("stages",), stub_for_timm
        ),
    },
    "fastvit": {
        "official": Source(
            "models.fastvit",
            {name: name for name in FASTVITS_ALONE},
            ("network.0", "network.2", "network.4", "network"),
            stub_for_snap_research,
        ),
        "mobileclip": Source(
            "mobileclip.models.mci",
            {f"fastvit_{size}": mobileclip(size) for size in ("mci0", "mci1", "mci2")},
            ("network.0", "network.2", "network.4", "network"),
            stub_for_mobileclip,
        ),
        "timm": Source(
            "timm.models.fastvit",
            {name: name for name in FASTVITS},
            ("stages.0", "stages.1", "stages.2", "stages.3"),
            stub_for_timm,
        ),
    },
    "repvit": {
        "official": Source(
            "model.repvit",
            {name: repvit(name) for name in REPVITS},
            {name: repvit_stages(depths) for name, depths in REPVIT_DEPTHS.items()},
            stub_for_repvit,
        ),
        "timm": Source(
            "timm.models.repvit",
            {name: name for name in REPVITS},
            ("stages.0", "stages.1", "stages.2", "stages.3"),
            stub_for_timm,
        ),
    },
    "mobilenetv4": {
        "timm": Source(
            "timm.models.mobilenetv3",
            MOBILENETV4S,
            ("blocks.0", "blocks.1", "blocks.2", "blocks.3"),
            stub_for_timm,
        ),
    },
}


def record(family: str, layout: str, checkout: Path) -> None:
    source = SOURCES[family][layout]
    source.stubs(checkout)
    sys.path.insert(0, str(checkout))
    module = importlib.import_module(source.module)
    folder = HERE / family
    folder.mkdir(exist_ok=True)
    for member, make in source.members.items():
        model = getattr(module, make)() if isinstance(make, str) else make(module)
        tensors = {
            name: (tuple(t.shape), seeded.dtype(t)) for name, t in model.state_dict().items()
        }
        floats = {name: type_ for name, type_ in tensors.items() if type_[1].startswith("f")}
        model.load_state_dict(seeded.state_dict(floats), strict=False)
        stages = source.stages if isinstance(source.stages, tuple) else source.stages[member]
        outputs = run(model, stages, seeded.images(source.images))
        seeded.write_types(folder / f"{member}.{layout}.csv", tensors)
        np.savez_compressed(folder / f"{member}.{layout}.npz", **outputs)
        print(
            f"{member} ({layout}): {len(tensors)} tensors, logits of std"
            f" {outputs['logits'].std():.3f}"
        )
    origin = {
        "commit": commit(checkout),
        "file": source.module.replace(".", "/") + ".py",
        "torch": torch.__version__,
        "images": list(source.images),
    }
    (folder / f"{layout}.json").write_text(json.dumps(origin, indent=1) + "\n")


@torch.no_grad()
def run(model: nn.Module, stages: Sequence[str], images: Tensor) -> dict[str, Any]:
    """The logits, and of each stage's output (B, C, H, W) its mean, its deviation and evenly spaced
    elements."""
    features: list[Tensor] = []
    modules = [model.get_submodule(name) for name in stages]
    for stage in modules if len(modules) > 1 else list(modules[0].children())[-4:]:
        stage = stage[-1] if isinstance(stage, nn.ModuleList) else stage
        stage.register_forward_hook(lambda module, given, output: features.append(output))
    logits = model.eval()(images)
    logits = logits["out"] if isinstance(logits, dict) else logits
    outputs = {"logits": logits.numpy()}
    for index, feature in enumerate(features, start=1):
        if feature.ndim == 3:  # tokens (B, N, C)
            feature = feature.transpose(1, 2)
        values = feature.flatten().numpy()
        outputs[f"stage{index}_moments"] = np.array([values.mean(), values.std()], np.float32)
        outputs[f"stage{index}_samples"] = values[:: values.size // SAMPLES][:SAMPLES]
    return outputs


def commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    # An unpacked release has no commit, but says its version.
    release = next((path.stem for path in sorted(checkout.glob("*.dist-info"))), "unknown")
    return (
        subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        or release
    )


def _module(name: str, folder: Path | None = None, **names: Any) -> None:
    """Puts a module of these names where `import` looks first; with a folder, its files can be
    imported too."""
    module = types.ModuleType(name)
    module.__path__ = [str(folder)] if folder else []
    vars(module).update(names)
    sys.modules[name] = module


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets a package be imported that is not installed; whatever is taken from it is an empty
    class."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, name: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        inside = name.partition(".")[0] == self.package
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if inside else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class _Empty(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family", choices=SOURCES)
    parser.add_argument(
        "layout", choices=sorted({layout for layouts in SOURCES.values() for layout in layouts})
    )
    parser.add_argument("checkout", type=Path, help="the root of your checkout of the repository")
    arguments = parser.parse_args()
    record(arguments.family, arguments.layout, arguments.checkout.expanduser())


if __name__ == "__main__":
    main()
