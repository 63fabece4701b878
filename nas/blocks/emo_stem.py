"""EMO's stem, at stride 2."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from nas.blocks.base import Axes, Block, Published
from nas.blocks.irmb import authors_eps
from nas.blocks.layers import ACTIVATIONS, ConvNorm, conv_axes
from nas.specs import EMOStem, Shape


class EMOStemBlock(Block):
    """(B, 3, H, W) to (B, width, H/2, W/2); see `nas.specs.EMOStem`."""

    axes: ClassVar[Axes] = {
        **ConvNorm.axes("embed", None, "hidden"),
        **ConvNorm.axes("local", None, "hidden"),
        **conv_axes("squeeze", "hidden", "squeezed"),
        **conv_axes("excite", "squeezed", "hidden"),
        **conv_axes("project", "hidden", "out"),
    }
    published: ClassVar[Published] = {
        "emo/official": {
            "embed.conv": "0.convs.0.0", "embed.norm": "0.convs.0.1", "local": "1.conv_local",
            "squeeze": "1.se.conv_reduce", "excite": "1.se.conv_expand", "project": "1.proj.conv",
        },
    }  # fmt: skip

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
        gate = self.excite(self.activation(self.squeeze(x_bchw.mean(dim=(2, 3), keepdim=True)))).sigmoid()
        x_bchw = self.project(x_bchw * gate)
        return x_bchw
