"""Settings: what every training is told, whatever it trains. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import inf
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from nas.errors import InputError
from nas.validation import first_mistake

Names = tuple[str, ...]


@dataclass(frozen=True)
class Settings:
    """What the training loop is told; the recipe of a supernet or of a fine-tuning inherits it.

    Attributes:
        epochs: passes over the training images.
        batch: images a step, over all processes and micro-batches.
        learning_rate: of the weights at its peak; warmed up linearly, then a cosine to 0.
        warmup: share of the training in which the rates rise.
        weight_decay: of AdamW, for matrices and kernels only.
        label_smoothing: of the cross-entropy with the data's labels.
        flip: augment by mirroring.
        seed: of what has no weights yet, the batches, the augmentation and the task's choices.
        precision: fp32, or autocast to bf16 or to fp16 (with a gradient scaler).
        accumulate: micro-batches that a step's batch is cut into, one after the other. Batch norms see a micro-batch.
        channels_last: the memory format of weights and images.
        compile: each block through `torch.compile`; a supernet's narrowed blocks are not compiled.
        ema: decay of the exponential moving average of weights and statistics; 0 keeps none.
    """

    epochs: int = 20
    batch: int = 64
    learning_rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    flip: bool = True
    seed: int = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accumulate: int = 1
    channels_last: bool = True
    compile: bool = False
    ema: float = 0.0

    def __post_init__(self) -> None:
        self.check(at_least_1=("epochs", "batch", "accumulate"), above_0=("learning_rate",),
                   at_least_0=("weight_decay",), below_1=("warmup", "label_smoothing"))  # fmt: skip
        if not 0 <= self.ema < 1:
            raise InputError(f"ema {self.ema}: a decay is at least 0 (none) and below 1, such as 0.999")

    def check(
        self,
        at_least_1: Names = (),
        above_0: Names = (),
        at_least_0: Names = (),
        below_1: Names = (),
        shares: Names = (),
    ) -> None:
        """Raises InputError for the first of the named settings that is outside of its range."""
        ranges: list[tuple[Names, Callable[[float], bool], str]] = [
            (at_least_1, lambda value: value >= 1, "must be at least 1"),
            (above_0, lambda value: 0 < value < inf, "must be above 0"),
            (at_least_0, lambda value: 0 <= value < inf, "must be at least 0"),
            (below_1, lambda value: 0 <= value < 1, "must be at least 0 and below 1"),
            (shares, lambda value: 0 <= value <= 1, "is a share, from 0 to 1"),
        ]
        for names, holds, wanted in ranges:
            for name in names:
                if not holds(getattr(self, name)):
                    raise InputError(f"{name} {getattr(self, name)}: {wanted}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


Made = TypeVar("Made", bound=Settings)


def make_settings(kind: type[Made], options: dict[str, Any]) -> Made:
    """Settings, or a recipe that inherits them, from options by name.

    Raises:
        InputError: naming the option and what it may be.
    """
    try:
        TypeAdapter(kind).validate_python(options)
    except ValidationError as error:
        where, reason = first_mistake(error)
        if not where:
            raise InputError("--" + reason.replace("_", "-")) from None
        option = str(where[0]).replace("_", "-")
        raise InputError(f"--{option}: {reason}") from None
    return kind(**options)
