"""All data that a report shows of a run, read from its folder, and the list of missing parts.

`nas.report.command` calls `load_runs`. Each missing part names the command that makes it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from nas import resources
from nas.accuracy import RecordedScores
from nas.devices.kinds import KINDS, DeviceKind
from nas.errors import InputError
from nas.files import YamlFile
from nas.report.alpha import Alpha, read_alpha
from nas.report.beside import Trained, read_beside
from nas.report.breakdown import (
    Bar,
    Breakdown,
    TableRows,
    operations,
    predicted,
    read_check,
    table_rows,
)
from nas.report.diagram import Drawing, drawing
from nas.report.front import Front, read_front
from nas.report.sources import Sources, find_file, find_sources
from nas.report.training import FOLDERS, Fit, read_fit
from nas.report.trajectory import Trajectory, read_trajectory
from nas.runs.schema import ARCHITECTURE_FILE, WEIGHTS_FILE, About, Part, read_about
from nas.search import Scores
from nas.space import Architecture
from nas.space.architecture import read_architecture
from nas.space.place import Place
from nas.supernet.description import data_name
from nas.tasks import metric_words
from nas.validation import validated


@dataclass(frozen=True)
class LeftOut:
    """A part that the run has no data for.

    Attributes:
        reason: why it is missing.
        command: the command that makes the data; empty where there is none.
    """

    part: str
    reason: str
    command: str = ""


@dataclass(frozen=True)
class RunReport:
    """One search on one device, and the later results in its folder.

    Attributes:
        name: of the run, with the device where several were searched together.
        breakdown: on the run's device; None where neither the table nor a check exists.
        others: checks on other devices.
        fits: fine-tunings, finished or not.
        beside: the found network and others that were trained on the same images; empty without any.
        left_out: the missing parts, in the order of the next steps.
        before: the commands that made the inputs of the search, as far as recorded.
        after: the commands that used the result.
    """

    folder: Path
    name: str
    about: About
    architecture: Architecture
    front: Front
    trajectory: Trajectory | None
    drawing: Drawing
    breakdown: Breakdown | None
    others: tuple[Breakdown, ...]
    alpha: Alpha | None
    fits: tuple[Fit, ...]
    beside: tuple[Trained, ...]
    exports: Exports | None
    rows: TableRows | None
    scores: Scores | None
    left_out: tuple[LeftOut, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def device(self) -> str:
        return self.about.table.device

    @property
    def recorded(self) -> RecordedScores | None:
        """Return the scores where they are a supernet's measurements, else None.

        These scores record their images and the accuracy of the largest member.
        """
        return self.scores if isinstance(self.scores, RecordedScores) else None

    @property
    def operations(self) -> tuple[Bar, ...]:
        """Return the network's operations, with their latencies where known."""
        return (
            self.breakdown.bars
            if self.breakdown
            else operations(self.architecture, self.about.result.attention)
        )


def load_runs(folder: str | Path) -> list[RunReport]:
    """Return the reports of a run folder: one, or one per device that was searched together.

    Raises:
        InputError: when there is no finished run or a file in it is damaged, naming the file and
            the reason.
    """
    root = Path(folder)
    abouts = read_about(root)
    return [_load(root, about, len(abouts) > 1) for about in abouts.values()]


