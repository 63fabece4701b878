"""Recipe: everything that decides how a found network is fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nas.errors import InputError
from nas.training.settings import Settings

Distill = Literal["none", "hard", "soft"]


@dataclass(frozen=True)
class Recipe(Settings):
    """How to fine-tune a network; with the network, its weights, the data and the teacher, a seed gives one result.

    Beside the settings of the engine, of which `ema` is on unless it is set to 0:

    Attributes:
        epochs: passes over the training images.
        batch: images a step.
        learning_rate: at its peak; warmed up linearly, then a cosine to 0.
        warmup: share of the training in which the rate rises.
        weight_decay: of AdamW, for matrices and kernels only.
        label_smoothing: of the cross-entropy with the data's labels; a teacher's are left as they are.
        mixup, cutmix: alpha of the Beta(alpha, alpha) that an image's share of a mixture is drawn from; 0 leaves that
            way of mixing out. See `nas.finetune.mixing`.
        mix: share of the batches that are mixed.
        switch: share of the mixed batches that cutmix gets where both are on.
        distill: what is learned from the teacher: nothing, its answers (hard), or its probabilities (soft). See
            `nas.finetune.losses`.
        distill_temperature: of the softmax under soft distillation.
        distill_weight: of the teacher's part of the loss.
        flip: augment by mirroring.
        seed: of what has no weights yet, the batches, the augmentation and the mixtures.
    """

    ema: float = 0.999
    epochs: int = 20
    batch: int = 64
    learning_rate: float = 5e-4
    warmup: float = 0.05
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    mixup: float = 0.8
    cutmix: float = 1.0
    mix: float = 0.5
    switch: float = 0.5
    distill: Distill = "none"
    distill_temperature: float = 1.0
    distill_weight: float = 0.5
    flip: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: must be at least 1")
        for name in ("learning_rate", "distill_temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name} {getattr(self, name)}: must be above 0")
        for name in ("weight_decay", "mixup", "cutmix"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name} {getattr(self, name)}: must be at least 0")
        for name in ("warmup", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: must be at least 0 and below 1")
        for name in ("mix", "switch", "distill_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} {getattr(self, name)}: is a share, from 0 to 1")
