"""The options of `nas finetune`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from nas.finetune.recipe import Recipe
from nas.options import ANY, Options, option, part
from nas.training.settings import DATA_HELP, SplitOptions


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(Options):
    """Options of `nas finetune`.

    The images that `nas train` held out with the same --data, --held-out, --limit and --seed are
    held out here too.
    """

    settled: ClassVar[tuple[str, ...]] = ("distill",)

    run: str = option(
        help="A run's folder, an architecture's YAML file, or a published member.", argument=True
    )
    data: str = option(help=DATA_HELP)
    init: Path | None = option(
        None, help="Start with these weights.", metavar="FILE", shown="those that the run inherited"
    )
    from_scratch: bool = option(False, help="Start with random weights.")
    new_head: bool = option(False, help="Start with a new classifier, for the classes of the data.")
    teacher: str | None = option(
        None,
        help=(
            "Network to learn from: supernet (the largest member of the one that the run's weights"
            " are from), the folder of another supernet, an architecture's YAML file, or a"
            " published member."
        ),
    )
    teacher_weights: Path | None = option(
        None,
        help="File of trained weights of a teacher that is an architecture or a published member.",
        metavar="FILE",
        requires={"teacher": ANY},
    )
    recipe: Recipe = part(Recipe)
    split: SplitOptions = part(SplitOptions)
    out: str | None = option(
        None, help="Folder of the fine-tuning.", metavar="FOLDER", shown="RUN/finetune"
    )
