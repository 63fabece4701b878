"""Every published member of every space: its size, and outputs against what the authors' and timm's
own code gave."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import seeded
import torch
from torch import Tensor, nn

import nas
from nas.blocks.module import fold

SPACES = ("efficientformer", "efficientformerv2", "swiftformer", "efficientvit", "emo")
MEMBERS = {name: arch for space in SPACES for name, arch in nas.load_space(space).published.items()}
SIZES = {
    ("efficientformer_l1", 224): (12.2899, 1.2913), ("efficientformer_l3", 224): (31.4060, 3.9066),
    ("efficientformer_l7", 224): (82.2293, 10.1193),
    ("efficientformerv2_s0", 224): (3.6003, 0.3959), ("efficientformerv2_s1", 224): (6.1856, 0.6520),
    ("efficientformerv2_s2", 224): (12.7101, 1.2469), ("efficientformerv2_l", 224): (26.3223, 2.5525),
    ("swiftformer_xs", 224): (3.4754, 0.6024), ("swiftformer_s", 224): (6.0921, 0.9846),
    ("swiftformer_l1", 224): (12.0579, 1.5960), ("swiftformer_l3", 224): (28.4947, 4.0084),
    ("efficientvit_b0", 224): (3.4100, 0.1002), ("efficientvit_b1", 224): (9.1020, 0.5192),
    ("efficientvit_b1", 256): (9.1020, 0.6769), ("efficientvit_b1", 288): (9.1020, 0.8556),
    ("efficientvit_b2", 224): (24.3307, 1.5849), ("efficientvit_b2", 256): (24.3307, 2.0675),
    ("efficientvit_b2", 288): (24.3307, 2.6145), ("efficientvit_b3", 224): (48.6461, 3.9538),
    ("efficientvit_b3", 256): (48.6461, 5.1616), ("efficientvit_b3", 288): (48.6461, 6.5304),
    ("efficientvit_l0", 224): (27.8055, 4.5046), ("efficientvit_l1", 224): (52.6541, 5.2585),
    ("efficientvit_l2", 224): (63.7070, 6.9499), ("efficientvit_l2", 256): (63.7070, 9.0734),
    ("efficientvit_l2", 288): (63.7070, 11.4800), ("efficientvit_l3", 224): (246.0373, 27.5865),
    ("efficientvit_l3", 256): (246.0373, 36.0174), ("efficientvit_l3", 288): (246.0373, 45.5724),
    ("emo_1m", 224): (1.3612, 0.2552), ("emo_2m", 224): (2.3775, 0.4319),
    ("emo_5m", 224): (5.1088, 0.8922), ("emo_6m", 224): (6.1685, 0.9503),
}  # fmt: skip
"""Millions of parameters and 10^9 multiply-accumulates, matrix products included, by member and
side of the image, as counted on runs of the authors' code (with both classifiers where there are
two). L0's are of its backbone: the authors published no head for it."""

NOT_IN_TIMM = ("emo_", "efficientvit_l0")
REFERENCES = [
    (name, layout)
    for name in MEMBERS
    for layout in ("official", "timm")
    if layout == "official" or not name.startswith(NOT_IN_TIMM)
]


def marks(name: str) -> list[pytest.MarkDecorator]:
    """What takes the largest member takes more than ten seconds on a busy machine."""
    return [pytest.mark.slow] if name == "efficientvit_l3" else []


EVERY_MEMBER = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=marks(name)) for name in MEMBERS]
)
EVERY_REFERENCE = pytest.mark.parametrize(
    ("name", "layout"),
    [pytest.param(name, layout, marks=marks(name)) for name, layout in REFERENCES],
)
SMALLEST = (
    "efficientformer_l1",
    "efficientformerv2_s0",
    "swiftformer_xs",
    "efficientvit_b0",
    "efficientvit_l0",
    "emo_1m",
)
"""Of each space, and of both series of EfficientViT."""
BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "attention_bias_idxs")


def folder(name: str) -> Path:
    return Path(seeded.__file__).parent / MEMBERS[name].space


def checkpoint(name: str, layout: str) -> dict[str, Tensor]:
    return seeded.state_dict(seeded.read_types(folder(name) / f"{name}.{layout}.csv"))


