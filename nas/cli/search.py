"""`nas search`: find an architecture from a space, a device and a latency target."""

from __future__ import annotations

import gc
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nas.cli import search_output
from nas.cli.output import bars, emit, naming, next_step, say
from nas.errors import InputError
from nas.option_values import applies, words
from nas.search.options import SearchOptions
from nas.signals import keeping
from nas.space.sizes import Sizes, between, size_text

if TYPE_CHECKING:
    from nas.accuracy import RecordedScores
    from nas.latency import LatencyTable
    from nas.search import Found, Problem
    from nas.search.engines.exact import FrontPoint
    from nas.space import Space


def search(options: SearchOptions) -> None:
    """Find the most accurate member of a space within a latency target on a device."""
    # Sums over tables make millions of short-lived tuples and hardly any cycles, and the default
    # threshold (700) has the collector look for cycles hundreds of times: about 5 % of its time. Tensors
    # of a supernet may be in cycles and must not wait for so many objects.
    if not options.supernet:
        gc.set_threshold(100_000)
    engine = search_output.engine_for(options.score_by, options.engine)
    search_output.check_score_by(options, engine)
    question = _pose(options, engine)
    problems = question.problems
    applies(options, engine=problems[0].engine)
    if len(options.device) > 1:
        _several(problems, options, question.trained)
    else:
        _one(question, options)


@dataclass(frozen=True)
class _Question:
    """What a search is asked.

    Attributes:
        problems: one per device, or one per input size.
        refused: the input sizes at which no member keeps the limits, with the reason.
        trained: folder of the supernet, if any.
        recorded: the scores that it recorded.
    """

    problems: Sequence[Problem]
    refused: Sequence[tuple[tuple[int, int], str]] = ()
    trained: str | None = None
    recorded: RecordedScores | None = None


def _pose(options: SearchOptions, engine: str) -> _Question:
    """Return the checked question of a search."""
    from nas.extras import need
    from nas.latency import load_table
    from nas.search import StudySettings, pose
    from nas.search.input_sizes import pose_sizes
    from nas.space import load_architecture, load_space

    # Scoring by alpha is the paper's own slimming, which also uses the paper's candidates.
    paper = options.score_by == search_output.ALPHA or options.candidates == "paper"
    trained = _supernet_folder(options.supernet) if options.supernet else None
    whole = load_space(options.space or _space_of(trained))
    tables = [load_table(name) for name in options.device]
    # Weights are inherited at the end of the search. Missing packages are reported now, before the
    # work.
    if trained:
        need("--supernet", "train", "torch", "safetensors")
    recorded = search_output.recorded_by(trained, whole) if trained else None
    scores = search_output.scores_for(
        whole, options.scores, recorded, options.evidence, paper=paper
    )
    sizes = options.resolution.sizes if options.resolution else ()
    _check_sizes(options, sizes)
    chosen = [
        _at(whole, recorded, replace(options.sizes, resolution=size)) for size in sizes or (None,)
    ]
    frozen = tuple(part.strip() for part in (options.freeze or "").split(",") if part.strip())
    if options.freeze and not frozen:
        raise InputError(f"{options.where('freeze')}: names no part. Fix: --freeze stem,stage1")
    start = load_architecture(options.start) if options.start else None
    # The learned engine gets fewer trials: each one evaluates a member on images, which takes far
    # longer than summing its costs.
    trials = options.trials or (100 if engine == "learned" else 1000)
    study = StudySettings(trials, options.seed, options.storage, options.study, options.workers)
    limits = {name: getattr(options, name) for name in ("macs", "params", "memory_mb")}

    def posed(space: Space, table: LatencyTable, target: float | None) -> Problem:
        with naming(between(whole, space)):
            return pose(
                space,
                table,
                scores,
                target,
                engine=engine,
                candidates="paper" if paper else "all",
                on_step=search_output.tell_step if engine == "slimming" else None,
                limits={name: most for name, most in limits.items() if most is not None},
                objective=options.objective,
                study=study,
                min_accuracy=options.min_accuracy,
                max_drop=options.max_drop,
                freeze=frozen,
                start=start,
            )

    targets = _targets(options)
    if len(chosen) == 1:
        problems = [
            posed(chosen[0], table, target) for table, target in zip(tables, targets, strict=True)
        ]
        return _Question(problems, (), trained, recorded)
    several = pose_sizes(
        lambda space, target: posed(space, tables[0], target), chosen, whole.resolution, targets[0]
    )
    return _Question(several.problems, several.refused)


