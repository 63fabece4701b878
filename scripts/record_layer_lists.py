"""Record the layers of the reference networks that published latencies are of.

    python scripts/record_layer_lists.py

It reads `latency_tables/*/published.csv` and writes `nas/latency/estimate/layer_lists.csv`, from
which estimated tables are made. Run it after adding the latency of a network or a resolution that
is not in the file. The same inputs give the same bytes; a test compares them.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from reference_networks import reference_networks

from nas.blocks import Shape
from nas.files import write_text
from nas.latency.estimate.layer_lists import COLUMNS, COUNTS, PATH

ROOT = Path(__file__).parents[1]


def published_sizes() -> list[tuple[str, int]]:
    """Return each reference network and resolution with a published latency, sorted."""
    networks = reference_networks()
    sizes = set()
    for path in ROOT.glob("latency_tables/*/published.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["model"] in networks:
                    sizes.add((row["model"], int(row["resolution"])))
    return sorted(sizes)


def layer_lists() -> str:
    """Return the content of the CSV file, the layers of a network in their order.

    The order matters: sums of floats depend on it, and the tables must come out the same to the
    last byte.
    """
    networks = reference_networks()
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, side in published_sizes():
        layers = networks[name](Shape(3, side, side))
        for layer in layers:
            writer.writerow(
                [name, side, layer.kind, layer.name, *(getattr(layer, count) for count in COUNTS)]
            )
    return text.getvalue()


if __name__ == "__main__":
    write_text(PATH, layer_lists())
    print(f"{PATH}: {len(published_sizes())} networks and resolutions")