def _load(folder: Path, about: About, several: bool) -> RunReport:
    """Return the report of one search in a run folder."""
    arch = _architecture(folder, about, several)
    sources = find_sources(folder, about, arch)
    front, no_front = read_front(
        [folder / (f"front-{about.table.device}.csv" if several else "front.csv")], about, sources
    )
    steps, no_steps = _trajectory(folder, about, sources, several)
    estimate = _estimate(arch, about, sources)
    bars = operations(arch, about.result.attention)
    checks = [read_check(path, bars, estimate) for path in sorted(folder.glob("check-*.yaml"))]
    # A check on the run's own device also has measured latencies; without one, show the table's
    # prediction.
    own = next((check for check in checks if check.device == about.table.device), None)
    shown = own or estimate
    alpha = _alpha(folder, about, arch)
    fits = tuple(fit for name in FOLDERS if (fit := read_fit(folder / name)))
    exports = read_exports(folder / "export" / "export.yaml")
    # Only a supernet has alphas; the accuracy law does not.
    trained = about.supernet is not None or about.scores.kind != "law"
    left_out = _left_out(
        folder,
        about,
        sources,
        fits,
        {
            "Pareto front": no_front,
            "trajectory": no_steps,
            "breakdown": "" if shown else sources.reason,
            "alpha": (
                ""
                if alpha or not trained
                else "alpha.csv of the training is missing beside the scores of this search"
            ),
            "fine-tuning": (
                ""
                if any(fit.best for fit in fits)
                else (
                    "not finished"
                    if fits
                    else "not done yet; requires a data set (nas finetune --help)"
                )
            ),
            "measured latency": "" if own else "not measured yet",
            "exports": (
                ""
                if exports
                else "not finished"
                if (folder / "export").is_dir()
                else "not done yet"
            ),
        },
    )
    name = folder.resolve().name
    return RunReport(
        folder,
        f"{name} on {about.table.device}" if several else name,
        about,
        arch,
        front,
        steps,
        drawing(arch, shown.bars if shown else bars),
        shown,
        tuple(check for check in checks if check is not own),
        alpha,
        fits,
        read_beside(folder, arch, fits, sources.table),
        exports,
        table_rows(sources.table, arch) if sources.table else None,
        sources.scores,
        left_out,
        (*_profiling(sources), *_training(folder, about)),
        (
            *(fit.command for fit in fits),
            *([exports.command] if exports else []),
            *(
                f"nas check {shlex.quote(str(folder))} --device {shlex.quote(check.device)}"
                for check in checks
            ),
        ),
    )


def _profiling(sources: Sources) -> Iterator[str]:
    """Yield the command that measured the table for this space; nothing for an estimated table."""
    for entry in sources.profiled:
        size, _, classes = entry.resolution.partition("/")
        if (entry.name, size) == (
            sources.about.space.name,
            "x".join(map(str, sources.about.space.resolution)),
        ):
            task = ["--classes", classes] if classes.isdecimal() else []
            yield shlex.join(
                [
                    "nas",
                    "profile",
                    "--space",
                    entry.space,
                    "--device",
                    sources.about.table.device,
                    "--resolution",
                    size,
                    *task,
                ]
            )


def _training(folder: Path, about: About) -> Iterator[str]:
    """Yield the command that trained the supernet, where it is recorded."""
    path = _training_file(folder, about)
    command = YamlFile(path).data.get("command") if path else None
    if isinstance(command, str):
        yield command


def _training_file(folder: Path, about: About) -> Path | None:
    """Return the path of the description of the supernet's training, or None."""
    return (
        find_file(folder, str(Path(about.supernet) / "supernet.yaml")) if about.supernet else None
    )


def _architecture(folder: Path, about: About, several: bool) -> Architecture:
    """Return the found architecture; raise InputError where run.yaml describes another one."""
    path = folder / ARCHITECTURE_FILE
    if several and not path.is_file():
        path = folder / f"best-{about.table.device}.yaml"
    arch = read_architecture(path)
    result = about.result
    same = (arch.widths, arch.depths, arch.params) == (result.widths, result.depths, result.params)
    if not same or len(result.attention) != len(arch.stages):
        raise InputError(
            f"{path}: is not the network that {folder / 'run.yaml'} records. Fix: search again with"
            " a new --out"
        )
    return arch


def _trajectory(
    folder: Path, about: About, sources: Sources, several: bool
) -> tuple[Trajectory | None, str]:
    """Return the steps of the search, and the reason where expected steps are missing."""
    if several:
        # The exact engine, which searches several devices, takes no steps.
        return None, ""
    steps = read_trajectory(folder / "trace.csv", about, sources)
    return (
        steps,
        "" if steps else "the search took no step: the space's largest member is fast enough",
    )


def _estimate(arch: Architecture, about: About, sources: Sources) -> Breakdown | None:
    return predicted(arch, about.result.attention, sources.table) if sources.table else None


def _alpha(folder: Path, about: About, arch: Architecture) -> Alpha | None:
    """Return the shares of the supernet's training, or of the folder of its scores.

    `nas train` writes both files into one folder.
    """
    trained = about.supernet or (about.scores.file and str(Path(about.scores.file).parent))
    if not trained:
        return None
    path = find_file(folder, str(Path(trained) / "alpha.csv"), resources.EXPERIMENTS)
    dropped = {
        str(Place.block(index, position))
        for index, stage in enumerate(arch.stages)
        for position, block in enumerate(stage.blocks)
        if block.kind == "identity"
    }
    return read_alpha(path, frozenset(dropped)) if path else None


