"""Data sets of a hub: its own client libraries, unchanged, against a stand-in for its servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hub_server import REVISION, hub
from pictures import rows, write_parquet

NAME = "someone/flags"
CARD = """---
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': blue
          '1': red
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: data/test-*
  - split: extra
    path: data/extra-*
---
"""
READ = """
import json, sys
from nas.data.sources import find_source
found = find_source(sys.argv[1])
train = found.splits["train"]
print(json.dumps({
    "classes": found.classes,
    "sizes": {name: len(split) for name, split in found.splits.items()},
    "lengths": [len(each) for each in train.fetch(range(len(train)))],
    "labels": train.labels.tolist(),
    "where": train.where(0),
    "notes": found.notes,
    "key": found.key,
}))
"""


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of a data set whose card names the classes, which its rows number."""
    found = {"README.md": CARD.encode()}
    for split, count in (("train-0", 8), ("train-1", 4), ("test-0", 4), ("extra-0", 2)):
        labels = pa.array([i % 2 for i in range(count)], pa.int64())
        images = pa.array([{"bytes": each, "path": None} for each in rows(count)])
        path = write_parquet(folder / f"{split}.parquet", image=images, label=labels)
        found[f"data/{split}.parquet"] = path.read_bytes()
    return found


def read(folder: Path, address: str, **variables: str) -> dict[str, Any]:
    done = _run(folder, address, **variables)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _run(folder: Path, address: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": address,
        "HF_HOME": str(folder / "hf"),
        "XDG_CACHE_HOME": str(folder / "xdg"),
        **variables,
    }
    command = [sys.executable, "-c", READ, NAME]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_parquet_files_of_the_hub_are_read_in_place(tmp_path: Path) -> None:
    with hub(NAME, files(tmp_path)) as (address, requests):
        found = read(tmp_path, address)
        assert found["classes"] == ["blue", "red"]
        assert found["sizes"] == {"train": 12, "test": 4}
        assert found["labels"] == [0, 1] * 6
        assert found["lengths"] == [len(each) for each in (*rows(8), *rows(4))]
        assert found["where"] == "data/train-0.parquet row 0"
        assert "'extra' is not used" in " ".join(found["notes"])
        # There is no copy as Arrow data, and nothing is downloaded again.
        assert not list((tmp_path / "hf").rglob("*.arrow"))
        requests.clear()
        assert read(tmp_path, address)["key"] == found["key"]
        assert not [each for each in requests if each.startswith("GET") and ".parquet" in each]


@pytest.mark.parametrize("variables", [{"HF_HUB_OFFLINE": "1"}, {}])
def test_downloaded_files_serve_without_a_network(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    with hub(NAME, files(tmp_path)) as (address, _):
        found = read(tmp_path, address)
    # The server is gone now.
    again = read(tmp_path, address, **variables)
    assert again == found


def test_a_hub_that_is_not_reached_is_one_line(tmp_path: Path) -> None:
    with hub("someone/else", {}) as (address, _):
        done = _run(tmp_path, address)
    assert done.returncode == 1
    assert "InputError" in done.stderr.splitlines()[-1]
    assert f"data {NAME}: no such file or folder" in done.stderr.splitlines()[-1]


def test_an_interrupted_download_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    with hub(NAME, files(tmp_path)) as (address, _):
        read(tmp_path, address)
    (blob,) = (tmp_path / "hf").rglob(f"snapshots/{REVISION}/data/train-1.parquet")
    blob.unlink()
    done = _run(tmp_path, address, HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "InputError" in done.stderr.splitlines()[-1]
