"""`nas data`: list the decoded images that are kept in the cache, or remove them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from nas.cli.output import Column, emit, next_step, say, table_text
from nas.options import Options, option

if TYPE_CHECKING:
    from nas.data.cache import CachedMap


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """Options of `nas data`.

    A data set is decoded again when it is needed again. Incomplete ones resume where they stopped.
    """

    name: str | None = option(
        None,
        help="Data set by the last part of its --data.",
        argument=True,
        shown="all",
    )
    unused: float = option(
        0.0,
        help="List or remove only what was not used for this long.",
        unit="days",
        at_least=0,
        at_most=100_000,
    )
    prune: bool = option(False, help="Remove what would be listed.")


def data(options: DataOptions) -> None:
    """List the decoded images that are kept in the cache, or remove them."""
    from nas.data.cache import cache_root, cached_maps, prune

    maps = [each for each in cached_maps() if _matches(each, options)]
    removed: list[CachedMap] = []
    if options.prune:
        removed, busy = prune(maps)
        for each in busy:
            say(f"note: {each.path} is being decoded and stays")
    document = {
        "folder": str(cache_root()),
        "bytes": sum(each.bytes for each in maps),
        "removed_bytes": sum(each.bytes for each in removed),
        "maps": [_document(each, each in removed) for each in maps],
    }
    emit(document, _text(maps, removed, options))
    if maps and not options.prune:
        next_step("nas data --unused 30 --prune")


def _matches(each: CachedMap, options: DataOptions) -> bool:
    if options.name is not None:
        names = {each.name, PurePath(each.name).name}
        if not names & {options.name, PurePath(options.name).name}:
            return False
    return each.days >= options.unused


def _document(each: CachedMap, removed: bool) -> dict[str, Any]:
    return {
        "name": each.name,
        "path": str(each.path),
        "resolution": each.resolution,
        "images": each.images,
        "bytes": each.bytes,
        "state": each.state,
        "used": _date(each),
        "removed": removed,
    }


def _date(each: CachedMap) -> str:
    return datetime.fromtimestamp(each.used).astimezone().isoformat(timespec="seconds")


def _text(maps: Sequence[CachedMap], removed: Sequence[CachedMap], options: DataOptions) -> str:
    """Return the table of maps and their sum."""
    if not maps:
        of = f" of {options.name}" if options.name is not None else ""
        unused = f", unused for {options.unused:g} days" if options.unused else ""
        return f"no decoded images{of} are kept{unused}"
    columns = [
        *(Column("data"), Column("resolution"), Column("images", right=True)),
        *(Column("size", right=True), Column("state"), Column("last used"), Column("folder")),
    ]
    rows = [
        (
            *(each.name, each.resolution, "" if each.images is None else f"{each.images:,}"),
            *(_size(each.bytes), "removed" if each in removed else each.state, _date(each)[:10]),
            str(each.path),
        )
        for each in maps
    ]
    total = sum(each.bytes for each in (removed if options.prune else maps))
    return f"{table_text(columns, rows)}\n{'removed' if options.prune else 'total'} {_size(total)}"


def _size(count: int) -> str:
    """Return a number of bytes in MB, or in GB from one on."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