def test_every_member_is_in_the_table() -> None:
    assert {name for name, side in SIZES if side == 224} == set(MEMBERS)


@pytest.mark.parametrize(("name", "side"), SIZES)
def test_sizes_are_those_of_the_authors_code(name: str, side: int) -> None:
    params, macs = SIZES[name, side]
    operations = MEMBERS[name].at(side).operations()
    counted = operations[:-1] if name == "efficientvit_l0" else operations
    assert round(sum(operation.params for operation in counted) / 1e6, 4) == params
    assert sum(operation.macs for operation in counted) / 1e9 == pytest.approx(macs, rel=0.01)


@EVERY_MEMBER
def test_a_network_has_the_parameters_that_its_architecture_counts(name: str) -> None:
    arch = MEMBERS[name]
    assert sum(parameter.numel() for parameter in nas.build(arch).parameters()) == arch.params


@EVERY_REFERENCE
def test_recorded_tensors_are_all_of_the_network(name: str, layout: str) -> None:
    """Operation by operation the count is that of the modules, and in sum that of the reference:
    neither has more."""
    arch = MEMBERS[name]
    types = seeded.read_types(folder(name) / f"{name}.{layout}.csv")
    assert (
        sum(np.prod(shape) for tensor, (shape, _) in types.items() if not tensor.endswith(BUFFERS))
        == arch.params
    )
    with torch.device("meta"):
        net = nas.build(arch)
    for operation in arch.operations():
        built = net.get_submodule(operation.name).parameters()
        assert sum(parameter.numel() for parameter in built) == operation.params, operation


@torch.no_grad()
@EVERY_REFERENCE
def test_output_equals_the_reference(name: str, layout: str) -> None:
    with torch.device("meta"):
        net = nas.build(MEMBERS[name]).eval()
    net = net.to_empty(device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            nas.import_weights(net, checkpoint(name, layout)) == f"{MEMBERS[name].space}/{layout}"
        )
    recorded = np.load(folder(name) / f"{name}.{layout}.npz", allow_pickle=False)
    images = seeded.images((2, 3, 224, 224))
    features, logits = features_and_logits(net, images)
    np.testing.assert_allclose(logits.numpy(), recorded["logits"], rtol=0, atol=1e-4)
    assert len(features) == 4
    for index, feature in enumerate(features, start=1):
        assert feature.shape[2:] == (224 // 2 ** (index + 1),) * 2
        values = feature.flatten().numpy()
        expected = recorded[f"stage{index}_samples"]
        samples = values[:: values.size // expected.size][: expected.size]
        np.testing.assert_allclose(samples, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(
            [values.mean(), values.std()], recorded[f"stage{index}_moments"], rtol=0, atol=1e-4
        )


def features_and_logits(net: nas.Network, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Both of one pass: the head on the last of the features is what the network gives (as another
    test holds)."""
    features = net.forward_features(images)
    last = features[-1]
    return features, net.head(
        last.flatten(2).transpose(1, 2) if net.architecture.head.layout == "tokens" else last
    )


@torch.no_grad()
@pytest.mark.parametrize("name", SMALLEST)
def test_deployed_and_folded_network_gives_the_references_logits(name: str) -> None:
    net = nas.build(MEMBERS[name]).eval()
    nas.import_weights(net, checkpoint(name, "official"))
    recorded = np.load(folder(name) / f"{name}.official.npz", allow_pickle=False)
    images = seeded.images((2, 3, 224, 224))
    np.testing.assert_allclose(net.deploy()(images).numpy(), recorded["logits"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(fold(net)(images).numpy(), recorded["logits"], rtol=0, atol=1e-4)
    left = [path for path, part in net.named_modules() if isinstance(part, nn.BatchNorm2d)]
    assert not left


@pytest.mark.parametrize(("name", "layout"), [pair for pair in REFERENCES if pair[0] in SMALLEST])
def test_checkpoint_of_another_member_is_refused(name: str, layout: str) -> None:
    family = [each for each, arch in MEMBERS.items() if arch.space == MEMBERS[name].space]
    with torch.device("meta"):
        net = nas.build(MEMBERS[name])
    other = checkpoint(family[family.index(name) + 1], layout)
    with pytest.raises(nas.InputError, match=r"the checkpoint .*is of another architecture"):
        nas.import_weights(net, other)
