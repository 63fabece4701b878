"""Options: what a command takes, declared once as the fields of a dataclass.

A field made by `option` has its help, default, unit and range. The command line, the `--config`
file, the recorded recipe, the functions of the Python API and the reference page are made from
these fields. A component declares its options beside itself (`nas/training/settings.py`), and a
command's options are composed of such parts. This module imports nothing heavy, so that
`nas --help` stays fast.

    @dataclass(frozen=True, kw_only=True)
    class TrainOptions(Options):
        space: str = option(help="Space by name or YAML file.")
        recipe: Recipe = part(Recipe)

    # nas.option_values makes them: options.recipe.epochs == 3
    options = make(TrainOptions, {"space": "emo", "epochs": "3"})
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from nas.passwords import masked

_KEY = "option"
_PART = "part"
ANY = "any"
"""In `requires`: the other option must be given, with any value."""

_FAR = 1000
"""Upper bounds from here on only exclude absurd values, so help texts leave them out."""
LARGEST_SEED = 2**32 - 1
"""Largest seed that NumPy and scikit-learn accept."""


@dataclass(frozen=True)
class About:
    """The description of an option, stored in the metadata of its field.

    Attributes:
        help: a sentence or two that can be understood without the name of the option.
        unit: unit of a number, such as ms, MB or points.
        at_least, at_most, above, below: bounds of a number, or of each number of several.
        shown: the default in words, where the field's own default (None) does not say it.
        read: converts text, or a value of YAML or Python, to the option's value. It raises
            ValueError with what is wrong and what is expected.
        metavar: placeholder of the value in help, where its type does not say it.
        requires: other options that it needs, by name: their accepted values, or ANY. `applies`
            checks them.
        argument: whether it is given by position.
        panel: heading in the help of the command.
        example: a value that a remedy may propose.
    """

    help: str
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    shown: str = ""
    read: Callable[[Any], Any] | None = None
    metavar: str = ""
    requires: Mapping[str, tuple[Any, ...] | str] = field(default_factory=dict)
    argument: bool = False
    panel: str = ""
    example: str = ""

    @property
    def bounds(self) -> str:
        """Return the range in words, such as "at least 0 and below 1"; empty without a range."""
        words = {
            "at least": self.at_least,
            "above": self.above,
            "at most": self.at_most,
            "below": self.below,
        }
        return " and ".join(
            f"{word} {limit:.10g}" for word, limit in words.items() if limit is not None
        )

    @property
    def close_bounds(self) -> str:
        """Return the range in words, without an upper bound that only excludes absurd values."""
        far = self.at_most is not None and self.at_most >= _FAR
        return replace(self, at_most=None).bounds if far else self.bounds

    def holds(self, number: float) -> bool:
        """Return whether a number is within the range; NaN and infinity never are."""
        return (
            math.isfinite(number)
            and (self.at_least is None or number >= self.at_least)
            and (self.at_most is None or number <= self.at_most)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )


def option(default: Any = MISSING, **about: Any) -> Any:
    """Return a dataclass field that is an option, required where it has no default.

    The other arguments are the attributes of `About`.
    """
    return field(default=default, metadata={_KEY: About(**about)})


def like(kind: type, name: str, default: Any, **about: Any) -> Any:
    """Return the field `name` that the dataclass `kind` declares, with another default.

    The other arguments replace attributes of its `About`.
    """
    declared = next(each for each in fields(kind) if each.name == name)
    return field(default=default, metadata={_KEY: replace(declared.metadata[_KEY], **about)})


def part(kind: type, omit: Sequence[str] = ()) -> Any:
    """Return a field that holds the options of a component, except those in `omit`.

    On the command line they are listed with the command's own options.
    """
    return field(default_factory=kind, metadata={_PART: tuple(omit)})


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: name of its field; `long` is its name on the command line.
        part: the field that holds the component it belongs to; empty for the command's own option.
        kind: bool, int, float, str or Path: the type of the value, or of each of several.
        many: whether it takes several values.
        choices: all accepted texts; empty where any text is accepted.
        default: its default; MISSING for a required option.
        about: its description.
    """

    name: str
    part: str
    kind: type
    many: bool
    choices: tuple[str, ...]
    default: Any
    about: About

    @property
    def key(self) -> str:
        """Return the long name without leading dashes: `learning-rate`."""
        return self.name.rstrip("_").replace("_", "-")

    @property
    def long(self) -> str:
        """Return the name on the command line: `--learning-rate`, or `RUN` for an argument."""
        return self.key.upper() if self.about.argument else _long(self.name)

    @property
    def required(self) -> bool:
        return self.default is MISSING

    @property
    def takes_text(self) -> bool:
        """Return whether its value is a text or a path as it is, such as a name."""
        return self.kind in (str, Path) and self.about.read in (None, str)

    @property
    def default_text(self) -> str:
        """Return the default in words; empty where there is none."""
        if self.about.shown:
            return self.about.shown
        if self.required or self.default is None or self.default == ():
            return ""
        if self.kind is bool:
            return "on" if self.default else ""
        return f"{self.default:.10g}" if isinstance(self.default, float) else str(self.default)

    @property
    def type_text(self) -> str:
        """Return the placeholder of the value in help and in the reference."""
        names = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH", bool: "FLAG"}
        return self.about.metavar or "|".join(self.choices) or names[self.kind]

    @property
    def help(self) -> str:
        """Return the help text with requirements, unit, range and default."""
        facts = [
            "required" if self.required else "",
            f"in {self.about.unit}" if self.about.unit else "",
        ]
        facts.append(self.about.close_bounds)
        facts.append(f"default {self.default_text}" if self.default_text else "")
        details = "; ".join(fact for fact in facts if fact)
        return f"{self.about.help}{self.needs}{f' ({details})' if details else ''}"

    @property
    def needs(self) -> str:
        """Return a sentence per required option; empty where none is required."""
        return "".join(
            f" Requires {needed(_long(name), values)}."
            for name, values in self.about.requires.items()
        )


