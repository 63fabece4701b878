"""Recipe: everything that decides how a found network is fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nas.training.settings import Settings

Distill = Literal["none", "hard", "soft"]


@dataclass(frozen=True)
class Recipe(Settings):
    """How to fine-tune a network; with the network, its weights, the data and the teacher, a seed gives one result.

    Beside the settings of every training, of which `ema` is on unless it is set to 0:

    Attributes:
        mixup, cutmix: alpha of the Beta(alpha, alpha) that an image's share of a mixture is drawn from; 0 leaves that
            way of mixing out. See `nas.finetune.mixing`.
        mix: share of the batches that are mixed.
        switch: share of the mixed batches that cutmix gets where both are on.
        distill: what is learned from the teacher: nothing, its answers (hard), or its probabilities (soft). See
            `nas.finetune.losses`.
        distill_temperature: of the softmax under soft distillation.
        distill_weight: of the teacher's part of the loss; its answers are not smoothed.
    """

    learning_rate: float = 5e-4
    ema: float = 0.999
    mixup: float = 0.8
    cutmix: float = 1.0
    mix: float = 0.5
    switch: float = 0.5
    distill: Distill = "none"
    distill_temperature: float = 1.0
    distill_weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(above_0=("distill_temperature",), at_least_0=("mixup", "cutmix"),
                   shares=("mix", "switch", "distill_weight"))  # fmt: skip
