"""The segmentation head: its formula, what it counts, what it refuses, and its slices in a
supernet."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nas.blocks import FPNHead, Shape, from_dict, parse, pyramid
from nas.blocks.build import build_block
from nas.blocks.fpn.module import FPNHeadBlock
from nas.blocks.fpn.spec import Middle
from nas.blocks.module import Block
from nas.space import Space
from nas.space.moves import Drop, Exchange, Localise, Narrow, moves
from nas.supernet.choices import GumbelSoftmax
from nas.supernet.supernet import Supernet

MAPS = (Shape(6, 16, 24), Shape(8, 8, 12), Shape(12, 4, 6), Shape(10, 2, 3))
HEADS = pytest.mark.parametrize(
    "head",
    [
        FPNHead(5, width=8),
        FPNHead(2, width=6, depth=2, expansion=3, levels=4, activation="relu"),
        FPNHead(3, width=5, expansion=1, levels=2, activation="silu"),
        FPNHead(3, width=4, levels=1, activation="gelu"),
        FPNHead(3, width=6, expansion=2, activation="gelu", middle="fused_mbconv"),
        FPNHead(3, width=6, activation="relu", final_expansion=0),
        FPNHead(3, width=6, depth=2, activation="relu", final_expansion=8, expansion=2),
    ],
    ids=lambda head: f"levels{head.levels}-{head.middle}-{head.final_expansion}",
)


def shape_of(head: FPNHead) -> Shape:
    return pyramid(MAPS[-head.levels :])


def lively(head: FPNHead) -> Block:
    """With batch norms that do something."""
    torch.manual_seed(0)
    block = build_block(head, shape_of(head))
    with torch.no_grad():
        for tensor in [*block.parameters(), *block.buffers()]:
            if tensor.is_floating_point():
                tensor.uniform_(0.3, 1.2) if tensor.dim() == 1 else tensor.normal_(0, 0.5)
    return block.eval()


def maps_of(head: FPNHead, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(level.tensor(batch), generator=generator) for level in shape_of(head).levels
    ]


def enlarge(x_bchw: Tensor, factor: int) -> Tensor:
    """Bilinear interpolation between pixel centres, an axis at a time; beyond the outermost centres
    the map is flat."""
    for dim in (2, 3):
        size = x_bchw.shape[dim]
        at = ((torch.arange(size * factor) + 0.5) / factor - 0.5).clamp(0, size - 1)
        low = at.floor().long()
        high = (low + 1).clamp(max=size - 1)
        share = (at - low).reshape(-1, *[1] * (3 - dim))
        x_bchw = (
            x_bchw.index_select(dim, low) * (1 - share) + x_bchw.index_select(dim, high) * share
        )
    return x_bchw


@HEADS
@torch.no_grad()
def test_head_is_the_formula(head: FPNHead) -> None:
    """Scores = W2 act(W1 MBConv(sum of up(W_i x_i)))), written with matrix products and the tensors
    by their names."""
    block = lively(head)
    maps = maps_of(head)
    tensors = block.state_dict()
    act = {"hardswish": F.hardswish, "relu": F.relu, "silu": F.silu, "gelu": F.gelu}[
        head.activation
    ]

    def norm(y: Tensor, name: str) -> Tensor:
        mean, variance, scale, shift = (
            tensors[f"{name}.norm.{key}"].reshape(-1, 1, 1)
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (y - mean) / (variance + 1e-5).sqrt() * scale + shift

    def conv1(x: Tensor, name: str) -> Tensor:
        y = torch.einsum("oc,bchw->bohw", tensors[f"{name}.conv.weight"][:, :, 0, 0], x)
        bias = tensors.get(f"{name}.conv.bias")
        return norm(y if bias is None else y + bias.reshape(-1, 1, 1), name)

    def depthwise(x: Tensor, name: str) -> Tensor:
        height, width = x.shape[2:]
        padded = F.pad(x, (1, 1, 1, 1))
        kernel = tensors[f"{name}.conv.weight"][:, 0]
        y = sum(
            padded[:, :, i : i + height, j : j + width] * kernel[:, i, j].reshape(-1, 1, 1)
            for i in range(3)
            for j in range(3)
        )
        bias = tensors.get(f"{name}.conv.bias")
        return norm(y if bias is None else y + bias.reshape(-1, 1, 1), name)  # type: ignore[operator]

    first = 5 - head.levels
    fused: Tensor = sum(  # type: ignore[assignment]
        enlarge(conv1(x, f"levels.stage{first + i}"), 2**i) for i, x in enumerate(maps)
    )
    names = [
        name
        for name, module in block.get_submodule("refine.0").named_children()
        if hasattr(module, "conv")
    ]
    for index in range(head.depth):
        *inner, project = (f"refine.{index}.{name}" for name in names)
        if head.middle == "mbconv":
            expand, local = inner
            hidden = depthwise(act(conv1(fused, expand)), local)
        else:
            (local,) = inner
            hidden = norm(F.conv2d(fused, tensors[f"{local}.conv.weight"], padding=1), local)
        fused = fused + conv1(act(hidden), project)
    hidden = fused if head.final_expansion == 0 else act(conv1(fused, "expand"))
    expected = torch.einsum("oc,bchw->bohw", tensors["classifier.weight"][:, :, 0, 0], hidden)
    expected = expected + tensors["classifier.bias"].reshape(-1, 1, 1)
    found = block(maps)
    assert found.shape == (2, head.classes, *maps[0].shape[2:])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@HEADS
def test_counts_are_those_of_the_module(head: FPNHead) -> None:
    block = build_block(head, shape_of(head)).eval()
    shape = shape_of(head)
    assert sum(parameter.numel() for parameter in block.parameters()) == head.params(shape)
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        output = block(maps_of(head, batch=1))
    assert flops.get_total_flops() / 2 == head.macs(shape)
    assert tuple(output.shape) == head.output_shape(shape).tensor()


@HEADS
def test_gradients_reach_every_parameter_and_every_map(head: FPNHead) -> None:
    block = lively(head).train()
    maps = [x.requires_grad_() for x in maps_of(head)]
    output = block(maps)
    (output * torch.randn_like(output)).sum().backward()
    for name, tensor in [*block.named_parameters(), *((f"map {i}", x) for i, x in enumerate(maps))]:
        assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.any(), name


@HEADS
def test_text_and_data_give_head_and_shape_back(head: FPNHead) -> None:
    assert parse("fpn_head", str(head)) == head == from_dict(head.to_dict())
    assert Shape.parse(str(shape_of(head))) == shape_of(head)


@pytest.mark.parametrize("middle", get_args(Middle))
def test_axes_are_those_of_the_module(middle: Middle) -> None:
    head = FPNHead(5, depth=3, levels=4, middle=middle)
    tensors = build_block(head, shape_of(head)).state_dict()
    for name, tensor in tensors.items():
        if tensor.dim():
            assert len(FPNHeadBlock.axes[name]) == tensor.dim(), name


def test_one_head_has_one_text_and_older_texts_are_read() -> None:
    assert str(FPNHead(5, expansion=3, final_expansion=3)) == str(FPNHead(5, expansion=3))
    older = "classes=5;width=8;depth=1;expansion=3;levels=3;activation=hardswish"
    head = parse("fpn_head", older)
    assert head == FPNHead(5, width=8, expansion=3)
    assert isinstance(head, FPNHead) and head.fuse.expanded(head.width) == 24


@torch.no_grad()
def test_bicubic_upsampling_is_torchs() -> None:
    maps = [x[:, :2] for x in maps_of(FPNHead(3))]
    heads = [FPNHead(2, width=2, levels=2, resize=resize) for resize in ("bilinear", "bicubic")]  # type: ignore[arg-type]
    shape = pyramid([Shape(2, x.shape[2], x.shape[3]) for x in maps[-2:]])
    plain, cubic = (build_block(head, shape).eval() for head in heads)
    cubic.load_state_dict(plain.state_dict())
    for block in (plain, cubic):
        # Levels that add up as they are, and a head that shows them.
        block.refine = block.expand = nn.Identity()
        block.levels = nn.ModuleDict({name: nn.Identity() for name in block.levels})
        block.activation = nn.Identity()
        block.classifier = nn.Identity()
    fine, coarse = maps[-2:]
    enlarged = F.interpolate(coarse, scale_factor=2, mode="bicubic", align_corners=False)
    torch.testing.assert_close(cubic([fine, coarse]), fine + enlarged)
    assert not torch.allclose(plain([fine, coarse]), cubic([fine, coarse]))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: FPNHead(1), "classes 1 must be at least 2"),
        (lambda: FPNHead(5, width=0), "width 0 must be at least 1"),
        (lambda: FPNHead(5, depth=9), "depth 9 must be at most 8"),
        (lambda: FPNHead(5, levels=5), "levels 5 must be from 1 to 4"),
        (lambda: FPNHead(5, final_expansion=-2), "final_expansion -2 must be at least -1"),
        (lambda: FPNHead(5, middle="conv"), "middle 'conv' is not one of mbconv, fused_mbconv"),  # type: ignore[arg-type]
        (lambda: FPNHead(5, resize="area"), "resize 'area' is not one of bilinear, bicubic"),  # type: ignore[arg-type]
        (lambda: FPNHead(5, activation="tanh"), "activation 'tanh' is not one of"),  # type: ignore[arg-type]
        (lambda: FPNHead(5).check(pyramid(MAPS)), "expected the maps of 3 stages, got 4"),
        (lambda: FPNHead(5).check(MAPS[-1]), "expected the maps of 3 stages, got 1"),
        (lambda: Shape.parse("pyramid:8x4x4+tokens:8x2x2"), "the levels of a pyramid are maps"),
        (lambda: Shape.parse("pyramid:8x4x4+"), "is not a shape"),
    ],
)
def test_mistakes_are_named(make: Callable[[], object], reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert reason in str(caught.value) and "\n" not in str(caught.value)


IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def supernet_of(space: Space, head: FPNHead) -> Supernet:
    """In eval mode, with weights that a wrong slice would show and that keep the images apart."""
    torch.manual_seed(0)
    supernet = Supernet(space.with_head(head)).eval()
    with torch.no_grad():
        for tensor in [*supernet.parameters(), *supernet.buffers()]:
            if tensor.dim() == 4:
                tensor.normal_(0, (1.5 / tensor[0].numel()) ** 0.5)
            elif tensor.is_floating_point():
                tensor.uniform_(0.3, 1.2) if tensor.dim() == 1 else tensor.normal_(0, 0.3)
    return supernet


@pytest.mark.parametrize("placement", ["network_suffix", "stage_suffix"])
@pytest.mark.parametrize("levels", [1, 3, 4])
@torch.no_grad()
def test_sliced_equals_exported_after_every_move(
    choices_space: Callable[..., Space], placement: str, levels: int
) -> None:
    supernet = supernet_of(
        choices_space(placement).at(64), FPNHead(3, width=8, expansion=2, levels=levels)
    )
    largest = supernet.space.largest()
    base = supernet.forward_sliced(IMAGES, largest)
    taken = set()
    assert isinstance(base, Tensor) and base.shape == (2, 3, *(2 * [64 >> (6 - levels)]))
    for move in moves(supernet.space, largest):
        arch = move.apply(largest)
        exported = supernet.extract(arch)(IMAGES)
        assert (exported - base).abs().max() > 1e-3, f"{move} changed nothing"
        torch.testing.assert_close(
            supernet.forward_sliced(IMAGES, arch), exported, atol=1e-4, rtol=1e-4
        )
        taken.add((type(move), getattr(move, "stage", None)))
    assert {(Narrow, stage) for stage in range(4)} <= taken
    assert {kind for kind, _ in taken} == {Drop, Exchange, Localise, Narrow}


@torch.no_grad()
def test_every_stages_narrowing_keeps_the_channels_that_the_head_reads(
    choices_space: Callable[..., Space],
) -> None:
    """A channel that only the head reads votes too: with all its weight on some channels, those are
    kept."""
    supernet = supernet_of(choices_space().at(64), FPNHead(3, width=8, levels=4))
    head = supernet.get_submodule("head")
    for index, stage in enumerate(supernet.space.stages, start=1):
        weight = head.get_submodule(f"levels.stage{index}").conv.weight
        assert isinstance(weight, nn.Parameter) and weight.shape[1] == stage.widths[-1]
        weight.zero_()[:, -3:] = 1e4
    supernet.rank_channels()
    for index, stage in enumerate(supernet.space.stages, start=1):
        kept = supernet.ranking().streams[f"stage{index}"][: stage.widths[0]]
        assert set(range(stage.widths[-1] - 3, stage.widths[-1])) <= set(kept.tolist())


def test_a_supernet_with_the_head_trains_by_gumbel_softmax(
    choices_space: Callable[..., Space],
) -> None:
    supernet = supernet_of(choices_space().at(64), FPNHead(3, width=8)).train()
    scores = supernet(IMAGES, GumbelSoftmax(1.0), torch.Generator().manual_seed(0))
    F.cross_entropy(scores, torch.zeros(2, 8, 8, dtype=torch.long)).backward()
    assert all(alpha.grad is not None and alpha.grad.any() for alpha in supernet.alphas().values())
    assert all(
        parameter.grad is not None for parameter in supernet.get_submodule("head").parameters()
    )
