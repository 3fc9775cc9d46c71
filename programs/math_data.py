"""Data sets of mathematical problems: DAPO-Math-17k, AIME 2024 and 2025, GSM8K, and a small sample shipped here.

Each loader reads the hub, or a local copy with the columns of the hub: `path=` (Parquet, JSON lines or CSV), or a file
in the folder that `TRGRPO_DATA` names (`dapo_math_17k`, `aime_2024`, `aime_2025`, `gsm8k_train`, `gsm8k_test`, with one
of these endings). What is left out of a data set: see `hub`.
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import dspy

from programs.hub import Source, load

__all__ = ["aime", "dapo", "gsm8k", "sample"]

SAMPLE_FILE = Path(__file__).parent / "data" / "math_sample.jsonl"
_HEAD = re.compile(r"\ASolve the following math problem step by step\..*?is the answer to the problem\.\s*", re.DOTALL)
_TAIL = re.compile(r"\s*Remember to put your answer on its own line after \"Answer:\"\.?\s*\Z")


def _read_dapo(row: Mapping[str, Any]) -> tuple[str, str]:
    asked = [turn["content"] for turn in row["prompt"] or () if turn["role"] == "user" and turn["content"]]
    text = _TAIL.sub("", _HEAD.sub("", asked[-1])) if asked else ""
    return text, (row["reward_model"] or {}).get("ground_truth") or ""


def _read_aime(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["problem"] or "", "" if row["answer"] is None else str(row["answer"])


def _read_gsm8k(row: Mapping[str, Any]) -> tuple[str, str]:
    _, _, answer = (row["answer"] or "").rpartition("####")
    return row["question"] or "", answer.strip().replace(",", "") if "####" in (row["answer"] or "") else ""


_source = functools.partial(Source, way_out="TRGRPO_MATH_DATA=sample", noun="problem")
_DAPO = _source(
    "BytedTsinghua-SIA/DAPO-Math-17k", "dapo_math_17k", _read_dapo,
    "prompt (a list of role and content), reward_model (with ground_truth)",
)  # fmt: skip
_AIME = {
    2024: _source("HuggingFaceH4/aime_2024", "aime_2024", _read_aime, "problem, answer"),
    2025: _source("yentinglin/aime_2025", "aime_2025", _read_aime, "problem, answer"),
}
_GSM8K = _source(
    "openai/gsm8k", "gsm8k", _read_gsm8k, "question, answer (with the final one after ####)", config="main"
)


def dapo(size: int | None = None, *, seed: int = 0, path: str | Path | None = None) -> list[dspy.Example]:
    """Problems of DAPO-Math-17k without the text around them, in an order that the seed decides.

    The data set holds each of them about a hundred times, so reading it from the hub takes a while.

    Args:
        size: How many; None for all.
        seed: Decides the order.
        path: A local copy; None for one in `TRGRPO_DATA`, else the hub.
    """
    return _drawn(load(_DAPO, "train", path), size, seed)


def aime(year: int, *, path: str | Path | None = None) -> list[dspy.Example]:
    """The 30 problems of AIME 2024 or 2025, in the order of the data set."""
    if year not in _AIME:
        raise ValueError(f"year={year!r} must be one of {list(_AIME)}")
    return _examples(load(_AIME[year], "train", path))


def gsm8k(
    split: str = "train", size: int | None = None, *, seed: int = 0, path: str | Path | None = None
) -> list[dspy.Example]:
    """Problems of GSM8K (split "train" or "test"), in an order that the seed decides."""
    return _drawn(load(_GSM8K, split, path), size, seed)


def sample(split: str) -> list[dspy.Example]:
    """The problems shipped here: 14 for "train", 8 for "val", 10 for "test"."""
    rows = [json.loads(line) for line in SAMPLE_FILE.read_text(encoding="utf-8").splitlines()]
    if split not in {row["split"] for row in rows}:
        raise ValueError(f"split={split!r} must be 'train', 'val' or 'test'")
    return _examples([(row["problem"], row["answer"]) for row in rows if row["split"] == split])


def _examples(problems: Iterable[tuple[str, ...]]) -> list[dspy.Example]:
    return [dspy.Example(problem=problem, answer=answer).with_inputs("problem") for problem, answer in problems]


def _drawn(problems: list[tuple[str, ...]], size: int | None, seed: int | None) -> list[dspy.Example]:
    ordered = sorted(problems)  # so that only the seed decides, not the order of the rows
    random.Random(f"math-{seed}").shuffle(ordered)
    return _examples(ordered[:size])
