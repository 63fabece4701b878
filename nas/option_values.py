"""Values of options: read from text, checked against their ranges and against one another.

`nas.options` declares options. The command line, `--config` files and Python calls make their
values here.
"""

from __future__ import annotations

import difflib
import math
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from nas.errors import InputError
from nas.options import (
    ANY,
    Given,
    Option,
    Options,
    either,
    needed,
    options_of,
    spelled,
)
from nas.passwords import masked

Made = TypeVar("Made")


def read_value(option: Option, value: Any) -> Any:
    """Return the value of an option, from text or from a value of a Python call or a YAML file.

    Raises:
        ValueError: saying what is wrong and what is expected.
    """
    if option.many:
        several = value if isinstance(value, (list, tuple)) else (value,)
        return tuple(_read_one(option, each) for each in several)
    if isinstance(value, (list, tuple)) and option.about.read is None:
        raise ValueError("is a list (expected one value)")
    return _read_one(option, value)


def _read_one(option: Option, value: Any) -> Any:
    if option.kind is bool:
        if not isinstance(value, bool):
            raise ValueError("is not a flag (expected true or false)")
        return value
    if isinstance(value, bool):
        raise ValueError(f"is not {_named(option)} (expected {_expected(option)})")
    if option.about.read is not None and not (
        option.kind is float and isinstance(value, (int, float))
    ):
        value = option.about.read(value)
    elif option.kind in (int, float):
        value = _number(option, value)
    else:
        return _text(option, value)
    if isinstance(value, (int, float)) and not option.about.holds(value):
        what = "is out of range" if math.isfinite(value) else "is not a finite number"
        raise ValueError(f"{what} (expected {_expected(option)})")
    return value


def _number(option: Option, value: Any) -> float:
    try:
        if option.kind is float:
            return float(value)
        if isinstance(value, float) and value != int(value):
            raise ValueError
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"is not {_named(option)} (expected {_expected(option)})") from None


def _text(option: Option, value: Any) -> Any:
    if not isinstance(value, (str, Path, int, float)):
        raise ValueError(f"is not {_named(option)} (expected {_expected(option)})")
    text = str(value)
    if not text.strip():
        raise ValueError(f"is empty (expected {_expected(option)})")
    # Neither can be part of a file's name, nor of a recorded command.
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("has a NUL or bytes that are not UTF-8 (expected text)")
    if option.choices and text not in option.choices:
        close = difflib.get_close_matches(text.lower(), option.choices, n=1, cutoff=0.5)
        fix = f". Fix: {option.long} {close[0]}" if close else ""
        raise ValueError(f"is unknown (expected {either(option.choices)}){fix}")
    return Path(text) if option.kind is Path else text


def _named(option: Option) -> str:
    return {int: "a whole number", float: "a number"}.get(option.kind, "text")


def _expected(option: Option) -> str:
    """Return the description of a valid value, such as "a number in ms, above 0"."""
    if option.choices:
        return either(option.choices)
    unit = f" in {option.about.unit}" if option.about.unit else ""
    bounds = f", {option.about.bounds}" if option.about.bounds else ""
    return f"{_named(option)}{unit}{bounds}"


def make(
    kind: type[Made], values: Mapping[str, Any], spell: Callable[[str, Any], str] | None = None
) -> Made:
    """Return options made from values by field name; the value None means "not given".

    Args:
        kind: the options class of a command, or a part of one.
        values: text, or values of Python and YAML. A `Given` also has the place it comes from.
        spell: returns how an error names an option and its value; by default as the command line
            does.

    Raises:
        InputError: naming the option, its value and what is expected.
    """
    declared = options_of(kind)
    spell = spell or spelled
    for name in values:
        if name not in declared:
            hint = meant(name, declared)
            raise InputError(
                f"{name}: is not an option (expected one of {', '.join(declared)}){hint}"
            )
    given = {
        name: value if isinstance(value, Given) else Given(value, spell(declared[name].long, value))
        for name, value in values.items()
        if value is not None
    }
    read: dict[str, dict[str, Any]] = {}
    for name, each in given.items():
        option = declared[name]
        try:
            read.setdefault(option.part, {})[name] = read_value(option, each.value)
        except ValueError as error:
            raise InputError(f"{each.where}: {error}{_fix(option, str(error))}") from None
    for option in declared.values():
        if option.required and option.name not in given:
            raise Missing(option)
    hints = get_type_hints(kind)
    parts = {name: hints[name](**own) for name, own in read.items() if name}
    if not issubclass(kind, Options):
        return kind(**read.get("", {}), **parts)
    made = kind(**read.get("", {}), **parts, given=given)
    applies(made)
    return made


