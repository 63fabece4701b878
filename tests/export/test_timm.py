"""Members as arguments for timm, and weights in timm's layout, against names and shapes recorded
from timm itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import seeded
import torch
from torch import Tensor

import nas
from nas.blocks import MB3D, MB4D, ConvEncoder, FPNHead, Identity, MapHead, TokenHead
from nas.blocks.fastvit.spec import FastViTAttention, RepMixer
from nas.blocks.repvit.spec import RepViTBlock
from nas.errors import InputError, NasError
from nas.export.target import Model
from nas.export.targets.timm import express, state_dict, write
from nas.files import YamlFile
from nas.space import Architecture, space_names
from nas.testing.spaces import randomise
from nas.training.transforms import transforms_v2
from nas.weights import LAYOUTS
from nas.weights.importing import export_weights

MEMBERS = {
    # Encoders of MobileCLIP end in 512 features.
    name: arch.at(classes=512) if "mci" in name else arch
    for space in space_names()
    for name, arch in nas.load_space(space).published.items()
}
LARGE = {name for name, arch in MEMBERS.items() if arch.params > 40e6}
"""Left out where tensors are made, as they are many."""
RECORDED = [
    (name, layout)
    for name, arch in MEMBERS.items()
    for layout in ("official", "timm", "mobileclip")
    if (Path(seeded.__file__).parent / arch.space / f"{name}.{layout}.csv").exists()
    and name not in LARGE
]
IN_TIMM = [name for name, layout in RECORDED if layout == "timm"]
NOT_IN_TIMM = ("emo",)
"""Families that no network of timm has the blocks of."""
INDICES = "attention_bias_idxs"

ARGUMENTS = {
    "efficientformer_l1": {"depths": [3, 2, 6, 4], "embed_dims": [48, 96, 224, 448], "num_vit": 1, "mlp_ratios": 4,
                           "pool_size": 3, "num_classes": 1000},
    "efficientformer_l3": {"depths": [4, 4, 12, 6], "embed_dims": [64, 128, 320, 512], "num_vit": 4, "mlp_ratios": 4,
                           "pool_size": 3, "num_classes": 1000},
    "efficientformerv2_s0": {"depths": [2, 2, 6, 4], "embed_dims": [32, 48, 96, 176], "num_vit": 2,
                             "mlp_ratios": [[4, 4], [4, 4], [4, 3, 3, 3, 4, 4], [4, 3, 3, 4]],
                             "img_size": [224, 224], "distillation": True, "num_classes": 1000},
    "swiftformer_xs": {"layers": [3, 3, 6, 4], "embed_dims": [48, 56, 112, 220], "mlp_ratios": 4, "num_classes": 1000},
    "efficientvit_b0": {"widths": [8, 16, 32, 64, 128], "depths": [1, 2, 2, 2, 2], "head_dim": 16, "expand_ratio": 4,
                        "head_widths": [1024, 1280], "num_classes": 1000},
    "repvit_m0_9": {"embed_dim": [48, 96, 192, 384], "depth": [2, 2, 14, 2], "mlp_ratio": [2, 2, 2, 2],
                    "kernel_size": 3, "distillation": True, "num_classes": 1000},
    "fastvit_t8": {"layers": [2, 2, 4, 2], "embed_dims": [48, 96, 192, 384], "mlp_ratios": [3, 3, 3, 3],
                   "token_mixers": ["repmixer"] * 4, "se_downsamples": [False] * 4, "lkc_use_act": False,
                   "num_classes": 1000},
    "fastvit_mci0": {"layers": [2, 6, 10, 2], "embed_dims": [64, 128, 256, 512], "mlp_ratios": [3, 3, 3, 3],
                     "token_mixers": ["repmixer"] * 3 + ["attention"],
                     "se_downsamples": [False, False, True, True], "lkc_use_act": True, "num_classes": 512},
    "mobilenetv4_hybrid_m": {"num_classes": 1000},
    "efficientvit_l1": {"widths": [32, 64, 128, 256, 512], "depths": [1, 1, 1, 6, 6], "head_dim": 32,
                        "head_widths": [3072, 3200], "num_classes": 1000},
}  # fmt: skip
"""As timm's own registered functions have them."""


def checkpoint(name: str, layout: str) -> dict[str, Tensor]:
    return seeded.state_dict(
        seeded.read_types(
            Path(seeded.__file__).parent / MEMBERS[name].space / f"{name}.{layout}.csv"
        )
    )


