"""Drop path: for some images of a training step a block's residual branches are left out.

`nas.training.step` names the images of a micro-batch by `dropping`, `nas.network.run` draws the factors of
every block, and `Block.residual` multiplies the branches by them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

MOST_BRANCHES = 8
"""Number of factors that are drawn per block and image. Further branches of a block use them again."""


@dataclass
class DropPath:
    """Stochastic depth (arXiv:1603.09382) for a micro-batch of a step.

    Factors are drawn for the whole batch and then cut. So they depend on the seed and on an image's
    position in the batch alone: neither on micro-batches nor on the number of processes.

    Attributes:
        rate: probability that an image skips a residual branch of the last block.
        seed: of the step.
        batch: images of the step, over all processes and micro-batches.
        start, stop: positions of the micro-batch's images in the batch.
    """

    rate: float
    seed: int
    batch: int
    start: int
    stop: int
    generator: torch.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)

    def factors(self, blocks: int, device: torch.device) -> Tensor:
        """Return the factors of the next pass through a network: (blocks, MOST_BRANCHES, B).

        They are 0 for branches that are left out. The others are scaled up, so that the expectation
        is the branch itself and evaluation needs no change.
        """
        # Eq. 4 with the last block's probability to be kept, p_L = 1 - rate: p_l = 1 - l/L * rate.
        depths = torch.arange(1, blocks + 1) / blocks
        kept = (1 - self.rate * depths).view(blocks, 1, 1)
        drawn = torch.rand(blocks, MOST_BRANCHES, self.batch, generator=self.generator)
        factors = (drawn < kept) / kept
        # One transfer per pass, for which the host does not wait.
        part = factors[:, :, self.start : self.stop].contiguous()
        return part.to(device, non_blocking=True)


class Branches:
    """The factors (MOST_BRANCHES, B) of one block, which its branches take one after the other."""

    def __init__(self, factors: Tensor) -> None:
        self.factors = factors
        self.taken = 0

    def scaled(self, branch: Tensor) -> Tensor:
        """Return the next branch (B, ...) times its factors."""
        factors = self.factors[self.taken % MOST_BRANCHES]
        self.taken += 1
        # (B,) to (B, 1, ...), in the branch's precision under autocast.
        return branch * factors.view(-1, *[1] * (branch.dim() - 1)).to(branch.dtype)


_images: DropPath | None = None
_branches: Branches | None = None


@contextmanager
def dropping(images: DropPath) -> Iterator[None]:
    """Context manager: inside, networks in training mode leave out branches for these images."""
    global _images
    outer = _images
    _images = images
    try:
        yield
    finally:
        _images = outer


def images_of_step() -> DropPath | None:
    """Return the images of the active `dropping`; None outside of one."""
    return _images


@contextmanager
def block_factors(factors: Tensor) -> Iterator[None]:
    """Context manager: inside, one block is called, with these factors (MOST_BRANCHES, B)."""
    global _branches
    outer = _branches
    _branches = Branches(factors)
    try:
        yield
    finally:
        _branches = outer


def block_branches() -> Branches | None:
    """Return the branches of the block that is called; None where none is left out."""
    return _branches
