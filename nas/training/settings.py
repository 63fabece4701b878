"""Settings: how the loop computes, apart from what is trained and for how long. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from nas.errors import InputError


@dataclass(frozen=True)
class Settings:
    """Options of the training engine; a recipe inherits them.

    Attributes:
        precision: fp32, or autocast to bf16 or to fp16 (with a gradient scaler).
        accumulate: micro-batches that a step's batch is cut into, one after the other. Batch norms see a micro-batch.
        channels_last: the memory format of weights and images.
        compile: each block through `torch.compile`; a supernet's narrowed blocks are not compiled.
        ema: decay of the exponential moving average of weights and statistics; 0 keeps none.
    """

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accumulate: int = 1
    channels_last: bool = True
    compile: bool = False
    ema: float = 0.0

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise InputError(f"accumulate {self.accumulate}: must be at least 1")
        if not 0 <= self.ema < 1:
            raise InputError(f"ema {self.ema}: a decay is at least 0 (none) and below 1, such as 0.999")

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
        first = error.errors(include_url=False)[0]
        if not first["loc"]:
            raise InputError("--" + first["msg"].removeprefix("Value error, ").replace("_", "-")) from None
        option = str(first["loc"][0]).replace("_", "-")
        raise InputError(f"--{option}: {first['msg']}, found {first['input']!r}") from None
    return kind(**options)
