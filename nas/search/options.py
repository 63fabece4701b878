"""The options of `nas search`: space, devices, limits, engine and scores.

The command line and config files read them. The module imports nothing heavy, so that the help of
`nas search` stays fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from nas.options import ANY, LARGEST_SEED, Options, option, part
from nas.quantities import count, milliseconds
from nas.space.sizes import Resolutions, Sizes, resolutions
from nas.training.settings import DATA_HELP

_TRYING = ("learned", "nsga2", "tpe")
_STUDYING = ("nsga2", "tpe")
_EVALUATE = ("evaluate",)


@dataclass(frozen=True, kw_only=True)
class SearchOptions(Options):
    """Options of `nas search`.

    Sizes that are not given are those of the supernet, where there is one, or the space's own.
    """

    settled: ClassVar[tuple[str, ...]] = ("engine",)

    space: str | None = option(
        None,
        help="Space by name (see `nas spaces`), or its YAML file. Required without --supernet.",
        shown="that of the supernet",
    )
    device: tuple[str, ...] = option(
        help=(
            "Device by name (see `nas devices`), or the folder of its table. Give it again for"
            " several devices."
        )
    )
    latency_ms: tuple[float, ...] = option(
        (),
        help="Maximum latency, one for all devices or one per device.",
        unit="ms",
        metavar="MS",
        read=milliseconds,
        above=0,
        at_most=1e7,
        shown="what the smallest published member takes",
        example="1.2",
    )
    min_accuracy: float | None = option(
        None,
        help=(
            "Find the fastest member of at least this expected accuracy; what might be lost outside"
            " of the data counts as lost."
        ),
        unit="percent",
        above=0,
        below=100,
        requires={"engine": ("exact",)},
    )
    max_drop: float | None = option(
        None,
        help="Find the fastest member at most so many points below the largest one.",
        unit="points",
        at_least=0,
        at_most=100,
        requires={"engine": ("exact",)},
    )
    macs: float | None = option(
        None,
        help="Maximum multiply-accumulates (MACs), as 600M or 1.2G.",
        metavar="N",
        read=count,
        above=0,
        at_most=1e18,
        example="600M",
    )
    params: float | None = option(
        None,
        help="Maximum number of parameters, as 4M.",
        metavar="N",
        read=count,
        above=0,
        at_most=1e15,
        example="4M",
    )
    memory_mb: float | None = option(
        None,
        help="Maximum peak activation memory at the table's precision.",
        unit="MB (10^6 bytes)",
        above=0,
        at_most=1e9,
        example="16",
    )
    engine: str = option(
        "auto",
        help=(
            "How to search: exact (proven optimum), slimming (the paper's, greedy), learned"
            " (corrects the scores by members that it evaluates), nsga2 or tpe (try members out),"
            " or auto (learned with --score-by evaluate, slimming for its own options, else exact)."
        ),
    )
    trials: int | None = option(
        None,
        help=(
            "Members to try by nsga2 and tpe, in all runs and workers of the study; members to"
            " evaluate by learned."
        ),
        at_least=1,
        at_most=100_000_000,
        shown="1000; 100 of learned",
        requires={"engine": _TRYING},
        example="1000",
    )
    seed: int = option(
        0,
        help="Seed of the trials.",
        at_least=0,
        at_most=LARGEST_SEED,
        requires={"engine": _TRYING},
    )
    workers: int = option(
        1, help="Processes of this run.", at_least=1, at_most=1024, requires={"engine": _STUDYING}
    )
    storage: str | None = option(
        None,
        help=(
            "URL of a database that keeps the trials, as sqlite:///study.db or"
            " postgresql://USER:${PGPASSWORD}@HOST/DATABASE, where ${NAME} is read from the"
            " environment. The same command resumes there; several at once share the work."
        ),
        metavar="URL",
        requires={"engine": _STUDYING},
    )
    study: str | None = option(
        None,
        help="Study name in --storage.",
        shown="derived from space, device, target and engine",
        requires={"engine": _STUDYING, "storage": ANY},
    )
    front: bool = option(
        False, help="Also write the whole Pareto front of latency against accuracy."
    )
    objective: Literal["limits", "mes"] = option(
        "limits",
        help="What slimming saves: limits, or mes (EfficientFormerV2's score of size and speed).",
        requires={"engine": ("slimming",)},
    )
    candidates: Literal["all", "paper"] = option(
        "all",
        help="Moves that slimming weighs: all, or those of the paper.",
        requires={"engine": ("slimming",)},
    )
    score_by: Literal["table", "evaluate", "alpha"] = option(
        "table",
        help=(
            "How members are scored: table (recorded costs), evaluate (accuracy of the sliced"
            " supernet, by the engines slimming and learned), alpha (slimming weighs, of each kind"
            " of move, the one that the paper's alphas rank lowest, as with --candidates paper)."
        ),
    )
    data: str | None = option(
        None,
        help=f"{DATA_HELP} Those that the supernet was trained on.",
        requires={"score_by": _EVALUATE},
    )
    evaluate_best: int = option(
        8,
        help="Moves of a step to evaluate, best by scores.",
        at_least=1,
        at_most=100_000,
        requires={"score_by": _EVALUATE, "engine": ("slimming",)},
    )
    evaluate_images: int = option(
        1000,
        help="Maximum number of held-out images to evaluate on.",
        at_least=1,
        at_most=1_000_000_000,
        requires={"score_by": _EVALUATE},
    )
    scores: str | None = option(
        None,
        help="Scores alone: a folder, a scores.csv, or recorded ones by name.",
        shown="the accuracy law",
    )
    supernet: str | None = option(
        None,
        help=(
            "Folder of a training: what it measured corrects the accuracy law, its weights are"
            " inherited."
        ),
        metavar="FOLDER",
    )
    evidence: tuple[str, ...] = option(
        (),
        help="Fine-tuned runs of one data set: their held-out accuracies correct the accuracy law.",
        metavar="RUN",
    )
    freeze: str | None = option(
        None,
        help=(
            "Parts that the search leaves as they are in --start, separated by commas: stem, stage1"
            " and so on, head."
        ),
        metavar="PARTS",
        example="stem,stage1",
    )
    start: str | None = option(
        None,
        help=(
            "Member whose parts --freeze keeps: a published one, a run's folder or an architecture's"
            " file."
        ),
        metavar="RUN",
        requires={"freeze": ANY},
        shown="the smallest published member",
    )
    resolution: Resolutions | None = option(
        None,
        help=(
            "Input size in pixels, such as 512 or 1024x2048; multiples of 32. Of several, separated"
            " by commas, the search also chooses the size."
        ),
        metavar="SIDE|HEIGHTxWIDTH",
        read=resolutions,
        shown="its own",
        example="192,224,256",
    )
    sizes: Sizes = part(Sizes, omit=("resolution",))
    out: str | None = option(
        None, help="A new folder for the run.", metavar="FOLDER", shown="one under runs/"
    )
