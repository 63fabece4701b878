"""Target `torch`: the weights as they are trained, one safetensors file for
`nas.build(architecture)`."""

from __future__ import annotations

from pathlib import Path

from nas.export.target import Model, Target, save_state


def write(model: Model, path: Path) -> None:
    """Nothing is folded or merged: the file goes on training where the network left off."""
    save_state(path, model.state, model.architecture, model.classes)


TARGET = Target("model.safetensors", write, packages=("torch", "safetensors"))
