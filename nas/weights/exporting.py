"""A network's weights as a published code base names and shapes them: the inverse of `nas.weights.importing`."""

from __future__ import annotations

from torch import Tensor

from nas.blocks import Block
from nas.errors import InputError
from nas.network import Network
from nas.weights.importing import LAYOUTS, names_in


def export_weights(net: Network, layout: str) -> dict[str, Tensor]:
    """The network's tensors in a layout of `LAYOUTS`, so that `import_weights` gives them back.

    Tensors that hold nothing learned, as indices of attention biases, are left to the caller.

    Raises:
        InputError: naming the operation that was never published in this layout.
    """
    found = LAYOUTS[layout]
    names = names_in(net, found)
    operations = {operation.name: operation for operation in net.architecture.operations()}
    if names is None:
        blocks = {name: block for name, block in net.named_children() if isinstance(block, Block)}
        odd = next(o for o in operations.values() if o.params and layout not in blocks[o.name].published)
        raise InputError(f"{odd.name}, {odd}, was never published in the layout {layout}")
    tensors = {}
    for ours, value in net.state_dict().items():
        operation, _, name = ours.partition(".")
        # A table of attention biases (heads, H, W) is flat in every published code.
        flat = value.flatten(1) if value.dim() == 3 else value
        tensors[names[ours]] = found.publish(operations[operation], name, flat)
    return tensors
