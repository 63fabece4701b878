"""Parquet files of data sets on the Hugging Face hub, read in place. `nas.data.hub` calls it.

`datasets.load_dataset` would write all images a second time, as Arrow data: 150 GB of ImageNet. Here
the downloaded files themselves are the source. A record of which files they are lets later trainings
use them without a network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from nas.data.cache import cache_root
from nas.data.notes import note
from nas.errors import InputError
from nas.files import YamlFile, file_name, write_yaml

_FORMAT = "nas-hub-files-1"
_ADDRESS = re.compile(
    r"hf://datasets/(?P<repository>[^/@]+/[^/@]+)@(?P<revision>[^/]+)/(?P<path>.+\.parquet)"
)
"""Address of a parquet file in one revision of a repository, as `datasets` resolves it."""


@dataclass(frozen=True)
class HubFiles:
    """The parquet files of a data set.

    Attributes:
        repository: on the hub.
        revision: commit of the repository.
        splits: paths in the repository of each split's files.
        features: what the data set's card declares of the columns, such as names of classes, as JSON;
            empty where it declares nothing.
    """

    repository: str
    revision: str
    splits: Mapping[str, tuple[str, ...]]
    features: str = ""

    def download(self, local: bool = False) -> Path:
        """Return the folder that holds the files; those that are missing are downloaded.

        Args:
            local: use what is there, without a network.
        """
        import huggingface_hub

        paths = [path for split in self.splits.values() for path in split]
        folder = huggingface_hub.snapshot_download(
            self.repository,
            repo_type="dataset",
            revision=self.revision,
            allow_patterns=paths,
            local_files_only=local,
        )
        missing = [path for path in paths if not (Path(folder) / path).is_file()]
        if missing:
            # A download without a network returns what an interrupted one has left.
            raise FileNotFoundError(f"{missing[0]} was not downloaded")
        return Path(folder)


def find_files(builder: Any) -> HubFiles | None:
    """Return the parquet files of a data set, or None where it has other files.

    Args:
        builder: of `datasets`, which knows the files of each split and has downloaded none.
    """
    splits = {}
    repositories: set[tuple[str, str]] = set()
    for split, urls in (builder.config.data_files or {}).items():
        matches = [_ADDRESS.fullmatch(str(url)) for url in urls]
        found = [match for match in matches if match is not None]
        if len(found) < len(matches):
            return None
        repositories.update((match["repository"], unquote(match["revision"])) for match in found)
        splits[str(split)] = tuple(match["path"] for match in found)
    if len(repositories) != 1:
        return None
    ((repository, revision),) = repositories
    declared = builder.info.features
    metadata = {} if declared is None else declared.arrow_schema.metadata
    features = metadata.get(b"huggingface", b"").decode()
    return HubFiles(repository, revision, splits, features)


def record(name: str, files: HubFiles) -> None:
    """Note which files a data set consists of, for trainings without a network."""
    write_yaml(
        _record_of(name),
        {
            "format": _FORMAT,
            "repository": files.repository,
            "revision": files.revision,
            "splits": {split: list(paths) for split, paths in files.splits.items()},
            "features": files.features,
        },
    )


def recorded(name: str) -> HubFiles | None:
    """Return the files that a data set consisted of when it was used last; None if it never was."""
    path = _record_of(name)
    if not path.is_file():
        return None
    file = YamlFile(path)
    try:
        if file.data["format"] != _FORMAT:
            return None
        splits = {str(split): tuple(paths) for split, paths in file.data["splits"].items()}
        return HubFiles(
            str(file.data["repository"]),
            str(file.data["revision"]),
            splits,
            str(file.data["features"]),
        )
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: is not a record of hub files. Fix: remove it") from None


def local_files(name: str) -> tuple[HubFiles, Path] | None:
    """Return recorded files that are all on this machine, and their folder; None without them."""
    files = recorded(name)
    if files is None:
        return None
    try:
        folder = files.download(local=True)
    except (OSError, ValueError):
        # huggingface_hub's own errors for files that are not there are of these kinds.
        return None
    note(
        f"data {name}: the hub cannot be reached; its files of revision {files.revision[:8]}, which"
        " are on this machine, are used"
    )
    return files, folder


def _record_of(name: str) -> Path:
    return cache_root().parent / "hub" / f"{file_name(name)}.yaml"
