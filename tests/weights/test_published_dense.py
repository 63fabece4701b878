"""The published segmentation networks: their printed sizes, and outputs against the authors' code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import seeded
import torch

import nas
from nas.errors import InputError
from nas.weights.importing import LAYOUTS, export_weights

NETWORKS = nas.load_space("efficientvit").dense
FOLDER = Path(seeded.__file__).parent / "efficientvit"
PRINTED = {
    "efficientvit_seg_b0_cityscapes": ("0.7M", "4.4G"),
    "efficientvit_seg_b1_cityscapes": ("4.8M", "25G"),
    "efficientvit_seg_b2_cityscapes": ("15M", "74G"),
    "efficientvit_seg_b3_cityscapes": ("40M", "179G"),
    "efficientvit_seg_l1_cityscapes": ("40M", "282G"),
    "efficientvit_seg_l2_cityscapes": ("53M", "396G"),
    "efficientvit_seg_b1_ade20k": ("4.8M", "3.1G"),
    "efficientvit_seg_b2_ade20k": ("15M", "9.1G"),
    # Printed as 39M. The tensors of the authors' own module have 39.55 million elements.
    "efficientvit_seg_b3_ade20k": ("40M", "22G"),
    "efficientvit_seg_l1_ade20k": ("40M", "36G"),
    "efficientvit_seg_l2_ade20k": ("51M", "45G"),
}
"""Parameters and MACs in the authors' tables (applications/efficientvit_seg/README.md)."""
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
EVERY = pytest.mark.parametrize("name", NETWORKS)


def printed(value: float, like: str) -> str:
    """Return a number with as many decimals as another one has."""
    decimals = len(like[:-1].partition(".")[2])
    return f"{value:.{decimals}f}{like[-1]}"


def types_of(name: str) -> dict[str, seeded.TensorType]:
    return seeded.read_types(FOLDER / f"{name}.dense.csv")


def test_all_published_networks_are_there() -> None:
    assert set(NETWORKS) == set(PRINTED)


@EVERY
def test_sizes_are_the_printed_ones(name: str) -> None:
    arch = nas.load_architecture(name)
    params, macs = PRINTED[name]
    assert printed(arch.params / 1e6, params) == params
    assert printed(arch.macs / 1e9, macs) == macs
    weights = [shape for key, (shape, _) in types_of(name).items() if not key.endswith(BUFFERS)]
    assert sum(int(np.prod(shape)) for shape in weights) == arch.params


@EVERY
@torch.no_grad()
def test_checkpoints_import_and_answer_as_the_authors_code(name: str) -> None:
    net = nas.build(NETWORKS[name].at((64, 64))).eval()
    weights = seeded.state_dict(types_of(name))
    assert nas.import_weights(net, {"state_dict": weights}) == "efficientvit/official"
    recorded = np.load(FOLDER / f"{name}.dense.npz", allow_pickle=False)["logits"]
    scores = net(seeded.images((1, 3, 64, 64))).numpy()
    assert scores.shape == recorded.shape
    np.testing.assert_allclose(scores, recorded, rtol=0, atol=2e-5 * np.abs(recorded).max())


@torch.no_grad()
def test_weights_go_back_into_the_authors_layout() -> None:
    """The names are those of the file, and the values but for the eps of the L series."""
    assert "efficientvit/official" in LAYOUTS
    for name in ("efficientvit_seg_b0_cityscapes", "efficientvit_seg_l1_ade20k"):
        weights = seeded.state_dict(types_of(name))
        net = nas.build(NETWORKS[name].at((64, 64)))
        nas.import_weights(net, weights)
        written = export_weights(net, "efficientvit/official")
        assert set(written) == set(weights)
        for key, value in written.items():
            torch.testing.assert_close(value.float(), weights[key].float())


def test_a_checkpoint_of_another_head_is_refused_by_name() -> None:
    net = nas.build(NETWORKS["efficientvit_seg_b1_cityscapes"].at((64, 64)))
    weights = seeded.state_dict(types_of("efficientvit_seg_b1_ade20k"))
    with pytest.raises(InputError, match=r"head\.output_ops\.0") as caught:
        nas.import_weights(net, weights)
    assert "\n" not in str(caught.value)


def test_a_network_of_an_unknown_member_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    text = Path(nas.load_space("efficientvit").path).read_text()
    path.write_text(text.replace("member: efficientvit_b0,", "member: efficientvit_b9,"))
    with pytest.raises(InputError, match=r"space.yaml:\d+: dense.*'efficientvit_b9' is not a"):
        nas.load_space(str(path))
