"""`nas score`: the scores of `nas train`, resumed or anew, and refusals in one line."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_training import TRAIN

import nas as api
from nas.errors import InputError

SCORE = ["score", "t", "--data", "digits", "--widths", "1"]
FILES = ("evaluations.csv", "evaluations.yaml", "scores.csv", "scores.yaml")
Nas = Callable[..., tuple[int, str, str]]


def rows(folder: str) -> list[dict[str, str]]:
    with Path(folder, "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_gives_the_scores_that_the_training_ends_with(nas: Nas) -> None:
    code, out, err = nas(*TRAIN, "--json")
    assert code == 0, err
    trained = json.loads(out)
    assert trained.pop("next").startswith("nas train"), "one epoch is not enough"
    before = {name: Path("t", name).read_bytes() for name in FILES}

    # Nothing is left to do.
    code, out, err = nas(*SCORE, "--json")
    scored = json.loads(out)
    following = scored.pop("next")
    assert code == 0 and scored == trained and "scored anew" not in err
    assert {name: Path("t", name).read_bytes() for name in FILES} == before
    assert f"evidence {trained['evidence']['text']}\n" in err
    assert f"next: {following}\n" in err

    # From nothing, and from a part that a kill left.
    shutil.copytree("t", "anew")
    for name in FILES:
        Path("anew", name).unlink()
    lines = before["evaluations.csv"].splitlines(keepends=True)
    shutil.copytree("t", "killed")
    Path("killed", "evaluations.csv").write_bytes(b"".join(lines[:7]) + lines[7][:9])
    for folder in ("anew", "killed"):
        code, out, err = nas("score", folder, *SCORE[2:], "--json")
        assert code == 0 and "scored anew" not in err
        assert Path(folder, "evaluations.csv").read_bytes() == before["evaluations.csv"]
        assert rows(folder) == rows("t")

    # Other images are other evaluations; another batch is none.
    code, out, err = nas(*SCORE, "--json", "--images", "30", "--batch", "7")
    assert code == 0 and json.loads(out)["held_out_images"] == 30
    assert "scores   moves are scored anew: images changed" in err
    code, out, err = nas(*SCORE, "--json", "--images", "30", "--batch", "100")
    assert code == 0 and "scored anew" not in err

    # The function of the Python API.
    result = api.score("t", "digits", images=30, widths=1)
    assert result is not None and result.folder == Path("t")
    assert len(result.scores.rows) == json.loads(out)["moves"]
    with pytest.raises(InputError, match=r"imags: is not an option .*images"):
        api.score("t", "digits", imags=30)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", "--data", "digits"], "nowhere: no supernet here"),
        (["t", "--data", "elsewhere/"], "elsewhere/: there is no such"),
        (["t", "--data", "digits", "--images", "1"], "--images 1: is out of range"),
        (["t", "--data", "digits", "--widths", "0"], "--widths 0: is out of range"),
        (["t", "--data", "digits", "--batch", "0"], "--batch 0: is out of range"),
        (["t"], "Missing option '--data'"),
        (["--data", "digits"], "Missing argument 'SUPERNET'"),
    ],
)
def test_what_it_cannot_score_is_one_line(nas: Nas, words: list[str], said: str) -> None:
    if words[0] == "t" and "elsewhere/" in words:
        code, _, err = nas(*TRAIN)
        assert code == 0, err
    code, _, err = nas("score", *words)
    assert code == 2 and said in err and err.count("\n") == 1 and "Traceback" not in err


def test_a_training_that_is_not_finished_is_named(nas: Nas) -> None:
    assert nas(*TRAIN)[0] == 0
    Path("t", "supernet.safetensors").unlink()
    code, _, err = nas(*SCORE)
    assert (
        code == 1
        and "supernet.safetensors: is missing, as the training is not finished" in err
        and "Traceback" not in err
    )


def test_other_images_than_those_of_the_training_are_refused(nas: Nas, tmp_path: Path) -> None:
    """Held-out images of another data set may be among those that it was trained on."""
    from PIL import Image

    assert nas(*TRAIN)[0] == 0
    for label in range(10):
        folder = tmp_path / "photos" / str(label)
        folder.mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (32, 32), (20 * label, 9 * number, 0)).save(folder / f"{number}.png")
    code, _, err = nas("score", "t", "--data", str(tmp_path / "photos"))
    assert code == 2 and "other images than the supernet in t was trained on" in err
