"""Small supernets whose every weight matters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from nas.space import Space
from nas.supernet.supernet import Supernet


@pytest.fixture
def small_supernet(small_space: Callable[[str], Space]) -> Callable[..., Supernet]:
    """A function from the placement of attention to a supernet in eval mode with random scales, biases and norms."""

    def make(attention: str = "network_suffix") -> Supernet:
        torch.manual_seed(0)
        return lively(Supernet(small_space(attention))).eval()

    return make


@torch.no_grad()
def lively(supernet: Supernet) -> Supernet:
    """Gives layer scales, biases and batch-norm statistics values that a wrong slice would show."""
    for tensor in [*supernet.parameters(), *supernet.buffers()]:
        if tensor.is_floating_point() and tensor.dim() != 4:
            tensor.uniform_(0.3, 1.2) if tensor.dim() == 1 else tensor.normal_(0, 0.3)
    return supernet
