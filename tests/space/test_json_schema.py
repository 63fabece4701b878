"""`nas spaces --schema`: it takes every space that ships and refuses a wrong key where it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from nas.blocks import SPECS, Identity
from nas.cli.options import run_command
from nas.errors import InputError
from nas.space import load_space, space_names
from nas.space.json_schema import space_schema

SCHEMA = space_schema()
TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "null": lambda value: value is None,
}
NOTES = {"$schema", "$defs", "title", "description", "default"}
"""Keywords that refuse nothing."""


def mistakes(schema: dict[str, Any], value: Any, where: str = "") -> Iterator[str]:
    """Yield what a value breaks, for the keywords of JSON Schema that ours has."""
    check = partial(mistakes, value=value, where=where)
    for keyword, rule in schema.items():
        wrong = False
        if keyword == "$ref":
            yield from check(SCHEMA["$defs"][rule.removeprefix("#/$defs/")])
        elif keyword == "allOf":
            for each in rule:
                yield from check(each)
        elif keyword in ("anyOf", "oneOf"):
            fitting = [each for each in rule if not list(check(each))]
            wrong = not fitting or (keyword == "oneOf" and len(fitting) > 1)
        elif keyword == "if":
            if not list(check(rule)):
                yield from check(schema["then"])
        elif keyword == "type":
            wrong = not TYPES[rule](value)
        elif keyword in ("const", "enum"):
            wrong = value not in (rule if keyword == "enum" else [rule])
        elif keyword == "properties" and isinstance(value, dict):
            for key in value.keys() & rule.keys():
                yield from mistakes(rule[key], value[key], f"{where}.{key}")
        elif keyword == "additionalProperties" and isinstance(value, dict):
            for key in value.keys() - schema.get("properties", {}).keys():
                if rule is False:
                    yield f"{where}.{key}: additionalProperties"
                elif rule is not True:
                    yield from mistakes(rule, value[key], f"{where}.{key}")
        elif keyword == "required" and isinstance(value, dict):
            wrong = not value.keys() >= set(rule)
        elif keyword == "items" and isinstance(value, list):
            for index, each in enumerate(value):
                yield from mistakes(rule, each, f"{where}[{index}]")
        elif keyword in ("minItems", "maxItems") and isinstance(value, list):
            wrong = len(value) < rule if keyword == "minItems" else len(value) > rule
        elif keyword == "pattern" and isinstance(value, str):
            wrong = not re.search(rule, value)
        elif keyword in ("minimum", "exclusiveMinimum") and isinstance(value, int | float):
            wrong = value < rule or (keyword == "exclusiveMinimum" and value == rule)
        elif keyword == "maximum" and isinstance(value, int | float):
            wrong = value > rule
        else:
            assert keyword in NOTES | {"then", *KEYWORDS}, f"{keyword} is not checked here"
        if wrong:
            yield f"{where}: {keyword}"


KEYWORDS = {
    "properties", "additionalProperties", "required", "items", "minItems", "maxItems", "pattern",
    "minimum", "exclusiveMinimum", "maximum",
}  # fmt: skip
"""Keywords that say something of one type of value only."""


def shipped(name: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(Path(load_space(name).path).read_text(encoding="utf-8"))
    return data


@pytest.mark.parametrize("name", space_names())
def test_every_space_is_valid(name: str) -> None:
    assert not list(mistakes(SCHEMA, shipped(name)))
    written = {**load_space(name).to_dict()}
    assert not list(mistakes(SCHEMA, written))


@pytest.mark.parametrize(
    "place, value",
    [
        (("atention",), "stage_suffix"),
        (("attention",), "anywhere"),
        (("format",), "nas-space-9"),
        (("resolution",), [224]),
        (("stages", 0, "local", "expansoin"), 4),
        (("stages", 0, "local", "pool"), 2.5),
        (("stages", 0, "local", "expansion"), [4, "many"]),
        (("stages", 0, "local", "kind"), "conv_stem"),
        (("stages", 0, "local", "kind"), "identity"),
        (("stages", 1, "entry", "kind"), "mb4d"),
        (("stages", 1, "entry", "stride"), 2),
        (("stages", 1, "width", "min"), 0),
        (("stages", 1, "depth", "most"), 3),
        (("head", "kind"), "conv_embedding"),
        (("defaults", "mb5d"), {}),
        (("defaults", "mb4d", "pol"), 3),
        (("published", "efficientformer_l1", "width"), [48]),
    ],
    ids=str,
)
def test_a_wrong_key_or_value_is_refused(place: tuple[Any, ...], value: Any) -> None:
    data = shipped("efficientformer")
    node = data
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    assert list(mistakes(SCHEMA, data))


def test_it_agrees_with_the_jsonschema_package() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for name in space_names():
        data = shipped(name)
        assert validator.is_valid(data)
        data["stages"][0]["entry"] = {"kind": "conv_stem", "wdith": 8}
        (error,) = validator.iter_errors(data)
        assert list(error.absolute_path) == ["stages", 0, "entry"]


def test_every_kind_has_its_hyperparameters() -> None:
    for kind in SPECS.keys() - {Identity.kind}:
        block = SCHEMA["$defs"][f"block_{kind}"]
        names = [field.name for field in fields(SPECS[kind])]
        assert block["description"]
        assert block["properties"].keys() == {"kind", *names}


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    for json_too in (False, True):
        run_command("spaces", schema=True, json=json_too)
        assert json.loads(capsys.readouterr().out) == SCHEMA
    with pytest.raises(InputError, match="--schema: takes no space"):
        run_command("spaces", schema=True, name="emo")