def imported(name: str, layout: str) -> nas.Network:
    with torch.device("meta"):
        net = nas.build(MEMBERS[name])
    net = net.to_empty(device="cpu").eval()
    nas.import_weights(net, checkpoint(name, layout))
    return net


@pytest.mark.parametrize(("name", "layout"), RECORDED)
def test_exporting_is_the_inverse_of_importing(name: str, layout: str) -> None:
    """Every tensor comes back under its name, in its shape, with its values, into either code
    base's layout."""
    expected = {
        key: value for key, value in checkpoint(name, layout).items() if not key.endswith(INDICES)
    }
    found = export_weights(imported(name, layout), f"{MEMBERS[name].space}/{layout}")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(
            found[key], value, rtol=0, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("name", IN_TIMM)
def test_state_dict_has_all_that_timm_asks_for(name: str) -> None:
    model = Model(MEMBERS[name], imported(name, "timm").state_dict(), (), {})
    found = state_dict(model, express(model.architecture))
    expected = checkpoint(name, "timm")
    assert {key: (value.shape, value.dtype) for key, value in found.items()} == {
        key: (value.shape, value.dtype) for key, value in expected.items()
    }


def test_indices_of_biases_are_those_of_distances() -> None:
    arch = MEMBERS["efficientformer_l1"]
    model = Model(arch, imported("efficientformer_l1", "timm").state_dict(), (), {})
    found = state_dict(model, express(arch))["stages.3.blocks.4.token_mixer.attention_bias_idxs"]
    for query, key in ((0, 0), (0, 48), (10, 3), (25, 41)):
        rows = abs(query // 7 - key // 7)
        columns = abs(query % 7 - key % 7)
        assert found[query, key] == rows * 7 + columns


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_are_those_of_timms_own_functions(name: str) -> None:
    found = express(MEMBERS[name])
    assert found.arguments == ARGUMENTS[name]


@pytest.mark.parametrize(
    "name", [name for name, arch in MEMBERS.items() if arch.space not in NOT_IN_TIMM]
)
def test_every_published_member_of_timms_families_is_expressed(name: str) -> None:
    assert express(MEMBERS[name]).layout in LAYOUTS


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("efficientformer_l1", TokenHead(5, False)),
        ("swiftformer_xs", MapHead(5, distillation=False)),
    ],
)
def test_a_network_without_distillation_has_two_equal_classifiers(
    name: str, head: TokenHead | MapHead
) -> None:
    """timm's code has two always and takes their mean."""
    single = MEMBERS[name].with_head(head)
    found = state_dict(Model(single, nas.build(single).state_dict(), (), {}), express(single))
    double = nas.build(single.with_head(replace(head, distillation=True)))
    nas.import_weights(double, found)
    assert torch.equal(double.head.classifier.weight, double.head.distilled.weight)
    assert len(double.head.classifier.weight) == 5


@torch.no_grad()
@pytest.mark.parametrize(
    "space", sorted({arch.space for arch in MEMBERS.values()} - set(NOT_IN_TIMM))
)
def test_timm_builds_the_same_network(space: str) -> None:
    """timm's own code takes the arguments and all tensors, and answers as our network."""
    transforms_v2()  # timm imports torchvision, whose wheel may be of another build of torch
    timm = pytest.importorskip("timm")
    published = nas.load_space(space).published.values()
    arch = min(published, key=lambda each: each.macs).at(classes=7)
    net = nas.build(arch).eval()
    randomise(net)
    found = express(arch)
    theirs = timm.create_model(found.model, **found.arguments).eval()
    tensors = state_dict(Model(arch, net.state_dict(), (), {}), found)
    theirs.load_state_dict(tensors, strict=True)
    images = torch.randn(1, 3, *arch.resolution, generator=torch.Generator().manual_seed(0))
    ours = net(images)
    assert ours.std() > 0
    assert (theirs(images) - ours).abs().max() < 1e-4 * ours.std()


