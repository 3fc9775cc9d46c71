"""Questions with answers from a data set on the hub, or from a local copy with the same columns.

A local copy is a file (Parquet, JSON lines or CSV): `path=`, or one in the folder that `TRGRPO_DATA` names. Every
question comes once; rows without a question or an answer are left out, and questions that come with different answers,
since nobody knows which is right. What was left out is logged with its number.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

__all__ = ["Source", "load", "load_from_hub"]

logger = logging.getLogger(__name__)

_FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}


@dataclass(frozen=True)
class Source:
    """A data set on the hub."""

    hub: str
    """Its name."""
    local: str
    """Name of a local copy; the split and the ending follow."""
    read: Callable[[Mapping[str, Any]], tuple[str, ...]]
    """Takes the question, its answer and further texts from a row; the first two are empty where the row has none."""
    columns: str
    """Its columns, for messages."""
    way_out: str
    """The setting with which things can be tried out without the hub, for messages."""
    noun: str = "question"
    """What a row holds, for messages."""
    config: str | None = None
    """Configuration on the hub; a source with one has several splits."""


def load(source: Source, split: str, path: str | Path | None) -> list[tuple[str, ...]]:
    """What `source.read` found, each question once, in the order of its first row.

    Args:
        source: The data set.
        split: Its split on the hub.
        path: A local copy; None for one in `TRGRPO_DATA`, else the hub.

    Raises:
        FileNotFoundError: The file does not exist, or the hub can't be reached.
        ValueError: The file has another ending, or the data set other columns, or nothing usable in it.
    """
    local = Path(path) if path is not None else _local_copy(source, split)
    if local is None:
        return load_from_hub(source, split)
    with closing(_rows_of_file(local)) as rows:
        return _read(source, rows, str(local))


@functools.cache
def load_from_hub(source: Source, split: str) -> list[tuple[str, ...]]:
    """The same from the hub, read once in the life of the process."""
    with closing(_rows_of_hub(source, split)) as rows:
        return _read(source, rows, source.hub)


def _local_copy(source: Source, split: str) -> Path | None:
    folder = os.environ.get("TRGRPO_DATA")
    name = f"{source.local}_{split}" if source.config else source.local
    paths = [Path(folder, name + ending) for ending in _FORMATS] if folder else []
    return next((path for path in paths if path.is_file()), None)


def _read(source: Source, rows: Iterable[Mapping[str, Any]], origin: str) -> list[tuple[str, ...]]:
    found: dict[str, tuple[tuple[str, ...], set[str]]] = {}
    incomplete = 0
    for row in rows:
        try:
            item = tuple(part.strip() for part in source.read(row))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{origin} has not the columns of {source.hub}: {source.columns}. It has {sorted(row)}."
            ) from error
        if item[0] and item[1]:
            found.setdefault(" ".join(item[0].split()), (item, set()))[1].add(item[1])
        else:
            incomplete += 1
    items = [item for item, answers in found.values() if len(answers) == 1]
    if left_out := len(found) - len(items):
        logger.info("%s: left out %d %ss that come with different answers", origin, left_out, source.noun)
    if incomplete:
        logger.info("%s: left out %d rows without a %s or an answer", origin, incomplete, source.noun)
    if not items:
        raise ValueError(f"{origin} holds no {source.noun} with an answer; its columns must be {source.columns}.")
    return items


def _rows_of_file(path: Path) -> Generator[Mapping[str, Any], None, None]:
    """The rows of a Parquet, JSON lines or CSV file."""
    import datasets  # slow to import, and only needed here

    if path.suffix not in _FORMATS:
        raise ValueError(f"path={str(path)!r} must end in one of {', '.join(_FORMATS)}")
    if not path.is_file():
        raise FileNotFoundError(f"path={str(path)!r} is no file")
    with TemporaryDirectory() as cache:  # streaming reads the file afresh: no cache to go stale
        yield from datasets.load_dataset(
            _FORMATS[path.suffix], data_files=str(path), split="train", streaming=True, cache_dir=cache
        )


def _rows_of_hub(source: Source, split: str) -> Generator[Mapping[str, Any], None, None]:
    import datasets  # slow to import, and only needed here

    try:
        loaded = datasets.load_dataset(source.hub, source.config, split=split)
    except Exception as error:  # the hub's client raises anything from OSError to its own
        reason = " ".join(str(error).split())
        name = f"{source.local}_{split}.parquet" if source.config else f"{source.local}.parquet"
        raise FileNotFoundError(
            f"{source.hub} can't be loaded from the hub ({type(error).__name__}: {reason[:200]}). Go online; or give "
            f"path= a local copy (Parquet, JSON lines or CSV) with the columns {source.columns}; or put it as {name} "
            f"into the folder that TRGRPO_DATA names; or set {source.way_out} to try things out."
        ) from error
    for batch in loaded.iter(batch_size=10_000):
        yield from (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))
