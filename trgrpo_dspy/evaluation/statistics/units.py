"""The unit of every interval: the distinct input.

Rows of a set with equal inputs are copies: they say little or nothing that is new. Means and gains stay means over
rows, so that they equal `dspy.Evaluate`'s; their spread is reckoned over the distinct inputs, each of which enters with
the sum of its rows. A set of five copies of each input therefore gets the interval of the set without the copies.

`units` gives, for each row, any whole number that rows with equal inputs share and no others; None makes each row a
unit of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "UnitTotals", "paired_differences", "read_scores", "rows_text", "unit_totals"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class UnitTotals:
    """Values of rows, added up by unit; one entry for each unit, whether any of its rows has a value or not."""

    sums: Array
    """Sum over the rows that have a value."""
    rows: Array
    """How many those are."""

    @property
    def values(self) -> Array:
        """One value for each unit, such that their mean is the mean over rows; NaN where no row has a value."""
        scored = self.rows > 0
        average = float(self.rows.sum()) / max(int(scored.sum()), 1) or 1.0
        return np.where(scored, self.sums / average, math.nan)

    @property
    def effective(self) -> float:
        """How many units of equal weight say as much (Kish 1965): the number of units where all have as many rows."""
        return float(self.rows.sum() ** 2 / (self.rows**2).sum())


def unit_totals(values: Array, units: Sequence[int] | None) -> UnitTotals:
    """Add the values of rows up by unit; NaN is no value.

    Args:
        values: One entry for each row.
        units: The unit of each row; None makes each row its own.

    Raises:
        ValueError: Not as many units as rows.
    """
    scored = np.isfinite(values)
    if units is None:
        return UnitTotals(np.where(scored, values, 0.0), scored.astype(np.float64))
    if len(units) != len(values):
        raise ValueError(f"units has {len(units)} entries for {len(values)} scores; they must match")
    found, number = np.unique(np.asarray(units), return_inverse=True)
    order = np.argsort(values, kind="stable")  # the order of the rows must not show in the last digit of a sum
    kept = order[scored[order]]
    sums, sizes = (
        np.bincount(number[kept], weights=weights, minlength=len(found))
        for weights in (values[kept], np.abs(values[kept]))
    )
    rows = np.bincount(number[kept], minlength=len(found)).astype(np.float64)
    return UnitTotals(np.where(np.abs(sums) <= 1e-12 * sizes, 0.0, sums), rows)


def rows_text(n: int, total: int, distinct: int | None, kind: str = "examples") -> str:
    """How many examples a figure is over: those scored, of how many, and how many distinct inputs where fewer."""
    text = f"{n} of {total} {kind}" if n < total else f"{n} {kind}"
    return text if distinct is None or distinct == n else f"{text} ({distinct} distinct)"


def paired_differences(a: Array, b: Array, name_a: str, name_b: str) -> Array:
    """Entries of b minus a, NaN where either is unscored, exactly 0 for differences of rounding size."""
    if len(a) != len(b):
        raise ValueError(f"{name_b} has {len(b)} scores and {name_a} has {len(a)}; they must match")
    difference = b - a
    rounding = np.maximum(1e-12 * np.maximum(np.abs(a), np.abs(b)), 1e-150)  # below, its square is 0
    return np.where(np.abs(difference) <= rounding, 0.0, difference)


def read_scores(scores: Sequence[float | None], name: str) -> Array:
    """Scores as an array with NaN for None; ValueError on anything but finite numbers and None."""
    raw: NDArray[Any] = np.asarray(scores)
    if raw.ndim != 1 or raw.size == 0:
        raise ValueError(f"{name} has shape {raw.shape}; it must be a list with one score per example")
    if raw.dtype.kind in "biuf" and np.isfinite(raw).all():
        return raw.astype(np.float64)
    for i, score in enumerate(scores):
        number = isinstance(score, Real | np.bool_) and math.isfinite(score)
        if score is not None and not number:
            raise ValueError(f"{name}[{i}] is {score!r}; it must be a finite number, or None for unscored")
    return np.array([math.nan if score is None else float(score) for score in scores])