def odd(name: str, place: str, block: object) -> Architecture:
    return MEMBERS[name].with_block(place, block)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arch", "reason"),
    [
        (MEMBERS["emo_1m"], r"cannot express stem, emo_stem.*: timm has no network of such blocks"),
        (
            odd("efficientformer_l1", "stage3_block6", MB3D()),
            r"stage3_flatten.* on 224x14x14: .*has mb4d|stage3_block6",
        ),
        (
            odd("efficientformer_l1", "stage2_block2", MB4D(expansion=3)),
            r"stage2_block2, mb4d\(expansion=3",
        ),
        (
            odd("swiftformer_xs", "stage3_block6", ConvEncoder()),
            r"stage3_block6, conv_encoder.*has additive_encoder",
        ),
        (
            odd("efficientformer_l1", "stage4_block4", MB4D()),
            r"attention at least in its last block",
        ),
        (MEMBERS["efficientformer_l1"].at(256), r"stage4_block4, mb3d.*7x7 tokens alone"),
        (MEMBERS["efficientvit_b0"].with_head(FPNHead(5)), r"cannot express head, fpn_head"),
        (
            odd("repvit_m0_9", "stage2_block2", RepViTBlock(squeeze=True)),
            r"stage2_block2, repvit_block.*: repvit_m0_9 with these arguments has repvit_block",
        ),
        (
            odd("fastvit_sa12", "stage4_block1", FastViTAttention(encoding=5)),
            r"stage4_block1, fastvit_attention\(.*encoding=5",
        ),
        (
            odd("fastvit_t8", "stage2_block1", RepMixer(4)),
            r"stage2_block2, repmixer\(expansion=3",
        ),
        (
            odd("mobilenetv4_conv_s", "stage3_block1", Identity()),
            r"cannot express stage3_block\d, uib.*: mobilenetv4_conv_small with these arguments has",
        ),
    ],
    ids=[
        "emo",
        "attention in stage 3",
        "expansion",
        "last block",
        "no attention",
        "resolution",
        "dense",
        "squeeze",
        "encoding",
        "ratio of a block",
        "not published",
    ],
)
def test_what_timm_cannot_express_names_the_operation(arch: Architecture, reason: str) -> None:
    with pytest.raises(NasError, match=reason):
        express(arch)


def test_dropped_positions_do_not_count_and_keep_their_names() -> None:
    dropped = odd("swiftformer_xs", "stage3_block2", Identity())
    assert express(dropped).arguments["layers"] == [3, 3, 5, 4]
    model = Model(dropped, nas.build(dropped).state_dict(), (), {})
    assert "stages.2.blocks.4.attn.w_g" in state_dict(model, express(dropped))
    with pytest.raises(NasError, match="stage3_block6, conv_encoder"):
        express(dropped.with_block("stage3_block6", ConvEncoder()))


def test_other_sizes_and_classes(tmp_path: Path) -> None:
    arch = MEMBERS["efficientformerv2_s0"].at((256, 224), 11)
    model = Model(arch, nas.build(arch).state_dict(), tuple(map(str, range(11))), {})
    write(model, tmp_path / "timm")
    said = YamlFile(tmp_path / "timm" / "arguments.yaml").data
    assert (said["model"], said["arguments"]["img_size"]) == ("efficientformerv2_s0", [256, 224])
    assert said["arguments"]["num_classes"] == 11 == len(said["classes"])
    tensors = safetensors.torch.load_file(tmp_path / "timm" / said["checkpoint"])
    assert tensors["head_dist.weight"].shape == (11, 176)


def test_a_family_without_a_layout_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"stem, emo_stem.*was never published in the layout swiftformer/timm"
    ):
        export_weights(nas.build(MEMBERS["emo_1m"]), "swiftformer/timm")


def test_write_leaves_the_weights_alone(tmp_path: Path, make_model: Callable[..., Model]) -> None:
    """The head is not merged and no batch norm is folded: timm's network goes on training."""
    arch = MEMBERS["swiftformer_xs"].at(64, 3)
    model = make_model(arch)
    write(model, tmp_path / "timm")
    other = nas.build(arch)
    nas.import_weights(other, safetensors.torch.load_file(tmp_path / "timm" / "model.safetensors"))
    for key, value in other.state_dict().items():
        torch.testing.assert_close(value, model.state[key])


def with_expansion(arch: Architecture, expansion: float) -> Architecture:
    for index, stage in enumerate(arch.stages):
        blocks = tuple(replace(block, expansion=expansion) for block in stage.blocks)
        arch = arch.with_stage(index, replace(stage, blocks=blocks))
    return arch


def test_a_hidden_width_that_timm_does_not_round_is_refused() -> None:
    exact = with_expansion(nas.load_architecture("efficientformer_l1"), 1.5)
    assert express(exact).arguments["mlp_ratios"] == 1.5
    # The second stage has 56 channels.
    rounded = with_expansion(nas.load_architecture("swiftformer_xs"), 1.5)
    with pytest.raises(NasError, match="timm does not round its hidden width of 84"):
        express(rounded)
