"""Synced batch norm: in one process it is torch's own; in several see
tests/integration/test_distributed.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call

from nas.training.distributed import SyncedBatchNorm


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A group of this process alone."""
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


def results(norm: nn.Module, x: Tensor, synced: bool) -> dict[str, Tensor]:
    """Output, gradients and statistics."""
    x = x.clone().requires_grad_()
    if synced:
        with SyncedBatchNorm():
            y = norm(x)
    else:
        y = norm(x)
    weights = torch.linspace(-1, 2, y.numel()).view_as(y)
    (y.float() * weights).sum().backward()
    assert x.grad is not None
    gradients = {
        f"{name} gradient": p.grad for name, p in norm.named_parameters() if p.grad is not None
    }
    return {"y": y.detach(), "x gradient": x.grad, **gradients, **dict(norm.named_buffers())}


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (7, 3)])
@pytest.mark.parametrize("affine", [True, False])
def test_it_is_torchs_batch_norm(group: None, shape: tuple[int, ...], affine: bool) -> None:
    torch.manual_seed(0)
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    x = 3 * torch.randn(shape) + 5
    ours, theirs = (
        results(kind(3, momentum=0.3, affine=affine), x, synced) for synced in (True, False)
    )
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(
            ours[name], theirs[name], rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_bf16_comes_out_as_it_went_in(group: None) -> None:
    x = torch.randn(4, 3, 5, 6).bfloat16()
    ours, theirs = (results(nn.BatchNorm2d(3), x, synced) for synced in (True, False))
    assert ours["y"].dtype == torch.bfloat16
    torch.testing.assert_close(ours["y"], theirs["y"], rtol=0.02, atol=0.02)
    assert ours["running_mean"].dtype == torch.float32


def test_evaluation_takes_the_running_statistics(group: None) -> None:
    norm = nn.BatchNorm2d(3).eval()
    x = 4 + torch.randn(2, 3, 4, 4)
    with SyncedBatchNorm():
        assert torch.equal(norm(x), norm.forward(x))
    assert torch.equal(norm.running_mean, torch.zeros(3))


def test_a_block_called_with_other_tensors_is_synced_too(group: None) -> None:
    """As the supernet calls its narrowed blocks."""
    norm = nn.BatchNorm2d(3, device="meta")
    x = 4 + torch.randn(2, 3, 4, 4)
    tensors = {name: tensor.clone() for name, tensor in nn.BatchNorm2d(3).state_dict().items()}
    with SyncedBatchNorm():
        y = functional_call(norm, tensors, (x,))
    torch.testing.assert_close(y.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(tensors["running_mean"], 0.1 * x.mean(dim=(0, 2, 3)))
