"""Banking77: real customer queries to a bank, 77 intents (Casanueva et al. 2020, CC BY 4.0).

The data comes from a local copy if there is one (`banking77_train.csv` and `banking77_test.csv` in the folder that
`TRGRPO_DATA` names, else in `../shared/data` beside the project), otherwise from the hub (`PolyAI/banking77`).
100 examples for training and 150 for validation are drawn by seed from the training split, 1,000 for the test from
the test split; no query is in two of them.
"""

from __future__ import annotations

import csv
import functools
import os
import random
from pathlib import Path
from typing import Any, Literal

import dspy

HUB_NAME = "PolyAI/banking77"
SIZES = {"train": 100, "val": 150, "test": 1000}
SEED = int(os.environ.get("TRGRPO_DATA_SEED", "0"))
"""Which examples are drawn."""

Rows = tuple[tuple[str, str], ...]
"""Queries with their intents."""


def program() -> dspy.Module:
    """Return a fresh, unoptimized classifier over the 77 intents."""
    intents = tuple(sorted({intent for _, intent in rows("train")}))
    signature = dspy.Signature(
        {
            "query": (str, dspy.InputField(desc="what the customer wrote")),
            "intent": (Literal[intents], dspy.OutputField(desc="what the customer wants")),  # type: ignore[valid-type]
        },
        "Recognise what a customer of a bank wants.",
    )
    return dspy.Predict(signature)


def metric(example: dspy.Example, prediction: Any, trace: Any = None) -> dspy.Prediction:
    """Score 1 for the right intent, else 0; the feedback says what was expected, not why."""
    given = str(getattr(prediction, "intent", "") or "")
    if given == example.intent:
        return dspy.Prediction(score=1.0, feedback=f"Intent '{example.intent}' is right.")
    return dspy.Prediction(score=0.0, feedback=f"Expected intent '{example.intent}', got '{given}'.")


def trainset(seed: int | None = None) -> list[dspy.Example]:
    """Return 100 queries to learn from."""
    return _draw("train", seed)[: SIZES["train"]]


def valset(seed: int | None = None) -> list[dspy.Example]:
    """Return 150 queries to choose between libraries with; none is in the trainset."""
    return _draw("train", seed)[SIZES["train"] : SIZES["train"] + SIZES["val"]]


def testset(seed: int | None = None) -> list[dspy.Example]:
    """Return 1,000 queries of the test split."""
    return _draw("test", seed)[: SIZES["test"]]


def _draw(split: str, seed: int | None) -> list[dspy.Example]:
    """Return a split, repeated queries merged, in an order that the seed decides."""
    unique = list(dict(rows(split)).items())
    random.Random(f"banking77-{split}-{SEED if seed is None else seed}").shuffle(unique)
    return [dspy.Example(query=query, intent=intent).with_inputs("query") for query, intent in unique]


def local_file(split: str) -> Path | None:
    """Return the local CSV of a split, or None where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TRGRPO_DATA") or beside)
    path = folder / f"banking77_{split}.csv"
    return path if path.is_file() else None


@functools.cache
def rows(split: str) -> Rows:
    """Load a split: the local CSV, else the hub through `datasets`."""
    path = local_file(split)
    if path is not None:
        with path.open(encoding="utf-8", newline="") as file:
            return tuple((row["text"], row["category"]) for row in csv.DictReader(file))
    import datasets  # slow to import, and only needed here

    try:
        loaded = datasets.load_dataset(HUB_NAME, split=split)
    except Exception as error:
        raise FileNotFoundError(
            f"Banking77 is neither local nor reachable on the hub ({type(error).__name__}). Put banking77_train.csv "
            "and banking77_test.csv (columns text, category) into a folder and point TRGRPO_DATA at it, or go online."
        ) from error
    names = loaded.features["label"].names
    return tuple((row["text"], names[row["label"]]) for row in loaded)
