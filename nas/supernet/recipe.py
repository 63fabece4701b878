"""Recipe: everything that decides how a supernet is trained. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from nas.errors import InputError
from nas.training.settings import Settings, make_settings


@dataclass(frozen=True)
class Recipe(Settings):
    """How to train a supernet; with the space and the data, a seed gives one result.

    Beside the settings of every training:

    Attributes:
        alpha_rate: learning rate of the architecture parameters, on the same schedule, without weight decay.
        temperature, final_temperature: of the Gumbel-softmax, falling exponentially.
        noise: uniform (as the paper writes it), gumbel, or none.
        sampling: straight_through computes one candidate a position, soft mixes all of them.
        narrow: share of the steps at random stage widths and with random candidates of each place and role, so that
            narrowed stages and exchanged blocks keep their accuracy; 0 is the single-width training of the paper.
        sandwich: instead of `narrow`, each step trains the largest member, the smallest and so many random ones, the
            largest teaching the others (`nas.supernet.sandwich`); 0 is without.
    """

    alpha_rate: float = 1e-3
    temperature: float = 5.0
    final_temperature: float = 0.5
    noise: Literal["uniform", "gumbel", "none"] = "uniform"
    sampling: Literal["soft", "straight_through"] = "straight_through"
    narrow: float = 0.5
    sandwich: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(above_0=("alpha_rate", "temperature", "final_temperature"), shares=("narrow",))
        if self.sandwich < 0:
            raise InputError(f"sandwich {self.sandwich}: is a number of random members, at least 0 (no sandwich)")


def make_recipe(options: dict[str, Any]) -> Recipe:
    """A recipe from options by name.

    Raises:
        InputError: naming the option and what it may be.
    """
    return make_settings(Recipe, options)
