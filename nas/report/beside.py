"""Other networks that were trained like the found one, such as a published member, in one table.

`nas.report.run` calls `read_beside`; `nas finetune NAME --data D --out RUN/NAME` makes such a folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.errors import InputError
from nas.latency import LatencyTable
from nas.report.training import FOLDERS, Fit, read_fit
from nas.runs.schema import ARCHITECTURE_FILE, FINETUNE_FILE
from nas.space import Architecture
from nas.space.architecture import read_architecture


@dataclass(frozen=True)
class Trained:
    """A row: a trained network with its latency and what was measured of it, as text.

    Attributes:
        found: whether it is the network that the search found.
    """

    name: str
    latency: str
    accuracy: str
    images: str
    params: str
    macs: str
    found: bool


def read_beside(
    folder: Path, arch: Architecture, fits: Sequence[Fit], table: LatencyTable | None
) -> tuple[Trained, ...]:
    """Return the found network and the others that were trained on the same images, found first.

    Args:
        folder: of the run; the others are in folders inside it.
        arch: the network that the search found.
        fits: its own fine-tunings.
        table: predicts latencies; None where it is missing or has changed.

    Returns:
        The rows; none where no other network was trained on the same images.

    Raises:
        InputError: for a damaged file, naming line, column or key, and reason.
    """
    own = [fit for fit in fits if fit.best]
    rows = []
    for path in sorted(folder.glob(f"*/{FINETUNE_FILE}")):
        if path.parent.name in FOLDERS:
            continue
        fit = read_fit(path.parent)
        # Figures on other images say nothing about which network is better.
        if fit and fit.best and any(fit.data == each.data for each in own):
            other = read_architecture(path.parent / ARCHITECTURE_FILE)
            rows.append(_row(fit, other, table, other == arch))
    return (*(_row(fit, arch, table, True) for fit in own), *rows) if rows else ()


def _row(fit: Fit, arch: Architecture, table: LatencyTable | None, found: bool) -> Trained:
    assert fit.best is not None
    return Trained(
        f"found, {fit.name}" if found else fit.network or arch.name or fit.name,
        _latency(arch, table),
        f"{fit.best.accuracy:.2f} ± {fit.best.standard_error:.2f} % {fit.best.metric}",
        f"{fit.best.images} {fit.best.part}",
        f"{arch.params / 1e6:.2f} M",
        f"{arch.macs / 1e9:.3f} G",
        found,
    )


def _latency(arch: Architecture, table: LatencyTable | None) -> str:
    try:
        return f"{table.total_ms(arch):.4g} ms" if table else "table missing"
    except InputError:
        return "not in the table"