def _check_sizes(options: SearchOptions, sizes: Sequence[tuple[int, int]]) -> None:
    """Raise InputError for options that several input sizes exclude."""
    if len(sizes) < 2:
        return
    excluded = {
        "several --device": len(options.device) > 1,
        "--supernet, which was trained at one size": options.supernet is not None,
        "--storage, whose study has one size": options.storage is not None,
        "--max-drop, which counts from the largest member of one size": options.max_drop
        is not None,
    }
    for what, given in excluded.items():
        if given:
            raise InputError(
                f"{options.where('resolution')}: several sizes exclude {what}. Fix: --resolution"
                f" {size_text(sizes[-1])}"
            )


def _one(question: _Question, options: SearchOptions) -> None:
    """Search on one device, write the run and print the result."""
    from nas.cli.search_images import used_images
    from nas.figures import warm_up
    from nas.search.compare import answers
    from nas.search.engines.exact import front as pareto
    from nas.search.input_sizes import Posed, best_size, front_of_sizes, size_rows, solve_sizes
    from nas.search.record import new_folder, not_left_empty, write_front, write_run

    problem = question.problems[0]
    trained = question.trained
    recorded = question.recorded

    evaluator = search_output.sliced_supernet(options)
    # The evidence would otherwise mix accuracies on different images.
    if evaluator and recorded:
        recorded.check_evidence(data=evaluator.of.get("data"), named=f"--data {options.data}")
    folder = new_folder(
        options.out,
        problem.space.name,
        problem.table.device.name,
        command=words("search", options, {"out": None}),
        resumes=evaluator is not None,
    )
    # run.yaml, which marks a finished run, is written after all other files. Without it a search
    # with evaluations resumes from those in its folder.
    with not_left_empty(folder):
        if evaluator:
            problem = search_output.evaluated_by(problem, evaluator, options.evaluate_best, folder)
        search_output.tell_problem(problem)
        for size, reason in question.refused:
            say(f"size      {size_text(size)} is left out: {reason}")
        # The drawing engine starts beside the search, as that takes as long as a small search.
        warm_up()
        kept = f"evaluations are kept in {folder}" if evaluator else ""
        if options.storage:
            kept = "the study's trials are kept in its storage"
        with bars() as progress, keeping(kept):
            problems = tuple(
                replace(each, study=replace(each.study, progress=progress))
                for each in (problem, *question.problems[1:])
            )
            sized, posed = solve_sizes(Posed(problems, tuple(question.refused)))
        best = best_size(sized)
        problem = best.problem
        found = best.found
        if found.scores is not None:
            problem = search_output.learned_by(problem, found.scores, folder)
        points: tuple[FrontPoint, ...] = ()
        if options.front:
            several = len(posed.problems) > 1
            points = front_of_sizes(posed.problems) if several else pareto(problem)
        if trained:
            _inherit(trained, found, folder)
        others = answers(problem, found)
        if points:
            write_front(folder, problem, points)
        _draw(folder, problem, others, points)
        sizes = size_rows(sized, posed) if len(sized) + len(posed.refused) > 1 else []
        command = shlex.split(words("search", options))
        images = used_images(options, problem.scores, evaluator)
        write_run(folder, problem, found, command, trained, sizes=sizes, images=images)
    following = _next(folder, trained)
    document = search_output.document(
        problem, others, folder, following, points if options.front else None
    )
    document |= {"sizes": sizes} if sizes else {}
    emit(document, search_output.text(problem, others, folder, len(points), sizes))
    next_step(following)


