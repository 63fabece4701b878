"""Choices of a supernet: candidates with shared weights, Gumbel-softmax, and the MetaPath.

`nas.supernet.supernet` builds its modules of these; `nas.supernet.train` draws the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nas.blocks import BlockSpec, Shape
from nas.blocks.build import build_block
from nas.blocks.module import Block, to_map, to_tokens


class SharedBlocks(nn.ModuleDict):
    """The blocks of a place: one for all candidates that differ only in elastic hyperparameters.

    Width counts as elastic. Such candidates are slices of the block with the largest values. A
    block is called after its kind; where one kind needs several blocks, later ones have a number.
    """

    def __init__(
        self, candidates: Sequence[BlockSpec], shape: Shape, width: int | None = None
    ) -> None:
        """Build the blocks.

        Args:
            candidates: of the place.
            shape: the input of the place.
            width: of the output's stream, in channels, where the place changes it.
        """
        groups: dict[Hashable, list[BlockSpec]] = {}
        for spec in candidates:
            groups.setdefault(_shared(spec), []).append(spec)
        super().__init__()
        self._names: dict[Hashable, str] = {}
        for key, specs in groups.items():
            kind = specs[0].kind
            self._names[key] = name = kind if kind not in self else f"{kind}{len(self) + 1}"
            largest = _envelope(specs, width)
            self[name] = build_block(largest, replace(shape, layout=largest.layout))

    def holding(self, spec: BlockSpec) -> Block:
        """Return the block that holds a candidate's weights."""
        block = self[self._names[_shared(spec)]]
        assert isinstance(block, Block)
        return block

    def find(self, spec: BlockSpec) -> Block | None:
        """Return the block that shares the weights of such a spec at any width, or None."""
        name = self._names.get(_shared(spec))
        block = self[name] if name is not None else None
        return block if isinstance(block, Block) else None

    def blocks(self) -> list[Block]:
        return [block for block in self.values() if isinstance(block, Block)]


def _shared(spec: BlockSpec) -> Hashable:
    """Return the key that candidates with shared weights have in common."""
    values = spec.hyperparameters()
    # The kind and all hyperparameters that slicing cannot change, as the kernel or the activation.
    return spec.kind, tuple(
        (name, values[name]) for name in values if name not in (*spec.elastic, "width")
    )


def _envelope(specs: Sequence[BlockSpec], width: int | None) -> BlockSpec:
    """Return the spec with the largest value of each elastic hyperparameter; on is above off."""
    # The width of the output's stream is given; the candidates' own is not read then.
    largest: dict[str, Any] = {"width": width} if width else {}
    for name, value in specs[0].hyperparameters().items():
        if (
            (name in specs[0].elastic or name == "width")
            and name not in largest
            and not isinstance(value, str)
        ):
            largest[name] = max(spec.hyperparameters()[name] for spec in specs)
    return replace(specs[0], **largest)


Noise = Literal["uniform", "gumbel", "none"]
Sampling = Literal["soft", "straight_through"]


