"""Recipe of a fine-tuning: all settings that decide how a network is trained. Imports no torch.

`nas.finetune.options` offers them, `nas.finetune.task` follows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nas.options import ANY, like, option
from nas.training.settings import Settings

Distill = Literal["none", "hard", "soft"]


@dataclass(frozen=True)
class Recipe(Settings):
    """The settings of a fine-tuning.

    With the network, its weights, the data and the teacher, a seed gives one result. To the
    settings of every training, of which `ema` is on by default, it adds those of mixing and of
    distillation (`nas.finetune.task`).
    """

    learning_rate: float = like(Settings, "learning_rate", 5e-4)
    ema: float = like(Settings, "ema", 0.999)
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
        help="Share of the mixed batches that cutmix gets, where mixup and cutmix are both on.",
        at_least=0,
        at_most=1,
        requires={"mixup": ANY, "cutmix": ANY, "mix": ANY},
    )
    distill: Distill = option(
        "none",
        help=(
            "What is learned from the teacher: hard (its answers), soft (its probabilities), or"
            " none."
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
        help="Share of the loss that the teacher's part has.",
        at_least=0,
        at_most=1,
        requires={"teacher": ANY},
    )
