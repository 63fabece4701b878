"""FastViT's published members: their sizes in both forms, and their outputs against timm's and the authors'."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import seeded
import torch
from recorded import assert_recorded
from torch import Tensor, nn

import nas
from nas.blocks.module import fold
from nas.space import Architecture
from nas.training.transforms import transforms_v2
from nas.weights.importing import export_weights
from nas.weights.network_file import load_network

FOLDER = Path(seeded.__file__).parent / "fastvit"
SPACE = nas.load_space("fastvit")
LAYOUTS = [
    (file.name.split(".")[0], file.name.split(".")[1]) for file in sorted(FOLDER.glob("*.csv"))
]
EVERY_LAYOUT = pytest.mark.parametrize(("name", "layout"), LAYOUTS)
EVERY_MEMBER = pytest.mark.parametrize("name", SPACE.published)
COUNTS = {
    # parameters and multiply-accumulates at 256 pixels, as trained and in inference
    "fastvit_t8": (4_026_232, 690_149_376, 3_996_040, 685_160_448),
    "fastvit_t12": (7_553_704, 1_397_727_232, 7_508_840, 1_390_944_256),
    "fastvit_s12": (9_473_576, 1_800_380_416, 9_428_712, 1_793_597_440),
    "fastvit_sa12": (11_580_968, 1_943_937_024, 11_545_320, 1_937_219_584),
    "fastvit_sa24": (21_554_216, 3_769_966_592, 21_501_288, 3_762_069_504),
    "fastvit_sa36": (31_527_464, 5_595_996_160, 31_457_256, 5_586_919_424),
    "fastvit_ma36": (44_068_004, 7_825_709_056, 43_984_632, 7_814_930_432),
    "fastvit_mci0": (11_406_976, 2_392_653_824, 11_357_504, 2_385_149_952),
    "fastvit_mci1": (21_541_632, 4_667_736_064, 21_461_056, 4_658_266_112),
    "fastvit_mci2": (35_815_232, 7_846_389_760, 35_702_992, 7_834_224_640),
}
"""Counted on timm 1.0.31, before and after its own re-parameterisation."""
PARTS = {
    "fastvit_t8": (4_800, 34_848, 140_544, 991_872, 1_999_872),
    "fastvit_t12": (7_424, 58_752, 240_640, 2_556_928, 3_518_464),
    "fastvit_s12": (7_424, 75_264, 306_432, 3_344_896, 4_568_064),
    "fastvit_sa12": (7_424, 75_264, 306_432, 3_344_896, 6_675_456),
    "fastvit_sa24": (7_424, 150_528, 588_032, 6_607_360, 13_029_376),
    "fastvit_sa36": (7_424, 225_792, 869_632, 9_869_824, 19_383_296),
    "fastvit_ma36": (9_728, 311_904, 1_211_440, 13_836_256, 27_278_528),
}
"""Parameters of the stem and of each stage, counted on timm 1.0.31."""
EMBEDDING = 512
"""Outputs of the encoders MCi: they have no classes."""


def member(name: str, side: int = 256) -> Architecture:
    return SPACE.published[name].at(side, EMBEDDING if "mci" in name else 1000)


def checkpoint(name: str, layout: str = "timm") -> dict[str, Tensor]:
    return seeded.state_dict(seeded.read_types(FOLDER / f"{name}.{layout}.csv"))


@EVERY_MEMBER
def test_counts_are_those_of_timm_in_both_forms(name: str) -> None:
    arch = member(name)
    inference = [
        layer
        for operation in arch.operations()
        for layer in operation.spec.deployed_layers(operation.input)
    ]
    assert (
        arch.params,
        arch.macs,
        sum(layer.params for layer in inference),
        sum(layer.macs for layer in inference),
    ) == COUNTS[name]


@pytest.mark.parametrize("name", PARTS)
def test_parameters_of_every_part_are_those_of_timm(name: str) -> None:
    parts = dict.fromkeys(("stem", "stage1", "stage2", "stage3", "stage4", "head"), 0)
    for operation in member(name).operations():
        parts[operation.name.partition("_")[0]] += operation.params
    assert tuple(parts.values())[:-1] == PARTS[name]


@EVERY_LAYOUT
def test_output_equals_the_reference(name: str, layout: str) -> None:
    """As trained, and in inference, where every branch is one convolution."""
    weights = checkpoint(name, layout)
    file = FOLDER / f"{name}.{layout}.npz"
    assert_recorded(member(name, 224), weights, f"fastvit/{layout}", file)


def test_every_member_has_its_own_authors_layout() -> None:
    assert {name for name, layout in LAYOUTS if layout != "timm"} == set(SPACE.published)
    assert {name for name, layout in LAYOUTS if layout == "timm"} == set(SPACE.published)


@pytest.mark.parametrize("name", ["fastvit_t8", "fastvit_sa12", "fastvit_mci0"])
def test_the_authors_names_are_those_that_timm_renames(name: str) -> None:
    """timm's own conversion of an authors' checkpoint gives our export in timm's layout."""
    transforms_v2()  # timm imports torchvision, whose wheel may be of another build of torch
    fastvit = pytest.importorskip("timm.models.fastvit")
    layout = "mobileclip" if "mci" in name else "official"
    weights = checkpoint(name, layout)
    net = nas.build(member(name))
    nas.import_weights(net, weights)
    head = SimpleNamespace(head=SimpleNamespace(fc=nn.Linear(1, 1)))
    prefix = "image_encoder.model." if "mci" in name else ""
    renamed = fastvit.checkpoint_filter_fn(
        {f"{prefix}{key}": value for key, value in weights.items()}, head
    )
    ours = export_weights(net, "fastvit/timm")
    assert ours.keys() == renamed.keys()
    assert all(torch.equal(ours[key], value) for key, value in renamed.items() if value.dim())


