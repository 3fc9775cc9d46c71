"""Two programs compared on the same examples: the difference, an interval that covers, and what can be detected.

Only examples scored for both count; the others are counted apart. Pure functions; the same arguments give the same
answer, whatever the order of the examples. `benchmarks/coverage.py` measures how often the intervals hold the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from .resampling import LEVEL, Interval, resamples_of, t_quantile, typical_size, unseen_end, unseen_rate
from .units import Array, paired_differences, read_scores, rows_text, unit_totals

__all__ = ["FEW_DIFFERENT", "RELIABLE_INPUTS", "Flip", "PairedComparison", "ending", "paired_comparison"]

RELIABLE_INPUTS = 30
"""Distinct inputs scored for both programs below which a comparison is marked unreliable."""

FEW_DIFFERENT = 4
"""Distinct inputs that differ below which the text says that the interval is rough."""

_DENSE = 10  # distinct sizes of difference from which scores count as continuous
_BOOTSTRAP = 2000  # resamples of the bootstrap-t interval
_HALVINGS = 80  # of a range of at most 2: below the rounding of a float


@dataclass(frozen=True)
class Flip:
    """An example whose score differs between the two programs."""

    example: int
    """Index of the example."""
    before: float
    """Score of program a, over its attempts."""
    after: float
    """Score of program b."""

    def __str__(self) -> str:
        """The example and both scores."""
        return f"example {self.example}: {self.before:.3g} -> {self.after:.3g}"


@dataclass(frozen=True)
class PairedComparison:
    """Program b minus program a, paired by example."""

    difference: float | None
    """Mean of b minus a over the scored pairs, in score units; None without a scored pair."""
    interval: Interval | None
    """Interval of the difference; None below two scored pairs."""
    wins: int
    """Distinct inputs on which b scored higher, all their rows together."""
    ties: int
    """Distinct inputs with equal scores."""
    losses: int
    """Distinct inputs on which b scored lower."""
    n: int
    """Examples scored for both."""
    unscored: int
    """Examples unscored for a, for b or for both."""
    reliable: bool
    """Whether at least RELIABLE_INPUTS distinct inputs were scored for both."""
    method: str
    """How the interval was made."""
    detectable: float | None
    """True difference found with 80% power at two-sided 5%, given n and the observed paired spread; score units. Where
    scores are means over k attempts the spread holds the noise that k attempts leave: more of them bring it down."""
    flips: tuple[Flip, ...]
    """The examples whose score differs, largest difference first."""
    stop_reason: str = "completed"
    """Why measuring ended; anything but 'completed' left examples out."""
    distinct: int | None = None
    """Distinct inputs among the n examples: what the interval is over. None: each example counts as its own."""

    @property
    def flipped(self) -> tuple[int, ...]:
        """Indices of the examples whose score differs, in order."""
        return tuple(sorted(flip.example for flip in self.flips))

    def __str__(self) -> str:
        """The difference with its interval, wins, ties and losses, what can be detected, and whether to rely on it."""
        if self.difference is None:
            return "not measured: no example was scored for both programs"
        text = f"{self.difference:+.3f}"
        if self.interval is not None:
            text += f" ({self.interval:+.3f})"
        text += f" over {rows_text(self.n, self.n + self.unscored, self.distinct)}"
        text += f": {self.wins} won, {self.ties} tied, {self.losses} lost"
        if self.wins + self.losses < FEW_DIFFERENT <= self.wins + self.ties + self.losses:
            text += f"; with only {self.wins + self.losses} that differ the interval is rough"
        if self.detectable is not None:
            text += f"; differences from {self.detectable:.3f} can be detected"
        text += "" if self.stop_reason == "completed" else f"; partial, {ending(self.stop_reason)}"
        return text if self.reliable else f"{text}; too few examples to rely on the interval"


def ending(stop_reason: str) -> str:
    """How measuring ended, in words, where it ended early."""
    return "ended because going on was in vain" if stop_reason == "unscored" else f"ended by {stop_reason}"


def paired_comparison(
    a: Sequence[float | None],
    b: Sequence[float | None],
    seed: int = 0,
    units: Sequence[int] | None = None,
) -> PairedComparison:
    """Mean of b minus a over the examples scored for both, with an interval that covers.

    A pair is one distinct input, with its rows added up. The interval depends on how many sizes the differences have:

    - None, all pairs are tied: plus and minus the rate of differing pairs that n ties cannot rule out,
      ``1 - (0.05 / 2) ** (1 / n)`` (the exact rule of three), times the span of the scores, at least [0, 1].
    - One (0/1 scores): Tango's score interval (Tango 1998, Statistics in Medicine 17:891-908).
    - Fewer than 10 (half points, means over few attempts): from the lower of the lower ends to the higher of the upper
      ends of Student's t and of Tango's interval for the wins and losses of one size that have the same mean and the
      same mean square. Student's t alone fails where few examples differ, much and mostly one way.
    - More: the same with Student's t and the bootstrap-t (Efron and Tibshirani 1993, ch. 12). The first fails under
      skew, the second under heavy tails.

    With several sizes the end away from zero also takes in the end of Student's t for the same pairs and part of one
    more that differs by the whole span of the scores; its weight is ``(2 / (x + 1)) ** 2`` where x pairs differ. The
    few differences seen need not hold the largest there are. Adding part of a pair that was not seen is the adjustment
    of Agresti and Min (2005, Statistics in Medicine 24:729-740); the weight was found by simulation. Not covered:
    frequent small gains beside rare large losses of which the sample holds none.

    Args:
        a: Scores of the reference program, one entry per example, None = unscored.
        b: Scores of the other program on the same examples.
        seed: Seed of the bootstrap.
        units: The distinct input of each example; None makes each example its own.

    Raises:
        ValueError: Empty or unequally long lists, a score that is no finite number.
    """
    left, right = read_scores(a, "a"), read_scores(b, "b")
    differences = paired_differences(left, right, "a", "b")
    paired = np.isfinite(differences)
    totals = unit_totals(differences, units)
    kept = np.sort(totals.values[totals.rows > 0])
    n, wins, losses = len(kept), int((kept > 0).sum()), int((kept < 0).sum())
    interval, detectable, method = None, None, "none: fewer than 2 distinct inputs scored for both"
    if n > 1:
        pooled = np.concatenate([left[paired], right[paired]])
        heaviest = float(totals.rows.max() / totals.rows[totals.rows > 0].mean())
        if wins + losses == 0:
            span = max(1.0, float(pooled.max())) - min(0.0, float(pooled.min()))
            interval, detectable, method = _tied_interval(totals.effective, span)
        else:
            interval, detectable, method = _paired_interval(kept, heaviest * _span(pooled), seed)
            if pooled.min() >= 0 and pooled.max() <= 1:  # inputs of very unequal weight would reach beyond
                interval = Interval(max(interval.low, -1.0), min(interval.high, 1.0))
    return PairedComparison(
        difference=_mean(kept) if n else None,
        interval=interval,
        wins=wins,
        ties=n - wins - losses,
        losses=losses,
        n=int(paired.sum()),
        unscored=len(left) - int(paired.sum()),
        reliable=n >= RELIABLE_INPUTS,
        method=method,
        detectable=detectable,
        flips=_flips(left, right, differences),
        distinct=None if units is None else n,
    )


def _flips(left: Array, right: Array, differences: Array) -> tuple[Flip, ...]:
    """Examples that differ, largest first, equal ones in order."""
    rows = np.flatnonzero(np.isfinite(differences) & (differences != 0))
    order = rows[np.argsort(-np.abs(differences[rows]).round(12), kind="stable")]
    return tuple(Flip(int(i), float(left[i]), float(right[i])) for i in order)


def _paired_interval(d: Array, span: float, seed: int) -> tuple[Interval, float, str]:
    """Interval, detectable difference and method for sorted differences, not all of them 0."""
    n, mean = len(d), _mean(d)
    size = float(typical_size(d[:, None])[0])
    distinct = len(np.unique(np.round(np.abs(d[d != 0]) / size, 9)))
    t, error = t_quantile((1 + LEVEL) / 2, n - 1), float(d.std(ddof=1)) / math.sqrt(n)
    total = n + 1  # half a win and half a loss added: few differences must not look certain
    spread = max((math.fsum(d**2) + size**2) / total - (math.fsum(d) / total) ** 2, 0.0)
    detectable = _detectable(n, math.sqrt(spread / total))
    if distinct >= _DENSE:
        lower, upper = _bootstrap_t(d, mean, seed)
        low, high, other = mean + lower * error, mean + upper * error, "bootstrap-t"
        detectable = _detectable(n, error)
    else:
        (low, high), other = _score_interval(d), "Tango's score interval"
    if distinct == 1:
        return Interval(min(low, mean), max(high, mean)), detectable, other
    low, high = min(low, mean - t * error), max(high, mean + t * error)
    low = min(low, -unseen_end(-d, span, t)) if mean <= 0 else low
    high = max(high, unseen_end(d, span, t)) if mean >= 0 else high
    return Interval(low, high), detectable, f"wider of t, a larger difference unseen, and {other}"


def _mean(d: Array) -> float:
    """The mean; exactly 0 where it is of rounding size, so that its sign never decides anything."""
    mean = math.fsum(d) / len(d)
    return 0.0 if abs(mean) <= 1e-12 * float(np.abs(d).max()) else mean


def _span(scores: Array) -> float:
    """The largest difference to reckon with: 1 for scores inside [0, 1], else the largest between those seen."""
    low, high = float(scores.min()), float(scores.max())
    return 1.0 if low >= 0 and high <= 1 else high - low


def _score_interval(d: Array) -> tuple[float, float]:
    """Tango's interval for differences of one size, or of that size which has the same mean and mean square."""
    won, lost = math.fsum(d[d > 0]), -math.fsum(d[d < 0])
    size = math.fsum(d**2) / (won + lost)
    won, lost = won / (size * len(d)), lost / (size * len(d))
    q = NormalDist().inv_cdf((1 + LEVEL) / 2)
    return size * _score_end(won, lost, len(d), q), -size * _score_end(lost, won, len(d), q)


