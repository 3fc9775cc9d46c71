"""Means of scores with intervals, Mean@k and Pass@k.

A score list has one entry per example, ``float | None``; ``None`` means *unscored* (an outage) and is left out and
counted, never read as 0. Rows with equal inputs are one unit of every interval (`units.py`). Scores may have any finite
range. All functions are pure: the same arguments give the same answer, whatever the order of the examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from .resampling import LEVEL, Interval, t_quantile, unseen_end, unseen_rate
from .units import UnitTotals, read_scores, rows_text, unit_totals

__all__ = ["Mean", "mean_at_k", "mean_with_interval", "pass_at_k"]


@dataclass(frozen=True)
class Mean:
    """A mean score over the scored examples."""

    value: float | None
    """The mean in score units; None when nothing was scored."""
    interval: Interval | None
    """Its interval; None below two scored examples or when the data say nothing about their spread."""
    n: int
    """Scored examples."""
    unscored: int
    """Examples without a score."""
    distinct: int | None = None
    """Distinct inputs among the scored examples: what the interval is over. None: each example counts as its own."""

    @property
    def examples(self) -> str:
        """How many examples the mean is over: '9 of 20 examples (4 distinct)'."""
        return rows_text(self.n, self.n + self.unscored, self.distinct)

    @property
    def brief(self) -> str:
        """The mean alone where every example is scored and distinct, else with how many it is over."""
        if self.value is None:
            return f"unscored (0 of {self.unscored} examples)" if self.unscored else "unscored"
        whole = not self.unscored and self.distinct in (None, self.n)
        return f"{self.value:.3f}" if whole else f"{self.value:.3f} over {self.examples}"

    def __str__(self) -> str:
        """The mean with its interval."""
        text = "unscored" if self.value is None else f"{self.value:.3f}"
        return text if self.interval is None else f"{text} ({self.interval:.3f})"


def mean_with_interval(scores: Sequence[float | None], units: Sequence[int] | None = None) -> Mean:
    """Mean of per-example scores with a confidence interval.

    The interval depends on the scores:

    - 0 and 1 only: Wilson's score interval.
    - Others inside [0, 1]: Wilson's interval with the effective sample size ``mean (1 - mean) / (variance / n)`` and a
      t quantile, as survey statistics do for proportions (Korn and Graubard 1998; Franco et al. 2019). The end away
      from the nearer bound also takes in the end of Student's t for the same scores and part of one more at the other
      bound, as in `paired_comparison`: the few scores away from the bound need not hold the worst.
    - Any other range: Student's t.
    - All the same number: the scores show no spread, and no interval of width zero is claimed. Strictly inside (0, 1)
      the share of differing examples that n draws can miss is bounded (the rule of three) and placed at 0 or 1;
      outside [0, 1] the interval is None.

    Copies of an input are one unit: its scores are averaged. Where inputs have unequal numbers of rows the variance is
    that of a weighted mean over the inputs, with degrees of freedom by Kish's effective number of them.

    Simulated at 30 and 60 examples and k=4 and 32 it covers Mean@k in 90 to 97% and Pass@k in 90 to 98%, least where a
    few hard examples make the difference (in the worst case, Pass@16 at a truth of 0.94, in 85%). With copies it covers
    in 91 to 99%.

    Args:
        scores: One entry per example, None = unscored.
        units: The distinct input of each example; None makes each example its own.

    Raises:
        ValueError: Empty scores, a score that is no finite number, or not as many units.
    """
    values = read_scores(scores, "scores")
    kept = np.sort(values[np.isfinite(values)])
    totals = unit_totals(values, units)
    scored = totals.rows > 0
    n, distinct = len(kept), int(scored.sum())
    if n == 0:
        return Mean(None, None, 0, len(values), None if units is None else 0)
    value = math.fsum(kept) / n
    interval = None
    if distinct > 1:
        interval = _mean_interval(UnitTotals(totals.sums[scored], totals.rows[scored]), value)
    return Mean(value, interval, n, len(values) - n, None if units is None else distinct)


def mean_at_k(scores_per_example: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Mean over the scored attempts of each example; None where no attempt was scored."""
    means: list[float | None] = []
    for i, attempts in enumerate(scores_per_example):
        values = read_scores(attempts, f"scores_per_example[{i}]") if len(attempts) else np.empty(0)
        kept = np.sort(values[np.isfinite(values)])
        means.append(math.fsum(kept) / len(kept) if len(kept) else None)
    return means


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of k attempts is correct.

    ``1 - C(n - correct, k) / C(n, k)`` of Chen et al. (2021, arXiv:2107.03374), in exact integers and rounded
    once, so it is stable for any n.

    Args:
        n: Scored attempts, at least 1.
        correct: Correct ones among them, 0 to n.
        k: Attempts allowed, 1 to n.
    """
    if n < 1:
        raise ValueError(f"n is {n}; it must be at least 1")
    if not 0 <= correct <= n:
        raise ValueError(f"correct is {correct}; it must be from 0 to n = {n}")
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}; it must be from 1 to n = {n}")
    draws = math.comb(n, k)
    return (draws - math.comb(n - correct, k)) / draws


def _mean_interval(totals: UnitTotals, value: float) -> Interval | None:
    """Interval of the mean of two or more distinct inputs, given the mean over their rows."""
    order = np.argsort(totals.sums / totals.rows, kind="stable")
    means, weights = (totals.sums / totals.rows)[order], totals.rows[order] / totals.rows.mean()
    n, half, even = totals.effective, (1 + LEVEL) / 2, bool((weights == weights[0]).all())
    t = t_quantile(half, max(1, round(n) - 1))
    constant = float(means[-1] - means[0]) <= 1e-12 * float(np.abs(means).max())
    variance = math.fsum(weights**2 * (means - value) ** 2) / len(means) ** 2  # of the mean
    constant = constant or not variance  # the variance of numbers that differ may be too small for a number
    if means[0] < 0 or means[-1] > 1:
        reach = t * math.sqrt(variance * n / max(n - 1, 1e-9))
        return None if constant else Interval(value - reach, value + reach)
    all_or_nothing = bool(((means == 0) | (means == 1)).all())
    binary = even and all_or_nothing
    if constant and not binary:
        unseen = unseen_rate(n)
        return Interval(value * (1 - unseen), value + unseen * (1 - value))
    effective = n if constant or binary else value * (1 - value) / variance
    if all_or_nothing:  # a few heavy inputs that agree must not count for more than all of them can
        effective = min(effective, n)
    q = NormalDist().inv_cdf(half) if binary else t
    centre = (value + q * q / (2 * effective)) / (1 + q * q / effective)
    reach = math.sqrt(value * (1 - value) / effective + (q / (2 * effective)) ** 2)
    reach *= q / (1 + q * q / effective)
    low, high = min(centre - reach, value), max(centre + reach, value)
    if not binary and value >= 0.5:
        low = min(low, 1 - unseen_end(weights * (1 - means), float(weights.max()), q))
    if not binary and value <= 0.5:
        high = max(high, unseen_end(weights * means, float(weights.max()), q))
    return Interval(max(0.0, low), min(1.0, high))
