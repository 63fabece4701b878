"""MetaPath: one position of the supernet, a choice between a local block, a global one and identity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas.blocks.layers import to_map, to_tokens
from nas.specs import BlockSpec, Shape
from nas.supernet.shared import SharedBlocks

Call = Callable[[BlockSpec, Tensor], Tensor]


class MetaPath(nn.Module):
    """The mixture of a position's candidates, on maps (B, C, H, W).

    EfficientFormer (arXiv:2206.01191), Eq. 6: MP in {MB4D, I} in stages 1 and 2, {MB4D, MB3D, I} in stages 3 and 4.
    `alpha` has one value for the local block, one for the global block where there may be one, and the last one for
    identity. Which of several candidates stands for a role is not mixed: a step takes one of them.
    """

    def __init__(self, local: Sequence[BlockSpec], global_: Sequence[BlockSpec], shape: Shape) -> None:
        super().__init__()
        self.candidates = SharedBlocks([*local, *global_], shape)
        self.alpha = nn.Parameter(torch.zeros(3 if global_ else 2))

    def forward(self, x_bchw: Tensor, weights: Tensor, chosen: Sequence[BlockSpec], call: Call) -> Tensor:
        """sum_n w_n MP_n(x), written as x + sum w_n (MP_n(x) - x): identity is never computed, nor is a weight of 0.

        `chosen` has one candidate a role, and `call` runs one.
        """
        mixed, values = x_bchw, weights.tolist()
        one_hot = values.count(0) == len(values) - 1
        for value, weight, spec in zip(values, weights, chosen, strict=False):
            if value and one_hot:
                mixed = _Whole.apply(_on_map(spec, x_bchw, call), x_bchw, weight)  # type: ignore[no-untyped-call]
            elif value:
                mixed = mixed + weight * (_on_map(spec, x_bchw, call) - x_bchw)
        return mixed

    @torch.no_grad()
    def importance(self) -> float:
        """The paper's importance of a MetaPath: (alpha_3D + alpha_4D) / alpha_I, on the softmax of alpha."""
        share = self.alpha.softmax(dim=0)
        return float(share[:-1].sum() / share[-1])


class _Whole(torch.autograd.Function):
    """x + w (f - x) where w = 1: f as it is, with the gradient of the sum. Keeps no map of its own for it."""

    @staticmethod
    def forward(ctx: Any, f_bchw: Tensor, x_bchw: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(f_bchw, x_bchw)
        return f_bchw.view_as(f_bchw)

    @staticmethod
    def backward(ctx: Any, gradient_bchw: Tensor) -> tuple[Tensor, None, Tensor]:
        f_bchw, x_bchw = ctx.saved_tensors
        # Nothing comes back to x from here: its share of the mixture is 1 - w = 0.
        return gradient_bchw, None, ((f_bchw - x_bchw) * gradient_bchw).sum()


def _on_map(spec: BlockSpec, x_bchw: Tensor, call: Call) -> Tensor:
    if spec.layout == "map":
        return call(spec, x_bchw)
    return to_map(call(spec, to_tokens(x_bchw)), (x_bchw.shape[2], x_bchw.shape[3]))
