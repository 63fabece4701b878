"""The options of `nas finetune`, with the recipe: all settings that decide a fine-tuning.

Imports no torch. `nas.finetune.task` follows the recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from nas.options import ANY, Options, like, option, part
from nas.training.settings import DATA_HELP, Settings, SplitOptions

Distill = Literal["none", "hard", "soft"]


@dataclass(frozen=True)
class Recipe(Settings):
    """The settings of a fine-tuning.

    With the network, its weights, the data and the teacher, a seed gives one result. The recipe
    adds mixing and distillation (`nas.finetune.task`) to the settings of every training, and turns
    `ema` on by default.
    """

    learning_rate: float = like(Settings, "learning_rate", 5e-4)
    ema: float = like(Settings, "ema", 0.999)
    layer_decay: float = option(
        1.0,
        help="Share of the next operation's learning rate that each one gets; 1 for equal rates.",
        above=0,
        at_most=1,
    )
    mixup: float = option(
        0.8,
        help="Alpha of the Beta distribution of mixup; 0 turns mixup off.",
        at_least=0,
        at_most=1000,
    )
    cutmix: float = option(
        1.0,
        help="Alpha of the Beta distribution of cutmix; 0 turns cutmix off.",
        at_least=0,
        at_most=1000,
    )
    mix: float = option(0.5, help="Share of the batches that are mixed.", at_least=0, at_most=1)
    switch: float = option(
        0.5,
        help="Share of mixed batches that use cutmix instead of mixup, where both are on.",
        at_least=0,
        at_most=1,
        requires={"mixup": ANY, "cutmix": ANY, "mix": ANY},
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
    out: str | None = option(
        None, help="Folder of the fine-tuning.", metavar="FOLDER", shown="RUN/finetune"
    )
