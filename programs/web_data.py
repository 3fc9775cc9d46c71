"""Data sets of questions for web agents: AFM to learn from, WebWalkerQA to evaluate.

Each loader reads the hub, or a local copy with the columns of the hub: `path=` (Parquet, JSON lines or CSV), or a file
`afm_web_rl` or `webwalkerqa` with one of these endings in the folder that `TRGRPO_DATA` names. What is left out of a
data set: see `hub`.

What was relied on, as public code that reads these data sets shows it:

- `PersonalAILab/AFM-WebAgent-RL-Dataset`, split "train": columns `data_source`, `prompt` (role and content),
  `reward_model` (`ground_truth`, JSON as a text) and `extra_info` with `question` (a text) and `answer` (a list of
  texts). Only `extra_info` is read. A list that has not exactly one answer is of no use to a judge: such a row is left
  out.
- `callanwu/WebWalkerQA`, split "main" (680 questions; "silver" holds others that nobody checked): columns `question`,
  `answer`, `root_url` and `info`, with `difficulty_level` (easy, medium, hard), `hop` or, in an earlier version, `type`
  (single-source, multi-source), `domain`, `lang` (en, zh), `source_website` and `golden_path` (lists). Only `question`,
  `answer`, `root_url`, and of `info` the difficulty, the kind and the language are read.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dspy

from programs.hub import Source, load

__all__ = ["afm", "webwalkerqa"]

_OFFLINE = "TRGRPO_WEB_SEARCH=offline"


def _read_afm(row: Mapping[str, Any]) -> tuple[str, ...]:
    info = row["extra_info"] or {}
    question, answers = info.get("question") or "", info.get("answer")
    answers = [answers] if isinstance(answers, str) else list(answers or ())
    return question, str(answers[0] or "") if len(answers) == 1 else ""


def _read_webwalkerqa(row: Mapping[str, Any]) -> tuple[str, ...]:
    info = row["info"] or {}
    kind = str(info.get("hop") or info.get("type") or "").replace("_", "-")
    return (
        row["question"] or "", row["answer"] or "", row["root_url"] or "",
        _lower(info.get("difficulty_level")), kind.lower(), _lower(info.get("lang")),
    )  # fmt: skip


def _lower(value: Any) -> str:
    return str(value or "").lower()


_AFM = Source(
    "PersonalAILab/AFM-WebAgent-RL-Dataset", "afm_web_rl", _read_afm,
    "extra_info (with question and answer, a list of texts)", _OFFLINE,
)  # fmt: skip
_WEBWALKERQA = Source(
    "callanwu/WebWalkerQA", "webwalkerqa", _read_webwalkerqa,
    "question, answer, root_url, info (with difficulty_level and hop)", _OFFLINE,
)  # fmt: skip


def afm(size: int | None = None, seed: int = 0, *, path: str | Path | None = None) -> list[dspy.Example]:
    """Questions of AFM's web agent, in an order that the seed decides.

    Args:
        size: How many; None for all.
        seed: Decides the order.
        path: A local copy; None for one in `TRGRPO_DATA`, else the hub.
    """
    drawn = _shuffled(load(_AFM, "train", path), f"afm-{seed}")[:size]
    return [dspy.Example(question=item[0], answer=item[1]).with_inputs("question") for item in drawn]


def webwalkerqa(size: int | None = 51, seed: int = 0, *, path: str | Path | None = None) -> list[dspy.Example]:
    """Questions of WebWalkerQA: a subset with the shares of difficulty and kind of the whole, drawn by the seed.

    Each example carries `root_url`, `difficulty`, `kind` and `language`, which the program does not see: it gets the
    question alone.

    Args:
        size: How many; None for all.
        seed: Decides which, and their order.
        path: A local copy; None for one in `TRGRPO_DATA`, else the hub.
    """
    items = load(_WEBWALKERQA, "main", path)
    strata: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
    for item in items:
        strata[item[3:5]].append(item)
    counts = _shares({key: len(group) for key, group in strata.items()}, len(items) if size is None else size)
    chosen = [item for key in strata for item in _shuffled(strata[key], f"webwalkerqa-{seed}-{key}")[: counts[key]]]
    names = ("question", "answer", "root_url", "difficulty", "kind", "language")
    return [
        dspy.Example(**dict(zip(names, item, strict=True))).with_inputs("question")
        for item in _shuffled(chosen, f"webwalkerqa-{seed}")
    ]


def _shuffled(items: list[tuple[str, ...]], seed: str) -> list[tuple[str, ...]]:
    """The items in an order that only the seed decides, not the order of the rows."""
    ordered = sorted(items)
    random.Random(seed).shuffle(ordered)
    return ordered


def _shares(sizes: Mapping[tuple[str, ...], int], total: int) -> dict[tuple[str, ...], int]:
    """How many of each stratum make up the total, as near to their shares as whole numbers are (largest remainders)."""
    total = min(total, sum(sizes.values()))
    exact = {key: total * size / sum(sizes.values()) for key, size in sizes.items()}
    counts = {key: int(share) for key, share in exact.items()}
    by_remainder = sorted(exact, key=lambda key: (counts[key] - exact[key], key))
    for key in by_remainder[: total - sum(counts.values())]:
        counts[key] += 1
    return counts
