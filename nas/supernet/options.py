"""The options of `nas train` and `nas score`, with the recipe of a supernet's training.

Imports no torch. `nas.supernet.train` follows the recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from nas.options import ANY, Options, like, option, part
from nas.space.sizes import Sizes
from nas.training.settings import DATA_HELP, WORKERS_HELP, Settings, SplitOptions

MOST_MEMBERS = 64
"""Maximum number of random members of a sandwich.

Each keeps its activations in memory until the step's backward pass.
"""


@dataclass(frozen=True)
class Recipe(Settings):
    """The settings of a supernet's training; with the space and the data, a seed gives one result.

    It adds settings of the architecture parameters and of narrowing to those of every training.
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
        help="Noise of the Gumbel-softmax: uniform (as in EfficientFormer), gumbel, or none.",
    )
    sampling: Literal["soft", "straight_through"] = option(
        "straight_through",
        help="Candidates per position: straight_through computes one, soft mixes all of them.",
    )
    narrow: float = option(
        0.5,
        help=(
            "Share of steps with random widths and candidates; 0 trains as EfficientFormer does."
        ),
        at_least=0,
        at_most=1,
        requires={"sandwich": (0,)},
    )
    sandwich: int = option(
        0,
        help=(
            "Random members per step of the sandwich rule, besides the largest and the smallest"
            " member; 0 turns the rule off."
        ),
        at_least=0,
        at_most=MOST_MEMBERS,
    )


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    """Options of `nas train`.

    Images have the space's own resolution by default; digits have 32x32 pixels, and digit-scenes
    64x64. For several
    processes or GPUs, start it with `torchrun --nproc-per-node N -m nas train ...` or `accelerate
    launch -m nas train ...`. They share each batch.
    """

    settled: ClassVar[tuple[str, ...]] = ("mixup", "cutmix", "mix")

    space: str = option(help="Space by name (see `nas spaces`), or its YAML file.")
    data: str = option("digits", help=DATA_HELP)
    segment: bool = option(
        False,
        help=(
            "Train for segmentation: images with masks, and a head that gives a class per pixel in"
            " place of the classifier."
        ),
    )
    sizes: Sizes = part(Sizes, omit=("classes", "segment"))
    recipe: Recipe = part(Recipe)
    init: Path | None = option(
        None,
        help=(
            "Weights of a member to start from: a published member's file, a run's folder, or an"
            " architecture's YAML file with its .safetensors beside it."
        ),
        metavar="WEIGHTS",
        shown="random weights",
    )
    init_member: str | None = option(
        None,
        help="Name of the published member whose weights --init holds.",
        shown="recognised by tensor names and shapes",
        requires={"init": ANY},
    )
    split: SplitOptions = part(SplitOptions)
    workers: int | None = option(
        None,
        help=WORKERS_HELP,
        at_least=0,
        at_most=1000,
        shown="one per core",
    )
    score_images: int = option(
        2000,
        help="Maximum number of held-out images for scoring a move.",
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
        help="Folder of the training; the same command resumes it.",
        metavar="FOLDER",
        shown="under runs/, named after space, data and size",
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
