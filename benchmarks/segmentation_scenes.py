"""How soon a small network learns scenes of digits, by their size and that of the digits.

    python benchmarks/segmentation_scenes.py --side 96 --heights 16 36 --digits 3 6
    python benchmarks/segmentation_scenes.py --side 64 --heights 24 44 --digits 2 4

It trains the largest member of efficientformer_small from random weights, without the command line,
and prints JSON: mIoU on 100 test scenes at four points of the training, with seconds of one core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

import nas
from nas.blocks import FPNHead
from nas.data import scenes
from nas.data.splits import TEST, TRAIN
from nas.network import Network
from nas.tasks.segment import SEGMENTATION
from nas.training.loop import rate

SCENES = {TRAIN: 900, TEST: 100}
POINTS = 4
WARMUP = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--heights", type=int, nargs=2, default=(24, 44))
    parser.add_argument("--digits", type=int, nargs=2, default=(2, 4))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    asked = parser.parse_args()
    # The scenes of the package are of one kind; here they are of another.
    vars(scenes).update(
        _SIDE=asked.side, _HEIGHTS=tuple(asked.heights), _DIGITS=tuple(asked.digits)
    )
    torch.set_num_threads(1)
    torch.manual_seed(0)
    space = nas.load_space("efficientformer_small").at(asked.side).with_head(FPNHead(11))
    net = nas.build(space.largest())
    started = time.process_time()
    points = [
        {"step": step, "miou": round(miou, 1), "seconds": round(time.process_time() - started, 1)}
        for step, miou in train(net, asked)
    ]
    print(json.dumps({**vars(asked), "macs": space.largest().macs, "points": points}, indent=1))


def train(net: Network, asked: argparse.Namespace) -> Iterator[tuple[int, float]]:
    """Train a network, and yield steps and mIoU at some points."""
    images, masks = made(TRAIN)
    tests = made(TEST)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(images), generator=generator)
    for step in range(asked.steps):
        if len(order) < asked.batch:
            order = torch.cat([order, torch.randperm(len(images), generator=generator)])
        chosen = order[: asked.batch]
        order = order[asked.batch :]
        for group in optimizer.param_groups:
            group["lr"] = asked.learning_rate * rate((step + 1) / asked.steps, WARMUP)
        loss, _ = SEGMENTATION.loss(net.train()(images[chosen]), masks[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % (asked.steps // POINTS) == 0:
            yield step + 1, evaluate(net, *tests)


@torch.no_grad()
def evaluate(net: Network, images: Tensor, masks: Tensor) -> float:
    """Return the mIoU in percent."""
    return SEGMENTATION.figure(SEGMENTATION.tally(net.eval()(images), masks).numpy()).value


def made(split: str) -> tuple[Tensor, Tensor]:
    """Return scenes as images (N, 3, H, W) of mean 0 and deviation 1, and their masks (N, H, W)."""
    pairs = scenes.digit_scenes().splits[split].fetch(range(SCENES[split]))
    pixels = np.stack([pair.image for pair in pairs])  # type: ignore[union-attr]
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    masks = np.stack([pair.mask for pair in pairs])  # type: ignore[union-attr]
    return (images - images.mean()) / images.std(), torch.from_numpy(masks).long()


if __name__ == "__main__":
    main()
