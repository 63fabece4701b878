"""The block vocabulary without torch: hyperparameters, shapes, MACs and parameters of every block.

A family is a package with two files: `spec.py`, without torch, and `module.py`, which the specs
name. It is added by its folder, a YAML file in `search_spaces/` and its name in `FAMILIES`. The
classes below are exported for callers that name them; lookups go by kind, through `SPECS`. Another
distribution adds blocks by an entry point (`nas.plugins`).
"""

from __future__ import annotations

import importlib
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, create_model

from nas.blocks.common.spec import (
    ConvEmbedding,
    ConvStem,
    DSConv,
    Flatten,
    FusedMBConv,
    FusedMBConvDown,
    Identity,
    MapHead,
    MBConv,
    MBConvDown,
    ResBlock,
    Unflatten,
)
from nas.blocks.efficientformer.spec import MB3D, MB4D, TokenHead
from nas.blocks.efficientformerv2.spec import AttentionFFN, ConvFFN, DualPathEmbedding
from nas.blocks.efficientvit.spec import ConvHead, EfficientViTModule, EfficientViTStem
from nas.blocks.emo.spec import IRMB, EMOStem, IRMBDown
from nas.blocks.fpn.spec import FPNFuse, FPNHead, FPNLevel
from nas.blocks.spec import (
    ACTIVATIONS,
    Activation,
    BlockSpec,
    EntrySpec,
    Examples,
    Expansion,
    HeadSpec,
    Layer,
    Layout,
    Operation,
    Shape,
    Trace,
    pyramid,
)
from nas.blocks.swiftformer.spec import AdditiveEncoder, ConvEncoder
from nas.errors import nearest
from nas.plugins import BLOCKS, plugins
from nas.validation import explain

FAMILIES = (
    "nas.blocks.common",
    "nas.blocks.efficientformer",
    "nas.blocks.efficientformerv2",
    "nas.blocks.efficientvit",
    "nas.blocks.emo",
    "nas.blocks.fastvit",
    "nas.blocks.fpn",
    "nas.blocks.mobilenetv4",
    "nas.blocks.repvit",
    "nas.blocks.swiftformer",
)
"""The packages of the families.

Each has `spec.py`, whose `SPECS` lists its blocks, and `module.py`. The `LAYOUTS` of the latter,
where there are any, name the tensors of its published checkpoints (`nas.weights`). This is the one
line that a new family adds outside its folder and its YAML."""


def _listed(families: Sequence[str]) -> dict[str, type[BlockSpec]]:
    """Return the specs of these families by kind.

    Raises:
        ValueError: two families have a kind of the same name. Tables and files identify a block by
            its kind alone.
    """
    specs: dict[str, type[BlockSpec]] = {}
    for family in families:
        for spec in importlib.import_module(f"{family}.spec").SPECS:
            if spec.kind in specs:
                raise ValueError(
                    f"{family}: block kind '{spec.kind}' is already defined in"
                    f" {specs[spec.kind].__module__}"
                )
            specs[spec.kind] = spec
    return specs


SPECS: dict[str, type[BlockSpec]] = _listed(FAMILIES)
"""Every kind of block that ships, by name."""


def from_dict(data: Mapping[str, Any] | str) -> BlockSpec:
    """Return the spec that `{"kind": ..., hyperparameter: value, ...}` describes.

    A bare string is a kind alone.

    Raises:
        ValueError: for an unknown kind or hyperparameter, a missing one, or a value that its type
            or rule refuses.
    """
    values = {"kind": data} if isinstance(data, str) else dict(data)
    kind = values.pop("kind", None)
    return _make(kind, lambda model: model.model_validate(values))


def check_hyperparameters(kind: str, values: Mapping[str, Any]) -> None:
    """Check some hyperparameters of a kind by name and type; the others may be missing.

    Raises:
        ValueError: for an unknown kind or hyperparameter, or a value of another type.
    """
    try:
        _model(spec_of(kind), partial=True).model_validate(dict(values))
    except ValidationError as error:
        raise ValueError(explain(error)) from None


def spec_of(kind: str | None) -> type[BlockSpec]:
    """Return the class of a kind, ours or another distribution's.

    Raises:
        ValueError: for an unknown kind.
    """
    return SPECS.get(kind) or _brought(kind)  # type: ignore[arg-type]


def parse(kind: str, hyperparameters: str) -> BlockSpec:
    """Return the spec that a table row names by its kind and hyperparameters.

    The second one is `str(spec)`, as in ('mb4d', 'expansion=4;pool=3').

    Raises:
        ValueError: as `from_dict`.
    """
    items = (item.partition("=") for item in hyperparameters.split(";") if item)
    return _make(
        kind, lambda model: model.model_validate_strings({name: value for name, _, value in items})
    )


