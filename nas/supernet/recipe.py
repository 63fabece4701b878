"""Recipe of a supernet: all settings that decide how it is trained. Imports no torch.

`nas.supernet.options` offers them, `nas.supernet.train` follows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nas.options import option
from nas.training.settings import Settings

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
