"""Published networks, layer by layer, to which estimated tables are fitted.

The members of the shipped spaces are fitted to, too. Only layers are listed, and no network is
built. `scripts/record_layer_lists.py` records them.
"""

from __future__ import annotations

from collections.abc import Callable

from nas.blocks import Shape
from reference_networks.attention import attention_networks
from reference_networks.classic import classic_networks
from reference_networks.mobile import Layers, mobile_networks


def reference_networks() -> dict[str, Callable[[Shape], Layers]]:
    """Return, by the name in published latencies, the function that lists a network's layers.

    Each takes the shape of an image; the networks have 1000 classes.
    """
    return {**mobile_networks(), **attention_networks(), **classic_networks()}
