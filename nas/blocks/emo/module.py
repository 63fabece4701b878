"""EMO (Zhang et al., arXiv:2301.01146): the inverted residual mobile block (iRMB) and its stem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from nas.blocks import IRMB, EMOStem, IRMBDown, Operation, Shape
from nas.blocks.common.spec import Norm
from nas.blocks.emo.spec import LOCAL_ACTIVATION
from nas.blocks.module import (
    ACTIVATIONS,
    Axes,
    Block,
    CheckpointLayout,
    ConvNorm,
    Published,
    Repeated,
    batch_norm_axes,
    conv_axes,
    fold_into_next,
    norm_axes,
)


class EMOStemBlock(Block):
    """(B, 3, H, W) to (B, width, H/2, W/2); see `nas.blocks.EMOStem`."""

    axes: ClassVar[Axes] = {
        **ConvNorm.axes("embed", None, "hidden"),
        **ConvNorm.axes("local", None, "hidden"),
        **conv_axes("squeeze", "hidden", "squeezed"),
        **conv_axes("excite", "squeezed", "hidden"),
        **conv_axes("project", "hidden", "out"),
    }
    published: ClassVar[Published] = {
        "emo/official": {
            "embed.conv": "0.convs.0.0",
            "embed.norm": "0.convs.0.1",
            "local": "1.conv_local",
            "squeeze": "1.se.conv_reduce",
            "excite": "1.se.conv_expand",
            "project": "1.proj.conv",
        },
    }

    def __init__(self, spec: EMOStem, shape: Shape) -> None:
        super().__init__()
        width = spec.width
        self.embed = ConvNorm(shape.channels, width, kernel=3, stride=2)
        self.local = ConvNorm(width, width, kernel=3, groups=width, bias=False)
        self.squeeze = nn.Conv2d(width, width, 1)
        self.excite = nn.Conv2d(width, width, 1)
        self.activation = ACTIVATIONS[spec.activation]()
        self.project = nn.Conv2d(width, width, 1, bias=False)
        self.apply(authors_eps)

    def forward(self, x_bchw: Tensor) -> Tensor:
        x_bchw = self.activation(self.local(self.embed(x_bchw)))
        # Squeeze and excitation: one factor in (0, 1) per image and channel, (B, C, 1, 1).
        gate = self.excite(
            self.activation(self.squeeze(x_bchw.mean(dim=(2, 3), keepdim=True)))
        ).sigmoid()
        x_bchw = self.project(x_bchw * gate)
        return x_bchw


EPS = 1e-6
"""What the authors give to all of their norms."""


class MapLayerNorm(nn.Module):
    """Layer norm over the channels of each position of a map (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=EPS)

    def forward(self, x_bchw: Tensor) -> Tensor:
        # A layer norm works on the last dimension: (B, C, H, W) to (B, H, W, C) and back.
        x_bhwc: Tensor = self.norm(x_bchw.permute(0, 2, 3, 1))
        return x_bhwc.permute(0, 3, 1, 2)


def authors_eps(module: nn.Module) -> None:
    """Set the authors' epsilon in a batch norm, as a function for `Module.apply`."""
    if isinstance(module, nn.BatchNorm2d):
        module.eps = EPS


def _axes(stream: str) -> Axes:
    """Return the axes of what both blocks have, after the channels that come in."""
    return {
        **batch_norm_axes("norm", stream),
        **norm_axes("norm.norm", stream),
        **conv_axes("value", stream, "hidden"),
        **ConvNorm.axes("local", None, "hidden"),
        **conv_axes("project", "hidden", "out"),
    }


_PUBLISHED = {"norm": "norm", "value": "v.conv", "local": "conv_local", "project": "proj.conv"}


