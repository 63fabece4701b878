"""What is exported: the network of a run, its best weights, and what its classes are called. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nas.errors import InputError
from nas.files import YamlFile
from nas.space import Architecture, find_architecture, load_architecture

HOMES = ("finetune", "")
"""Where in a run folder weights are looked for, the best ones first."""


@dataclass(frozen=True)
class Source:
    """A network to export.

    Attributes:
        run: what was asked for, as the user wrote it.
        folder: where the exported files go.
        weights: the file of its weights; None where they are random.
        provenance: of the weights: fine-tuned, inherited, given or random.
        classes: their names, in the order of the logits; numbers where nobody said.
        held_out, seed: a share or a number of images; which of its data it never saw.
    """

    run: str
    folder: Path
    architecture: Architecture
    weights: Path | None
    provenance: str
    classes: tuple[str, ...]
    held_out: float | int = 0.1
    seed: int = 0

    def named(self, classes: Sequence[str]) -> Source:
        """The same with these names of classes, where it has none of its own.

        Raises:
            InputError: when their number is not that of the network.
        """
        if len(classes) != self.architecture.classes:
            raise InputError(f"the data has {len(classes)} classes, the network {self.architecture.classes}: give the "
                             "data that it was trained on, or `nas finetune` it on this data")  # fmt: skip
        return self if self.are_named else replace(self, classes=tuple(classes))

    @property
    def are_named(self) -> bool:
        """Whether the classes have names and not numbers alone."""
        return self.classes != _numbers(len(self.classes))


def find_source(run: str, weights: Path | None = None, out: Path | None = None) -> Source:
    """The network of a run folder (fine-tuned where it is, else as it was found), of an architecture's YAML file, or
    the published member of this name.

    Args:
        run: the folder, the file or the name.
        weights: a file of weights to take instead of the run's own.
        out: where to export to; RUN/export by default, FILE-export beside an architecture's file, or NAME-export.

    Raises:
        InputError: when there is no such run or file, or a file in it is wrong.
    """
    path = Path(run)
    if weights is not None and not weights.is_file():
        raise InputError(f"--weights {weights}: there is no such file")
    folder = out or (path / "export" if path.is_dir() else path.with_name(f"{path.stem}-export"))
    if path.is_dir():
        home = next((path / name for name in HOMES if (path / name / "weights.safetensors").is_file()), None)
        architecture = load_architecture(_architecture_file(path, home or path))
        own = home and home / "weights.safetensors"
        provenance = "random" if home is None else "inherited"
        source = _described(
            Source(run, folder, architecture, own, provenance, _numbers(architecture.classes)), home or path
        )
    else:
        architecture = find_architecture(run)
        source = Source(run, folder, architecture, None, "random", _numbers(architecture.classes))
    if weights is None:
        return source
    given = replace(source, weights=weights, provenance="given", classes=_numbers(architecture.classes))
    return _described(given, weights.parent)


def _architecture_file(run: Path, home: Path) -> Path:
    """A fine-tuned network may have got another head, which its own file says."""
    own = home / "architecture.yaml"
    if own.is_file() or (run / "architecture.yaml").is_file():
        return own if own.is_file() else run / "architecture.yaml"
    raise InputError(f"{run}: no run here (there is no architecture.yaml); `nas search` makes one")


def _described(source: Source, home: Path) -> Source:
    """The same with what a fine-tuning's description says of its data, where there is one."""
    if not (home / "finetune.yaml").is_file():
        return source
    file = YamlFile(home / "finetune.yaml")
    data, recipe = (part if isinstance(part, dict) else {} for part in map(file.data.get, ("data", "recipe")))
    classes, count = data.get("classes"), source.architecture.classes
    if not isinstance(classes, list):
        return source
    if len(classes) != count:
        raise file.error(["data", "classes"], f"{len(classes)} names for a network of {count} classes")
    held_out, seed = data.get("held_out", source.held_out), recipe.get("seed", source.seed)
    provenance = "fine-tuned" if source.weights else source.provenance
    return replace(
        source, provenance=provenance, classes=tuple(map(str, classes)), held_out=held_out, seed=seed
    )  # fmt: skip


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(str(index) for index in range(count))
