"""Record the layers of networks of torchvision and timm that published latencies are of.

    python scripts/record_traced_layers.py

It writes `nas/latency/estimate/traced_layer_lists.csv`, from which estimated tables are made. Unlike
`record_layer_lists.py`, it needs torchvision and timm, and so has a file of its own.
"""

from __future__ import annotations

import csv
import io

from reference_networks.traced import traced_networks

from nas.blocks import Shape
from nas.files import write_text
from nas.latency.estimate.layer_lists import COLUMNS, COUNTS, TRACED

SIZES = {"Inception-v3": 299, "EfficientNet-Lite4": 300, "NASNet-A-Large": 331}
"""Side of the input that a network is published at, where it is not 224."""


def traced_layer_lists() -> str:
    """Return the content of the CSV file, the layers of a network in their order."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, layers_of in sorted(traced_networks().items()):
        side = SIZES.get(name, 224)
        for layer in layers_of(Shape(3, side, side)):
            counts = (getattr(layer, count) for count in COUNTS)
            writer.writerow([name, side, layer.kind, layer.name, *counts])
    return text.getvalue()


if __name__ == "__main__":
    write_text(TRACED, traced_layer_lists())
    print(f"{TRACED}: {len(traced_networks())} networks")
