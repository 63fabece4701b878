"""Export of a network: writes each target to a temporary path, compares it and moves it into place.

`nas.export.command` calls `export`. Conversion runs in another process (`nas.export.worker`), so
that a crash of a converter fails one target alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.convert.chain import Chain, OperationFailed
from nas.convert.worker import Worker
from nas.data.images import MEAN, STD
from nas.errors import InputError, NasError
from nas.export import chosen, load_target
from nas.export.images import RealImages
from nas.export.target import Images, Model, Outputs, Target
from nas.files import data_sha256, tree_sha256
from nas.locks import sole_writer
from nas.runs.exports import Record, aside, facts_of, size
from nas.runs.homes import check_free
from nas.runs.resolve import Source
from nas.temporary import scratch_folder
from nas.versions import versions

if TYPE_CHECKING:
    from nas.data import ImageData
    from nas.network import Network

Report = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        targets: entry of each file in export.yaml, by target.
        failed: reason why there is no file, by target.
        skipped: targets whose files existed and were complete.
        folder: folder of the files.
    """

    targets: dict[str, dict[str, Any]]
    failed: dict[str, str]
    skipped: tuple[str, ...]
    folder: Path

    def __repr__(self) -> str:
        return f"Exported({', '.join(self.targets) or 'nothing'} in {str(self.folder)!r})"


def export(
    source: Source,
    names: Sequence[str],
    real: RealImages | None = None,
    report: Report = print,
    command: str = "",
    output: str = "scores",
) -> Exported:
    """Export a network to the targets of these names.

    Files that exist and are complete are left as they are. A target that fails stops no other.

    Args:
        source: the network.
        names: keys of `nas.export.TARGETS`.
        real: images for targets that need some, to compare outputs and to measure accuracy on.
        report: called with a line on each step.
        command: the command line, for the record.
        output: of dense prediction: scores or labels.

    Raises:
        InputError: for an unknown target, for one whose package is missing or that needs images and
            gets none, and for weights of another network.
    """
    targets = {name: load_target(name) for name in chosen(names)}
    for name, target in targets.items():
        _check(name, target, real)
        _check_replaced(name, target, source)
    check_free(source.folder)
    # The record is read, and written anew for each file.
    with sole_writer(source.folder, "exporting into this folder", once=True):
        return _Export(source, real, report, command, output).run(targets)


def _check(name: str, target: Target, real: RealImages | None) -> None:
    """Raise InputError for a target that needs images and gets none."""
    if target.calibrated and real is None:
        raise InputError(f"--to {name}: takes activation ranges from images. Fix: give --data")


def _check_replaced(name: str, target: Target, source: Source) -> None:
    """Raise InputError where an export would replace what it reads, or a folder of other files."""
    path = source.folder / target.file
    if path.exists() and any(
        each.exists() and each.samefile(path) for each in (source.weights, Path(source.run)) if each
    ):
        raise InputError(
            f"--to {name}: {path} is what is exported, and would be replaced. Fix: --out with another"
            " folder"
        )
    # By its content, as a kill may have left one of ours that is not recorded yet.
    if target.mark is None or not path.is_dir() or (path / target.mark).exists():
        return
    others = sorted(each.name for each in path.iterdir() if each.name != ".DS_Store")
    if others:
        raise InputError(
            f"--to {name}: {path} is a folder of other files ({', '.join(others[:3])}), which the"
            " export would replace. Fix: --out with another folder"
        )


