"""`nas search`: from a space, a device and a latency to an architecture."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli import search_evaluate, search_words, sizes
from nas.cli.common import Json, emit, next_step
from nas.cli.progress import bars

if TYPE_CHECKING:
    from nas.accuracy import RecordedScores
    from nas.search import Found, Problem
    from nas.search.exact import FrontPoint
    from nas.space import Space

_ENGINES = (
    "How to search: auto, exact (proven optimum), slimming (the paper's, greedy), learned (corrects the scores by "
    "members that it evaluates), nsga2 or tpe (try members out). auto takes learned with --score-by evaluate, slimming "
    "for its own options, else exact."
)
_TRIALS = "Members to try by nsga2 and tpe, of all workers; members to evaluate by learned."
_STORAGE = (
    "URL of a database that keeps the trials of nsga2 and tpe, as sqlite:///study.db. The same command resumes there; "
    "several at once share the work."
)
_MIN_ACCURACY = (
    "Find the fastest member of at least this expected accuracy, in percent; what might be lost outside of the data "
    "counts as lost. Requires the engine exact."
)
_MAX_DROP = "Find the fastest member at most so many points below the largest one. Requires the engine exact."


def search(
    space: Annotated[str, typer.Option(help="A space by name (see `nas spaces`), or its YAML file.")],
    device: Annotated[
        list[str], typer.Option(help="A device by name (see `nas devices`), or the folder of its table; or several.")
    ],
    latency_ms: Annotated[
        list[float] | None,
        typer.Option(
            parser=sizes.milliseconds,
            metavar="MS",
            help="Maximum latency in ms, one per device (default: what the smallest published member takes).",
        ),
    ] = None,
    min_accuracy: Annotated[float | None, typer.Option(help=_MIN_ACCURACY)] = None,
    max_drop: Annotated[float | None, typer.Option(help=_MAX_DROP)] = None,
    macs: Annotated[
        float | None,
        typer.Option(parser=sizes.count, metavar="N", help="Maximum multiply-accumulates (MACs), as 600M or 1.2G."),
    ] = None,
    params: Annotated[
        float | None, typer.Option(parser=sizes.count, metavar="N", help="Maximum number of parameters, as 4M.")
    ] = None,
    memory_mb: Annotated[
        float | None, typer.Option(help="Maximum peak activation memory in MB (10^6 bytes) at the table's precision.")
    ] = None,
    engine: Annotated[str, typer.Option(help=_ENGINES)] = "auto",
    trials: Annotated[int | None, typer.Option(min=1, help=_TRIALS, show_default="1000; 100 of learned")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of nsga2, tpe and learned.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Of nsga2 and tpe: processes of this run.")] = 1,
    storage: Annotated[str | None, typer.Option(help=_STORAGE)] = None,
    study: Annotated[
        str | None,
        typer.Option(help="Study name in --storage (default: derived from space, device, target and engine)."),
    ] = None,
    front: Annotated[
        bool, typer.Option("--front", help="Also write the whole Pareto front of latency against accuracy.")
    ] = False,
    objective: Annotated[
        str, typer.Option(help="What slimming saves: limits, or mes, EfficientFormerV2's score of size and speed.")
    ] = "limits",
    candidates: Annotated[str, typer.Option(help="Moves that slimming weighs: all, or those of the paper.")] = "all",
    score_by: Annotated[str, typer.Option(help=search_evaluate.HELP)] = "table",
    data: Annotated[str | None, typer.Option(help="Of evaluate: the images that the supernet was trained on.")] = None,
    evaluate_best: Annotated[
        int, typer.Option(min=1, help="Of evaluate, by slimming: moves of a step to evaluate, best by scores.")
    ] = 8,
    evaluate_images: Annotated[
        int, typer.Option(min=1, help="Of evaluate: held-out images to judge by, at most.")
    ] = 1000,
    scores: Annotated[
        str | None,
        typer.Option(help="Scores alone: a folder, a scores.csv, or recorded ones by name (default: accuracy law)."),
    ] = None,
    supernet: Annotated[
        str | None,
        typer.Option(
            help="Folder of a training: what it measured corrects the accuracy law, its weights are inherited."
        ),
    ] = None,
    evidence: Annotated[
        list[str] | None,
        typer.Option(help="Fine-tuned runs of one data set: their held-out accuracies correct the accuracy law."),
    ] = None,
    resolution: sizes.Resolution = None,
    classes: sizes.Classes = None,
    segment: sizes.Segment = None,
    out: Annotated[str | None, typer.Option(help="A new folder for the run; by default one under runs/.")] = None,
    as_json: Json = False,
) -> None:
    """Find the most accurate member of a space that a device runs in time.

    Sizes that are not given are those of the supernet, where there is one, or the space's own.
    """
    from nas.figures import warm_up
    from nas.latency import load_table
    from nas.search import StudySettings, pose, solve
    from nas.search.compare import answers
    from nas.search.exact import front as pareto
    from nas.search.run import new_folder, write_front, write_run
    from nas.space import load_space

    engine = search_evaluate.engine_for(score_by, engine)
    search_evaluate.check_score_by(score_by, supernet, data, engine, device)
    asked = sizes.read(resolution, classes, segment)
    whole = load_space(space)
    tables = [load_table(name) for name in device]
    trained = _supernet_folder(supernet) if supernet else None
    recorded = search_evaluate.recorded_by(trained, whole) if trained else None
    known = search_evaluate.scores_for(
        whole, scores, recorded, evidence or (), paper=score_by == search_evaluate.ALPHA or candidates == "paper"
    )
    chosen = _at(whole, recorded, asked)
    with sizes.naming(sizes.between(whole, chosen)):
        problems = [
            pose(
                chosen,
                table,
                known,
                target,
                engine=engine,
                candidates="paper" if score_by == search_evaluate.ALPHA else candidates,  # type: ignore[arg-type]
                on_step=search_words.tell_step if engine == "slimming" else None,
                limits=_given(macs=macs, params=params, memory_mb=memory_mb),
                objective=objective,  # type: ignore[arg-type]
                study=StudySettings(trials or (100 if engine == "learned" else 1000), seed, storage, study, workers),
                min_accuracy=min_accuracy,
                max_drop=max_drop,
            )
            for table, target in zip(tables, _targets(latency_ms, device), strict=True)
        ]
    if len(problems) > 1:
        _several(problems, out, as_json)
        return
    (problem,) = problems
    judge = search_evaluate.sliced_supernet(supernet, data, evaluate_images) if data else None
    if judge and recorded:
        recorded.check_evidence(data=judge.of.get("data"), named=f"--data {data}")
    folder = new_folder(out, chosen.name, problem.table.device.name, goes_on=judge is not None)
    with _not_left_empty(folder):
        if judge:
            problem = search_evaluate.judged_by(problem, judge, evaluate_best, folder)
        search_words.tell_problem(problem)
        warm_up()
        with bars() as progress:
            problem = replace(problem, study=replace(problem.study, progress=progress))
            found = solve(problem)
        if found.scores is not None:
            problem = search_evaluate.learned_by(problem, found.scores, folder)
        points = pareto(problem) if front else ()
        if trained:
            _inherit(trained, found, folder)
        others = answers(problem, found)
        write_run(folder, problem, found, ["nas", *sys.argv[1:]], trained)
        if points:
            write_front(folder, problem, points)
        _draw(folder, problem, others, points)
    following = _next(folder, trained)
    document = search_words.document(problem, others, folder, following, points if front else None)
    emit(document, as_json, search_words.text(problem, others, folder, len(points)))
    next_step(following)


def _draw(folder: Path, problem: Problem, others: Mapping[str, Found], points: Sequence[FrontPoint]) -> None:
    """Write trajectory.png, and front.png where there is a front."""
    from nas.report.front import front_figure, front_picture
    from nas.report.trajectory import trajectory, trajectory_figure

    trajectory_figure(trajectory(problem, others[problem.engine])).save(folder / "trajectory.png")
    if points:
        front_figure(front_picture(problem, points, others)).save(folder / "front.png")


def _next(folder: Path, trained: str | None) -> str:
    """Return the command that continues the job: fine-tuning where weights were inherited, else the report."""
    data = _training_data(trained) if trained else None
    return shlex.join(["nas", "finetune", str(folder), "--data", data] if data else ["nas", "report", str(folder)])


def _training_data(folder: str) -> str | None:
    """Return the --data of the command that trained a supernet, where it was recorded."""
    from nas.files import YamlFile

    description = Path(folder) / "supernet.yaml"
    if not description.is_file():
        return None
    words = shlex.split(str(YamlFile(description).data.get("command", "")))
    if "train" not in words:
        return None
    return words[words.index("--data") + 1] if "--data" in words[:-1] else "digits"


@contextmanager
def _not_left_empty(folder: Path) -> Iterator[None]:
    """Remove the run's folder where the search fails before anything stands in it."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            folder.rmdir()
        raise


