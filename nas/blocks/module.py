"""What block modules share: slicing, layers, attention biases, folding of norms, tensor names.

The `module.py` of every family imports it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nas.blocks import BlockSpec, Operation, Shape
from nas.blocks.drop_path import block_branches


@dataclass(frozen=True)
class Repeated:
    """A dimension that holds the channels of a group several times.

    An example is the stacked queries, keys and values of one projection.

    Attributes:
        group: the channel group.
        times: how often each channel is held.
        adjacent: whether the copies of a channel stand side by side, as the outputs of a depthwise
            convolution with several outputs per channel do. By default all channels follow each
            other in one run, then again in the next.
    """

    group: str
    times: int
    adjacent: bool = False

    def positions(self, channels: Tensor, size: int) -> Tensor:
        """Return the positions (times * channels,) of some channels (indices) in the dimension.

        Args:
            channels: indices of channels of the group.
            size: of the dimension.
        """
        if self.adjacent:
            # Channel c stands at c * times, c * times + 1, and so on: (channels, times), flat.
            copies = torch.arange(self.times, device=channels.device)
            return (channels[:, None] * self.times + copies).flatten()
        return torch.cat([channels + run * (size // self.times) for run in range(self.times)])

    def parts(self, tensor: Tensor, dim: int) -> list[Tensor]:
        """Return the tensors that hold each channel once, in the order of the channels."""
        if self.adjacent:
            runs = range(self.times)
            return [tensor[(slice(None),) * dim + (slice(run, None, self.times),)] for run in runs]
        return list(tensor.chunk(self.times, dim))


@dataclass(frozen=True)
class Window:
    """A dimension that is a side of a convolution's window; a smaller window is the centre of it.

    Single-Path NAS (arXiv:1904.02877) shares the weights of kernels so. Both sides are odd.
    """


CENTRE = Window()

Axis = str | Repeated | Window | None
"""The channel group of one dimension of a tensor, or its window; None where it is never sliced."""
Axes = Mapping[str, tuple[Axis, ...]]
"""Tensor name to the axis of each of its dimensions."""
Published = Mapping[str, Mapping[str, str]]
"""Checkpoint layout (a name in `nas.weights.LAYOUTS`) to our tensor names, or prefixes of them, and
theirs."""


def group_of(axis: Axis) -> str | None:
    """Return the channel group of a dimension, or None where it holds no channels."""
    if isinstance(axis, Repeated):
        return axis.group
    return axis if isinstance(axis, str) else None


def within(prefix: str, axes: Axes, **groups: Axis) -> Axes:
    """Return the axes of a part called `prefix`, with groups renamed as in `groups`."""
    renamed = lambda axis: groups.get(axis, axis) if isinstance(axis, str) else axis  # noqa: E731
    return {f"{prefix}.{name}": tuple(map(renamed, dims)) for name, dims in axes.items()}


class Block(nn.Module):
    """A module of the vocabulary, built from its spec and input shape by `nas.blocks.build.build_block`.

    Attributes:
        axes: which dimensions of which tensors are channels: `in` of the input, `out` of the output
            (the residual stream, where input and output are the same), `hidden` inside the block.
            Slicing needs no more than this.
        published: for each checkpoint layout, the prefix of our tensor names to the prefix of
            theirs.
        float_parts: classes of inner parts whose sums of squares or products, and the divisions by
            them, stay float32 in an 8-bit export. With 256 steps these lose most of their
            precision, and a denominator becomes 0. Convolutions in such parts are quantised. The
            export target litert-int8 uses it.
        without_gradient: parameters that get no gradient, because the output does not depend on
            them. An example is one that adds the same to all scores of a query, which the softmax
            removes. `nas.testing.blocks` uses it.
        undropped: parts of a position's block that are no branches, so that drop path leaves them
            in, as the authors do. `tests/blocks/test_drop_path.py` uses it.
        built_from: the spec and the input shape.
        takes_grid: of a block on tokens, whether its `forward` takes height and width of the
            tokens' grid as a second argument. One that does not must have the aspect ratio that it
            was built for, or not mind it.
    """

    axes: ClassVar[Axes] = {}
    published: ClassVar[Published] = {}
    float_parts: ClassVar[tuple[type[nn.Module], ...]] = ()
    without_gradient: ClassVar[tuple[str, ...]] = ()
    undropped: ClassVar[tuple[str, ...]] = ()
    built_from: tuple[BlockSpec, Shape] | None = None
    takes_grid: ClassVar[bool] = False

    def published_names(self, layout: str) -> Mapping[str, str]:
        """Return `published` of a layout; empty where the block was never published in it.

        A block whose published names depend on its hyperparameters replaces it.
        """
        return self.published.get(layout, {})

    def residual(self, x: Tensor, branch: Tensor) -> Tensor:
        """Return x + branch, both (B, ...); blocks of a stage add their branches by it.

        In training with drop path the branch is left out for some images.
        """
        branches = block_branches()
        if self.training and branches is not None:
            branch = branches.scaled(branch)
        return x + branch

    def deploy(self) -> None:
        """Replace what only training needs by constants, in place.

        The output in eval mode stays the same.
        """

    def fit_float16(self) -> None:
        """Rescale weights, in place, where a sum inside would exceed float16's 65504.

        The output stays the same.

        Asked by targets that compute in float16 alone.
        """


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "hardswish": nn.Hardswish,
    "silu": nn.SiLU,
}

# The value of the official code of EfficientFormer, EfficientFormerV2 and SwiftFormer's attention.
# A branch that starts near zero makes a deep network start near the identity.
LAYER_SCALE_INIT = 1e-5


class Foldable(nn.Module):
    """A part of a block that inference replaces by a simpler module with the same output.

    Structural re-parameterisation (RepVGG, arXiv:2101.03697) is of this kind, as is a batch norm
    behind a convolution. `fold` does the replacement wherever it finds such a part, so that a block
    says by its parts alone what its form in inference is.
    """

    def folded(self) -> nn.Module:
        """Return the module that takes this one's place in inference.

        The part is in eval mode then. Its output in that mode is the returned module's.
        """
        raise NotImplementedError


class ConvNorm(nn.Sequential, Foldable):
    """A convolution with `same` padding and the batch norm that deployment folds into it."""

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        conv: type[nn.Conv2d] = nn.Conv2d,
    ) -> None:
        super().__init__()
        self.conv = conv(channels, width, kernel, stride, kernel // 2, groups=groups, bias=bias)
        self.norm = nn.BatchNorm2d(width)

    def folded(self) -> nn.Conv2d:
        """Return the convolution that computes the same in eval mode."""
        return fuse_conv_bn_eval(self.conv, self.norm)

    @staticmethod
    def axes(name: str, channels: Axis, width: Axis, window: Axis = None) -> Axes:
        """Return the axes of a ConvNorm called `name`; of a depthwise one `channels` is None.

        `window` is CENTRE where a smaller kernel is a slice of a larger one.
        """
        return {
            **conv_axes(f"{name}.conv", channels, width, window),
            **batch_norm_axes(f"{name}.norm", width),
        }


def conv_axes(name: str, channels: Axis, width: Axis, window: Axis = None) -> Axes:
    """Return the axes of a convolution called `name`; of a depthwise one `channels` is None."""
    return {f"{name}.weight": (width, channels, window, window), f"{name}.bias": (width,)}


def batch_norm_axes(name: str, channels: Axis) -> Axes:
    """Return the axes of a batch norm called `name`."""
    return {
        f"{name}.{vector}": (channels,)
        for vector in ("weight", "bias", "running_mean", "running_var")
    }


def linear_axes(name: str, channels: Axis, width: Axis) -> Axes:
    """Return the axes of a linear layer called `name`."""
    return {f"{name}.weight": (width, channels), f"{name}.bias": (width,)}


def norm_axes(name: str, channels: Axis) -> Axes:
    """Return the axes of a layer norm called `name`."""
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def layer_scale(channels: int, initial: float = LAYER_SCALE_INIT) -> nn.Parameter:
    """Return one learned factor per channel (CaiT, arXiv:2103.17239)."""
    return nn.Parameter(torch.full((channels,), initial))


def fold_into_next(norm: nn.BatchNorm2d, layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """Fold a batch norm, as in eval mode, into the layer behind it, in place.

    W (s x + t) + b = (W s) x + (W t + b) holds where there is no padding between the two.

    Args:
        norm: the batch norm.
        layer: a linear layer or an ungrouped 1x1 convolution.

    Returns:
        The module that replaces the norm.
    """
    assert norm.running_mean is not None and norm.running_var is not None and layer.bias is not None
    with torch.no_grad():
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        # (out, in, 1, 1) to (out, in). It is a view, so the bias must take the shift before the
        # weights are scaled in place.
        weight = layer.weight.flatten(1)
        layer.bias.add_(weight @ shift)
        layer.weight.copy_((weight * scale).view_as(layer.weight))
    return nn.Identity().eval()


def init_linear(module: nn.Module) -> None:
    """Initialise weights to a normal of std 0.02 and biases to zero, as the authors do.

    They do so in linear layers and MLPs. They also cut the normal at 100 standard deviations, which
    changes nothing and takes twice as long.
    """
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class SqueezeExcite(nn.Module):
    """One factor in (0, 1) per image and channel, from the mean over all positions.

    Squeeze-and-excitation (arXiv:1709.01507) on (B, C, H, W), with ReLU and biases.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.activation = nn.ReLU()
        self.excite = nn.Conv2d(squeezed, channels, 1)

    @staticmethod
    def axes(name: str, channels: Axis) -> Axes:
        """Return the axes of a part called `name`; the squeezed channels are a group of theirs."""
        return {
            **conv_axes(f"{name}.squeeze", channels, "squeezed"),
            **conv_axes(f"{name}.excite", "squeezed", channels),
        }

    def forward(self, x_bchw: Tensor) -> Tensor:
        squeezed = self.squeeze(x_bchw.mean(dim=(2, 3), keepdim=True))  # (B, squeezed, 1, 1)
        gate: Tensor = self.excite(self.activation(squeezed)).sigmoid()  # (B, C, 1, 1)
        return x_bchw * gate


