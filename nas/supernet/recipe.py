"""Recipe: everything that decides how a supernet is trained. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from nas.errors import InputError
from nas.training.settings import Settings, make_settings


@dataclass(frozen=True)
class Recipe(Settings):
    """How to train a supernet; with the space and the data, a seed gives one result.

    Beside the engine's settings:

    Attributes:
        epochs: passes over the training images.
        batch: images a step.
        learning_rate: of the weights at its peak; warmed up linearly, then a cosine to 0.
        alpha_rate: of the architecture parameters, on the same schedule, without weight decay.
        warmup: share of the training in which the rates rise.
        weight_decay: of AdamW, for matrices and kernels only.
        label_smoothing: of the cross-entropy.
        temperature, final_temperature: of the Gumbel-softmax, falling exponentially.
        noise: uniform (as the paper writes it), gumbel, or none.
        sampling: straight_through computes one candidate a position, soft mixes all of them.
        narrow: share of the steps at random stage widths and with random candidates of each place and role, so that
            narrowed stages and exchanged blocks keep their accuracy; 0 is the single-width training of the paper.
        sandwich: instead of `narrow`, each step trains the largest member, the smallest and so many random ones, the
            largest teaching the others (`nas.supernet.sandwich`); 0 is without.
        flip: augment by mirroring.
        seed: of the initial weights, the batches, the augmentation and the choices.
    """

    epochs: int = 20
    batch: int = 64
    learning_rate: float = 1e-3
    alpha_rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    temperature: float = 5.0
    final_temperature: float = 0.5
    noise: Literal["uniform", "gumbel", "none"] = "uniform"
    sampling: Literal["soft", "straight_through"] = "straight_through"
    flip: bool = True
    narrow: float = 0.5
    sandwich: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: must be at least 1")
        for name in ("learning_rate", "alpha_rate", "temperature", "final_temperature"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} {getattr(self, name)}: must be above 0")
        if not 0 <= self.warmup < 1 or not 0 <= self.label_smoothing < 1:
            raise InputError("warmup and label_smoothing: must be at least 0 and below 1")
        if not 0 <= self.narrow <= 1:
            raise InputError(f"narrow {self.narrow}: is a share of the steps, from 0 to 1")
        if self.sandwich < 0:
            raise InputError(f"sandwich {self.sandwich}: is a number of random members, at least 0 (no sandwich)")


def make_recipe(options: dict[str, Any]) -> Recipe:
    """A recipe from options by name.

    Raises:
        InputError: naming the option and what it may be.
    """
    return make_settings(Recipe, options)