class Missing(InputError):
    """A required option or argument is missing."""

    def __init__(self, option: Option) -> None:
        what = "argument" if option.about.argument else "option"
        super().__init__(f"Missing {what} '{option.long}'.")
        self.option = option


def _fix(option: Option, reason: str) -> str:
    """Return the remedy for a refused value: the option with its example or its default."""
    if "Fix: " in reason:
        return ""
    value = option.about.example or (
        option.default_text if not option.about.shown and option.kind is not bool else ""
    )
    return f". Fix: {option.long} {value}" if value else ""


def check(part_or_options: Any) -> None:
    """Check the values of a dataclass of options that was constructed directly.

    Raises:
        InputError: for the first value that is out of range or of another type.
    """
    for option in options_of(type(part_or_options)).values():
        value = getattr(part_or_options, option.name, None) if not option.part else None
        if value is None or value == option.default:
            continue
        try:
            read_value(option, value)
        except ValueError as error:
            raise InputError(f"{option.name} {value}: {error}") from None


def applies(options: Options, **settled: Any) -> None:
    """Check that every given option has an effect together with the others.

    Args:
        options: the options of a command.
        settled: values that the command chose in place of the given ones, such as the engine for
            "auto". Options that require one of `Options.settled` are checked only with them.

    Raises:
        InputError: naming the first option that would be ignored, and what it requires.
    """
    declared = options_of(type(options))
    for name in options.given:
        for other, accepted in declared[name].about.requires.items():
            if other in options.settled and other not in settled:
                continue
            value = settled.get(other, value_of(options, other))
            if value in (None, (), False, 0, 0.0) if accepted == ANY else value not in accepted:
                here = (
                    ""
                    if value in (None, (), False)
                    else f", not {spelled(declared[other].long, value)}"
                )
                raise InputError(
                    f"{options.where(name)}: has no effect here (requires"
                    f" {needed(declared[other].long, accepted)}{here}). Fix: leave it out"
                )


def only(options: Options, names: Iterable[str], reason: str) -> None:
    """Check that only these options were given.

    Raises:
        InputError: naming the first other option, with `reason`, which says why it has no effect.
    """
    for name in options.given:
        if name not in names:
            raise InputError(
                f"{options.where(name)}: has no effect here ({reason}). Fix: leave it out"
            )


def value_of(options: Options, name: str) -> Any:
    """Return the value of an option by its field name, whichever part holds it."""
    holder = options_of(type(options))[name].part
    return getattr(getattr(options, holder) if holder else options, name)


def words(command: str, options: Options, changed: Mapping[str, Any] | None = None) -> str:
    """Return the command line that gives these options, with some of them changed.

    Options of a `--config` file are written out, so that the line is complete without the file.
    Passwords in addresses are masked: the line is recorded and printed.
    """
    values = {name: each.value for name, each in options.given.items()} | dict(changed or {})
    line = ["nas", command]
    for name, each in options_of(type(options)).items():
        for value in _several(values.get(name)):
            if isinstance(value, bool):
                line.append(spelled(each.long, value))
            else:
                text = masked(str(value))
                line += [text] if each.about.argument else [each.long, text]
    return shlex.join(line)


def _several(value: Any) -> Iterable[Any]:
    if value is None:
        return ()
    return value if isinstance(value, (list, tuple)) else (value,)


def meant(name: str, known: Iterable[str]) -> str:
    """Return `, did you mean --x?` for an unknown name; empty where nothing is similar.

    Names that begin with it, that it begins with, or that it abbreviates by initials come first,
    then the one of similar spelling.
    """
    word = name.lstrip("-").replace("_", "-")
    likely = [
        each
        for each in known
        for plain in [each.lstrip("-").replace("_", "-")]
        if plain.startswith(word)
        or word.startswith(f"{plain}-")
        or "".join(p[:1] for p in plain.split("-")) == word
    ]
    likely = likely or difflib.get_close_matches(name, list(known), n=1, cutoff=0.8)
    return f", did you mean {' or '.join(likely)}?" if likely else ""