def test_an_image_encoder_is_found_beside_the_text_encoder() -> None:
    weights = checkpoint("fastvit_mci0", "mobileclip")
    whole = {f"image_encoder.model.{key}": value for key, value in weights.items()}
    whole |= {"text_encoder.embedding.weight": torch.ones(4, 3), "logit_scale": torch.ones(())}
    net = nas.build(member("fastvit_mci0"))
    loaded = load_network(whole, SPACE.published["fastvit_mci0"], "mobileclip_s0.pt")
    assert loaded.match.layout == "fastvit/mobileclip"
    assert loaded.network.architecture.classes == EMBEDDING
    nas.import_weights(net, weights)
    for name, value in net.state_dict().items():
        assert name.endswith("tracked") or torch.equal(value, loaded.network.state_dict()[name])
    assert not net.head.classifier.bias.any(), "a projection has no bias"
    with torch.no_grad():
        net.head.classifier.bias.fill_(0.5)
    with pytest.raises(nas.InputError, match=r"head\.classifier\.bias is not 0, and the layout"):
        export_weights(net, "fastvit/mobileclip")


@EVERY_MEMBER
def test_inference_has_one_convolution_in_place_of_every_branch(name: str) -> None:
    arch = SPACE.published[name].at(64, 10)
    net = fold(nas.build(arch).eval().deploy())
    assert not any(isinstance(part, nn.BatchNorm2d) for part in net.modules())
    convolutions = sum(isinstance(part, nn.Conv2d) for part in net.modules())
    # The stem has three; an entry two, and two in its gate; a block four; the head one, and two in
    # its gate.
    entries = [stage.entry.hyperparameters() for stage in arch.stages[1:]]
    gates = sum(entry["squeeze"] for entry in entries)
    encodings = sum("attention" in str(block.kind) for block in arch.stages[3].blocks) > 0
    blocks = sum(stage.depth for stage in arch.stages)
    attention = sum(block.kind == "fastvit_attention" for block in arch.stages[3].blocks)
    # A RepMixer block has its mixing convolution, attention has two products.
    assert convolutions == 3 + 6 + 2 * gates + 4 * blocks + attention + encodings + 3


def test_queries_come_apart_by_heads() -> None:
    """Channel c of head h of the keys is published at C + 32 h + c."""
    weights = checkpoint("fastvit_sa12")
    net = nas.build(SPACE.published["fastvit_sa12"])
    nas.import_weights(net, weights)
    attention = net.stage4_block2
    qkv = weights["stages.3.blocks.1.token_mixer.qkv.weight"]
    projection = weights["stages.3.blocks.1.token_mixer.proj.weight"]
    for kind, head, channel in ((0, 0, 0), (1, 3, 5), (2, 15, 31)):
        there = 512 * kind + 32 * head + channel
        assert torch.equal(attention.qkv.weight[kind, head, channel].flatten(), qkv[there])
        assert torch.equal(
            attention.projection.weight[:, head, channel].flatten(),
            projection[:, 32 * head + channel],
        )


def test_checkpoint_of_another_member_is_refused() -> None:
    with torch.device("meta"):
        net = nas.build(SPACE.published["fastvit_s12"])
    for other in ("fastvit_t8", "fastvit_t12", "fastvit_sa12"):
        with pytest.raises(nas.InputError, match=r"the checkpoint .*is of another architecture"):
            nas.import_weights(net, checkpoint(other))