def entry_from(data: Mapping[str, Any] | str) -> EntrySpec:
    """Return what `from_dict` does, for blocks that enter a stage. Raises ValueError for others."""
    spec = from_dict(data)
    if not isinstance(spec, EntrySpec):
        raise ValueError(
            f"{spec.kind} cannot enter a stage: it is not an EntrySpec, which sets a width"
        )
    return spec


def head_from(data: Mapping[str, Any] | str) -> HeadSpec:
    """Return what `from_dict` does, for heads. Raises ValueError for any other block."""
    return _head(from_dict(data))


def parse_head(kind: str, hyperparameters: str) -> HeadSpec:
    """Return what `parse` does, for heads. Raises ValueError for any other block."""
    return _head(parse(kind, hyperparameters))


def _head(spec: BlockSpec) -> HeadSpec:
    if not isinstance(spec, HeadSpec):
        raise ValueError(f"{spec.kind} cannot be a head: it is not a HeadSpec, which has classes")
    return spec


def _make(kind: str | None, validate: Callable[[type[BaseModel]], BaseModel]) -> BlockSpec:
    spec = spec_of(kind)
    try:
        return spec(**dict(validate(_model(spec))))
    except ValidationError as error:
        raise ValueError(f"{kind}: {explain(error)}") from None
    except ValueError as error:
        raise ValueError(f"{kind}: {error}") from None


@cache
def _brought(kind: str) -> type[BlockSpec]:
    """Return the spec of this kind that another package adds."""
    known = plugins(BLOCKS, SPECS)
    if kind not in known:
        raise ValueError(f"unknown block kind '{kind}'{nearest(str(kind), [*SPECS, *known])}")
    spec = known[kind].load()
    if not (isinstance(spec, type) and issubclass(spec, BlockSpec) and spec.kind == kind):
        raise known[kind].broken(f"{known[kind].entry.value} is not a BlockSpec of this kind")
    return spec


def _whole(value: float) -> float:
    """Return a number, as an int where it is whole: 4 and 4.0 are one expansion, written as 4."""
    return int(value) if value.is_integer() else value


_HINTS = {Expansion: Annotated[float, AfterValidator(_whole)]}
"""What is validated instead of a type hint. Of `int | float` a mistake would name `int` alone."""


@cache
def _model(cls: type[BlockSpec], partial: bool = False) -> type[BaseModel]:
    """Return a pydantic model of the spec's fields, which checks names and types.

    With `partial` any of them may be missing.
    """
    hints = typing.get_type_hints(cls)
    missing = None if partial else ...
    columns: dict[str, Any] = {
        field.name: (
            _HINTS.get(hints[field.name], hints[field.name]),
            missing if field.default is MISSING else field.default,
        )
        for field in fields(cls)
    }
    return create_model(cls.__name__, __config__=ConfigDict(extra="forbid", strict=True), **columns)


def schema_of(kind: str) -> dict[str, Any]:
    """Return the JSON Schema of each hyperparameter of a kind, by name.

    Raises:
        ValueError: for an unknown kind.
    """
    properties = _model(spec_of(kind)).model_json_schema()["properties"]
    return {
        name: {key: value for key, value in each.items() if key != "title"}
        for name, each in properties.items()
    }


__all__ = [
    "ACTIVATIONS",
    "FAMILIES",
    "IRMB",
    "MB3D",
    "MB4D",
    "SPECS",
    "Activation",
    "AdditiveEncoder",
    "AttentionFFN",
    "BlockSpec",
    "ConvEmbedding",
    "ConvEncoder",
    "ConvFFN",
    "ConvHead",
    "ConvStem",
    "DSConv",
    "DualPathEmbedding",
    "EMOStem",
    "EfficientViTModule",
    "EfficientViTStem",
    "EntrySpec",
    "Examples",
    "FPNFuse",
    "FPNHead",
    "FPNLevel",
    "Flatten",
    "FusedMBConv",
    "FusedMBConvDown",
    "HeadSpec",
    "IRMBDown",
    "Identity",
    "Layer",
    "Layout",
    "MBConv",
    "MBConvDown",
    "MapHead",
    "Operation",
    "ResBlock",
    "Shape",
    "TokenHead",
    "Trace",
    "Unflatten",
    "check_hyperparameters",
    "entry_from",
    "explain",
    "from_dict",
    "head_from",
    "parse",
    "parse_head",
    "pyramid",
    "schema_of",
    "spec_of",
]  # fmt: skip
