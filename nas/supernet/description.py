"""Reads the supernet.yaml of any version under today's keys. Imports no torch.

`nas.supernet.checkpoint` writes the file; trainings, searches and reports read it through
`up_to_date`, the only code that knows older versions.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.runs.schema import read_trained
from nas.runs.trained_on import ImageRange, TrainedOn, absolute
from nas.supernet.options import Recipe


def up_to_date(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return a description of any version as today's version writes it (compatibility).

    Settings that an older version did not have get their defaults. Versions before 2026-12 have the
    data set and its numbers of images only in the words of `source` ("digits; 1617 of 1797 images
    to train on"). They have the value of --data only in the recorded command.
    """
    converted = dict(description)
    if isinstance(converted.get("recipe"), dict):
        converted["recipe"] = Recipe().to_dict() | converted["recipe"]
    data = converted.get("data")
    if isinstance(data, dict):
        # Later operands win: the file's own entries take precedence over its words.
        converted["data"] = (
            _counts_in_words(data.get("source")) | _name_in(converted.get("command")) | data
        )
    return converted


def data_name(path: Path) -> str | None:
    """Return the --data of a supernet's training from its supernet.yaml, or None if unknown."""
    data = up_to_date(read_trained(path).data).get("data")
    name = data.get("name") if isinstance(data, dict) else None
    return name if isinstance(name, str) else None


def class_names(path: Path) -> list[str]:
    """Return the names of a supernet's classes from its supernet.yaml; empty if unknown."""
    return list(trained_on(up_to_date(read_trained(path).data)).classes or ())


def trained_on(description: Mapping[str, Any]) -> TrainedOn:
    """Return what a supernet was trained on, by a description of `up_to_date`.

    Versions before 2026-12 have no class names, and some of them no numbers of images.
    """
    data = description.get("data")
    recipe = description.get("recipe")
    if not isinstance(data, dict) or not isinstance(recipe, dict):
        return TrainedOn()
    classes = data.get("classes")
    names = tuple(map(str, classes)) if isinstance(classes, list) else None
    if any(data.get(key) is None for key in ("dataset", "total", "held_out")):
        return TrainedOn(names)
    images = ImageRange(
        dataset=str(data["dataset"]),
        name=absolute(str(data.get("name", ""))),
        total=int(data["total"]),
        start=int(data["held_out"]),
        stop=int(data["total"]),
        seed=int(recipe["seed"]),
        fingerprint=str(data.get("fingerprint", "")),
    )
    return TrainedOn(names, (images,))


def _counts_in_words(source: Any) -> dict[str, Any]:
    """Return the data set and its numbers of images from the words of an older `source`."""
    words = re.fullmatch(
        r"(.*); (\d{1,15}) of (\d{1,15}) images to train on", str(source), re.DOTALL
    )
    if words is None:
        return {}
    total = int(words[3])
    return {"dataset": words[1], "total": total, "held_out": total - int(words[2])}


def _name_in(command: Any) -> dict[str, str]:
    """Return the value of --data in a recorded `nas train` command; digits is its default."""
    try:
        arguments = shlex.split(command) if isinstance(command, str) else []
    except ValueError:
        return {}
    if "train" not in arguments:
        return {}
    return {
        "name": arguments[arguments.index("--data") + 1] if "--data" in arguments[:-1] else "digits"
    }
