"""Pydantic's errors in one line, with the key and, for a file, its line.

Readers of the project's YAML files and of the parameters of blocks use it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from nas.errors import InputError
from nas.files import YamlFile

Model = TypeVar("Model", bound=BaseModel)
Key = str | int


class KeyedValueError(ValueError):
    """A mistake that a model's own validator finds, with the key of the wrong value."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason


def first_mistake(error: ValidationError) -> tuple[tuple[Key, ...], str]:
    """Return the keys and the reason of the first mistake that pydantic reports."""
    first = error.errors(include_url=False)[0]
    # A model's validator runs for the whole model, so pydantic does not know the key.
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, KeyedValueError):
        return (*first["loc"], cause.key), cause.reason
    reason = first["msg"].removeprefix("Value error, ")
    # These kinds of errors get messages without pydantic's terms for models and fields.
    if first["type"] in ("missing", "extra_forbidden"):
        reason = "is missing" if first["type"] == "missing" else "unknown key"
    elif first["type"] in ("too_short", "too_long"):
        least = first["ctx"].get("min_length")
        expected = (
            f"at least {least}"
            if first["type"] == "too_short"
            else f"at most {first['ctx'].get('max_length')}"
        )
        reason = f"has {first['ctx']['actual_length']} values (expected {expected})"
    elif first["type"] != "value_error":
        value = repr(first["input"])
        reason = f"{reason} (got {value if len(value) <= 80 else f'{value[:79]}…'})"
    return first["loc"], reason


def explain(error: ValidationError) -> str:
    """Return the first mistake that pydantic reports as one line: its key and the reason."""
    where, reason = first_mistake(error)
    return f"{'.'.join(map(str, where))}: {reason}" if where else reason


def mistake_in(
    file: YamlFile, error: ValidationError, keys: Sequence[Key] = (), hidden: Container[Key] = ()
) -> InputError:
    """Return the first mistake as an error of a file, with its line and key.

    Args:
        keys: the path of the checked data in the file.
        hidden: names that pydantic puts between the keys and that no file has, for example the
            tags of a union.
    """
    where, reason = first_mistake(error)
    return file.error([*keys, *(key for key in where if key not in hidden)], reason)


def validated(file: YamlFile, model: type[Model], data: Any, keys: Sequence[Key] = ()) -> Model:
    """Return `data`, the value at `keys` of `file`, as a model.

    Raises:
        InputError: naming file, line, key and reason.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise mistake_in(file, error, keys) from None


def made(
    file: YamlFile, kind: type[Any], fields: Mapping[str, Any], keys: Sequence[Key] = ()
) -> Any:
    """Return a pydantic dataclass made of `fields`, the mapping at `keys` of `file`.

    Raises:
        InputError: naming file, line, key and reason.
    """
    try:
        return kind(**fields)
    except ValidationError as error:
        raise mistake_in(file, error, keys) from None
