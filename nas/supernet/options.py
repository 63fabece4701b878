"""The options of `nas train`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nas.options import ANY, Options, option, part
from nas.space.sizes import Sizes
from nas.supernet.recipe import Recipe
from nas.training.settings import DATA_HELP, SplitOptions


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    """Options of `nas train`.

    Images come at the space's own resolution by default, digits at 32x32. For several processes or
    GPUs start it with `torchrun --nproc-per-node N -m nas train ...` or `accelerate launch -m nas
    train ...`; they share each batch.
    """

    space: str = option(help="Space by name (see `nas spaces`), or its YAML file.")
    data: str = option("digits", help=DATA_HELP)
    sizes: Sizes = part(Sizes, omit=("classes", "segment"))
    recipe: Recipe = part(Recipe)
    init: Path | None = option(
        None,
        help="File of a published member's weights to start with.",
        metavar="FILE",
        shown="random weights",
    )
    init_member: str | None = option(
        None,
        help="The member that --init is of.",
        shown="told by the weights",
        requires={"init": ANY},
    )
    split: SplitOptions = part(SplitOptions)
    score_images: int = option(
        2000,
        help="Maximum number of held-out images that each move is scored on.",
        at_least=2,
        at_most=1_000_000_000,
    )
    score_widths: int = option(
        8,
        help="Maximum number of widths per stage to score; others are interpolated.",
        at_least=1,
        at_most=100_000,
    )
    out: str | None = option(
        None,
        help="Folder of the training; the same command resumes in it.",
        metavar="FOLDER",
        shown="one under runs/ named after space, data and size",
    )
