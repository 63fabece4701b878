"""Target `torch`: the weights as trained, in one safetensors file for `nas.build(architecture)`."""

from __future__ import annotations

from pathlib import Path

from nas.export.target import Model, Target, save_state


def write(model: Model, path: Path) -> None:
    """Write the weights. Nothing is folded or merged, so they can be trained further."""
    save_state(path, model.state, model.architecture, model.classes)


TARGET = Target("model.safetensors", write, packages=("torch", "safetensors"))
