"""Read layers of published networks outside the shipped spaces, for `published_latencies`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path

from nas.blocks import Layer
from nas.csv_files import read_records
from nas.errors import InputError

PATH = Path(__file__).with_suffix(".csv")
"""File of each network at each resolution in `latency_tables/*/published.csv`, a line per layer."""
TRACED = Path(__file__).with_name("traced_layer_lists.csv")
"""The same of networks of torchvision and timm (`scripts/record_traced_layers.py`)."""
RECORD = "python scripts/record_layer_lists.py"
COUNTS = ("macs", "params", "read", "written")
COLUMNS = ("network", "resolution", "kind", "name", *COUNTS)


def layer_list(network: str, resolution: int) -> tuple[Layer, ...]:
    """Return the layers of a published network, in their order.

    Raises:
        InputError: when the network is not recorded at this resolution.
    """
    recorded = recorded_layers()
    if (network, resolution) not in recorded:
        known = ", ".join(sorted({name for name, _ in recorded}))
        raise InputError(
            f"{PATH.name}: no layers of {network} at {resolution} (got '{network}', expected a"
            f" published member of a space or one of {known}). Fix: {RECORD}"
        )
    return recorded[network, resolution]


@cache
def recorded_layers() -> dict[tuple[str, int], tuple[Layer, ...]]:
    """Return the layers of all recorded networks, by network and resolution."""
    lists: dict[tuple[str, int], list[Layer]] = {}
    for network, resolution, layer in chain(_lines(PATH), _lines(TRACED)):
        lists.setdefault((network, resolution), []).append(layer)
    return {key: tuple(layers) for key, layers in lists.items()}


def _lines(path: Path) -> Iterator[tuple[str, int, Layer]]:
    """Yield network, resolution and layer of each line of a file."""
    for number, row in read_records(path, required=COLUMNS):
        try:
            counts = {name: int(row[name]) for name in COUNTS}
            layer = Layer(kind=row["kind"], name=row["name"], **counts)
            yield row["network"], int(row["resolution"]), layer
        except ValueError as error:
            raise InputError(f"{path}:{number}: {error}. Fix: {RECORD}") from None
