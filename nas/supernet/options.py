"""The options of `nas train` and `nas score`, with the recipe of a supernet's training.

Imports no torch. `nas.supernet.train` follows the recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nas.options import ANY, Options, like, option, part
from nas.space.sizes import Sizes
from nas.training.settings import DATA_HELP, Settings, SplitOptions

MOST_MEMBERS = 64
"""Maximum number of random members of a sandwich.

Each keeps its activations until the step's backward pass.
"""


@dataclass(frozen=True)
class Recipe(Settings):
    """The settings of a supernet's training; with the space and the data, a seed gives one result.

    To the settings of every training it adds those of the architecture parameters and of narrowing.
    `narrow` trains random stage widths and random candidates of each place, so that narrowed stages
    and exchanged blocks keep their accuracy. `sandwich` replaces `narrow`: each step trains the
    largest member, the smallest and random ones, which learn from the largest
    (`nas.supernet.train`).
    """

    alpha_rate: float = option(
        1e-3,
        help="Peak learning rate of the architecture parameters, which have no weight decay.",
        above=0,
        at_most=1000,
    )
    temperature: float = option(
        5.0, help="Initial Gumbel-softmax temperature.", above=0, at_most=1e6
    )
    final_temperature: float = option(
        0.5, help="Final Gumbel-softmax temperature.", above=0, at_most=1e6
    )
    noise: Literal["uniform", "gumbel", "none"] = option(
        "uniform",
        help="Noise of the Gumbel-softmax: uniform (the paper's formula), gumbel, or none.",
    )
    sampling: Literal["soft", "straight_through"] = option(
        "straight_through",
        help="Candidates per position: straight_through computes one, soft mixes all of them.",
    )
    narrow: float = option(
        0.5,
        help=(
            "Share of steps at random widths and with random candidates; 0 is the paper's training."
        ),
        at_least=0,
        at_most=1,
        requires={"sandwich": (0,)},
    )
    sandwich: int = option(
        0,
        help=(
            "Random members per step beside the largest and the smallest, which the largest"
            " teaches; 0 turns the sandwich rule off."
        ),
        at_least=0,
        at_most=MOST_MEMBERS,
    )


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


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(Options):
    """Options of `nas score`.

    `nas train` ends with the same scoring. Moves that were scored with the same weights, images and
    precision are kept. For several processes or GPUs start it with `torchrun --nproc-per-node N -m
    nas score ...`; they share the moves, and the scores are those of one process.
    """

    supernet: str = option(help="Folder of a finished `nas train`.", argument=True)
    data: str = option(help=f"The images that the supernet was trained on. {DATA_HELP}")
    images: int = like(TrainOptions, "score_images", 2000)
    widths: int = like(TrainOptions, "score_widths", 8)
    batch: int | None = option(
        None,
        help=(
            "Held-out images that are held in memory at once. It changes memory and time, and no"
            " score."
        ),
        at_least=1,
        at_most=1_000_000,
        shown="by image size, at most 1024",
    )
