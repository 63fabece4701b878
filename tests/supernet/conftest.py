"""Small supernets whose every weight matters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from nas.space import Space
from nas.supernet.supernet import Supernet


@pytest.fixture
def small_supernet(small_space: Callable[[str], Space]) -> Callable[..., Supernet]:
    """A function from the placement of attention to a supernet in eval mode with random scales,
    biases and norms."""

    def make(attention: str = "network_suffix") -> Supernet:
        return _supernet(small_space(attention))

    return make


@pytest.fixture
def choices_supernet(choices_space: Callable[..., Space]) -> Callable[..., Supernet]:
    """Like `small_supernet`, of the space whose places have several candidates."""

    def make(attention: str = "network_suffix", *changes: tuple[str, str]) -> Supernet:
        return _strong(_supernet(choices_space(attention, *changes)), gain=1.5)

    return make


@pytest.fixture
def stem_supernet(stem_space: Callable[..., Space]) -> Callable[..., Supernet]:
    """Like `small_supernet`, of the space with a stem of its own."""

    def make(attention: str = "network_suffix") -> Supernet:
        return _strong(_supernet(stem_space(attention)), gain=4)

    return make


def _supernet(space: Space) -> Supernet:
    torch.manual_seed(0)
    return lively(Supernet(space)).eval()


@torch.no_grad()
def _strong(supernet: Supernet, gain: float) -> Supernet:
    """Gives convolutions weights that keep the images apart on their way through entries without a
    skip."""
    for tensor in supernet.parameters():
        if tensor.dim() == 4:
            tensor.normal_(0, (gain / tensor[0].numel()) ** 0.5)
    return supernet


@torch.no_grad()
def lively(supernet: Supernet) -> Supernet:
    """Gives layer scales, biases and batch-norm statistics values that a wrong slice would show."""
    for tensor in [*supernet.parameters(), *supernet.buffers()]:
        if tensor.is_floating_point() and tensor.dim() != 4:
            tensor.uniform_(0.3, 1.2) if tensor.dim() == 1 else tensor.normal_(0, 0.3)
    return supernet
