"""What pydantic found wrong, in one line: for files with their line and key, for options with their
name."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from nas.errors import InputError
from nas.files import YamlFile

Model = TypeVar("Model", bound=BaseModel)
Key = str | int


class KeyedValueError(ValueError):
    """A mistake that a model finds in one of its values by itself, with the key of that value."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason


def first_mistake(error: ValidationError) -> tuple[tuple[Key, ...], str]:
    """Return the keys of the first mistake that pydantic found, and the reason."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, KeyedValueError):
        return (*first["loc"], cause.key), cause.reason
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] in ("missing", "extra_forbidden"):
        reason = "is missing" if first["type"] == "missing" else "unknown key"
    elif first["type"] in ("too_short", "too_long"):
        least = first["ctx"].get("min_length")
        expected = (
            f"at least {least}"
            if first["type"] == "too_short"
            else f"at most {first['ctx'].get('max_length')}"
        )
        reason = f"has {first['ctx']['actual_length']} values, expected {expected}"
    elif first["type"] != "value_error":
        reason = f"{reason}, found {first['input']!r}"
    return first["loc"], reason


def explain(error: ValidationError) -> str:
    """Return the first mistake that pydantic found in one line with its key."""
    where, reason = first_mistake(error)
    return f"{'.'.join(map(str, where))}: {reason}" if where else reason


def mistake_in(
    file: YamlFile, error: ValidationError, keys: Sequence[Key] = (), hidden: Container[Key] = ()
) -> InputError:
    """Return the first mistake as an error of a file, with its line and key.

    Args:
        keys: where in the file the checked data stands.
        hidden: names that pydantic puts between the keys, as the tags of a union, and that no file
            has.
    """
    where, reason = first_mistake(error)
    return file.error([*keys, *(key for key in where if key not in hidden)], reason)


def validated(file: YamlFile, model: type[Model], data: Any, keys: Sequence[Key] = ()) -> Model:
    """Return `data`, which stands at `keys` of `file`, as a model.

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
    """Return a pydantic dataclass made of `fields`, which stand at `keys` of `file`.

    Raises:
        InputError: naming file, line, key and reason.
    """
    try:
        return kind(**fields)
    except ValidationError as error:
        raise mistake_in(file, error, keys) from None