def _long(name: str) -> str:
    return f"--{name.rstrip('_').replace('_', '-')}"


@dataclass(frozen=True)
class Given:
    """An option's value as the user gave it.

    Attributes:
        value: text, or a value of Python or YAML.
        where: how an error names it: `--epochs 3`, `train.yaml:4: epochs 3`.
    """

    value: Any
    where: str


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base class of the options of a command.

    Attributes:
        given: the given values by field name; other options have their defaults. Empty for options
            that were constructed directly.
        settled: options whose value the command may choose itself ("auto"). After choosing, it
            calls `applies`.
    """

    settled: ClassVar[tuple[str, ...]] = ()

    given: Mapping[str, Given] = field(default_factory=dict, repr=False, compare=False)

    def where(self, name: str) -> str:
        """Return how an error names an option: as it was given, or by its long name."""
        return self.given[name].where if name in self.given else options_of(type(self))[name].long


def options_of(kind: Any) -> dict[str, Option]:
    """Return the options of a dataclass by field name, in order, including those of its parts."""
    return _options_of(kind)


@cache
def _options_of(kind: Any) -> dict[str, Option]:
    hints = get_type_hints(kind)
    declared: dict[str, Option] = {}
    for each in fields(kind):
        if _PART in each.metadata:
            for name, inner in options_of(hints[each.name]).items():
                if name not in each.metadata[_PART]:
                    declared[name] = replace(inner, part=each.name)
        elif _KEY in each.metadata:
            value_type, many, choices = _type(hints[each.name])
            declared[each.name] = Option(
                name=each.name,
                part="",
                kind=value_type,
                many=many,
                choices=choices,
                default=each.default,
                about=each.metadata[_KEY],
            )
    return declared


def _type(hint: Any) -> tuple[type, bool, tuple[str, ...]]:
    """Return the type of a field's value, whether it takes several values, and the choices."""
    if get_origin(hint) in (Union, UnionType):
        return _type(next(each for each in get_args(hint) if each is not type(None)))
    if get_origin(hint) is tuple and get_args(hint)[1:] == (...,):
        kind, _, choices = _type(get_args(hint)[0])
        return kind, True, choices
    if get_origin(hint) is Literal:
        return str, False, get_args(hint)
    return (hint if hint in (bool, int, float, str, Path) else str), False, ()


def either(words: Iterable[Any]) -> str:
    """Return words as an English list: "a, b or c"."""
    *most, last = map(str, words)
    return f"{', '.join(most)} or {last}" if most else last


def spelled(long: str, value: Any) -> str:
    """Return an option and its value as the command line has them, passwords masked."""
    return (
        f"{long} {masked(str(value))}"
        if not isinstance(value, bool)
        else long
        if value
        else f"--no-{long.removeprefix('--')}"
    )


def needed(long: str, values: tuple[Any, ...] | str) -> str:
    """Return a required option with its accepted values: "--engine nsga2 or tpe"."""
    return long if isinstance(values, str) else f"{long} {either(values)}"
