"""The files that a user hands to nas, each with a command or a function that reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Call = Callable[[], Any]
SPACE = "./search_spaces/small.yaml"


@dataclass(frozen=True)
class Subject:
    """A file and what reads it.

    Attributes:
        name: of the subject.
        file: path in the workplace of `workplace.build`.
        kind: of the file, for `mutations.mutations`.
        use: words of a command, or a function that is called in the workplace.
        mentions: words of which a message must name one, beside the file itself.
        optional: whether the work may go on without the file.
    """

    name: str
    file: str
    kind: str
    use: Sequence[str] | Call
    mentions: tuple[str, ...] = ()
    optional: bool = False

    @property
    def slow(self) -> bool:
        """Return whether a run takes seconds, as it draws pictures or measures."""
        return isinstance(self.use, tuple) and (
            self.use[0] in ("report", "score") or self.use[:2] == ("profile", "--run")
        )


def _load(name: str, *arguments: Any) -> Call:
    """Return a call of a function of the public API."""

    def call() -> Any:
        import nas

        return getattr(nas, name)(*arguments)

    return call


def _scores() -> Any:
    import nas

    scores = nas.load_scores("supernet")
    return scores.accuracy(nas.load_space(SPACE).smallest())


def _images() -> Any:
    from nas.runs.images import read_images

    return read_images(Path("supernet/images.csv"))


def _supernet() -> Any:
    from nas.supernet.checkpoint import load_supernet

    return load_supernet("supernet")[0].space


def _weights(file: str) -> Call:
    def call() -> Any:
        import nas

        return nas.backbone(nas.load_architecture("net.yaml"), weights=file)

    return call


def _data(path: str) -> Call:
    """Return a call that reads a data set and decodes all of its images."""

    def call() -> Any:
        from nas.data import load_data

        data = load_data(path, (32, 32))
        return [len(data.train), len(data.train.labels)]

    return call


def results(folder: str) -> Call:
    """Return a call that reads the results of a bundle."""

    def call() -> Any:
        from nas.devices.board.replay import Replay

        replay = Replay(Path(folder))
        return [replay.measure(Path(entry["digest"])) for entry in replay.plan["files"]]

    return call


def write_again() -> Any:
    """Write the bundle `written`, or what is missing in it, with a converter that converts nothing."""
    from concurrent.futures import Future
    from unittest.mock import patch

    import nas
    from nas.convert.chain import OperationFailed
    from nas.latency.bundle.write import write_bundle

    class Refusing:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def prepare(self, chain: object) -> Future[Path]:
            future: Future[Path] = Future()
            future.set_exception(OperationFailed("no converter"))
            return future

        def close(self) -> None:
            pass

    with patch("nas.latency.bundle.write.Converter", Refusing):
        return write_bundle(nas.load_space(SPACE), "board", Path("written"), check_nets=2)


def _profile_journal() -> Any:
    import nas
    from nas.latency.profile.run import profile
    from nas.testing.devices import FakeDevice

    return profile(nas.load_space(SPACE), FakeDevice(), Path("latency_tables/host"))[1]


def _words(command: str) -> tuple[str, ...]:
    return tuple(command.split())


PREDICT = _words("predict net.yaml --device toy")
SEARCH = _words(f"search --space {SPACE} --device toy --engine slimming")
BEGUN = (*SEARCH, *_words("--latency-ms 0.3"))
POSTERIOR = (*BEGUN, *_words("--scores posterior"))
SCORE = _words("score supernet --data digits --images 60 --widths 1")
REPORT = _words("report run --out r/page.html")
MERGE = _words("profile --merge bundle --out x")
RUN = _words("profile --run models")

SUBJECTS = [
    Subject("space", "search_spaces/small.yaml", "yaml", _words(f"spaces {SPACE}")),
    Subject(
        "space searched", "search_spaces/small.yaml", "yaml", (*SEARCH, *_words("--latency-ms 0.3"))
    ),
    Subject("architecture", "net.yaml", "yaml", PREDICT),
    Subject(
        "architecture built", "net.yaml", "yaml", _words("export net.yaml --to config --out x")
    ),
    Subject("table", "latency_tables/toy/table.csv", "csv", PREDICT, ("'toy'",)),
    Subject("device", "latency_tables/toy/device.yaml", "yaml", PREDICT),
    Subject("unsupported", "latency_tables/toy/unsupported.csv", "csv", PREDICT, optional=True),
    Subject("scores", "supernet/scores.csv", "csv", _scores),
    Subject("scores.yaml", "supernet/scores.yaml", "yaml", _scores),
    Subject(
        "scores searched",
        "supernet/scores.csv",
        "csv",
        (*SEARCH, *_words("--latency-ms 0.3 --scores supernet")),
    ),
    Subject(
        "config",
        "options.yaml",
        "yaml",
        _words("predict net.yaml --config options.yaml"),
        ("--device", "for device", "too long", "table.csv"),
    ),
    Subject("run", "run/run.yaml", "yaml", _words("export run --to config --out x")),
    Subject("run reported", "run/run.yaml", "yaml", REPORT),
    Subject("run's architecture", "run/architecture.yaml", "yaml", REPORT),
    Subject("trace", "run/trace.csv", "csv", REPORT),
    Subject("fine-tuning", "run/finetune/finetune.yaml", "yaml", REPORT),
    Subject("metrics", "run/finetune/metrics.csv", "csv", REPORT),
    Subject(
        "fine-tuned weights",
        "run/finetune/weights.safetensors",
        "binary",
        _words("export run --to torch --out x"),
    ),
    Subject("check", "run/check-toy.yaml", "yaml", REPORT),
    Subject("front", "run/front.csv", "csv", REPORT),
    Subject("exports reported", "run/export/export.yaml", "yaml", REPORT),
    Subject(
        "run of several devices", "several/run.yaml", "yaml", _words("report several --out r.html")
    ),
    Subject("begun search", "begun/begun.yaml", "yaml", (*BEGUN, "--out", "begun"), ("begun",)),
    Subject("images", "supernet/images.csv", "csv", _images),
    Subject(
        "fine-tuning as evidence",
        "run/finetune/finetune.yaml",
        "yaml",
        (*BEGUN, "--evidence", "run"),
        ("--evidence",),
    ),
    Subject(
        "fine-tuning exported",
        "run/finetune/finetune.yaml",
        "yaml",
        _words("export run --to config --data digits --out x"),
    ),
    Subject("posterior", "posterior/scores.yaml", "yaml", POSTERIOR),
    Subject("posterior's law", "posterior/law.yaml", "yaml", POSTERIOR),
    Subject("posterior's rows", "posterior/corrections/scores.csv", "csv", POSTERIOR),
    Subject("posterior's rows.yaml", "posterior/corrections/scores.yaml", "yaml", POSTERIOR),
    Subject("supernet.yaml reported", "supernet/supernet.yaml", "yaml", REPORT),
    Subject("alpha", "supernet/alpha.csv", "csv", REPORT),
    Subject("supernet.yaml", "supernet/supernet.yaml", "yaml", _supernet),
    Subject("supernet's space", "supernet/space.yaml", "yaml", _supernet),
    Subject("supernet", "supernet/supernet.safetensors", "binary", _supernet),
    Subject("supernet's journal", "supernet/evaluations.csv", "csv", SCORE, optional=True),
    Subject("supernet's journal.yaml", "supernet/evaluations.yaml", "yaml", SCORE, optional=True),
    Subject(
        "evaluations",
        "run3/evaluations.csv",
        "csv",
        (
            *SEARCH,
            *_words(
                "--score-by evaluate --supernet supernet --data digits --evaluate-images 60 --out run3"
            ),
        ),
        ("run3",),
    ),
    Subject(
        "evaluations as evidence",
        "run3/evaluations.csv",
        "csv",
        (*SEARCH, *_words("--latency-ms 0.3 --evidence run3")),
        ("run3",),
    ),
    Subject("weights", "w.safetensors", "binary", _weights("w.safetensors")),
    Subject("checkpoint", "weights.pth", "binary", _weights("weights.pth")),
    Subject("plan", "bundle/plan.json", "json", results("bundle"), ("bundle",)),
    Subject("results", "bundle/results.jsonl", "lines", MERGE, ("bundle",)),
    Subject("plan merged", "bundle/plan.json", "json", MERGE, ("bundle",)),
    Subject("plan written", "written/plan.json", "json", write_again),
    Subject("plan run", "models/plan.json", "json", RUN, ("models",)),
    Subject("results run", "models/results.jsonl", "lines", RUN, ("models",)),
    Subject("model run", "models/files/2.tflite", "binary", RUN, ("models",)),
    Subject("phone's plan", "carried/plan.json", "json", results("carried"), ("carried",)),
    Subject(
        "phone's settings", "carried/results/device.txt", "text", results("carried"), ("carried",)
    ),
    Subject(
        "phone's result", f"carried/results/{1:032x}.txt", "text", results("carried"), ("carried",)
    ),
    Subject(
        "profile journal",
        "latency_tables/host/journal.jsonl",
        "lines",
        _profile_journal,
        ("latency_tables/host",),
    ),
    Subject(
        "imported CSV", "mine.csv", "csv", _words("profile --import mine.csv --device new --out x")
    ),
    Subject(
        "imported once-for-all",
        "pixel.yaml",
        "yaml",
        _words("profile --import pixel.yaml --device new --out x"),
    ),
    Subject(
        "imported FBNet",
        "lut.json",
        "lines",
        _words("profile --import lut.json --device new --out x"),
    ),
    Subject(
        "calibration",
        "times.csv",
        "csv",
        _words("profile --calibrate times.csv --device iphone12 --out x"),
    ),
    Subject("metadata.csv", "photos/metadata.csv", "csv", _data("photos"), ("photos",)),
    Subject("metadata.jsonl", "lines/metadata.jsonl", "lines", _data("lines"), ("lines",)),
    Subject("image", "photos/3.png", "binary", _data("photos"), ("photos",), optional=True),
    Subject("parquet", "rows.parquet", "binary", _data("rows.parquet")),
    Subject(
        "onnx",
        "exports/model.onnx",
        "binary",
        _words("predict exports/model.onnx --image photos/0.png"),
    ),
    Subject(
        "tflite",
        "exports/model.tflite",
        "binary",
        _words("predict exports/model.tflite --image photos/0.png"),
    ),
    Subject(
        "photo", "photos/0.png", "binary", _words("predict exports/model.onnx --image photos/0.png")
    ),
    Subject(
        "exports",
        "exports/export.yaml",
        "yaml",
        _words("export run --to config --out exports"),
        optional=True,
    ),
    Subject(
        "study",
        "study.db",
        "binary",
        _words(
            f"search --space {SPACE} --device toy --engine nsga2 --trials 4 --storage sqlite:///study.db --study s1"
        ),
    ),
]
