"""Pruning of a trained network by NVIDIA ModelOpt's FastNAS and by Torch-Pruning.

`worth.py` calls it. Both libraries are imported when they are used: they are no requirement of the
project, and `experiments/worth/README.md` says how to install them.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from nas.blocks.efficientformer.module import MB3DBlock

DIVISOR = 8
"""Channels are pruned in steps of this."""
RATIOS = tuple(round(0.125 * number, 3) for number in range(1, 9))
"""Shares of a layer's channels that FastNAS may keep."""
BATCHES = 8
"""Batches by which FastNAS recalibrates the batch norms of each candidate."""


class _OneGrid(MB3DBlock):
    """Attention on the grid that it was built for: FastNAS cannot trace the choice of another."""

    def forward(self, x_bnc: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        return super().forward(x_bnc, self.grid)


def traceable(network: nn.Module) -> nn.Module:
    """Return a copy of a network with equal outputs, whose blocks FastNAS can trace."""
    # It refuses the channels-last format, which trainings leave behind.
    copy = deepcopy(network).to(memory_format=torch.contiguous_format)
    for block in copy.modules():
        if type(block) is MB3DBlock:
            block.__class__ = _OneGrid
    return copy


def fastnas(
    network: nn.Module,
    share: float,
    example_bchw: Tensor,
    batches: Iterable[Tensor],
    evaluate: Callable[[nn.Module], float],
    cache: Path,
) -> nn.Module | None:
    """Return a copy of a trained network, pruned by FastNAS (ModelOpt's `prune` in mode `fastnas`).

    None where even its narrowest layers leave more operations.

    It measures how much each single layer's narrowing costs, then narrows all layers whose cost is
    below one threshold, which it finds by bisection.

    Args:
        network: in eval mode.
        share: of the network's operations (by ModelOpt's count) that may remain.
        example_bchw: an input (1, 3, H, W).
        batches: normalised training images (B, 3, H, W), for the statistics of batch norms.
        evaluate: returns the accuracy of a candidate, in percent.
        cache: file that keeps the measured costs, which do not depend on `share`.
    """
    import modelopt.torch.prune as mtp

    rules = {
        "nn.Conv2d": {
            "*": {"channels_ratio": RATIOS, "kernel_size": (), "channel_divisor": DIVISOR}
        },
        "nn.BatchNorm2d": {"*": {"features_ratio": RATIOS, "feature_divisor": DIVISOR}},
        "nn.Linear": {"*": {"features_ratio": RATIOS, "feature_divisor": DIVISOR}},
        "nn.LayerNorm": {"*": {"features_ratio": RATIOS, "feature_divisor": DIVISOR}},
    }
    # It prints tables of its progress; standard output is for the JSON.
    with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(ValueError):
        pruned, _ = mtp.prune(
            traceable(network).eval(),
            mode=[("fastnas", rules)],
            constraints={"flops": f"{100 * share:.2f}%"},
            dummy_input=example_bchw,
            config={
                "data_loader": list(batches),
                "collect_func": lambda batch: batch,
                "max_iter_data_loader": BATCHES,
                "score_func": evaluate,
                "checkpoint": str(cache),
            },
        )
        return pruned  # type: ignore[no-any-return]
    return None


def torch_pruning(network: nn.Module, share: float, example_bchw: Tensor) -> nn.Module:
    """Return a copy of a trained network, pruned by Torch-Pruning's magnitude pruner (DepGraph).

    Projections to queries, keys and values keep their widths, as do classifiers: it does not know
    how heads are laid out in the first.

    Args:
        network: in eval mode.
        share: of the channels that remain.
        example_bchw: an input (1, 3, H, W).
    """
    import torch_pruning as tp

    pruned = deepcopy(network).eval()
    ignored = [
        module
        for name, module in pruned.named_modules()
        if name.endswith("qkv") or name.startswith("head")
    ]
    with torch.enable_grad(), contextlib.redirect_stdout(sys.stderr):
        tp.pruner.MagnitudePruner(
            pruned,
            example_bchw,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=1 - share,
            ignored_layers=ignored,
            round_to=DIVISOR,
        ).step()
    return pruned
