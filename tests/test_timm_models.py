"""Architectures as models of timm, of Hugging Face's wrapper of timm, and under a detector."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import nas
from nas.errors import InputError
from nas.space import Architecture, space_names
from nas.training.transforms import transforms_v2

# timm imports torchvision, whose wheel may be of another build of torch; see there.
transforms_v2()
timm = pytest.importorskip("timm")
from nas.integrations.timm import register  # noqa: E402

SIDE = 64


def smallest(space: str) -> Architecture:
    """Return the smallest published member at a small size, or the smallest member."""
    loaded = nas.load_space(space)
    members = list(loaded.published.values()) or [loaded.smallest()]
    return min(members, key=lambda arch: arch.macs).at(SIDE)


@pytest.fixture
def quiet() -> Iterator[None]:
    """Silence the warning that attention biases are resized to other grids."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("space", space_names())
@torch.no_grad()
def test_a_timm_model_answers_as_the_network(space: str, tmp_path: Path) -> None:
    arch = smallest(space)
    network = nas.build(arch).eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    name = register(arch, f"ours_{space}", tmp_path / "weights.safetensors")
    assert name in timm.list_models("ours_*") and timm.is_model(name)
    x = torch.randn(2, 3, SIDE, SIDE)
    model = timm.create_model(name, pretrained=True).eval()
    assert torch.equal(model(x), network(x))
    assert model.num_classes == arch.classes and model.num_features == arch.widths[-1]
    maps = timm.create_model(name, pretrained=True, features_only=True, out_indices=(1, -1)).eval()
    assert all(map(torch.equal, maps(x), [network.forward_features(x)[i] for i in (1, 3)]))
    assert maps.feature_info.channels() == [arch.widths[1], arch.widths[3]]
    assert maps.feature_info.reduction() == [8, 32]
    assert timm.create_model(name, num_classes=7).eval()(x).shape == (2, 7)
    assert timm.create_model(name, num_classes=0).eval()(x).shape == (2, arch.widths[-1])


@pytest.mark.parametrize("space", space_names())
@pytest.mark.parametrize("size", [(96, 160), (160, 96)])
@pytest.mark.usefixtures("quiet")
def test_every_parameter_of_a_backbone_gets_a_gradient(space: str, size: tuple[int, int]) -> None:
    name = register(smallest(space), f"gradients_{space}")
    maps = timm.create_model(name, features_only=True)(torch.randn(2, 3, *size))
    sum(each.square().mean() for each in maps).backward()  # type: ignore[union-attr]
    model = timm.create_model(name, features_only=True, out_indices=(1, 2, 3))
    maps = model(torch.randn(2, 3, *size))
    torch.stack([each.square().mean() for each in maps]).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("space", space_names())
def test_retinanet_trains_on_a_backbone(space: str) -> None:
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops import FeaturePyramidNetwork

    class WithPyramid(torch.nn.Module):
        out_channels = 16

        def __init__(self) -> None:
            super().__init__()
            self.body = nas.backbone(smallest(space))
            self.pyramid = FeaturePyramidNetwork(self.body.feature_info.channels(), 16)

        def forward(self, x: torch.Tensor) -> Any:
            return self.pyramid(dict(zip("234", self.body(x), strict=True)))

    anchors = AnchorGenerator(((32,), (64,), (128,)), ((1.0,),) * 3)
    detector = RetinaNet(
        WithPyramid(), num_classes=3, anchor_generator=anchors, min_size=96, max_size=160
    )
    boxes = {"boxes": torch.tensor([[10.0, 10.0, 60.0, 60.0]]), "labels": torch.tensor([1])}
    losses = detector([torch.rand(3, 96, 160), torch.rand(3, 96, 128)], [boxes, boxes])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    body = detector.backbone.body
    assert [n for n, p in body.named_parameters() if p.grad is None] == []


@torch.no_grad()
def test_hugging_face_takes_it_as_a_backbone() -> None:
    from transformers import TimmBackbone, TimmBackboneConfig

    name = register(smallest("efficientvit"), "hugging_face")
    found = TimmBackbone(
        TimmBackboneConfig(backbone=name, use_pretrained_backbone=False, out_indices=[1, 2, 3])
    )
    maps = found(torch.randn(1, 3, SIDE, SIDE)).feature_maps
    assert [each.shape[1] for each in maps] == list(smallest("efficientvit").widths[1:])


@pytest.mark.usefixtures("quiet")
def test_the_blocks_of_the_page_on_detection_run(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "detection.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == 3
    exec("\n".join(blocks), {"__name__": "page"})
    assert capsys.readouterr().out == "[48, 80, 168]\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"in_chans": 1}, "in_chans: .* takes 3 channels"),
        ({"features_only": True, "output_stride": 16}, "output_stride: .* has stride 32"),
        (
            {"features_only": True, "out_indices": (0, 4)},
            "out_indices: expected stages from 0 to 3",
        ),
        ({"features_only": True, "out_indices": 5}, "out_indices: expected stages from 0 to 3"),
        ({"features_only": True, "out_indices": ()}, "out_indices: expected stages from 0 to 3"),
        ({"num_classes": 0, "global_pool": ""}, "global_pool: .* has no such argument"),
        ({"pretrained": True}, "pretrained=True without weights"),
        ({"drop_path_rate": 0.1}, "drop_path_rate: .* has no such argument"),
    ],
)
def test_what_the_network_does_not_have_is_refused(arguments: dict[str, Any], reason: str) -> None:
    name = register(smallest("emo"), "refusing")
    with pytest.raises(InputError, match=reason):
        timm.create_model(name, **arguments)


def test_a_number_of_outputs_stands_for_the_last_stages() -> None:
    name = register(smallest("emo"), "counted")
    found = timm.create_model(name, features_only=True, out_indices=2)
    assert found.feature_info.reduction() == [16, 32]


def test_a_name_that_timm_reads_otherwise_is_refused() -> None:
    with pytest.raises(InputError, match=r"'a\.b' is not a name of a timm model"):
        register(smallest("emo"), "a.b")
