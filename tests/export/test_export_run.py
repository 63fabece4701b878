"""An export as a whole: what is made, skipped, refused, and what an interruption leaves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nas.export
import nas.export.run
import nas.export.worker
import nas.extras
from nas.convert.chain import Chain, OperationFailed
from nas.data import ImageData
from nas.errors import InputError, NasError
from nas.export.compare import outputs_of
from nas.export.images import RealImages
from nas.export.run import Exported, export
from nas.export.target import Images, Model, Outputs, Target
from nas.extras import MissingExtra
from nas.files import YamlFile
from nas.runs.resolve import Source, find_source
from nas.space import Architecture
from nas.weights import load_state_dict


@dataclass
class Fake:
    """A target whose file is the network itself, and its mishaps.

    Attributes:
        error: what is added to every output.
        stops: what `write` raises after it has begun.
        cannot: the kind of operation that cannot be converted.
    """

    error: float = 0.0
    stops: BaseException | None = None
    cannot: str = ""
    written: int = 0
    ran: int = 0
    target: Target = field(init=False)

    def __post_init__(self) -> None:
        self.target = Target(
            "model.fake", self.write, packages=("torch",), run=self.run, alone=self.alone
        )

    def write(self, model: Model, path: Path) -> None:
        self.written += 1
        path.mkdir()
        model.save(path)
        if self.stops:
            raise self.stops
        if any(operation.spec.kind == self.cannot for operation in model.architecture.operations()):
            raise RuntimeError("no such operator")

    def run(self, path: Path, images: Images) -> Outputs:
        self.ran += 1
        return outputs_of(Model.load(path).network(), images) + np.float32(self.error)

    def alone(self, chain: Chain, path: Path) -> None:
        if chain.blocks[0].kind == self.cannot:
            raise RuntimeError("no such operator")


class Here:
    """The worker in this process."""

    def __init__(self, module: str) -> None:
        assert module == "nas.export.worker"

    def ask(self, **request: Any) -> dict[str, Any]:
        try:
            return nas.export.worker._answer(request)
        except Exception as error:
            raise OperationFailed(f"{type(error).__name__}: {error}") from None

    ask_again = ask  # this process is not ended from outside

    def close(self) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake()
    load = lambda name: made.target if name == "fake" else nas.export.load_target(name)  # noqa: E731
    monkeypatch.setitem(nas.export.TARGETS.ours, "fake", "nowhere:TARGET")
    for module in (nas.export.run, nas.export.worker):
        monkeypatch.setattr(module, "load_target", load)
    monkeypatch.setattr(nas.export.run, "Worker", Here)
    return made


@pytest.fixture
def source(tiny: Callable[..., Architecture], make_run: Callable[..., Path]) -> Source:
    return find_source(str(make_run(tiny("swiftformer_xs", 32, classes=3))))


def real(count: int = 6, calibrate: int = 4) -> RealImages:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    data = ImageData(images, np.arange(count) % 3, ("a", "b", "c"), 0, "made up", "fingerprint")
    return RealImages(
        replace(data, images=images[:calibrate], labels=data.labels[:calibrate]), data
    )


def quiet(text: str) -> None:
    """No report."""


def run(source: Source, *names: str, images: RealImages | None = None) -> Exported:
    return export(source, names, images, quiet)


def files(source: Source) -> list[str]:
    return sorted(path.name for path in source.folder.iterdir()) if source.folder.exists() else []


def test_what_is_recorded(source: Source, fake: Fake) -> None:
    found = run(source, "torch", "fake", images=real())
    assert found.failed == {} and found.skipped == ()
    assert files(source) == ["architecture.yaml", "export.yaml", "model.fake", "model.safetensors"]
    said = YamlFile(source.folder / "export.yaml").data
    assert said["format"] == "nas-export-1" and list(said["targets"]) == ["config", "torch", "fake"]
    assert said["weights"]["provenance"] == "inherited" and len(said["weights"]["sha256"]) == 64
    entry = said["targets"]["fake"]
    assert (
        entry["differences"]["random"]["relative"] < 1e-6
        and entry["differences"]["real"]["images"] == 6
    )
    assert (
        entry["accuracy"]["before"] == entry["accuracy"]["after"]
        and entry["accuracy"]["images"] == 6
    )
    assert {"sha256", "bytes", "seconds", "tolerance"} <= entry.keys() and entry[
        "versions"
    ].keys() == {"nas", "torch"}
    assert "differences" not in said["targets"]["torch"], "nothing was converted"
    assert said["classes"] == 3 and run(source.named(("a", "b", "c")), "config").failed == {}
    assert YamlFile(source.folder / "export.yaml").data["classes"] == ["a", "b", "c"]
    run(source, "config")
    assert YamlFile(source.folder / "export.yaml").data["classes"] == [
        "a",
        "b",
        "c",
    ], "names are kept"


def test_the_same_again_makes_nothing_again(source: Source, fake: Fake) -> None:
    first = run(source, "torch", "fake", images=real())
    stamps = {path: path.stat().st_mtime_ns for path in source.folder.rglob("*")}
    for images in (real(), None):
        again = run(source, "torch", "fake", images=images)
        assert again.skipped == ("config", "torch", "fake") and again.targets == first.targets
    assert {path: path.stat().st_mtime_ns for path in source.folder.rglob("*")} == stamps
    assert fake.written == 1


def test_other_images_compare_anew_and_convert_nothing(source: Source, fake: Fake) -> None:
    run(source, "fake")
    assert (
        "real" not in YamlFile(source.folder / "export.yaml").data["targets"]["fake"]["differences"]
    )
    found = run(source, "fake", images=real())
    assert fake.written == 1 and fake.ran == 3 and found.skipped == ()
    assert found.targets["fake"]["accuracy"]["images"] == 6
    assert run(source, "fake", images=real(count=3)).targets["fake"]["accuracy"]["images"] == 3


@pytest.mark.parametrize("change", ["weights", "classes", "file", "architecture"])
def test_what_changed_is_made_anew(source: Source, fake: Fake, change: str) -> None:
    run(source, "fake")
    if change == "weights":
        assert source.weights is not None
        tensors = load_state_dict(source.weights)
        tensors["head.classifier.bias"] += 1
        nas.export.target.save_state(source.weights, tensors, source.architecture, ())
    elif change == "classes":
        source = source.named(("a", "b", "c"))
    elif change == "file":
        (source.folder / "model.fake" / "about.json").write_text("{}")
    else:
        source = replace(source, architecture=replace(source.architecture, name="other"))
    assert run(source, "fake").skipped == () and fake.written == 2
    assert run(source, "fake").skipped == ("fake",)


@pytest.mark.parametrize("error", [1.0, float("nan")])
def test_beyond_tolerance_there_is_no_file(source: Source, fake: Fake, error: float) -> None:
    fake.error = error
    found = run(source, "fake", "config")
    reason = (
        "differ from the network's by"
        if error == 1
        else "not finite (inf or NaN), on random images"
    )
    assert found.failed.keys() == {"fake"} and reason in found.failed["fake"]
    assert found.failed["fake"].startswith("--to fake: ")
    assert files(source) == ["architecture.yaml", "export.yaml"], "the other target is there"


def test_noise_is_not_what_a_quantisation_is_for(
    source: Source, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.target = replace(fake.target, calibrated=True)
    images = real()
    exact = fake.run

    def only_noise(path: Path, given: Any) -> Any:
        return exact(path, given) + np.float32(len(given) != 6)

    fake.target = replace(fake.target, run=only_noise)
    assert run(source, "fake", images=images).failed == {}
    with pytest.raises(
        InputError, match=r"--to fake: takes activation ranges from images\. Fix: give --data"
    ):
        run(source, "fake")


def test_an_operation_that_cannot_be_expressed_is_named(source: Source, fake: Fake) -> None:
    fake.cannot = "conv_encoder"
    reason = run(source, "fake").failed["fake"]
    assert "cannot express stage1_block1, conv_encoder(" in reason and "no such operator" in reason
    assert files(source) == []


def test_a_network_that_cannot_be_expressed_as_a_whole(source: Source, fake: Fake) -> None:
    fake.stops = RuntimeError("too deep")
    assert (
        "cannot express the network, although it can each operation alone"
        in run(source, "fake").failed["fake"]
    )


def test_what_a_target_refuses_is_its_reason(source: Source, fake: Fake) -> None:
    fake.stops = NasError("cannot express this")
    assert run(source, "fake").failed["fake"] == "--to fake: cannot express this"


@pytest.mark.parametrize("again", [False, True])
def test_an_interruption_leaves_nothing_finished(source: Source, fake: Fake, again: bool) -> None:
    """Neither a file nor an entry, or those of before."""
    if again:
        run(source, "fake")
        before = YamlFile(source.folder / "export.yaml").data["targets"]["fake"]
        source = source.named(("a", "b", "c"))
    fake.stops = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run(source, "fake")
    assert files(source) == (["export.yaml", "model.fake"] if again else [])
    if again:
        assert YamlFile(source.folder / "export.yaml").data["targets"]["fake"] == before
    fake.stops = None
    assert run(source, "fake").failed == {} and run(source, "fake").skipped == ("fake",)


def test_a_kill_between_file_and_record_is_made_good(
    source: Source, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(source, "fake")
    source = source.named(("a", "b", "c"))

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(nas.export.run.Record, "put", kill)
        run(source, "fake")
    assert YamlFile(source.folder / "export.yaml").data["targets"] == {}, (
        "no old checksum beside a new file"
    )
    assert run(source, "fake").skipped == () and run(source, "fake").skipped == ("fake",)


def test_files_of_other_weights_are_no_longer_listed(
    source: Source, fake: Fake, make_run: Callable[..., Path], tiny: Callable[..., Architecture]
) -> None:
    """What is recorded of the network holds for every file that is listed."""
    run(source.named(("a", "b", "c")), "config")
    other = make_run(tiny("swiftformer_xs", 32, classes=3), name="other") / "weights.safetensors"
    given = find_source(source.run, other)
    said: list[str] = []
    export(given, ["fake"], None, said.append)
    recorded = YamlFile(source.folder / "export.yaml").data
    assert list(recorded["targets"]) == ["fake"] and recorded["weights"]["provenance"] == "given"
    assert recorded["classes"] == 3, "names of another network's classes are not taken over"
    assert said[0].startswith("note: architecture.yaml in ") and "export them again" in said[0]


@pytest.mark.parametrize("target", ["config", "torch"])
def test_what_is_exported_is_not_replaced(source: Source, target: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    source.architecture.save(folder / "architecture.yaml")
    assert source.weights is not None
    shutil.copyfile(source.weights, folder / "model.safetensors")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    given = find_source(str(folder / "architecture.yaml"), folder / "model.safetensors", folder)
    with pytest.raises(
        InputError, match=r"is what is exported, and would be replaced\. Fix: --out"
    ):
        run(given, target)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_of_the_user_is_not_replaced(source: Source, fake: Fake) -> None:
    fake.target = replace(fake.target, mark="architecture.yaml")
    checkout = source.folder / "model.fake"
    checkout.mkdir(parents=True)
    (checkout / "setup.py").write_text("mine")
    with pytest.raises(InputError, match=r"model\.fake is a folder of other files \(setup\.py\)"):
        run(source, "fake")
    assert (checkout / "setup.py").read_text() == "mine"
    assert files(source) == ["model.fake"] and not fake.written


def test_a_missing_package_names_the_extra(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"onnxscript": "onnx", "coremltools": "coreml"}
    monkeypatch.setattr(
        nas.extras, "find_spec", lambda module: None if module in missing else object()
    )
    for module, target in missing.items():
        with pytest.raises(MissingExtra, match=f"--to {target} needs {module}") as caught:
            run(source, "config", target)
        assert (caught.value.extra, caught.value.module) == (target, module)
    assert files(source) == []


def test_weights_of_another_network_or_number_of_classes_are_refused(
    source: Source, tiny: Callable[..., Architecture], make_run: Callable[..., Path]
) -> None:
    other = make_run(tiny("swiftformer_xs", 32, classes=5), name="other") / "weights.safetensors"
    with pytest.raises(InputError, match=r"has weights for 5 classes \(expected 3\)"):
        run(replace(source, weights=other), "torch")
    other = make_run(tiny("emo_1m", 32, classes=3), name="emo") / "weights.safetensors"
    with pytest.raises(InputError, match=r"emo/weights.safetensors"):
        run(replace(source, weights=other), "torch")
    assert files(source) == []


def test_random_weights_are_the_same_every_time(source: Source, fake: Fake) -> None:
    bare = replace(source, weights=None, provenance="random")
    run(bare, "fake")
    assert run(bare, "fake").skipped == ("fake",)
    assert YamlFile(source.folder / "export.yaml").data["weights"] == {"provenance": "random"}
