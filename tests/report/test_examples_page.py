"""Pictures of a segmentation network in a report, and other networks that were trained beside it."""

from __future__ import annotations

import base64
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas.data.palette import colours
from nas.errors import InputError
from nas.files import write_text, write_yaml
from nas.report.page import render
from nas.report.run import load_runs
from nas.space import load_architecture

FIGURE = {"accuracy": 31.25, "standard_error": 1.0, "images": 300}
FIT: dict[str, Any] = {
    "format": "nas-finetune-1",
    "command": "nas finetune runs/one --data roads",
    "start": "inherited",
    "architecture": {"name": "one"},
    "data": {"fingerprint": "roads", "classes": ["sky", "<b>road</b>", "tree"]},
    "provenance": "trained for 1 epoch",
    "accuracy": {
        "weights": "raw",
        "metric": "miou",
        "held_out": {"source": "roads", "raw": FIGURE},
        "test": {"source": "roads", "raw": FIGURE},
    },
    "examples": {
        "part": "test",
        "classes": [0, 1],
        "files": [
            {"file": "examples/1.png", "image": 0, "right": 91.25},
            {"file": "examples/2.png", "image": 150, "right": None},
            {"file": "examples/3.png", "image": 200, "right": 1.0},
        ],
    },
}


@pytest.fixture
def folder(make_run: Any) -> Path:
    """A run with a fine-tuning that wrote pictures, the last of which is gone."""
    run: Path = make_run()
    put(run / "finetune", FIT)
    for number in (1, 2):
        pixels = np.full((4, 6, 3), 40 * number, dtype=np.uint8)
        path = run / f"finetune/examples/{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return run


def put(folder: Path, fit: dict[str, Any]) -> None:
    write_yaml(folder / "finetune.yaml", fit)
    write_text(folder / "weights.safetensors", "")


def test_pictures_are_in_the_page_with_their_classes(folder: Path) -> None:
    html = render(load_runs(folder), "nas report")
    for number in (1, 2):
        content = (folder / f"finetune/examples/{number}.png").read_bytes()
        assert base64.b64encode(content).decode() in html
    assert html.count("data:image/png;base64,") == 2
    assert "image 1: 91.2 % of pixels right" in html and "image 151: no pixel labelled" in html
    for name, colour in zip(("sky", "&lt;b&gt;road&lt;/b&gt;"), colours(2), strict=True):
        assert f'<i class="class" style="background: {colour}"></i>{name}<' in html
    assert "</i>tree<" not in html and "<b>road" not in html


def test_a_run_without_pictures_has_no_section_of_them(folder: Path) -> None:
    older = {key: value for key, value in FIT.items() if key != "examples"}
    put(folder / "finetune", older)
    assert "Examples, finetune" not in render(load_runs(folder), "nas report")


def test_a_picture_is_in_the_folder_of_pictures(folder: Path) -> None:
    fit = deepcopy(FIT)
    fit["examples"]["files"][0]["file"] = "../../secret.png"
    put(folder / "finetune", fit)
    with pytest.raises(InputError, match=r"finetune.yaml.*file"):
        load_runs(folder)


def test_networks_that_were_trained_on_the_same_images_are_beside(folder: Path) -> None:
    (run,) = load_runs(folder)
    assert run.beside == ()
    arch = load_architecture(folder / "architecture.yaml")
    published = load_architecture("emo_1m").with_head(arch.head)
    fit = deepcopy(FIT) | {"architecture": {"name": "emo_1m"}}
    fit["accuracy"]["test"]["raw"]["accuracy"] = 29.5
    put(folder / "emo", fit)
    published.save(folder / "emo/architecture.yaml")
    # Another data set is no comparison.
    fit = deepcopy(fit)
    fit["data"]["fingerprint"] = "others"
    put(folder / "others", fit)
    published.save(folder / "others/architecture.yaml")
    (run,) = load_runs(folder)
    found, beside = run.beside
    assert found.found and not beside.found
    assert found.accuracy == "31.25 ± 1.00 % mIoU" and beside.accuracy == "29.50 ± 1.00 % mIoU"
    assert found.latency == f"{run.about.result.latency_ms:.4g} ms"
    # The table of a small space has no rows of another family, and says so.
    assert (beside.name, beside.latency) == ("emo_1m", "not in the table")
    assert beside.params == f"{published.params / 1e6:.2f} M"
    html = render([run], "nas report")
    assert "trained on the same images" in html and "29.50 ± 1.00 % mIoU" in html
