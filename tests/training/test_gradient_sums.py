"""Sums of gradients in one process, where a sum is the gradient itself; in several processes see
tests/integration/test_distributed.py."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from nas.training.distributed import GradientSums, Processes

CPU = torch.device("cpu")
ALONE = Processes(0, 1, CPU)
AS_TWO = Processes(0, 2, CPU)
"""This process alone in its group, which takes itself for one of two."""


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


class Halves(nn.Module):
    """Two layers, of which a pass may take the first alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x: Tensor, both: bool) -> Tensor:
        x = self.first(x) * self.frozen
        return self.second(x) if both else x


def backward(module: Halves, both: bool) -> None:
    module(torch.linspace(0, 1, 6).view(2, 3), both).square().sum().backward()


def gradients(module: nn.Module) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


def equal(ours: list[Tensor | None], theirs: list[Tensor | None]) -> bool:
    return all(
        a is b is None or (a is not None and b is not None and torch.equal(a, b))
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("bucket_bytes", [1, 40, 10**6])
@pytest.mark.parametrize("passes", [(True,), (False,), (True, False), (False, True)])
def test_every_gradient_is_summed_once(
    group: None, monkeypatch: pytest.MonkeyPatch, bucket_bytes: int, passes: tuple[bool, ...]
) -> None:
    """Whatever the last of several micro-batches reaches."""
    plain = Halves()
    for both in passes:
        backward(plain, both)
    module = Halves()
    sums = GradientSums(module, AS_TWO, bucket_bytes)
    real = dist.all_reduce
    sizes: list[int] = []

    def counted(tensor: Tensor, **options: object) -> object:
        sizes.append(tensor.numel())
        assert options["group"] is not dist.group.WORLD and options["async_op"]
        return real(tensor, **options)

    monkeypatch.setattr(dist, "all_reduce", counted)
    for _ in range(2):  # a second step starts anew
        sizes.clear()
        module.zero_grad(set_to_none=True)
        for both in passes[:-1]:
            backward(module, both)
        assert sizes == [], "a sum was started before the last micro-batch"
        with sums.collecting():
            backward(module, passes[-1])
        early = len(sizes)
        checksum = sums.launch_rest()
        sums.finish(checksum, 2 * checksum)
        assert equal(gradients(module), gradients(plain))
        assert sum(sizes) == sum(g.numel() for g in gradients(plain) if g is not None)
        assert early == {1: 4 if passes[-1] else 2, 40: 1 if not passes[-1] else 2}.get(
            bucket_bytes, 0
        )


def test_another_order_in_another_process_is_an_error(group: None) -> None:
    module = Halves()
    sums = GradientSums(module, AS_TWO)
    checksums = []
    for both in (True, False):
        module.zero_grad(set_to_none=True)
        with sums.collecting():
            backward(module, both)
        checksums.append(sums.launch_rest())
    assert checksums[0] != checksums[1] and max(checksums) < 2**15
    with pytest.raises(RuntimeError, match="in another order, or for other parameters"):
        sums.finish(checksums[1], sum(checksums))


def test_a_failed_pass_leaves_nothing_behind(group: None) -> None:
    module = Halves()
    sums = GradientSums(module, AS_TWO, bucket_bytes=1)
    with pytest.raises(MemoryError), sums.collecting():
        backward(module, True)
        raise MemoryError
    module.zero_grad(set_to_none=True)
    backward(module, True)  # as a smaller micro-batch is tried, in this process alone
    expected = gradients(module)
    module.zero_grad(set_to_none=True)
    with sums.collecting():
        backward(module, True)
    checksum = sums.launch_rest()
    sums.finish(checksum, 2 * checksum)
    assert equal(gradients(module), expected)


def test_copies_and_closed_modules_have_no_hooks(
    group: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Halves()
    sums = GradientSums(module, AS_TWO, bucket_bytes=1)
    copy = deepcopy(module)
    monkeypatch.setattr(dist, "all_reduce", None)
    with sums.collecting():
        backward(copy, True)
        sums.close()
        backward(module, True)
    assert equal(gradients(module), gradients(copy))


def test_one_process_exchanges_nothing() -> None:
    """There is no group at all."""
    module = Halves()
    sums = GradientSums(module, ALONE)
    with sums.collecting():
        backward(module, True)
    assert sums.launch_rest() == 0
    sums.finish(0, 0.0)
    sums.close()
    assert module.first.weight.grad is not None