class _Export:
    """One export: the network, and the process that converts for it."""

    def __init__(
        self,
        source: Source,
        real: RealImages | None,
        report: Report,
        command: str,
        output: str,
    ) -> None:
        self.command = command
        self.output = output
        self.record = Record(source.folder)
        self.facts = facts_of(source)
        self.others = self.record.forget_others(self.facts)
        # Class names of an earlier export with --data are kept by one without.
        recorded = self.record.classes
        earlier = not source.are_named and len(recorded) == source.architecture.classes
        self.source = source.named(recorded) if earlier else source
        self.real = real
        self.report = report
        self.architecture = source.architecture
        self.dense = self.architecture.head.layout == "pyramid"
        self.worker = Worker("nas.export.worker")

    def run(self, targets: dict[str, Target]) -> Exported:
        """Export to all targets; see `export`."""
        # Loading the network here refuses weights of another one before anything is written.
        self.loaded = (
            any(target.weights for target in targets.values()) and self.network is not None
        )
        if others := [file for name, file in self.others.items() if name not in targets]:
            self.report(
                f"note: {', '.join(others)} in {self.source.folder} are of another network or other"
                " weights, and are no longer listed. Fix: export them again"
            )
        failed = dict[str, str]()
        skipped = list[str]()
        # The converter ends before the folder that it writes into is removed.
        with scratch_folder("nas-export-") as self.scratch, closing(self.worker):
            for name, target in targets.items():
                try:
                    if self._up_to_date(name, target):
                        skipped.append(name)
                        self.report(
                            f"{name}: {self.source.folder / target.file} exists and is complete"
                        )
                    else:
                        self._make(name, target)
                except NasError as error:
                    failed[name] = f"--to {name}: {error}"
        made = {name: self.record.targets[name] for name in targets if name not in failed}
        return Exported(made, failed, tuple(skipped), self.source.folder)

    def _up_to_date(self, name: str, target: Target) -> bool:
        """Return whether a file is complete and was compared on the same images."""
        entry = self.record.whole(name, self._made(target))
        return entry is not None and (
            self.real is None or target.run is None or entry["judged"] == self._images_sha256
        )

    def _make(self, name: str, target: Target) -> None:
        """Write a file, compare it, move it into place and record it.

        A complete file that was compared on other images is only compared again.
        """
        path = self.source.folder / target.file
        entry = self.record.whole(name, self._made(target))
        if entry is not None:
            self.report(f"{name}: comparing")
            self.record.put(name, entry | self._compared(name, target, path), self.about)
            return
        self.report(f"{name}: writing {path}")
        started = time.monotonic()
        with aside(path) as temporary:
            self._write(name, target, temporary)
            seconds = round(time.monotonic() - started, 2)
            compared = self._compared(name, target, temporary)
            # Before the old file is replaced: a kill must not leave its entry beside the new file.
            self.record.drop(name, self.about)
        self.record.put(
            name,
            {
                "file": target.file,
                "sha256": tree_sha256(path),
                "bytes": size(path),
                "seconds": seconds,
                "made": self._made(target),
                **({"note": target.note} if target.note else {}),
                **compared,
                "versions": _versions(target),
            },
            self.about,
        )

    def _write(self, name: str, target: Target, path: Path) -> None:
        """Write a file, in the worker where a converter is needed.

        Raises:
            NasError: naming the operation that the format cannot express.
        """
        if target.alone is None:  # nothing is converted, so nothing prints or crashes
            target.write(self.model, path)
            return
        try:
            self._ask(do="write", target=name, model=str(self._saved), path=str(path))
        except OperationFailed as error:
            raise NasError(self._culprit(name, error)) from error
        if not path.exists():
            raise NasError("the converter reported no error but wrote no file")

    def _culprit(self, name: str, error: Exception) -> str:
        """Return a message on the first operation that cannot be converted alone."""
        self.report(f"{name}: failed ({error}); looking for the operation")
        seen: set[tuple[str, str, str]] = set()
        for operation in self.architecture.operations():
            # Operations of one key are the same block at the same shape: one of them is enough.
            if operation.key in seen:
                continue
            seen.add(operation.key)
            path = self.scratch / f"alone-{len(seen)}{Path(load_target(name).file).suffix}"
            try:
                self._ask(
                    do="alone", target=name, chain=Chain.stack(operation).to_dict(), path=str(path)
                )
            except OperationFailed as reason:
                return f"cannot express {operation.name}, {operation}: {reason}"
        return f"cannot express the network, although it can each operation alone: {error}"

    def _compared(self, name: str, target: Target, path: Path) -> dict[str, Any]:
        """Return the comparison of a file with the network, as export.yaml has it.

        It has the differences of outputs and the accuracy. A file that cannot run here is inspected
        instead.

        Raises:
            NasError: when the outputs differ by more than the target tolerates.
        """
        if target.inspect:
            asked = {"do": "inspect", "target": name, "path": str(path), "model": str(self._saved)}
            return {"inspected": self._ask(**asked)["found"], "judged": None}
        if target.run is None:
            return {"judged": None}
        from nas.export.compare import differences

        # `judged` says on which images, so that other ones lead to another comparison.
        found: dict[str, Any] = {
            "judged": self._images_sha256,
            "tolerance": target.tolerance,
            "differences": {},
        }
        for kind, images in self._images.items():
            expected = self._expected[kind]
            outputs = self._run(name, path, images)
            # The file is not moved into place after any of these errors.
            try:
                apart = differences(expected, outputs)
            except ValueError as error:
                raise NasError(f"{error}, on {kind} images") from None
            found["differences"][kind] = asdict(apart)
            if kind == "real" and self.real:
                found["accuracy"] = self._accuracies(expected, outputs, self.real.evaluated)
            # A quantisation takes its ranges from images. Noise goes beyond them, so differences on
            # noise are recorded but not limited.
            if target.calibrated and kind == "random":
                continue
            # Scores of dense prediction may all be near to each other. What counts are the labels.
            if self.dense:
                if 100 - apart.top1_agreement > target.disagreement:
                    raise NasError(
                        f"it gives {100 - apart.top1_agreement:.2f} % of the pixels of {kind} images"
                        f" another class than the network (expected at most {target.disagreement:g})"
                    )
            elif apart.relative is not None and apart.relative > target.tolerance:
                raise NasError(
                    _beyond(apart.relative, target.tolerance, kind, found.get("accuracy"))
                )
        return found

    def _accuracies(self, expected: Outputs, found: Outputs, images: ImageData) -> dict[str, Any]:
        """Return the accuracy on real images before and after, in percent of the task's metric."""
        from nas.export.compare import accuracy, labels_of, miou

        about = {"images": len(images), "source": images.source}
        if not self.dense:
            labels = np.array(images.labels)
            pair = accuracy(expected, labels), accuracy(found, labels)
            return about | {"before": pair[0], "after": pair[1]}
        masks = np.asarray(images.masks)
        each = [
            miou(
                outputs if outputs.ndim == 3 else labels_of(outputs, self.architecture.resolution),
                masks,
                self.architecture.classes,
            )
            for outputs in (expected, found)
        ]
        return about | {"before": each[0], "after": each[1], "metric": "miou"}

    def _run(self, name: str, path: Path, images: Images) -> Outputs:
        """Return the outputs of a file for images, run in the worker; arrays go through files."""
        # Requests to the worker are small texts; arrays of images are not.
        inputs = self.scratch / "images.npy"
        outputs = self.scratch / "outputs.npy"
        np.save(inputs, images, allow_pickle=False)
        try:
            self._ask(
                do="run", target=name, path=str(path), images=str(inputs), outputs=str(outputs)
            )
        except OperationFailed as error:
            raise NasError(f"the exported file does not run: {error}") from error
        found: Outputs = np.load(outputs, allow_pickle=False)
        return found

    def _ask(self, **request: Any) -> dict[str, Any]:
        """Return the worker's answer.

        Raises:
            NasError: with the reason, where the target refused the request.
        """
        answer = self.worker.ask_again(**request)
        if "refused" in answer:
            raise NasError(answer["refused"])
        return answer

    @cached_property
    def network(self) -> Network:
        return _network(self.source)

    @cached_property
    def model(self) -> Model:
        source = self.source
        arch = self.architecture
        about = {
            "name": arch.name or "network",
            "description": (
                f"{arch.name or 'A network'} of space {arch.space or 'unknown'}, "
                f"{arch.resolution[0]}x{arch.resolution[1]}, {arch.classes} classes, "
                f"{source.provenance} weights"
            ),
            "author": "nas",
            "version": versions()["nas"],
            "weights": source.provenance,
            "preprocessing": (
                "turned as EXIF says, short side resized (bicubic), centre cropped, transparent"
                " pixels laid on the background"
            ),
            "background": source.background,
        }
        # `config` alone needs no weights, so the network is not built for it.
        state = self.network.state_dict() if self.loaded else {}
        calibration = np.asarray(self.real.calibration.images) if self.real else None
        return Model(arch, state, source.classes, about, calibration, self.output)

    @cached_property
    def about(self) -> dict[str, Any]:
        """Return the entries of export.yaml that describe all its files."""
        source = self.source
        return {
            "command": self.command,
            "run": source.run,
            **self.facts,
            "input": {
                "pixels": "RGB from 0 to 255",
                "mean": list(MEAN),
                "std": list(STD),
                "normalised": "inside every exported model; not in torch's and timm's weights",
            },
            "classes": list(source.classes) if source.are_named else len(source.classes),
        }

    @cached_property
    def _saved(self) -> Path:
        """Return a folder with the network in files, for the worker."""
        folder = self.scratch / "model"
        folder.mkdir()
        self.model.save(folder)
        return folder

    @cached_property
    def _images(self) -> dict[str, Images]:
        from nas.export.compare import random_images

        real = {"real": np.asarray(self.real.evaluated.images)} if self.real else {}
        return {"random": random_images(self.architecture.resolution), **real}

    @cached_property
    def _expected(self) -> dict[str, Outputs]:
        from nas.export.compare import labels_of, outputs_of

        found = {kind: outputs_of(self.network, images) for kind, images in self._images.items()}
        if not (self.dense and self.output == "labels"):
            return found
        size = self.architecture.resolution
        return {kind: labels_of(scores, size) for kind, scores in found.items()}

    @cached_property
    def _images_sha256(self) -> str | None:
        return (
            data_sha256([self.real.evaluated.fingerprint, len(self.real.evaluated)])
            if self.real
            else None
        )

    def _made(self, target: Target) -> str:
        """Return a hash of everything that decides the content of a target's file."""
        # Calibration images decide the ranges of a quantisation and nothing else.
        calibration = self.real.calibration if self.real and target.calibrated else None
        images = [calibration.fingerprint, len(calibration)] if calibration else None
        weights = self.about["weights"].get("sha256")
        source = self.source
        return data_sha256(
            [
                self.architecture.to_dict(),
                weights,
                source.classes,
                source.provenance,
                images,
                source.background,
                _versions(target),
                *([self.output] if self.dense else []),
            ]
        )