def _score_end(won: float, lost: float, n: int, q: float) -> float:
    """The smallest difference that the score test does not reject; `won` and `lost` are shares of the n pairs."""
    low, high = -1.0, won - lost
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        linear = (2 - won + lost) * middle - won - lost  # the share lost that is likeliest at this difference ...
        share = (math.sqrt(max(linear**2 + 8 * lost * middle * (1 - middle), 0.0)) - linear) / 4
        variance = max(2 * share + middle * (1 - middle), 0.0)  # ... and the variance of one pair there
        if won - lost - middle > q * math.sqrt(variance / n):
            low = middle
        else:
            high = middle
    return high


def _tied_interval(n: float, span: float) -> tuple[Interval, float, str]:
    """Interval, detectable difference and method when all n pairs are tied; n may be an effective number."""
    unseen = unseen_rate(n)
    error = span * math.sqrt(unseen / n)  # as if as many pairs differed as n ties leave possible
    interval = Interval(-unseen * span, unseen * span)
    return interval, _detectable(max(2, round(n)), error), "all tied: rule of three"


def _bootstrap_t(d: Array, mean: float, seed: int) -> tuple[float, float]:
    """Ends of the bootstrap-t interval in standard errors from the mean; mirrored exactly when d is."""
    spread = float(d.std(ddof=1))
    if (mean, round(math.fsum(((d - mean) / spread) ** 3), 9)) < (0.0, 0.0):
        lower, upper = _bootstrap_t(-d[::-1], -mean, seed)
        return -upper, -lower
    z = ((d - mean) / spread).astype(np.float32)
    n = len(z)
    parts = []
    for weights, _ in resamples_of(n, _BOOTSTRAP, seed):
        means = weights @ z / n
        variance = np.maximum(weights @ z**2 / n - means**2, 1e-6) * n / (n - 1)
        parts.append(means / np.sqrt(variance / n))
    ends = np.quantile(np.concatenate(parts), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return -float(ends[1]), -float(ends[0])


def _detectable(n: int, error: float) -> float:
    """Difference found with 80% power at two-sided 5%, from the standard error."""
    return (t_quantile(0.975, n - 1) + t_quantile(0.8, n - 1)) * error
