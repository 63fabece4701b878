"""Options: values of text, YAML and Python; ranges, requirements, composition, and the command that
repeats them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import pytest

from nas.cli import COMMANDS
from nas.cli.options import options_class, read_options, run_command
from nas.errors import InputError
from nas.option_values import make, words
from nas.options import ANY, Options, option, options_of, part


@dataclass(frozen=True)
class Motor:
    speed: float = option(1.5, help="Speed.", unit="m/s", above=0, at_most=10)
    kind: Literal["fast", "slow"] = option("slow", help="Kind.")


@dataclass(frozen=True, kw_only=True)
class Machine(Options):
    """Options of a machine."""

    name: str = option(help="Name.", argument=True)
    motor: Motor = part(Motor)
    tags: tuple[int, ...] = option((), help="Tags.", at_least=0, at_most=9)
    file: Path | None = option(None, help="File.")
    lamp: bool = option(False, help="Lamp.")
    colour: str | None = option(None, help="Colour of the lamp.", requires={"lamp": ANY})
    gear: int = option(1, help="Gear.", at_least=1, at_most=5, requires={"kind": ("fast",)})


def test_values_come_from_text_and_from_python() -> None:
    text = make(
        Machine, {"name": "a", "speed": "2.5", "tags": ["1", "2"], "file": "x/y", "lamp": True}
    )
    python = make(
        Machine, {"name": "a", "speed": 2.5, "tags": (1, 2), "file": Path("x/y"), "lamp": True}
    )
    assert text == python
    assert (text.motor, text.tags, text.file) == (Motor(2.5, "slow"), (1, 2), Path("x/y"))
    assert make(Machine, {"name": "a", "speed": None}).motor == Motor()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"Missing argument 'NAME'\."),
        ({"name": ""}, r"NAME : is empty"),
        ({"name": "a\0b"}, r"has a NUL or bytes that are not UTF-8"),
        ({"name": "a", "file": "b\udcff"}, r"--file b.*: has a NUL or bytes that are not UTF-8"),
        (
            {"name": "a", "speed": "0"},
            r"--speed 0: is out of range \(expected a number in m/s, above 0 and at most 10",
        ),
        ({"name": "a", "speed": "inf"}, r"--speed inf: is not a finite number"),
        ({"name": "a", "speed": "nan"}, r"--speed nan: is not a finite number"),
        ({"name": "a", "speed": True}, r"is not a number"),
        ({"name": "a", "speed": [1, 2]}, r"is a list \(expected one value\)"),
        ({"name": "a", "gear": "2.5", "kind": "fast"}, r"--gear 2\.5: is not a whole number"),
        ({"name": "a", "gear": 2.5, "kind": "fast"}, r"--gear 2\.5: is not a whole number"),
        ({"name": "a", "tags": ["1", "77"]}, r"--tags .*: is out of range"),
        (
            {"name": "a", "kind": "fsat"},
            r"--kind fsat: is unknown \(expected fast or slow\)\. Fix: --kind fast",
        ),
        ({"name": "a", "lamp": "yes"}, r"is not a flag \(expected true or false\)"),
        (
            {"name": "a", "colour": "red"},
            r"--colour red: has no effect here \(requires --lamp\)\. Fix: leave it out",
        ),
        (
            {"name": "a", "gear": 2},
            r"--gear 2: has no effect here \(requires --kind fast, not --kind slow\)",
        ),
        ({"name": "a", "sped": 2}, r"sped: is not an option .*did you mean speed\?"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        make(Machine, values)
    assert "\n" not in str(raised.value)


def test_a_requirement_that_holds_is_no_error() -> None:
    made = make(Machine, {"name": "a", "lamp": True, "colour": "red", "kind": "fast", "gear": 3})
    assert (made.colour, made.gear) == ("red", 3)


def test_the_command_repeats_what_was_given() -> None:
    made = make(Machine, {"name": "a b", "speed": "2.50", "tags": [1, 2], "lamp": False})
    line = words("run", made, {"kind": "fast"})
    assert line == "nas run 'a b' --speed 2.50 --kind fast --tags 1 --tags 2 --no-lamp"


def test_a_config_file_gives_options_and_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("space: emo\nlearning-rate: 1e-2\nweight_decay: 0.01\nflip: true\nepochs: 7\n")
    made = read_options("train", {"epochs": "3"}, str(file))
    recipe = made.recipe  # type: ignore[attr-defined]
    assert (recipe.epochs, recipe.learning_rate, recipe.weight_decay, recipe.flip) == (
        3,
        0.01,
        0.01,
        True,
    )
    assert (
        words("train", made)
        == "nas train --space emo --epochs 3 --learning-rate 1e-2 --weight-decay 0.01 --flip"
    )


def test_an_affinity_may_be_empty_as_its_help_says() -> None:
    made = read_options("profile", {"space": "emo", "device": ["phone"], "affinity": ""})
    assert made.affinity == ""  # type: ignore[attr-defined]
    assert words("profile", made) == "nas profile --space emo --device phone --affinity ''"


@pytest.mark.parametrize("text", ["010", "off", "2026-01-31", "1_000", "1.50", "12:30:00", "true"])
def test_a_name_in_a_config_file_stays_as_it_is_written(tmp_path: Path, text: str) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(f"space: emo\ndevice: {text}\nout: {text}\n")
    made = read_options("search", {}, str(file))
    assert (made.device, made.out) == ((text,), text)  # type: ignore[attr-defined]


@pytest.mark.parametrize("flag", ["json", "quiet"])
def test_a_config_file_gives_the_flags_of_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(f"{flag}: true\n")
    run_command("spaces", config=str(file))
    out, err = capsys.readouterr()
    assert out.startswith("[") == (flag == "json") and bool(err) == (flag == "json")
    file.write_text(f"{flag}: false\n")
    run_command("spaces", config=str(file), **{flag: True})
    assert capsys.readouterr() == (out, err)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("space: emo\nquiet: 3\n", r"c\.yaml:2: quiet: is not a flag \(expected true or false\)"),
        (
            "space: emo\nlerning-rate: 1\n",
            r"c\.yaml:2: lerning-rate: is not an option of nas train .*learning-rate",
        ),
        ("space: emo\n\nepochs: 0\n", r"c\.yaml:3: epochs 0: is out of range"),
        (
            "space: emo\nepochs: [1, 2]\n",
            r"c\.yaml:2: epochs 1 2: is a list \(expected one value\)",
        ),
        (
            "space: emo\nflip: maybe\n",
            r"c\.yaml:2: flip maybe: is not a flag \(expected true or false\)",
        ),
        (
            "space: emo\nweight-decay: .nan\n",
            r"c\.yaml:2: weight-decay nan: is not a finite number",
        ),
        (
            "space: emo\nweight-decay: 1\nweight_decay: 2\n",
            r"c\.yaml:3: weight_decay: gives the same option",
        ),
        (
            "space: emo\ninit-member: x\n",
            r"c\.yaml:2: init-member x: has no effect here \(requires --init\)",
        ),
        ("space: emo\nconfig: other.yaml\n", r"c\.yaml:2: config: is not an option"),
        ("epochs: 3\n", r"Missing option '--space'\. \(see: nas train --help\)"),
        ("- space\n", r"c\.yaml: is not a mapping"),
        ("", r"c\.yaml: the file is empty"),
    ],
)
def test_mistakes_in_a_config_file_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as raised:
        read_options("train", {}, str(file))
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_default_is_within_its_own_range(command: str) -> None:
    for each in options_of(options_class(command)).values():
        if isinstance(each.default, (int, float)) and not isinstance(each.default, bool):
            assert each.about.holds(each.default), each.long
        if each.choices:
            # None is a default that depends on something else, which the help says.
            assert each.default in each.choices or (each.default is None and each.about.shown), (
                each.long
            )


@pytest.mark.parametrize("command", COMMANDS)
def test_what_an_option_requires_is_an_option(command: str) -> None:
    declared = options_of(options_class(command))
    for each in declared.values():
        assert set(each.about.requires) <= set(declared), each.long


@pytest.mark.parametrize("command", COMMANDS)
def test_every_field_of_a_command_is_an_option_or_a_part(command: str) -> None:
    kind = options_class(command)
    parts = {each.part for each in options_of(kind).values()}
    assert {each.name for each in fields(kind)} == {"given", *options_of(kind)} - {
        each.name for each in options_of(kind).values() if each.part
    } | (parts - {""})
