"""Data sets of mathematical problems: DAPO-Math-17k, AIME 2024 and 2025, GSM8K, and a small sample shipped here.

Each loader reads the hub, or a local copy with the columns of the hub: `path=` (Parquet, JSON lines or CSV), or a file
in the folder that `TRGRPO_DATA` names (`dapo_math_17k`, `aime_2024`, `aime_2025`, `gsm8k_train`, `gsm8k_test`, with one
of these endings). Every problem comes once; rows without a problem or an answer are left out, and problems that come
with different answers, since nobody knows which is right.
"""

from __future__ import annotations

import functools
import logging
import os
import random
import re
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dspy

__all__ = ["aime", "dapo", "gsm8k", "sample"]

logger = logging.getLogger(__name__)

SAMPLE_FILE = Path(__file__).parent / "data" / "math_sample.jsonl"
_HEAD = re.compile(r"\ASolve the following math problem step by step\..*?is the answer to the problem\.\s*", re.DOTALL)
_TAIL = re.compile(r"\s*Remember to put your answer on its own line after \"Answer:\"\.?\s*\Z")
_FORMATS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}


@dataclass(frozen=True)
class _Source:
    """A data set on the hub."""

    hub: str
    """Its name."""
    local: str
    """Name of a local copy; the split and the ending follow."""
    read: Callable[[Mapping[str, Any]], tuple[str, str]]
    """Takes the problem and its answer from a row; empty where the row has none."""
    columns: str
    """Its columns, for messages."""
    config: str | None = None
    """Configuration on the hub; a source with one has several splits."""


def _read_dapo(row: Mapping[str, Any]) -> tuple[str, str]:
    asked = [turn["content"] for turn in row["prompt"] or () if turn["role"] == "user" and turn["content"]]
    text = _TAIL.sub("", _HEAD.sub("", asked[-1])) if asked else ""
    return text, (row["reward_model"] or {}).get("ground_truth") or ""


