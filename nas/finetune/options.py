"""The options of `nas finetune`, with the recipe: all settings that decide a fine-tuning.

Imports no torch. `nas.finetune.task` follows the recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from nas.options import ANY, Options, like, option, part
from nas.space.sizes import Sizes
from nas.training.settings import DATA_HELP, WORKERS_HELP, Settings, SplitOptions

Distill = Literal["none", "hard", "soft"]


@dataclass(frozen=True)
class Recipe(Settings):
    """The settings of a fine-tuning.

    With the network, its weights, the data and the teacher, a seed gives one result. The recipe
    adds distillation (`nas.finetune.task`) to the settings of every training, and turns mixing and
    `ema` on by default.
    """

    learning_rate: float = like(Settings, "learning_rate", 5e-4)
    ema: float = like(Settings, "ema", 0.999)
    mixup: float = like(Settings, "mixup", 0.8, shown="0.8; 0.2 with --augment standard")
    cutmix: float = like(Settings, "cutmix", 1.0, shown="")
    layer_decay: float = option(
        1.0,
        help="Share of the next operation's learning rate that each one gets; 1 for equal rates.",
        above=0,
        at_most=1,
    )
    distill: Distill = option(
        "none",
        help=(
            "Distillation target: hard (the teacher's most likely class), soft (its probabilities),"
            " or none."
        ),
        shown="hard with a teacher",
    )
    distill_temperature: float = option(
        1.0,
        help="Temperature of both softmaxes in soft distillation.",
        above=0,
        at_most=1e6,
        requires={"distill": ("soft",)},
    )
    distill_weight: float = option(
        0.5,
        help="Share of the distillation loss in the total loss.",
        at_least=0,
        at_most=1,
        requires={"teacher": ANY},
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(Options):
    """Options of `nas finetune`.

    The images that `nas train` held out with the same --data, --held-out, --limit and --seed are
    held out here too.
    """

    settled: ClassVar[tuple[str, ...]] = ("distill",)

    run: str = option(
        help="A run's folder, an architecture's YAML file, or a published member.", argument=True
    )
    data: str = option(help=DATA_HELP)
    init: Path | None = option(
        None,
        help=(
            "Weights to start from, of the network or of another member of its space: a checkpoint"
            " file, a run's folder, or an architecture's YAML file with its .safetensors beside it."
        ),
        metavar="WEIGHTS",
        shown="those that the run inherited",
    )
    segment: bool = option(
        False,
        help=(
            "Train for segmentation: images with masks, and a head that gives a class per pixel in"
            " place of the classifier. All other weights are kept."
        ),
    )
    sizes: Sizes = part(Sizes, omit=("classes", "segment"))
    from_scratch: bool = option(False, help="Start from random weights.")
    new_head: bool = option(
        False,
        help=(
            "Replace the classifier by a new one for the classes of the data. The weights may then"
            " have other classes, or no classifier."
        ),
    )
    teacher: str | None = option(
        None,
        help=(
            "Network to distil from: supernet (the largest member of the supernet that the run's"
            " weights are from), the folder of another supernet, an architecture's YAML file, or a"
            " published member."
        ),
    )
    teacher_weights: Path | None = option(
        None,
        help="File of the teacher's weights, for an architecture or a published member.",
        metavar="FILE",
        requires={"teacher": ANY},
    )
    recipe: Recipe = part(Recipe)
    split: SplitOptions = part(SplitOptions)
    workers: int | None = option(
        None,
        help=WORKERS_HELP,
        at_least=0,
        at_most=1000,
        shown="one per core",
    )
    out: str | None = option(
        None, help="Folder of the fine-tuning.", metavar="FOLDER", shown="RUN/finetune"
    )
