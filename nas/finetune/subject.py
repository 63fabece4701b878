"""What is fine-tuned: the architecture of a run folder, of a YAML file, or of a published member."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nas.errors import InputError
from nas.files import YamlFile
from nas.search.run import FORMAT as RUN_FORMAT
from nas.space import Architecture, find_architecture, load_architecture


@dataclass(frozen=True)
class Subject:
    """An architecture, the run folder that it was found in, if any, and its inherited weights, if there are any."""

    architecture: Architecture
    run: Path | None = None
    weights: Path | None = None

    def folder(self, from_scratch: bool) -> Path:
        """Where the fine-tuning goes by default: into the run, or into a folder beside the runs."""
        name = "finetune-scratch" if from_scratch else "finetune"
        return self.run / name if self.run else Path("runs") / f"{name}-{self.architecture.name or 'architecture'}"


def find_subject(name: str | Path) -> Subject:
    """What `name` stands for: a run folder, an architecture's YAML file, or a published member.

    Raises:
        InputError: when it is none of them, or its network answers with maps.
    """
    path = Path(name)
    subject = _run(path) if path.is_dir() else Subject(find_architecture(name))
    if subject.architecture.head.layout == "pyramid":
        raise InputError(f"{name}: its head {subject.architecture.head.kind} gives maps; `nas finetune` trains "
                         "classifiers on labelled images")  # fmt: skip
    return subject


def _run(folder: Path) -> Subject:
    if not (folder / "run.yaml").is_file():
        raise InputError(f"{folder}: no finished run here (there is no run.yaml); `nas search` makes one")
    file = YamlFile(folder / "run.yaml")
    if file.data.get("format") != RUN_FORMAT:
        raise file.error(["format"], f"is {file.data.get('format')!r}, expected '{RUN_FORMAT}'")
    weights = folder / "weights.safetensors"
    return Subject(load_architecture(folder / "architecture.yaml"), folder, weights if weights.is_file() else None)