class IRMBBlock(Block):
    """Attention, expansion, depthwise convolution and projection of (B, C, H, W); see
    `nas.blocks.IRMB`.

    The queries of all heads lie before the keys of all heads, so that another head_dim only groups
    them anew.
    """

    axes: ClassVar[Axes] = {**_axes("out"), **conv_axes("queries_keys", "out", Repeated("keys", 2))}
    published: ClassVar[Published] = {"emo/official": {**_PUBLISHED, "queries_keys": "qk.conv"}}

    def __init__(self, spec: IRMB, shape: Shape) -> None:
        super().__init__()
        channels = shape.channels
        hidden = int(shape.channels * spec.expansion)
        self.head_dim = spec.head_dim
        self.window = spec.window
        self.norm = _norm(spec.norm, channels)
        self.queries_keys = nn.Conv2d(channels, 2 * channels, 1) if spec.attention else None
        self.value = nn.Conv2d(channels, hidden, 1)
        self.activation = ACTIVATIONS[spec.activation]()
        self.local = (
            ConvNorm(hidden, hidden, spec.kernel, groups=hidden, bias=False)
            if spec.depthwise
            else None
        )
        self.local_activation = ACTIVATIONS[LOCAL_ACTIVATION]()
        self.project = nn.Conv2d(hidden, channels, 1, bias=False)
        self.apply(authors_eps)

    def forward(self, x_bchw: Tensor) -> Tensor:
        # Sec. 3.2 in the order of the published code: N = Norm(X), attention, V = act(Conv(A)), the
        # depthwise convolution with a skip of its own, projection.
        mixed = self.norm(x_bchw)
        if self.queries_keys is not None:
            mixed = self._attend(mixed, self.queries_keys)
        value = self.activation(self.value(mixed))
        if self.local is not None:
            value = value + self.local_activation(self.local(value))
        x_bchw = self.residual(x_bchw, self.project(value))
        return x_bchw

    def deploy(self) -> None:
        """Fold the batch norm into the value's convolution where it can be.

        Before an attention, padding stands between the two.
        """
        if isinstance(self.norm, nn.BatchNorm2d) and self.queries_keys is None:
            self.norm = fold_into_next(self.norm, self.value)

    def _attend(self, x_bchw: Tensor, queries_keys: nn.Conv2d) -> Tensor:
        """Return softmax attention inside every window, with the map itself as the values."""
        height, width = x_bchw.shape[2:]
        # A side that the window does not divide is padded with zeros below and on the right. No
        # mask is used: padded positions take part as keys, as in the published code.
        rows = -(-height // self.window)
        columns = -(-width // self.window)
        below = rows * self.window - height
        right = columns * self.window - width
        x = _split(F.pad(x_bchw, (0, right, 0, below)) if below or right else x_bchw, rows, columns)
        heads = x.shape[1] // self.head_dim
        # (B', 2 C, h, w) to (B', 2 heads, d, n), then queries and keys (B', heads, d, n): B' windows
        # of n = h * w positions.
        q, k = queries_keys(x).reshape(len(x), 2 * heads, self.head_dim, -1).chunk(2, dim=1)
        scores = q.transpose(2, 3) @ k * self.head_dim**-0.5
        # The values are the map before its expansion: those of the wider map would take
        # `expansion` times as many products.
        values = x.reshape(len(x), heads, self.head_dim, -1)  # (B', heads, d, n)
        mixed = values @ scores.softmax(dim=3).transpose(2, 3)
        # Back to (B, C, H, W), without the padding.
        return _join(mixed.reshape(x.shape), rows, columns)[:, :, :height, :width]


class IRMBDownBlock(Block):
    """(B, C, H, W) to (B, width, H/2, W/2); see `nas.blocks.IRMBDown`."""

    axes: ClassVar[Axes] = _axes("in")
    published: ClassVar[Published] = {"emo/official": _PUBLISHED}

    def __init__(self, spec: IRMBDown, shape: Shape) -> None:
        super().__init__()
        hidden = int(shape.channels * spec.expansion)
        self.norm = _norm(spec.norm, shape.channels)
        self.value = nn.Conv2d(shape.channels, hidden, 1)
        self.activation = ACTIVATIONS[spec.activation]()
        self.local = ConvNorm(hidden, hidden, spec.kernel, stride=2, groups=hidden, bias=False)
        self.local_activation = ACTIVATIONS[LOCAL_ACTIVATION]()
        self.project = nn.Conv2d(hidden, spec.width, 1, bias=False)
        self.apply(authors_eps)

    def forward(self, x_bchw: Tensor) -> Tensor:
        value = self.activation(self.value(self.norm(x_bchw)))
        x_bchw = self.project(self.local_activation(self.local(value)))
        return x_bchw

    def deploy(self) -> None:
        """Fold the batch norm into the value's convolution."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.norm = fold_into_next(self.norm, self.value)


def _norm(norm: Norm, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else MapLayerNorm(channels)


def _split(x_bchw: Tensor, rows: int, columns: int) -> Tensor:
    """Return (B, C, H, W) to its dilated windows (B * rows * columns, C, H / rows, W / columns).

    A window takes every `rows`-th row and every `columns`-th column. One axis is split at a time,
    because Core ML refuses tensors of more than five dimensions.
    """
    batch, channels, height, width = x_bchw.shape
    if rows > 1:
        # (B, C, H / rows, rows, W) to (B, rows, C, H / rows, W)
        x = x_bchw.reshape(batch, channels, height // rows, rows, width).permute(0, 3, 1, 2, 4)
        x_bchw = x.reshape(batch * rows, channels, height // rows, width)
    if columns > 1:
        # (B * rows, C, H / rows, W / columns, columns) to (B * rows, columns, C, ..., W / columns)
        x = x_bchw.reshape(
            batch * rows, channels, height // rows, width // columns, columns
        ).permute(0, 4, 1, 2, 3)
        x_bchw = x.reshape(batch * rows * columns, channels, height // rows, width // columns)
    return x_bchw


def _join(x_bchw: Tensor, rows: int, columns: int) -> Tensor:
    """Return the inverse of `_split`."""
    batch, channels, height, width = x_bchw.shape
    if columns > 1:
        # In the reverse order of `_split`, columns first: (B * rows * columns, C, h, w) to (B *
        # rows, C, h, w, columns), whose last two dimensions are the whole width.
        x = x_bchw.reshape(batch // columns, columns, channels, height, width).permute(
            0, 2, 3, 4, 1
        )
        batch = batch // columns
        width = width * columns
        x_bchw = x.reshape(batch, channels, height, width)
    if rows > 1:
        # (B * rows, C, h, W) to (B, C, h, rows, W), of which h and rows are the whole height.
        x = x_bchw.reshape(batch // rows, rows, channels, height, width).permute(0, 2, 3, 1, 4)
        x_bchw = x.reshape(batch // rows, channels, height * rows, width)
    return x_bchw


def _official(operations: Sequence[Operation]) -> dict[str, str]:
    """Return the prefixes of the authors' code, by operation.

    The block that enters a stage is its first one, the stem is stage 0, and norm and classifier
    stand at the top.
    """
    prefixes = {"stem": "stage0", "head": ""}
    stage = 0
    index = 0
    for operation in operations:
        if operation.name in prefixes:
            continue
        if operation.name.endswith("_entry"):
            stage = stage + 1
            index = 0
        prefixes[operation.name] = f"stage{stage}.{index}"
        index += 1
    return prefixes


LAYOUTS = (CheckpointLayout("emo/official", _official),)
