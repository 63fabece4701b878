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
        """Return whether a run takes seconds, as it draws pictures."""
        return isinstance(self.use, tuple) and self.use[0] in ("report", "score")


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


def _results() -> Any:
    from nas.devices.board.replay import Replay

    return Replay(Path("bundle"))


def _profile_journal() -> Any:
    import nas
    from nas.latency.profile.run import profile
    from nas.testing.devices import FakeDevice

    return profile(nas.load_space(SPACE), FakeDevice(), Path("latency_tables/host"))[1]


SUBJECTS = [
    Subject("space", "search_spaces/small.yaml", "yaml", ("spaces", SPACE)),
    Subject(
        "space searched",
        "search_spaces/small.yaml",
        "yaml",
        (
            "search",
            "--space",
            SPACE,
            "--device",
            "toy",
            "--engine",
            "slimming",
            "--latency-ms",
            "0.3",
        ),
    ),
    Subject("architecture", "net.yaml", "yaml", ("predict", "net.yaml", "--device", "toy")),
    Subject(
        "architecture built",
        "net.yaml",
        "yaml",
        ("export", "net.yaml", "--to", "config", "--out", "x"),
    ),
    Subject(
        "table",
        "latency_tables/toy/table.csv",
        "csv",
        ("predict", "net.yaml", "--device", "toy"),
        ("'toy'",),
    ),
    Subject(
        "device",
        "latency_tables/toy/device.yaml",
        "yaml",
        ("predict", "net.yaml", "--device", "toy"),
    ),
    Subject(
        "unsupported",
        "latency_tables/toy/unsupported.csv",
        "csv",
        ("predict", "net.yaml", "--device", "toy"),
        optional=True,
    ),
    Subject("scores", "supernet/scores.csv", "csv", _scores),
    Subject("scores.yaml", "supernet/scores.yaml", "yaml", _scores),
    Subject(
        "scores searched",
        "supernet/scores.csv",
        "csv",
        (
            "search",
            "--space",
            SPACE,
            "--device",
            "toy",
            "--engine",
            "slimming",
            "--latency-ms",
            "0.3",
            "--scores",
            "supernet",
        ),
    ),
    Subject(
        "config",
        "options.yaml",
        "yaml",
        ("predict", "net.yaml", "--config", "options.yaml"),
        ("--device", "for device", "too long", "table.csv"),
    ),
    Subject("run", "run/run.yaml", "yaml", ("export", "run", "--to", "config", "--out", "x")),
    Subject("run reported", "run/run.yaml", "yaml", ("report", "run", "--out", "r/page.html")),
    Subject(
        "run's architecture",
        "run/architecture.yaml",
        "yaml",
        ("report", "run", "--out", "r/page.html"),
    ),
    Subject("trace", "run/trace.csv", "csv", ("report", "run", "--out", "r/page.html")),
    Subject(
        "fine-tuning",
        "run/finetune/finetune.yaml",
        "yaml",
        ("report", "run", "--out", "r/page.html"),
    ),
    Subject(
        "metrics", "run/finetune/metrics.csv", "csv", ("report", "run", "--out", "r/page.html")
    ),
    Subject(
        "fine-tuned weights",
        "run/finetune/weights.safetensors",
        "binary",
        ("export", "run", "--to", "torch", "--out", "x"),
    ),
    Subject(
        "supernet.yaml reported",
        "supernet/supernet.yaml",
        "yaml",
        ("report", "run", "--out", "r/page.html"),
    ),
    Subject("alpha", "supernet/alpha.csv", "csv", ("report", "run", "--out", "r/page.html")),
    Subject("supernet.yaml", "supernet/supernet.yaml", "yaml", _supernet),
    Subject("supernet's space", "supernet/space.yaml", "yaml", _supernet),
    Subject("supernet", "supernet/supernet.safetensors", "binary", _supernet),
    Subject(
        "supernet's journal",
        "supernet/evaluations.csv",
        "csv",
        ("score", "supernet", "--data", "digits", "--images", "60", "--widths", "1"),
        optional=True,
    ),
    Subject(
        "supernet's journal.yaml",
        "supernet/evaluations.yaml",
        "yaml",
        ("score", "supernet", "--data", "digits", "--images", "60", "--widths", "1"),
        optional=True,
    ),
    Subject(
        "evaluations",
        "run3/evaluations.csv",
        "csv",
        (
            "search",
            "--space",
            SPACE,
            "--device",
            "toy",
            "--engine",
            "slimming",
            "--score-by",
            "evaluate",
            "--supernet",
            "supernet",
            "--data",
            "digits",
            "--evaluate-images",
            "60",
            "--out",
            "run3",
        ),
        ("run3",),
    ),
    Subject(
        "evaluations as evidence",
        "run3/evaluations.csv",
        "csv",
        (
            "search",
            "--space",
            SPACE,
            "--device",
            "toy",
            "--engine",
            "slimming",
            "--latency-ms",
            "0.3",
            "--evidence",
            "run3",
        ),
        ("run3",),
    ),
    Subject("weights", "w.safetensors", "binary", _weights("w.safetensors")),
    Subject("checkpoint", "weights.pth", "binary", _weights("weights.pth")),
    Subject("plan", "bundle/plan.json", "json", _results, ("bundle",)),
    Subject(
        "results",
        "bundle/results.jsonl",
        "lines",
        ("profile", "--merge", "bundle", "--out", "x"),
        ("bundle",),
    ),
    Subject(
        "plan merged",
        "bundle/plan.json",
        "json",
        ("profile", "--merge", "bundle", "--out", "x"),
        ("bundle",),
    ),
    Subject(
        "profile journal",
        "latency_tables/host/journal.jsonl",
        "lines",
        _profile_journal,
        ("latency_tables/host",),
    ),
    Subject(
        "imported CSV",
        "mine.csv",
        "csv",
        ("profile", "--import", "mine.csv", "--device", "new", "--out", "x"),
    ),
    Subject(
        "imported once-for-all",
        "pixel.yaml",
        "yaml",
        ("profile", "--import", "pixel.yaml", "--device", "new", "--out", "x"),
    ),
    Subject(
        "imported FBNet",
        "lut.json",
        "lines",
        ("profile", "--import", "lut.json", "--device", "new", "--out", "x"),
    ),
    Subject(
        "calibration",
        "times.csv",
        "csv",
        ("profile", "--calibrate", "times.csv", "--device", "iphone12", "--out", "x"),
    ),
    Subject("metadata.csv", "photos/metadata.csv", "csv", _data("photos"), ("photos",)),
    Subject("metadata.jsonl", "lines/metadata.jsonl", "lines", _data("lines"), ("lines",)),
    Subject("image", "photos/3.png", "binary", _data("photos"), ("photos",), optional=True),
    Subject("parquet", "rows.parquet", "binary", _data("rows.parquet")),
    Subject(
        "onnx",
        "exports/model.onnx",
        "binary",
        ("predict", "exports/model.onnx", "--image", "photos/0.png"),
    ),
    Subject(
        "tflite",
        "exports/model.tflite",
        "binary",
        ("predict", "exports/model.tflite", "--image", "photos/0.png"),
    ),
    Subject(
        "photo",
        "photos/0.png",
        "binary",
        ("predict", "exports/model.onnx", "--image", "photos/0.png"),
    ),
    Subject(
        "exports",
        "exports/export.yaml",
        "yaml",
        ("export", "run", "--to", "config", "--out", "exports"),
        optional=True,
    ),
    Subject(
        "study",
        "study.db",
        "binary",
        (
            "search",
            "--space",
            SPACE,
            "--device",
            "toy",
            "--engine",
            "nsga2",
            "--trials",
            "4",
            "--storage",
            "sqlite:///study.db",
            "--study",
            "s1",
        ),
    ),
]