def _read_aime(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["problem"] or "", "" if row["answer"] is None else str(row["answer"])


def _read_gsm8k(row: Mapping[str, Any]) -> tuple[str, str]:
    _, _, answer = (row["answer"] or "").rpartition("####")
    return row["question"] or "", answer.strip().replace(",", "") if "####" in (row["answer"] or "") else ""


_DAPO = _Source(
    "BytedTsinghua-SIA/DAPO-Math-17k", "dapo_math_17k", _read_dapo,
    "prompt (a list of role and content), reward_model (with ground_truth)",
)  # fmt: skip
_AIME = {
    2024: _Source("HuggingFaceH4/aime_2024", "aime_2024", _read_aime, "problem, answer"),
    2025: _Source("yentinglin/aime_2025", "aime_2025", _read_aime, "problem, answer"),
}
_GSM8K = _Source("openai/gsm8k", "gsm8k", _read_gsm8k, "question, answer (with the final one after ####)", "main")


def dapo(size: int | None = None, *, seed: int = 0, path: str | Path | None = None) -> list[dspy.Example]:
    """Problems of DAPO-Math-17k without the text around them, in an order that the seed decides.

    The data set holds each of them about a hundred times, so reading it from the hub takes a while.

    Args:
        size: How many; None for all.
        seed: Decides the order.
        path: A local copy; None for one in `TRGRPO_DATA`, else the hub.
    """
    return _drawn(_problems(_DAPO, "train", path), size, seed)


def aime(year: int, *, path: str | Path | None = None) -> list[dspy.Example]:
    """The 30 problems of AIME 2024 or 2025, in the order of the data set."""
    if year not in _AIME:
        raise ValueError(f"year={year!r} must be one of {list(_AIME)}")
    return _examples(_problems(_AIME[year], "train", path))


def gsm8k(
    split: str = "train", size: int | None = None, *, seed: int = 0, path: str | Path | None = None
) -> list[dspy.Example]:
    """Problems of GSM8K (split "train" or "test"), in an order that the seed decides."""
    return _drawn(_problems(_GSM8K, split, path), size, seed)


def sample(split: str) -> list[dspy.Example]:
    """The problems shipped here: 14 for "train", 8 for "val", 10 for "test"."""
    rows = list(_rows_of_file(SAMPLE_FILE))
    if split not in {row["split"] for row in rows}:
        raise ValueError(f"split={split!r} must be 'train', 'val' or 'test'")
    return _examples([(row["problem"], row["answer"]) for row in rows if row["split"] == split])


def _examples(problems: Iterable[tuple[str, str]]) -> list[dspy.Example]:
    return [dspy.Example(problem=problem, answer=answer).with_inputs("problem") for problem, answer in problems]


def _drawn(problems: list[tuple[str, str]], size: int | None, seed: int | None) -> list[dspy.Example]:
    ordered = sorted(problems)  # so that only the seed decides, not the order of the rows
    random.Random(f"math-{seed}").shuffle(ordered)
    return _examples(ordered[:size])


def _problems(source: _Source, split: str, path: str | Path | None) -> list[tuple[str, str]]:
    """The problems of a local copy, or of the hub."""
    local = Path(path) if path is not None else _local_copy(source, split)
    if local is None:
        return _hub_problems(source, split)
    with closing(_rows_of_file(local)) as rows:
        return _read(source, rows, str(local))


@functools.cache
def _hub_problems(source: _Source, split: str) -> list[tuple[str, str]]:
    with closing(_rows_of_hub(source, split)) as rows:
        return _read(source, rows, source.hub)


def _local_copy(source: _Source, split: str) -> Path | None:
    folder = os.environ.get("TRGRPO_DATA")
    name = f"{source.local}_{split}" if source.config else source.local
    paths = [Path(folder, name + ending) for ending in _FORMATS] if folder else []
    return next((path for path in paths if path.is_file()), None)


def _read(source: _Source, rows: Iterable[Mapping[str, Any]], origin: str) -> list[tuple[str, str]]:
    """Each problem once, with its answer, in the order of its first row."""
    found: dict[str, tuple[str, set[str]]] = {}
    incomplete = 0
    for row in rows:
        try:
            problem, answer = (part.strip() for part in source.read(row))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{origin} has not the columns of {source.hub}: {source.columns}. It has {sorted(row)}."
            ) from error
        if problem and answer:
            found.setdefault(" ".join(problem.split()), (problem, set()))[1].add(answer)
        else:
            incomplete += 1
    problems = [(problem, answers.pop()) for problem, answers in found.values() if len(answers) == 1]
    if left_out := len(found) - len(problems):
        logger.info("%s: left out %d problems that come with different answers", origin, left_out)
    if incomplete:
        logger.info("%s: left out %d rows without a problem or an answer", origin, incomplete)
    if not problems:
        raise ValueError(f"{origin} holds no problem with an answer; its columns must be {source.columns}.")
    return problems


def _rows_of_file(path: Path) -> Generator[Mapping[str, Any], None, None]:
    import datasets  # slow to import, and only needed here

    if path.suffix not in _FORMATS:
        raise ValueError(f"path={str(path)!r} must end in one of {', '.join(_FORMATS)}")
    if not path.is_file():
        raise FileNotFoundError(f"path={str(path)!r} is no file")
    with TemporaryDirectory() as cache:  # streaming reads the file afresh: no cache to go stale
        yield from datasets.load_dataset(
            _FORMATS[path.suffix], data_files=str(path), split="train", streaming=True, cache_dir=cache
        )


def _rows_of_hub(source: _Source, split: str) -> Generator[Mapping[str, Any], None, None]:
    import datasets  # slow to import, and only needed here

    try:
        loaded = datasets.load_dataset(source.hub, source.config, split=split)
    except Exception as error:  # the hub's client raises anything from OSError to its own
        reason = " ".join(str(error).split())
        name = f"{source.local}_{split}.parquet" if source.config else f"{source.local}.parquet"
        raise FileNotFoundError(
            f"{source.hub} can't be loaded from the hub ({type(error).__name__}: {reason[:200]}). Go online; or give "
            f"path= a local copy (Parquet, JSON lines or CSV) with the columns {source.columns}; or put it as {name} "
            "into the folder that TRGRPO_DATA names; or set TRGRPO_MATH_DATA=sample to try things out."
        ) from error
    for batch in loaded.iter(batch_size=10_000):
        yield from (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))
