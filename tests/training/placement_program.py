"""Trains and evaluates on a device, and writes what came out: `placement_program.py DEVICE FOLDER`.

`test_device_placement.py` runs it on the CPU and on the device of `fake_device`.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import nas
from nas.accuracy.single_moves import variants
from nas.data import Splits, load_data
from nas.finetune.options import Recipe as FinetuneRecipe
from nas.finetune.run import finetune
from nas.space import Space, load_space, space_names
from nas.supernet.checkpoint import load_supernet
from nas.supernet.choices import GumbelSoftmax
from nas.supernet.options import Recipe
from nas.supernet.sensitivity import Evaluator
from nas.supernet.supernet import Supernet
from nas.supernet.train import train
from nas.training.metrics import Progress

# AdamW's own eps scales gradients that are nothing but rounding up to whole steps. Its defaults are
# changed in place, as another library looks for the class.
init = torch.optim.AdamW.__init__
torch.optim.AdamW.__init__ = functools.partialmethod(init, eps=1e-3)  # type: ignore[assignment]


class Stop(BaseException):
    pass


def stop_once(progress: Progress) -> None:
    raise Stop


def finetuned(folder: Path, data: Splits, device: str) -> None:
    """A network with a teacher, mixed images and a moving average, stopped and resumed."""
    arch = load_space("efficientformer_small").smallest().at((32, 32), 10)
    arch.save(folder / "small.yaml")
    torch.manual_seed(1)
    save_file(nas.build(arch).state_dict(), folder / "teacher.safetensors")
    recipe = FinetuneRecipe(
        epochs=2, batch=20, accumulate=2, distill="soft", clip_norm=1.0, mix=1.0, drop_path=0.2,
        loss="bce", layer_decay=0.9, checkpointing=True, flip=False,
    )  # fmt: skip
    for report in (stop_once, lambda progress: None):
        try:
            finetune(
                folder / "small.yaml",
                data,
                recipe,
                out=folder / "finetuned",
                from_scratch=True,
                teacher=str(folder / "small.yaml"),
                teacher_weights=folder / "teacher.safetensors",
                report=report,
                report_every=2,
                save_every=0,
                device=device,
            )
        except Stop:
            continue


def trained(folder: Path, space: Space, data: Splits, device: str) -> None:
    """A supernet by every way of sampling, stopped and resumed."""
    ways: dict[str, dict[str, Any]] = {
        "one": {"narrow": 0.7, "drop_path": 0.2, "ema": 0.9},
        "soft": {"sampling": "soft", "noise": "gumbel", "optimizer": "sgd"},
        "sandwich": {"sandwich": 1, "optimizer": "lion", "learning_rate": 1e-6, "alpha_rate": 1e-6},
    }
    for name, way in ways.items():
        recipe = Recipe(**{"epochs": 2, "batch": 30, "flip": False, **way})
        for report in (stop_once, lambda progress: None):
            try:
                train(
                    space,
                    data.train,
                    recipe,
                    folder / name,
                    held_out=data.held_out,
                    report=report,
                    report_every=1,
                    save_every=0,
                    device=device,
                )
            except Stop:
                continue


def scored(folder: Path, data: Splits, device: str) -> list[list[float]]:
    """Loss and accuracy of a few members of the trained supernet."""
    supernet, _ = load_supernet(folder / "one")
    evaluator = Evaluator(supernet.to(device), data.train, data.held_out, batch=8)
    some = variants(supernet.space, 2)[:6]
    return [[row.loss, row.accuracy] for row in evaluator.evaluate(some)]


def waits(device: str) -> dict[str, dict[str, int]]:
    """Copies that a host waits for in one forward pass of each family's supernet."""
    import fake_device

    counts = {}
    for name in space_names():
        torch.manual_seed(0)
        supernet = Supernet(load_space(name).at((32, 32), 4)).to(device).train()
        x = torch.rand(2, 3, 32, 32).to(device)
        for way in ("wide", "narrow"):
            index = 0 if way == "narrow" else -1
            widths = [stage.widths[index] for stage in supernet.space.stages]
            choose = GumbelSoftmax(1.0, "uniform", "straight_through")
            for _ in range(2):  # the first pass makes what later ones keep
                fake_device.transfers.clear()
                supernet(x, choose, torch.Generator().manual_seed(0), widths)
            counts[f"{name} {way}"] = dict(fake_device.transfers)
    return counts


def main() -> None:
    device, out = sys.argv[1], Path(sys.argv[2])
    if device == "fake":
        sys.path.insert(0, str(Path(__file__).parents[1]))
        import fake_device

        fake_device.install()
    data = load_data("digits", (32, 32), limit=70)
    space = load_space(out.parent / "space.yaml").at((32, 32))
    finetuned(out, data, device)
    trained(out, space, data, device)
    results: dict[str, Any] = {"scores": scored(out, data, device)}
    if device == "fake":
        results["waits"] = waits(device)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