def _targets(given: Sequence[float] | None, devices: Sequence[str]) -> Sequence[float | None]:
    """One target a device: one for all, or each its own."""
    from nas.errors import InputError

    if given and len(given) not in (1, len(devices)):
        raise InputError(f"--latency-ms: {len(given)} targets for {len(devices)} devices; give one, or one a device")
    if not given:
        return [None] * len(devices)
    return given if len(given) == len(devices) else [given[0]] * len(devices)


def _several(problems: Sequence[Problem], out: str | None, as_json: bool) -> None:
    from nas.cli.search_several import search_several
    from nas.errors import InputError

    names = [problem.table.device.name for problem in problems]
    if len(set(names)) < len(names):
        raise InputError(f"--device: {', '.join(names)}: each device once")
    if any(problem.engine != "exact" for problem in problems):
        raise InputError(f"--engine {problems[0].engine}: several devices are searched by the engine 'exact'")
    for problem in problems:
        search_words.tell_problem(problem)
    search_several(problems, out, as_json)


def _given(**options: float | None) -> dict[str, float]:
    return {name: value for name, value in options.items() if value is not None}


def _supernet_folder(supernet: str) -> str:
    from nas.errors import InputError

    path = Path(supernet)
    if not path.exists():
        raise InputError(f"--supernet {supernet}: there is no such training run; `nas train` makes one")
    folder = path.parent if path.is_file() else path
    if not (folder / "scores.csv").is_file():
        raise InputError(f"--supernet {supernet}: no scores.csv there; the same `nas train` again finishes the run")
    return str(folder)


def _at(space: Space, trained: RecordedScores | None, asked: sizes.Sizes) -> Space:
    """The space at the asked sizes, else at those that the supernet was trained with."""
    from nas.errors import InputError

    if trained is None:
        return asked.apply(space)
    if asked.segment is not None:
        raise InputError(f"--segment {asked.segment}: the supernet has a classifier, whose weights another head cannot "
                         f"take; give its folder to --scores instead of --supernet")  # fmt: skip
    if asked.classes not in (None, trained.scored.classes):
        raise InputError(f"--classes {asked.classes}: the supernet was trained on {trained.scored.classes}")
    return sizes.Sizes(asked.resolution or trained.scored.resolution, trained.scored.classes).apply(space)


def _inherit(supernet: str, found: Found, folder: Path) -> None:
    from nas.supernet.inherit import extract_to

    extract_to(supernet, found.architecture, folder / "weights.safetensors")
