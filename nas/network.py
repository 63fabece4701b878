"""Network: an architecture as a torch module, one child an operation."""

from __future__ import annotations

from torch import Tensor, nn

from nas.blocks import Block, build_block
from nas.blocks.layers import to_map
from nas.space import Architecture


class Network(nn.Module):
    """(B, 3, H, W) to logits (B, classes) in eval mode.

    Every operation of `architecture` is the child module of its name: stem, stage2_entry, stage3_block5, head. In
    training mode a distillation head returns a pair of logits.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        operations = architecture.operations()
        self._has_tokens = any(operation.output.layout == "tokens" for operation in operations[:-1])
        for operation in operations:
            self.add_module(operation.name, build_block(operation.spec, operation.input))

    def forward(self, x_bchw: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        self._check_aspect(x_bchw)
        x: Tensor = x_bchw
        for block in self.children():
            x = block(x)
        return x

    def forward_features(self, x_bchw: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the four stages as maps (B, C, H, W), at strides 4, 8, 16 and 32."""
        self._check_aspect(x_bchw)
        features: dict[str, Tensor] = {}
        x, grid = x_bchw, (0, 0)
        for name, block in self.named_children():
            if name == "head":
                break
            x = block(x)
            if x.dim() == 4:
                grid = (x.shape[2], x.shape[3])
            stage = name.partition("_")[0]
            if stage == "stem":
                if self.architecture.stem is not None:
                    continue
                stage = "stage1"
            if not name.endswith("_unflatten"):
                features[stage] = x if x.dim() == 4 else to_map(x, grid)
        return tuple(features.values())

    def _check_aspect(self, x_bchw: Tensor) -> None:
        """Token blocks cannot see their grid: it follows from their number where the aspect ratio is the built one."""
        height, width = self.architecture.resolution
        if self._has_tokens and x_bchw.shape[2] * width != x_bchw.shape[3] * height:
            raise ValueError(
                f"an input of {x_bchw.shape[2]}x{x_bchw.shape[3]} for a network built for {height}x{width}: its tokens "
                "need the same aspect ratio; build it for this input with nas.build(arch.at((height, width)))"
            )

    def deploy(self) -> Network:
        """Replaces what only training needs by constants, in place: merged heads, constant attention biases."""
        for block in self.children():
            if isinstance(block, Block):
                block.deploy()
        return self


def build(architecture: Architecture) -> Network:
    """The network of an architecture, freshly initialised, in training mode."""
    return Network(architecture)
