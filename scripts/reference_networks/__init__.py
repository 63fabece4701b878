"""Published networks, layer by layer: what estimated tables are fitted to, beside the members of
the shipped spaces.

Only their layers are listed, no network is built. `scripts/record_layer_lists.py` records them.
"""

from __future__ import annotations

from collections.abc import Callable

from nas.blocks import Shape
from reference_networks.attention import attention_networks
from reference_networks.classic import classic_networks
from reference_networks.mobile import Layers, mobile_networks


def reference_networks() -> dict[str, Callable[[Shape], Layers]]:
    """Return what lists a network's layers for an image of a shape, 1000 classes; by the name in
    published figures."""
    return {**mobile_networks(), **attention_networks(), **classic_networks()}
