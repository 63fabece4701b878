"""Read `phone.yaml`: how a connected phone is recognised, and the settings to measure it with."""

from __future__ import annotations

from dataclasses import fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticKnownError

from nas import resources
from nas.devices.kinds import KINDS
from nas.files import YamlFile
from nas.validation import KeyedValueError, mistake_in

PHONE_FILE = "phone.yaml"


class Match(BaseModel):
    """Patterns for the model and chip that a phone reports, with the wildcards of a shell.

    An empty list matches every phone.

    Attributes:
        soc_model: patterns for Android's `ro.soc.model`.
        model: patterns for Android's `ro.product.model`, or for Apple's product type.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    soc_model: list[str] = []
    model: list[str] = []

    def takes(self, soc_model: str, model: str) -> bool:
        """Return whether every list that is not empty has a pattern that matches."""
        # `fnmatch` would ignore case on Windows alone; `fnmatchcase` does not.
        pairs = ((self.soc_model, soc_model), (self.model, model))
        return all(
            not names or any(fnmatchcase(text, name) for name in names) for names, text in pairs
        )


def _known_kind(value: Any) -> str:
    """Return the name of a kind of device that phone.yaml may state, else raise pydantic's error."""
    if isinstance(value, str) and value in KINDS and KINDS[value].phone_files:
        return value
    *others, last = (repr(name) for name, kind in KINDS.items() if kind.phone_files)
    expected = f"{', '.join(others)} or {last}"
    raise PydanticKnownError("literal_error", {"expected": expected})


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Phone:
    """A model of phone, with the settings that its latency table is measured with.

    Attributes:
        name: what `--device` takes; the folder of the file.
        kind: of device, one of `nas.devices.KINDS` whose `phone_files` is true.
        soc: the chip, in words.
        match: the connected phones that it stands for.
        compute_unit: the unit that is asked for, one of its kind's `units`.
        precision: float32 or float16.
        description: in words.
        threads: CPU threads; None where the system chooses.
        affinity: hexadecimal mask of the cores that the threads run on, as `taskset` takes it;
            every core if empty.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    kind: Annotated[str, BeforeValidator(_known_kind)]
    soc: str
    match: Match
    compute_unit: str
    precision: Literal["float32", "float16"]
    format: Literal["nas-phone-1"] = "nas-phone-1"
    description: str = ""
    threads: Annotated[int, Field(ge=1)] | None = None
    affinity: Annotated[str, Field(pattern=r"^[0-9a-f]*$")] = ""

    def __post_init__(self) -> None:
        if self.compute_unit not in KINDS[self.kind].units:
            units = ", ".join(KINDS[self.kind].units)
            raise KeyedValueError(
                "compute_unit",
                f"is not a unit of {self.kind} phones (got '{self.compute_unit}', expected one of"
                f" {units})",
            )
        if not (self.match.soc_model or self.match.model):
            raise KeyedValueError(
                "match",
                "matches every phone (expected patterns in soc_model, in model or in both)",
            )


def load_phone(path: str | Path) -> Phone:
    """Read and validate a `phone.yaml`.

    Raises:
        InputError: naming file, line, key and reason.
    """
    file = YamlFile(path)
    if file.data.get("format") != "nas-phone-1":
        raise file.error(
            ["format"],
            f"is not a phone file (got {file.data.get('format')!r}, expected 'nas-phone-1')",
        )
    known = {entry.name for entry in fields(Phone)}
    for key in file.data:
        if key not in known:
            raise file.error([key], f"unknown key; known: {', '.join(sorted(known))}")
    try:
        phone = Phone(**file.data)
    except ValidationError as error:
        raise mistake_in(file, error) from None
    # `phones` lists files by their folders, so `--device` could not find another name.
    if phone.name != file.path.absolute().parent.name:
        raise file.error(
            ["name"],
            f"differs from the folder's name (got '{phone.name}', expected"
            f" '{file.path.absolute().parent.name}')",
        )
    return phone


def phones() -> dict[str, Phone]:
    """Return the known phones by name, those in ./latency_tables before those that ship."""
    return {
        name: load_phone(path)
        for name, path in resources.names(resources.TABLES, f"*/{PHONE_FILE}").items()
    }


def recognise(kind: str, soc_model: str, model: str) -> Phone | None:
    """Return the known phone that matches, or None.

    Where several match, one that names the model wins over one that names the chip alone.
    """
    taken = [
        phone
        for phone in phones().values()
        if phone.kind == kind and phone.match.takes(soc_model, model)
    ]
    return max(taken, key=lambda phone: bool(phone.match.model), default=None)
