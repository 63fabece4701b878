"""MetaPath: one position of the supernet, a choice between its candidates and identity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nas.blocks import build_block
from nas.blocks.layers import to_map, to_tokens
from nas.specs import BlockSpec, Shape

Call = Callable[[Any, BlockSpec, Tensor], Tensor]


class MetaPath(nn.Module):
    """The mixture of a position's candidates, on maps (B, C, H, W).

    EfficientFormer (arXiv:2206.01191), Eq. 6: MP in {MB4D, I} in stages 1 and 2, {MB4D, MB3D, I} in stages 3 and 4.
    `alpha` has one value a candidate and the last one for identity.
    """

    def __init__(self, candidates: tuple[BlockSpec, ...], shape: Shape) -> None:
        super().__init__()
        self.specs = candidates
        self.candidates = nn.ModuleDict(
            {spec.kind: build_block(spec, replace(shape, layout=spec.layout)) for spec in candidates}
        )
        self.alpha = nn.Parameter(torch.zeros(len(candidates) + 1))

    def forward(self, x_bchw: Tensor, weights: Tensor, call: Call = lambda block, spec, x: block(x)) -> Tensor:
        """sum_n w_n MP_n(x), written as x + sum w_n (MP_n(x) - x): identity is never computed, nor is a weight of 0.

        `call` runs a candidate; the supernet gives one that slices it first.
        """
        mixed = x_bchw
        for weight, spec, block in zip(weights, self.specs, self.candidates.values(), strict=False):
            if weight != 0:
                mixed = mixed + weight * (_on_map(block, spec, x_bchw, call) - x_bchw)
        return mixed

    @torch.no_grad()
    def importance(self) -> float:
        """The paper's importance of a MetaPath: (alpha_3D + alpha_4D) / alpha_I, on the softmax of alpha."""
        share = self.alpha.softmax(dim=0)
        return float(share[:-1].sum() / share[-1])


def _on_map(block: Any, spec: BlockSpec, x_bchw: Tensor, call: Call) -> Tensor:
    if spec.layout == "map":
        return call(block, spec, x_bchw)
    return to_map(call(block, spec, to_tokens(x_bchw)), (x_bchw.shape[2], x_bchw.shape[3]))
