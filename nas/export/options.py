"""The options of `nas export`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nas.export import TARGETS
from nas.options import ANY, Options, option
from nas.training.settings import DATA_HELP


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """Options of `nas export`.

    Files that exist and are complete are not written again.
    """

    run: str = option(
        help="A run's folder, an architecture's YAML file, or a published member.", argument=True
    )
    to: str = option(
        "config,torch,litert", help=f"Targets, separated by commas: {', '.join(TARGETS)}."
    )
    data: str | None = option(
        None, help=f"{DATA_HELP} Used to calibrate int8, compare outputs and measure accuracy."
    )
    limit: int = option(
        500,
        help="Maximum number of images for comparing outputs and measuring accuracy.",
        at_least=1,
        at_most=1_000_000_000,
        requires={"data": ANY},
    )
    calibrate: int = option(
        128,
        help="Maximum number of training images for the activation ranges of int8.",
        at_least=1,
        at_most=1_000_000_000,
        requires={"data": ANY},
    )
    output: Literal["scores", "labels"] = option(
        "scores",
        help=(
            "Output of a segmentation network: scores (of each class, at the size of its head) or"
            " labels (the class of each pixel of the input; the file upsamples the scores)."
        ),
    )
    weights: Path | None = option(
        None,
        help="File of weights: one of this project or a published checkpoint.",
        metavar="FILE",
        shown="the run's own",
    )
    out: Path | None = option(
        None, help="Folder of the files.", metavar="FOLDER", shown="RUN/export"
    )
