"""The JSON Schema of a space's YAML file, for editors: `nas spaces --schema` prints it.

The keys of a file come from the models that `nas.space.schema` reads it with. The kinds of blocks
and their hyperparameters come from the registry, those of other packages included.
"""

from __future__ import annotations

import inspect
from typing import Any

from nas.blocks import SPECS, BlockSpec, EntrySpec, HeadSpec, Identity, schema_of, spec_of
from nas.plugins import BLOCKS, plugins
from nas.space.published import PLACE
from nas.space.schema import SpaceFile

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLACES = ("entry", "block", "head")
"""Kinds of places: before or at the start of a stage, its positions, and the end of the network."""


def space_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a space file.

    It has keys, kinds, hyperparameters and their types. Rules on several values, for example that
    the head size divides the width, are checked when the space is read.

    Raises:
        InputError: a block of another package cannot be imported.
    """
    schema = SpaceFile.model_json_schema()
    definitions = schema["$defs"]
    kinds = [kind for kind in (*SPECS, *plugins(BLOCKS, SPECS)) if kind != Identity.kind]
    for kind in kinds:
        definitions[f"block_{kind}"] = _block(kind)
    for place in _PLACES:
        definitions[f"candidates_{place}"] = _candidates(
            [kind for kind in kinds if _may_stand(spec_of(kind), place)]
        )
    schema["properties"]["defaults"] = {
        "description": "Hyperparameters by kind, for all places that do not give others.",
        "type": "object",
        "properties": {
            kind: {
                "type": "object",
                "properties": _hyperparameters(kind),
                "additionalProperties": False,
            }
            for kind in kinds
        },
        "additionalProperties": False,
    }
    described: dict[str, Any] = _with_places(schema)
    return {"$schema": DIALECT, **described}


def _may_stand(spec: type[BlockSpec], place: str) -> bool:
    if place == "entry":
        return issubclass(spec, EntrySpec)
    if place == "head":
        return issubclass(spec, HeadSpec)
    # A position of a stage keeps width and layout, so blocks that set one of them are excluded.
    return not issubclass(spec, EntrySpec | HeadSpec) and not spec.changes_layout


def _block(kind: str) -> dict[str, Any]:
    """Return the schema of one candidate.

    Only `kind` is required, because a stage gives its entry the width and `defaults` may give the
    rest.
    """
    return {
        "description": inspect.cleandoc(spec_of(kind).__doc__ or kind).split("\n\n")[0],
        "type": "object",
        "properties": {"kind": {"const": kind}, **_hyperparameters(kind)},
        "required": ["kind"],
        "additionalProperties": False,
    }


def _hyperparameters(kind: str) -> dict[str, Any]:
    """Return the schema of each hyperparameter: a value, or a list of a value per candidate."""
    return {
        name: {"anyOf": [value, {"type": "array", "items": value, "minItems": 1}]}
        for name, value in schema_of(kind).items()
    }


def _candidates(kinds: list[str]) -> dict[str, Any]:
    # An editor offers the kinds from the enumeration, and a block's own keys once its kind is
    # written. Conditions give one error for a wrong key, where a union would give one per kind.
    block = {
        "type": "object",
        "properties": {"kind": {"enum": kinds}},
        "required": ["kind"],
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
                "then": {"$ref": f"#/$defs/block_{kind}"},
            }
            for kind in kinds
        ],
    }
    return {"anyOf": [block, {"type": "array", "items": block, "minItems": 1}]}


def _with_places(node: Any) -> Any:
    """Return the schema with each mark of `nas.space.schema` replaced by the place's candidates."""
    if isinstance(node, list):
        return [_with_places(each) for each in node]
    if not isinstance(node, dict):
        return node
    if PLACE in node:
        return {"$ref": f"#/$defs/candidates_{node[PLACE]}"}
    return {key: _with_places(value) for key, value in node.items()}
