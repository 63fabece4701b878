"""The cross-entropy of networks with one head or two."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(
    output: Tensor | tuple[Tensor, Tensor], target: Tensor, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The mean over both heads where there are two, and the logits (B, classes) to judge by, their mean.

    `target` is classes (B,) or probabilities (B, classes).
    """
    heads = output if isinstance(output, tuple) else (output,)
    losses = [F.cross_entropy(logits.float(), target, label_smoothing=smoothing) for logits in heads]
    return torch.stack(losses).mean(), torch.stack(heads).float().mean(dim=0)