@dataclass(frozen=True)
class GumbelSoftmax:
    """The weights over candidates: softmax((alpha + noise) / temperature).

    EfficientFormer (arXiv:2206.01191), Sec. 4.2, draws the noise from U(0, 1) and calls the formula
    Gumbel-softmax. The noise of that name (arXiv:1611.01144) is -log(-log U). Both are offered.

    Attributes:
        temperature: towards 0 the weights become one-hot.
        noise: uniform, gumbel, or none.
        sampling: soft mixes all candidates. straight_through computes the candidate with the
            largest weight alone and passes the gradient of the soft weights.
    """

    temperature: float
    noise: Noise = "uniform"
    sampling: Sampling = "soft"

    def __call__(self, alpha: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return weights (candidates,) that sum to 1."""
        soft = ((alpha + self._noise(alpha, generator)) / self.temperature).softmax(dim=0)
        if self.sampling == "soft":
            return soft
        hard = torch.zeros_like(soft).index_fill_(0, soft.argmax(), 1.0)
        # Straight-through estimator: the forward value is `hard`, the gradient that of `soft`. The
        # difference is exactly 0, so the weights are exactly 0 and 1 and `MetaPath.forward` can
        # skip what has weight 0.
        return hard + (soft - soft.detach())

    def _noise(self, alpha: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return noise of the shape of alpha, on its device."""
        if self.noise == "none":
            return torch.zeros_like(alpha)
        # Drawn on the CPU, so that a seed gives the same choices on every device.
        uniform = torch.rand(alpha.shape, generator=generator)
        # U may be 0, whose logarithm is -inf.
        tiny = torch.finfo(uniform.dtype).tiny
        noise = (
            uniform if self.noise == "uniform" else -torch.log(-torch.log(uniform.clamp_min(tiny)))
        )
        # A GPU's host does not wait for this copy. There is one per position.
        return noise.to(alpha, non_blocking=True)


@dataclass(frozen=True)
class TemperatureSchedule:
    """The temperature of a training: exponential decay from `start` to `end`."""

    start: float = 5.0
    end: float = 0.5

    def at(self, progress: float) -> float:
        """Return the temperature when this share (0 to 1) of the training is done."""
        # start * (end / start) ** progress.
        return self.start * math.exp(progress * math.log(self.end / self.start))


Call = Callable[[BlockSpec, Tensor], Tensor]
"""A function that runs one candidate on its input."""


class MetaPath(nn.Module):
    """The mixture of a position's candidates, on maps (B, C, H, W).

    EfficientFormer (arXiv:2206.01191), Eq. 6: MP in {MB4D, I} in stages 1 and 2, {MB4D, MB3D, I} in
    stages 3 and 4. `alpha` has one value for the local block, one for the global block where there
    may be one, and the last one for identity. Several candidates of one role are not mixed: a step
    takes one of them.
    """

    def __init__(
        self, local: Sequence[BlockSpec], global_: Sequence[BlockSpec], shape: Shape
    ) -> None:
        super().__init__()
        self.candidates = SharedBlocks([*local, *global_], shape)
        # Equal at first: every choice has the same probability.
        self.alpha = nn.Parameter(torch.zeros(3 if global_ else 2))

    def forward(
        self,
        x_bchw: Tensor,
        weights: Tensor,
        chosen: Sequence[BlockSpec],
        call: Call,
        values: Sequence[float] | None = None,
    ) -> Tensor:
        """Return the mixture sum_n w_n MP_n(x) as a map (B, C, H, W).

        Args:
            x_bchw: the input.
            weights: (2,) or (3,), as `alpha`; their sum is 1.
            chosen: one candidate per role, in the order of the weights.
            call: runs a candidate.
            values: `weights` as numbers, where the caller has them already.
        """
        # As the weights sum to 1, the mixture is x + sum_n w_n (MP_n(x) - x) over all n but
        # identity, which is the last weight. A candidate of weight 0 is not computed.
        mixed = x_bchw
        if values is None:
            values = weights.tolist()
        one_hot = values.count(0) == len(values) - 1
        for value, weight, spec in zip(values, weights, chosen, strict=False):
            if value and one_hot:
                mixed = _Whole.apply(_on_map(spec, x_bchw, call), x_bchw, weight)  # type: ignore[no-untyped-call]
            elif value:
                mixed = mixed + weight * (_on_map(spec, x_bchw, call) - x_bchw)
        return mixed

    @torch.no_grad()
    def importance(self) -> float:
        """Return the importance (alpha_3D + alpha_4D) / alpha_I, on the softmax of alpha.

        EfficientFormer (arXiv:2206.01191), Sec. 4.2, ranks MetaPaths by it.
        """
        share = self.alpha.softmax(dim=0)
        return float(share[:-1].sum() / share[-1])


class _Whole(torch.autograd.Function):
    """The function x + w (f - x) at w = 1: the value is f, the gradients are those of the sum.

    Written as a sum it would keep one more map, f - x, until the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, f_bchw: Tensor, x_bchw: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(f_bchw, x_bchw)
        return f_bchw.view_as(f_bchw)

    @staticmethod
    def backward(ctx: Any, gradient_bchw: Tensor) -> tuple[Tensor, None, Tensor]:
        f_bchw, x_bchw = ctx.saved_tensors
        # d/df = w = 1, d/dx = 1 - w = 0, d/dw = f - x.
        return gradient_bchw, None, ((f_bchw - x_bchw) * gradient_bchw).sum()


def _on_map(spec: BlockSpec, x_bchw: Tensor, call: Call) -> Tensor:
    """Return the output of a candidate as a map, also where it works on tokens."""
    if spec.layout == "map":
        return call(spec, x_bchw)
    # (B, C, H, W) to (B, H*W, C) and back.
    return to_map(call(spec, to_tokens(x_bchw)), (x_bchw.shape[2], x_bchw.shape[3]))
