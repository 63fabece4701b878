"""`nas spaces`: list the search spaces with their published members, or the choices of one."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nas
from nas.cli.output import Column, emit, next_step, say, table_text
from nas.errors import InputError
from nas.options import Options, option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nas.blocks import BlockSpec
    from nas.space import Architecture, Space, StageSpace


@dataclass(frozen=True, kw_only=True)
class SpacesOptions(Options):
    """Options of `nas spaces`."""

    name: str | None = option(
        None, help="Space by name or by the path of its YAML file.", argument=True
    )
    schema: bool = option(
        False, help="Print the JSON Schema of a space file, for editors. Takes no NAME."
    )


def spaces(options: SpacesOptions) -> None:
    """List the search spaces with their published members, or the choices of one."""
    from nas.space import load_space, space_names

    name = options.name
    if options.schema:
        _print_schema(name)
        return
    chosen = [load_space(each) for each in ([name] if name else space_names())]
    text = [_choices(chosen[0])] if name else []
    emit(
        [_document(space) for space in chosen], "\n".join([*text, *map(_members, chosen)]).rstrip()
    )
    if name:
        next_step(f"nas search --space {shlex.quote(name)} --device iphone12")
    elif chosen:
        next_step(f"nas spaces {chosen[0].name}")


def _print_schema(name: str | None) -> None:
    """Print the JSON Schema of space files, which is the same for every space."""
    from nas.space.json_schema import space_schema

    if name is not None:
        raise InputError(f"--schema: takes no space (got {name}). Fix: nas spaces --schema")
    schema = space_schema()
    emit(schema, json.dumps(schema, indent=2))
    say(
        "note: save it as space.schema.json. Editors read it from a space file's first line:"
        " # yaml-language-server: $schema=space.schema.json"
    )


def _document(space: Space) -> dict[str, Any]:
    """Return a space as plain data, for --json."""
    members = [
        {"name": name, **_facts(space, arch), **_accuracy(name)}
        for name, arch in space.published.items()
    ]
    return {
        "name": space.name,
        "paper": space.paper,
        "path": space.path,
        "resolution": list(space.resolution),
        "classes": space.classes,
        "networks": space.count(),
        "attention": space.placement,
        "stages": [_stage(stage) for stage in space.stages],
        "members": members,
    }


@cache
def _published() -> dict[str, dict[str, Any]]:
    """Return the published ImageNet accuracy of each member with its circumstances.

    They are read directly from the law's file, so that listing spaces imports no numpy.
    """
    from nas.files import YamlFile

    law = YamlFile(Path(nas.__file__).parent / "accuracy" / "law.yaml")
    return dict(law.data["published"])


def _accuracy(name: str) -> dict[str, Any]:
    """Return the published top-1 of a member in percent, and that of its other training.

    All are None where no figure is published.
    """
    figure = _published().get(name, {})
    return {
        "top1": figure.get("top1"),
        "distilled": figure.get("distilled"),
        "counterpart_top1": figure.get("counterpart"),
    }


def _accuracy_text(name: str) -> str:
    """Return the published top-1 of a member as text, with and without a teacher if both are."""
    figure = _accuracy(name)
    if figure["top1"] is None:
        return ""
    text = f"{figure['top1']:.1f} %"
    if figure["counterpart_top1"] is None:
        return text
    other = "without" if figure["distilled"] else "with"
    return f"{text} ({figure['counterpart_top1']:.1f} % {other} a teacher)"


def _stage(stage: StageSpace) -> dict[str, Any]:
    return {
        "widths": list(stage.widths),
        "depths": list(stage.depths),
        "entries": [block.to_dict() for block in stage.entries],
        "local": [block.to_dict() for block in stage.local],
        "global": [block.to_dict() for block in stage.global_],
    }


def _facts(space: Space, arch: Architecture) -> dict[str, Any]:
    """Return the size and shape of a member."""
    attention = [
        sum(block in choices.global_ for block in stage.blocks)
        for choices, stage in zip(space.stages, arch.stages, strict=True)
    ]
    return {
        "params": arch.params,
        "macs": arch.macs,
        "widths": list(arch.widths),
        "depths": list(arch.depths),
        "attention": attention,
    }


def _members(space: Space) -> str:
    """Return the table of published members, with the space's smallest and largest network."""
    height, width = space.resolution
    rows = [["", "params", "MACs", "top-1", "widths", "depths", "attention"]]
    for arch in (*space.published.values(), space.smallest(), space.largest()):
        facts = _facts(space, arch)
        counts = [f"{arch.params / 1e6:.2f} M", f"{arch.macs / 1e9:.2f} G"]
        figures = [*counts, _accuracy_text(arch.name)]
        rows.append(
            [arch.name, *figures, *(_row(facts[key]) for key in ("widths", "depths", "attention"))]
        )
    return (
        f"{space.name}: {_number(space.count())} networks, {height}x{width} pixels\n{_table(rows)}"
    )


def _number(count: int) -> str:
    """Return a count of networks as text, in powers of ten from 10^15 on."""
    return f"{count:,}" if count < 10**15 else f"{count:.1e}"


def _choices(space: Space) -> str:
    """Return the table of choices per stage."""
    rows = [["stage", "widths", "depth", "local blocks", "global blocks (attention)"]]
    for index, stage in enumerate(space.stages, start=1):
        most = max(len(_kinds(stage.local)), len(_kinds(stage.global_)))
        first = [str(index), _widths(stage.widths), "{}..{}".format(*stage.depths)]
        # One line per kind of block: pad the shorter column with empty cells.
        local, global_ = (
            [*_kinds(blocks), *[""] * most][:most] for blocks in (stage.local, stage.global_ or ())
        )
        for line, blocks in enumerate(zip(local, global_, strict=True)):
            rows.append([*(["", "", ""] if line else first), *blocks])
    where = {"network_suffix": "the network", "stage_suffix": "their stage"}[space.placement]
    about = [line for line in (space.paper, space.path) if line]
    rules = [f"Attention blocks are the last blocks of {where}."]
    if any("|" in cell for row in rows for cell in row):
        rules.append("Each block has one of the values separated by |.")
    return "\n".join([*about, "", f"{_table(rows)}", *rules, ""])


def _kinds(blocks: Sequence[BlockSpec]) -> list[str]:
    """Return one text per kind of block, with all values of each hyperparameter."""
    values: dict[str, dict[str, list[str]]] = {}
    for block in blocks:
        of_kind = values.setdefault(block.kind, {})
        for name, value in block.texts().items():
            if value not in of_kind.setdefault(name, []):
                of_kind[name].append(value)
    texts = {
        kind: ";".join(f"{name}={'|'.join(each)}" for name, each in of.items())
        for kind, of in values.items()
    }
    return [f"{kind}({text})" for kind, text in texts.items()]


def _widths(widths: tuple[int, ...]) -> str:
    """Return widths as text, as a range with its step where they are evenly spaced."""
    steps = {after - before for before, after in pairwise(widths)}
    if len(widths) > 2 and len(steps) == 1:
        return f"{widths[0]}..{widths[-1]} by {steps.pop()}"
    return _row(widths)


def _row(values: Any) -> str:
    return " ".join(map(str, values))


def _table(rows: list[list[str]]) -> str:
    """Return a table as text; the first row has the titles."""
    columns = [Column(title) for title in rows[0]]
    return table_text(columns, rows[1:]) + "\n"