def _left_out(
    folder: Path, about: About, sources: Sources, fits: Sequence[Fit], reasons: dict[str, str]
) -> tuple[LeftOut, ...]:
    """Return the missing parts, each with its reason and the command that makes it.

    The order of `commands` is the order in which the page shows them.
    """
    run = shlex.quote(str(folder))
    device = shlex.quote(about.table.device)
    again = without(about.command, "--out")
    # Older runs did not record the kind of device; there the table's device has it.
    kind = KINDS.get(about.table.kind or (sources.table.device.kind if sources.table else ""))
    target = kind.export_target if kind else DeviceKind.export_target
    commands = {
        "fine-tuning": fits[0].command if fits else _finetuning(folder, about, run),
        "exports": f"nas export {run} --to {target}",
        "measured latency": f"nas check {run} --device {device}",
        "trajectory": "",
        "Pareto front": f"{again} --front",
        "published members": again,
        "breakdown": again,
        "alpha": next(_training(folder, about), ""),
    }
    available = about.published or sources.problem
    reasons = {**reasons, "published members": "" if available else sources.reason}
    return tuple(
        LeftOut(part, reasons[part], runnable(command))
        for part, command in commands.items()
        if reasons[part]
    )


def _finetuning(folder: Path, about: About, run: str) -> str:
    """Return the command that fine-tunes on the supernet's data; "" where the data is unknown."""
    path = _training_file(folder, about)
    name = data_name(path) if path else None
    if name is None:
        return ""
    start = "" if (folder / WEIGHTS_FILE).is_file() else " --from-scratch"
    return f"nas finetune {run} --data {shlex.quote(name)}{start}"


def runnable(command: str) -> str:
    """Return a recorded command with its words quoted; "" where it is not one of nas.

    Readers paste it into a shell, and the record may be of somebody else.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    return shlex.join(words) if words[:1] == ["nas"] else ""


def without(command: str, *options: str) -> str:
    """Return a command line without some options that take a value.

    A text that is not a valid shell command is returned unchanged.
    """
    try:
        words: Sequence[str] = shlex.split(command)
    except ValueError:
        return command
    # Drop `--name=value`, and `--name` with the word that follows it.
    kept = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if word.partition("=")[0] not in options and before not in options
    ]
    return shlex.join(kept)


class _Differences(Part):
    images: int
    relative: float | None
    top1_agreement: float


class _Accuracy(Part):
    images: int
    before: float
    after: float
    metric: str = "accuracy"


class _Target(Part):
    file: str
    bytes: int
    note: str = ""
    differences: dict[str, _Differences] = Field(default_factory=dict)
    accuracy: _Accuracy | None = None


class _Weights(Part):
    provenance: str


class _ExportFile(Part):
    """The file export.yaml that `nas export` writes."""

    format: Literal["nas-export-1"]
    command: str
    weights: _Weights
    targets: dict[str, _Target]


@dataclass(frozen=True)
class Export:
    """One exported file.

    Attributes:
        facts: results of its comparison with the network, as text.
    """

    target: str
    file: str
    bytes: int
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Exports:
    """The exported files of a run.

    Attributes:
        weights: the provenance of their weights.
        command: the last command that exported some.
    """

    files: tuple[Export, ...]
    weights: str
    command: str


def read_exports(path: Path) -> Exports | None:
    """Return the finished exports of a run; None where there are none.

    Raises:
        InputError: for a damaged file, naming line, key and reason.
    """
    if not path.is_file():
        return None
    file = YamlFile(path)
    record = validated(file, _ExportFile, file.data)
    files = tuple(
        Export(name, t.file, t.bytes, tuple(_facts(t))) for name, t in record.targets.items()
    )
    return Exports(files, record.weights.provenance, record.command) if files else None


def _facts(target: _Target) -> Iterator[str]:
    """Yield sentences on how an exported file differs from the network."""
    for kind, apart in target.differences.items():
        if apart.relative is None:
            yield f"on {apart.images} {kind} images: same class for {apart.top1_agreement:.4g} % of pixels"
            continue
        yield (
            f"on {apart.images} {kind} images: outputs differ by {apart.relative:.2g} standard"
            f" deviations (RMS), same top-1 on {apart.top1_agreement:.4g} %"
        )
    if target.accuracy:
        metric = metric_words(target.accuracy.metric)
        yield (
            f"{metric} {target.accuracy.after:.2f} % (network: {target.accuracy.before:.2f} %)"
            f" on {target.accuracy.images} images"
        )
    if target.note:
        yield target.note