def _draw(
    folder: Path, problem: Problem, others: Mapping[str, Found], points: Sequence[FrontPoint]
) -> None:
    """Write trajectory.png, and front.png where there is a front."""
    from nas.report.front import front_figure, front_picture
    from nas.report.trajectory import trajectory, trajectory_figure

    trajectory_figure(trajectory(problem, others[problem.engine])).save(folder / "trajectory.png")
    if points:
        front_figure(front_picture(problem, points, others)).save(folder / "front.png")


def _next(folder: Path, trained: str | None) -> str:
    """Return the next command: fine-tuning where weights were inherited, else the report."""
    data = _training_data(trained) if trained else None
    return shlex.join(
        ["nas", "finetune", str(folder), "--data", data] if data else ["nas", "report", str(folder)]
    )


def _training_data(folder: str) -> str | None:
    """Return the --data value of a supernet's training, or None where it was not recorded."""
    from nas.supernet.description import data_name

    description = Path(folder) / "supernet.yaml"
    return data_name(description) if description.is_file() else None


def _targets(options: SearchOptions) -> Sequence[float | None]:
    """Return one latency target in ms per device; None for a device without one."""
    given = options.latency_ms
    devices = options.device
    if given and len(given) not in (1, len(devices)):
        raise InputError(
            f"--latency-ms: {len(given)} targets for {len(devices)} devices (expected one, or one"
            f" per device). Fix: give {len(devices)} targets"
        )
    if not given:
        return [None] * len(devices)
    return given if len(given) == len(devices) else [given[0]] * len(devices)


def _several(problems: Sequence[Problem], options: SearchOptions, trained: str | None) -> None:
    """Search on several devices, after checking that their problems can be solved together."""
    from nas.cli.search_multi_device import search_several

    names = [problem.table.device.name for problem in problems]
    if len(set(names)) < len(names):
        raise InputError(
            f"--device: {', '.join(names)}: a device is named more than once. Fix: name each device"
            " once"
        )
    if any(problem.engine != "exact" for problem in problems):
        raise InputError(
            f"--engine {problems[0].engine}: does not search several devices. Fix: --engine exact"
        )
    for problem in problems:
        search_output.tell_problem(problem)
    search_several(problems, options, trained)


def _supernet_folder(supernet: str) -> str:
    """Return the folder of a finished supernet training."""
    path = Path(supernet)
    if not path.exists():
        raise InputError(
            f"--supernet {supernet}: there is no such training run. Fix: make one with nas train"
        )
    # scores.csv is written at the end of a training, so without it the training is not finished.
    folder = path.parent if path.is_file() else path
    if not (folder / "scores.csv").is_file():
        raise InputError(
            f"--supernet {supernet}: the training is not finished (scores.csv is missing). Fix: run"
            " the same nas train again"
        )
    return str(folder)


def _space_of(trained: str | None) -> str:
    """Return the file of a supernet's space, for a search that names no space itself."""
    if trained is None:
        raise InputError(
            "--space: is missing (expected the name or the file of a space). Fix: name one of `nas"
            " spaces`, or give a training to --supernet"
        )
    return str(Path(trained) / "space.yaml")


def _at(space: Space, trained: RecordedScores | None, asked: Sizes) -> Space:
    """Return the space at the requested sizes, or at those that the supernet was trained with."""
    if trained is None:
        return asked.apply(space)
    head = trained.scored.heads[0]
    if head.task != space.heads[0].task:
        space = space.with_head(*trained.scored.heads)
    if asked.segment is not None:
        own = "a classifier" if head.task == "classification" else "a head of its own"
        raise InputError(
            f"--segment {asked.segment}: the supernet has {own}, whose weights another head cannot use."
            " Fix: give its folder to --scores instead of --supernet"
        )
    if asked.classes not in (None, trained.scored.classes):
        raise InputError(
            f"--classes {asked.classes}: the supernet was trained on {trained.scored.classes}"
            " classes. Fix: leave it out"
        )
    return Sizes(asked.resolution or trained.scored.resolution, trained.scored.classes).apply(space)


def _inherit(supernet: str, found: Found, folder: Path) -> None:
    """Write the weights of the found member's slice of the supernet."""
    from nas.supernet.checkpoint import extract_to

    extract_to(supernet, found.architecture, folder / "weights.safetensors")