def _network(source: Source) -> Network:
    """Return the network in eval mode, with the weights of its file.

    Without a file they are random, and the same at every call.

    Raises:
        InputError: for weights of another network, or of another number of classes.
    """
    import torch

    from nas.network import build
    from nas.weights.network_file import read_network

    arch = source.architecture
    if source.weights is None:
        torch.manual_seed(0)
        return build(arch).eval()
    network = read_network(source.weights, arch).eval()
    classes = network.architecture.classes
    if classes != arch.classes:
        raise InputError(
            f"{source.weights}: has weights for {classes} classes (expected {arch.classes}). Fix:"
            " train a new head with `nas finetune --new-head`"
        )
    return network


def _beyond(relative: float, tolerance: float, kind: str, accuracy: dict[str, Any] | None) -> str:
    """Return the message for outputs that differ by more than the tolerance."""
    right = (
        f", with {accuracy['before']:.1f} % accuracy before and {accuracy['after']:.1f} % after"
        if accuracy
        else ""
    )
    return (
        f"its outputs differ from the network's by {relative:.3g} standard deviations (RMS) on"
        f" {kind} images{right} (expected at most {tolerance:g})"
    )


def _versions(target: Target) -> dict[str, str]:
    return {"nas": versions()["nas"], **{package: version(package) for package in target.packages}}
