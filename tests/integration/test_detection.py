"""Backbones in torchvision's RetinaNet: every family, two sizes, two processes, no unused parameter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from nas.space import space_names

if find_spec("torchvision") is None:
    pytest.skip("requires torchvision", allow_module_level=True)

SIZES = ((256, 320), (320, 448))

# One process of two. DistributedDataParallel without `find_unused_parameters` refuses the second
# step where a parameter got no gradient in the first.
PROGRAM = """
import json, os, sys, warnings

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from nas.training.transforms import transforms_v2

transforms_v2()  # torchvision from PyPI beside another build of torch
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork

import nas

warnings.simplefilter("ignore")  # of resized attention biases
names, sizes, where, rank = json.loads(sys.argv[1])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + where, rank=rank, world_size=2)


class Pyramid(torch.nn.Module):
    out_channels = 16

    def __init__(self, architecture):
        super().__init__()
        self.body = nas.backbone(architecture, out=(2, 3, 4))
        self.pyramid = FeaturePyramidNetwork(self.body.feature_info.channels(), self.out_channels)

    def forward(self, images):
        return self.pyramid(dict(zip("234", self.body(images))))


for name in names:
    space = nas.load_space(name)
    arch = min(space.published.values() or [space.smallest()], key=lambda arch: arch.macs)
    torch.manual_seed(0)
    anchors = AnchorGenerator(((32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 3)
    # The detector's transform leaves images of these sizes as they are.
    detector = RetinaNet(Pyramid(arch), 5, anchor_generator=anchors, min_size=256, max_size=448)
    module = DistributedDataParallel(detector)
    for height, width in sizes:
        detector.transform.min_size = (height,)
        torch.manual_seed(rank)
        image = torch.rand(3, height, width)
        box = {"boxes": torch.tensor([[10.0, 20.0, 90.0, 80.0]]), "labels": torch.tensor([3])}
        module.zero_grad()
        losses = module([image], [box])
        sum(losses.values()).backward()
        silent = [key for key, each in module.named_parameters() if each.grad is None]
        finite = all(bool(each.grad.isfinite().all()) for each in module.parameters())
        # Both processes must hold the mean of their gradients.
        total = torch.stack([each.grad.double().norm() for each in module.parameters()]).sum()
        print(json.dumps([name, height, width, silent, finite, float(total)]), flush=True)
dist.destroy_process_group()
"""


@pytest.mark.slow(seconds=90)
def test_retinanet_trains_in_two_processes_on_every_family(tmp_path: Path) -> None:
    names = space_names()
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", PROGRAM),
                json.dumps([names, SIZES, str(tmp_path / "group"), rank]),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    try:
        written = [process.communicate(timeout=1200) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, err) in zip(processes, written, strict=True):
        assert process.returncode == 0, err[-3000:]
    first, second = ([json.loads(line) for line in out.splitlines()] for out, _ in written)
    assert [tuple(row[:3]) for row in first] == [(n, *size) for n in names for size in SIZES]
    for row, other in zip(first, second, strict=True):
        name, _, _, silent, finite, total = row
        assert silent == [] and finite, name
        assert total > 0 and other[5] == pytest.approx(total, rel=1e-6), name