class NormalConv2d(nn.Conv2d):
    """A convolution that `init_linear` initialises at once.

    To initialise it after torch's own draw would double the time to build a network.
    """

    def reset_parameters(self) -> None:
        init_linear(self)


def grid_of(tokens: int, grid: tuple[int, int]) -> tuple[int, int]:
    """Return the grid that holds this many tokens and has the aspect ratio of `grid`.

    Raises:
        ValueError: there is no such grid, because the input's aspect ratio is not the one that the
            network was built for.
    """
    if tokens == grid[0] * grid[1]:
        return grid
    # H W = tokens and H / W = grid[0] / grid[1] give H = sqrt(tokens grid[0] / grid[1]). The check
    # below multiplies crosswise, since the root was rounded.
    height = round((tokens * grid[0] / grid[1]) ** 0.5)
    if height < 1 or tokens % height or height * grid[1] != tokens // height * grid[0]:
        raise ValueError(
            f"{tokens} tokens do not form a grid of the shape {grid[0]}x{grid[1]} that this network"
            " was built for. Fix: build it for this input with nas.build(arch.at((height, width)))"
        )
    return height, tokens // height


def split_heads(x_bchw: Tensor, heads: int) -> Tensor:
    """Reshape (B, heads * D, H, W) to (B, heads, D, H*W)."""
    batch, channels, height, width = x_bchw.shape
    return x_bchw.reshape(batch, heads, channels // heads, height * width)


def to_tokens(x_bchw: Tensor) -> Tensor:
    """Reshape a map (B, C, H, W) to tokens (B, H*W, C)."""
    return x_bchw.flatten(2).transpose(1, 2)


def to_map(x_bnc: Tensor, grid: tuple[int, int]) -> Tensor:
    """Reshape tokens (B, H*W, C) to a map (B, C, H, W)."""
    batch, _, channels = x_bnc.shape
    return x_bnc.transpose(1, 2).reshape(batch, channels, *grid)


class BiasedBlock(Block):
    """A block whose attention has a learned bias: one value per head and distance on a grid.

    A distance is (|dy|, |dx|). `bias` is the table (heads, H, W) of the grid that the block was
    built for. On other grids the table is resized bilinearly, with a warning.

    Attributes:
        grid: height and width of the keys' grid.
        query_stride: keys per query, in both directions.
    """

    def __init__(self, heads: int, grid: tuple[int, int], query_stride: int = 1) -> None:
        super().__init__()
        self.grid = grid
        self.query_stride = query_stride
        self.bias = nn.Parameter(torch.zeros(heads, *grid))
        # Not persistent: `deploy` makes it of `bias`, so checkpoints never hold it.
        self.register_buffer("constant_bias", None, persistent=False)

    def bias_on(self, grid: tuple[int, int]) -> Tensor:
        """Return the bias (heads, queries, keys) between all positions of a grid of keys."""
        if grid == self.grid and self.constant_bias is not None:
            return self.constant_bias
        table: Tensor = self.bias  # (heads, H, W)
        if grid != self.grid:
            warnings.warn(
                f"attention bias resized from {self.grid} to {grid}: fine-tune at this resolution",
                stacklevel=2,
            )
            table = resize_bias(table, grid)
        # One value per head and distance, spread over all pairs: (heads, queries, keys).
        return table.flatten(1)[:, _distances(grid, self.query_stride, table.device)]

    def deploy(self) -> None:
        with torch.no_grad():
            # On one grid the gather gives a constant, which exported files hold in its place.
            self.constant_bias = self.bias_on(self.grid).clone()


def resize_bias(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the bias table (heads, H, W) for another grid, resized bilinearly."""
    # (heads, H, W) to (1, heads, H, W) and back. With aligned corners distance 0 keeps its value,
    # and the largest distance becomes the largest of the new grid.
    return F.interpolate(table[None], size=grid, mode="bilinear", align_corners=True)[0]


def _distances(grid: tuple[int, int], query_stride: int, device: torch.device) -> Tensor:
    """Return the index of every query and key into a flat bias table: (queries, keys)."""
    # LeViT (arXiv:2104.01136): the bias depends on (|dy|, |dx|) alone, so the table has one entry
    # per distance, which lies at |dy| * W + |dx| when the table is flat.
    y, x = _positions(grid, 1, device)
    query_y, query_x = _positions(grid, query_stride, device)
    return (query_y[:, None] - y).abs() * grid[1] + (query_x[:, None] - x).abs()


def _positions(grid: tuple[int, int], stride: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the row and the column of every `stride`-th position of a grid."""
    # Made on the device: a host would wait for a copy in every pass.
    rows, columns = (torch.arange(0, side, stride, device=device) for side in grid)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return y.flatten(), x.flatten()


def fold(module: nn.Module) -> nn.Module:
    """Replace every `Foldable` part below `module` by its form in inference, in place.

    The output in eval mode stays the same.

    Raises:
        ValueError: `module` is in training mode, where a batch norm cannot be folded.
    """
    if module.training:
        raise ValueError(
            "batch norms can be folded in eval mode only. Fix: call module.eval() first"
        )
    # A list, because the loop replaces children. A part is replaced as a whole, before anything
    # looks for the parts inside it.
    for name, child in list(module.named_children()):
        if isinstance(child, Foldable):
            setattr(module, name, child.folded())
        else:
            fold(child)
    return module


def _as_published(operation: Operation, name: str, value: Tensor) -> Tensor:
    return value


@dataclass(frozen=True)
class CheckpointLayout:
    """How some code base names the tensors of a family's networks.

    Attributes:
        name: family/code base, as in 'efficientformer/timm'; the key of `Block.published`.
        prefixes: for the operations of a network, each one's name to what its tensors' published
            names begin with; '' where they stand at the top. A part of an operation that is
            published as a block of its own has an entry of its own: `stage3_block4.attention`.
        ignored: last parts of the names of tensors that hold nothing learned.
        convert: a published tensor as our block wants it, from our operation, the tensor's name
            within it and the published value; where the order of channels or the shape differs.
        publish: one of our tensors as the code base wants it, the inverse of `convert`.
        shared: names of blocks that belong to another family, by their kind, as `Block.published`
            has them. So a family can use the shared stems and heads without a change to their
            files.
        zeros: our names of tensors that this code base does not have, and that are 0 then.
        classes_dim: the dimension of the classifier's published weight that has the classes.
    """

    name: str
    prefixes: Callable[[Sequence[Operation]], Mapping[str, str]]
    ignored: tuple[str, ...] = ()
    convert: Callable[[Operation, str, Tensor], Tensor] = _as_published
    publish: Callable[[Operation, str, Tensor], Tensor] = _as_published
    shared: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    zeros: tuple[str, ...] = ()
    classes_dim: int = 0

    def prefix_of(self, prefixes: Mapping[str, str], tensor: str) -> str:
        """Return the prefix of a tensor, our name of which begins with that of its operation."""
        # The longest name that fits is the most specific one. The dots keep block1 from block10.
        fitting = (name for name in prefixes if f"{tensor}.".startswith(f"{name}."))
        return prefixes[max(fitting, key=len)]

    def published_names(self, block: Block) -> Mapping[str, str]:
        """Return the prefixes of a block's tensor names, ours to the published ones.

        There are none where the block was never published in this layout.
        """
        kind = block.built_from[0].kind if block.built_from else ""
        return self.shared.get(kind) or block.published_names(self.name)
