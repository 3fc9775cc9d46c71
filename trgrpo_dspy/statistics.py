"""Statistics behind every verdict: means, paired comparisons and the gate that picks a library.

A score list has one entry per example, ``float | None``; ``None`` means *unscored* (an outage) and is left
out and counted, never read as 0. Programs are compared only on examples scored for both. Scores may have
any finite range; rules that need a bounded range say so. All functions are pure, and those that use chance
take a ``seed``: the same arguments give the same answer, whatever the order of the examples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "RELIABLE_PAIRS",
    "Comparison",
    "Interval",
    "Mean",
    "Selection",
    "mean_at_k",
    "mean_with_interval",
    "paired_comparison",
    "pass_at_k",
    "select_best",
]

RELIABLE_PAIRS = 30
"""Scored pairs below which a comparison is marked unreliable."""

_DENSE = 10  # distinct sizes of difference from which scores count as continuous
_BOOTSTRAP = 2000  # resamples of the bootstrap-t interval
_DRAW_CELLS = 100_000  # resampling weights held in memory at once; small blocks stay in the cache

_Array = NDArray[np.float64]
_Single = NDArray[np.float32]


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval."""

    low: float
    """Lower end, in score units."""
    high: float
    """Upper end, in score units."""
    level: float
    """Confidence level, a fraction such as 0.95."""


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


@dataclass(frozen=True)
class Comparison:
    """Program b minus program a, paired by example."""

    difference: float | None
    """Mean of b minus a over the scored pairs, in score units; None without a scored pair."""
    interval: Interval | None
    """Interval of the difference; None below two scored pairs."""
    wins: int
    """Pairs in which b scored higher."""
    ties: int
    """Pairs with equal scores."""
    losses: int
    """Pairs in which b scored lower."""
    n: int
    """Pairs scored for both."""
    unscored: int
    """Examples unscored for a, for b or for both."""
    reliable: bool
    """Whether there are at least RELIABLE_PAIRS scored pairs."""
    method: str
    """How the interval was made."""
    detectable: float | None
    """True difference found with 80% power at two-sided 5%, given n and the observed spread; score units."""
    flipped: tuple[int, ...]
    """Indices of the examples whose score differs."""

    def __str__(self) -> str:
        """The difference with its interval, wins, ties and losses, and whether to rely on it."""
        if self.difference is None:
            return "not measured: no example was scored for both programs"
        text = f"{self.difference:+.3f}"
        if self.interval is not None:
            text += (
                f" ({100 * self.interval.level:.0f}% interval {self.interval.low:+.3f} to {self.interval.high:+.3f})"
            )
        text += f" over {self.n} examples: {self.wins} won, {self.ties} tied, {self.losses} lost"
        text += f", {self.unscored} unscored" if self.unscored else ""
        return text if self.reliable else f"{text}; too few examples to rely on the interval"


@dataclass(frozen=True)
class Selection:
    """The best of several candidates against one baseline."""

    best: int | None
    """Index of the candidate with the highest gain; None when none is above the baseline."""
    gain: float | None
    """Its mean paired gain over the baseline, in score units."""
    interval: Interval | None
    """Interval of the gain, simultaneous over all candidates tried."""
    improved: bool
    """Whether the interval lies above zero."""
    p_value: float | None
    """Two-sided p-value of the gain, adjusted for the choice among all candidates."""
    n: int
    """Pairs behind the gain; without a best candidate the scored examples of the baseline."""
    tried: int
    """Candidates measured."""


def mean_with_interval(scores: Sequence[float | None], level: float = 0.95) -> Mean:
    """Mean of per-example scores with a confidence interval.

    Scores of 0 and 1 only: Wilson's score interval. Other scores inside [0, 1]: Wilson's interval with the
    effective sample size ``mean (1 - mean) / (variance / n)`` and a t quantile, as survey statistics do for
    proportions (Korn and Graubard 1998; Franco et al. 2019). Any other range: Student's t. When all scores
    are the same number there is no spread to learn from, and no zero-width interval is claimed: strictly
    inside (0, 1) the share of differing examples that n draws can miss is bounded (the rule of three) and
    placed at 0 or 1; outside [0, 1] the interval is None.

    Args:
        scores: One entry per example, None = unscored.
        level: Confidence level in (0, 1).

    Raises:
        ValueError: Empty scores, a score that is no finite number, or a level out of range.
    """
    _check_level(level)
    values = _scores(scores, "scores")
    kept = np.sort(values[np.isfinite(values)])
    n = len(kept)
    if n == 0:
        return Mean(None, None, 0, len(values))
    value = math.fsum(kept) / n
    return Mean(value, _mean_interval(kept, value, level) if n > 1 else None, n, len(values) - n)


def paired_comparison(
    a: Sequence[float | None], b: Sequence[float | None], level: float = 0.95, seed: int = 0
) -> Comparison:
    """Mean of b minus a over the examples scored for both, with an interval that covers.

    Differences on few values (0/1, half points, means over few attempts; under 10 distinct sizes): Student's
    t after adding half a win and half a loss of typical size (root mean square of the differences that are
    not 0), which for 0/1 scores is the adjusted Wald interval of Agresti and Min (2005) and Bonett and Price
    (2012) with half their weight. Otherwise: from the lower of the lower ends to the higher of the upper ends
    of Student's t and the bootstrap-t (Efron and Tibshirani 1993, ch. 12), of which one fails under skew and
    the other under heavy tails. All pairs tied: plus and minus the rate of differing pairs that n ties cannot
    rule out, ``1 - ((1 - level) / 2) ** (1 / n)`` (the exact rule of three), times the span of the scores,
    taken to be at least [0, 1].

    Args:
        a: Scores of the reference program, one entry per example, None = unscored.
        b: Scores of the other program on the same examples.
        level: Confidence level in (0, 1).
        seed: Seed of the bootstrap.

    Raises:
        ValueError: Empty or unequally long lists, a score that is no finite number, a level out of range.
    """
    _check_level(level)
    left, right = _scores(a, "a"), _scores(b, "b")
    differences = _differences(left, right, "a", "b")
    paired = np.isfinite(differences)
    kept = np.sort(differences[paired])
    n, wins, losses = len(kept), int((kept > 0).sum()), int((kept < 0).sum())
    interval, detectable, method = None, None, "none: fewer than 2 scored pairs"
    if n > 1 and wins + losses == 0:
        pooled = np.concatenate([left[paired], right[paired]])
        span = max(1.0, float(pooled.max())) - min(0.0, float(pooled.min()))
        interval, detectable, method = _tied_interval(n, span, level)
    elif n > 1:
        interval, detectable, method = _paired_interval(kept, level, seed)
    return Comparison(
        difference=math.fsum(kept) / n if n else None,
        interval=interval,
        wins=wins,
        ties=n - wins - losses,
        losses=losses,
        n=n,
        unscored=len(left) - n,
        reliable=n >= RELIABLE_PAIRS,
        method=method,
        detectable=detectable,
        flipped=tuple(int(i) for i in np.flatnonzero(paired & (differences != 0))),
    )


def mean_at_k(scores_per_example: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Mean over the scored attempts of each example; None where no attempt was scored.

    Args:
        scores_per_example: For each example the scores of its attempts, None = unscored.

    Raises:
        ValueError: A score that is no finite number.
    """
    means: list[float | None] = []
    for i, attempts in enumerate(scores_per_example):
        values = _scores(attempts, f"scores_per_example[{i}]") if len(attempts) else np.empty(0)
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

    Raises:
        ValueError: An argument out of its range.
    """
    if n < 1:
        raise ValueError(f"n is {n}; it must be at least 1")
    if not 0 <= correct <= n:
        raise ValueError(f"correct is {correct}; it must be from 0 to n = {n}")
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}; it must be from 1 to n = {n}")
    draws = math.comb(n, k)
    return (draws - math.comb(n - correct, k)) / draws


def select_best(
    baseline: Sequence[float | None],
    candidates: Sequence[Sequence[float | None]],
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> Selection:
    """Candidate with the highest mean paired gain, with an interval that pays for the choice.

    The interval is that of a single-step max-t bootstrap (Romano and Wolf 2005): examples are resampled for
    all candidates at once, so their correlation counts, and the critical value is the quantile of the largest
    absolute studentized gain. Each candidate gets half a win and half a loss of typical size, which keeps
    sparse 0/1 differences from looking certain. A sign-flip test of the same maximum, which flips whole
    examples and respects discreteness, must agree: if it does not reject, the interval is widened to take in
    zero. So ``improved``, ``interval.low > 0`` and ``p_value <= 1 - level`` always say the same, and without
    any true effect a gain is claimed in about half of ``1 - level`` of the runs.

    Args:
        baseline: Scores of the program to beat, one entry per example, None = unscored.
        candidates: Scores of each candidate on the same examples, in any number.
        level: Simultaneous confidence level in (0, 1).
        seed: Seed of the resampling.
        resamples: Resamples of the bootstrap and of the test, at least ``1 / (1 - level)``.

    Raises:
        ValueError: Empty or unequally long lists, a score that is no finite number, a level or number of
            resamples out of range.
    """
    _check_level(level)
    allowed = math.floor((1 - level) * (resamples + 1) + 1e-9)
    if allowed < 1:
        raise ValueError(f"resamples is {resamples}; level {level} needs more")
    reference = _scores(baseline, "baseline")
    columns = []
    for j, candidate in enumerate(candidates):
        name = f"candidates[{j}]"
        columns.append(_differences(reference, _scores(candidate, name), "baseline", name))
    best, gain = None, 0.0
    for j, column in enumerate(columns):
        kept = column[np.isfinite(column)]
        mean = math.fsum(kept) / len(kept) if len(kept) else 0.0
        if mean > gain + 1e-12 * float(np.abs(kept).max(initial=0.0)):
            best, gain = j, mean
    if best is None:
        return Selection(None, None, None, False, None, int(np.isfinite(reference).sum()), len(columns))
    table = np.column_stack(columns)
    low, high, p_value = _gate(table, best, allowed, seed, resamples)
    interval = Interval(low, max(high, gain), level)
    pairs = int(np.isfinite(columns[best]).sum())
    return Selection(best, gain, interval, low > 0, p_value, pairs, len(columns))


def _gate(table: _Array, best: int, allowed: int, seed: int, resamples: int) -> tuple[float, float, float]:
    """Low end, high end and p-value for column ``best`` of differences (examples by candidates)."""
    informative = (np.isfinite(table) & (table != 0)).any(axis=0)
    column = int(informative[:best].sum())
    table = table[:, informative]
    table = table[np.isfinite(table).any(axis=1)]
    table = table[np.lexsort(table.T)]  # makes the order of the examples irrelevant
    mask = np.isfinite(table)
    table = np.where(mask, table, 0.0)
    scale = _typical_size(table)
    table = table / scale
    total = mask.sum(axis=0) + 1.0  # pairs plus half a win and half a loss
    centre = table.sum(axis=0) / total
    spread = np.sqrt((((table**2).sum(axis=0) + 1) / total - centre**2) / total)
    flips = np.sqrt((table != 0).sum(axis=0))
    largest, flipped = _largest_statistics(table, mask, centre, flips, seed, resamples)
    statistic = float(centre[column] / spread[column])
    critical = float(np.sort(largest)[-allowed])
    signed = float(table[:, column].sum() / flips[column]) * (1 - 1e-5)  # equal statistics count as ties
    exceed, exceed_flipped = int((largest >= statistic).sum()), int((flipped >= signed).sum())
    unit = float(spread[column] * scale[column])
    low, high = (statistic - critical) * unit, (statistic + critical) * unit
    if exceed_flipped + 1 > allowed:
        low = min(low, 0.0)
    return low, high, (max(exceed, exceed_flipped) + 1) / (resamples + 1)


def _largest_statistics(
    table: _Array, mask: NDArray[np.bool_], centre: _Array, flips: _Array, seed: int, resamples: int
) -> tuple[_Array, _Array]:
    """Largest absolute statistic over candidates, per bootstrap resample and per sign flip."""
    values, pairs, middle, roots = (part.astype(np.float32) for part in (table, mask, centre, flips))
    squares = values**2
    bootstrap, flipped = [], []
    for weights, signs in _draws(len(table), resamples, seed):
        total = weights @ pairs + 1
        mean = weights @ values / total
        variance = (weights @ squares + 1) / total - mean**2
        bootstrap.append(np.abs((mean - middle) / np.sqrt(variance / total)).max(axis=1))
        flipped.append(np.abs(signs @ values / roots).max(axis=1))
    return np.concatenate(bootstrap).astype(np.float64), np.concatenate(flipped).astype(np.float64)


def _draws(n: int, resamples: int, seed: int) -> Iterator[tuple[_Single, _Single]]:
    """Blocks of (rows, n): how often each example is drawn with replacement, and random signs."""
    generator = np.random.default_rng(seed)
    block = max(1, min(resamples, _DRAW_CELLS // n))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        cells = generator.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        weights = np.bincount(cells.ravel(), minlength=rows * n).reshape(rows, n)
        octets = generator.integers(0, 256, size=(rows, -(-n // 8)), dtype=np.uint8)
        signs = np.unpackbits(octets, axis=1, count=n) * np.float32(2) - np.float32(1)
        yield weights.astype(np.float32), signs


def _paired_interval(d: _Array, level: float, seed: int) -> tuple[Interval, float, str]:
    """Interval, detectable difference and method for sorted differences, not all of them 0."""
    n, mean, half = len(d), math.fsum(d) / len(d), (1 + level) / 2
    size = float(_typical_size(d[:, None])[0])
    distinct = len(np.unique(np.round(np.abs(d[d != 0]) / size, 9)))
    if distinct < _DENSE:
        total = n + 1
        centre = math.fsum(d) / total
        error = math.sqrt(max((math.fsum(d**2) + size**2) / total - centre**2, 0.0) / total)
        low, high = centre - _t(half, n - 1) * error, centre + _t(half, n - 1) * error
        method = "t with half a win and half a loss added"
    else:
        error = float(d.std(ddof=1)) / math.sqrt(n)
        lower, upper = _bootstrap_t(d, mean, level, seed)
        low, high = mean + min(-_t(half, n - 1), lower) * error, mean + max(_t(half, n - 1), upper) * error
        method = "wider of t and bootstrap-t"
    return Interval(min(low, mean), max(high, mean), level), _detectable(n, error), method


def _tied_interval(n: int, span: float, level: float) -> tuple[Interval, float, str]:
    """Interval, detectable difference and method when all n pairs are tied."""
    unseen = _unseen(n, level)
    error = span * math.sqrt(unseen / n)  # as if as many pairs differed as n ties leave possible
    return Interval(-unseen * span, unseen * span, level), _detectable(n, error), "all tied: rule of three"


def _bootstrap_t(d: _Array, mean: float, level: float, seed: int) -> tuple[float, float]:
    """Ends of the bootstrap-t interval in standard errors from the mean; mirrored exactly when d is."""
    if (mean, math.fsum((d - mean) ** 3)) < (0.0, 0.0):
        lower, upper = _bootstrap_t(-d[::-1], -mean, level, seed)
        return -upper, -lower
    z = ((d - mean) / d.std(ddof=1)).astype(np.float32)
    n = len(z)
    parts = []
    for weights, _ in _draws(n, _BOOTSTRAP, seed):
        means = weights @ z / n
        variance = np.maximum(weights @ z**2 / n - means**2, 1e-6) * n / (n - 1)
        parts.append(means / np.sqrt(variance / n))
    ends = np.quantile(np.concatenate(parts), [(1 - level) / 2, (1 + level) / 2])
    return -float(ends[1]), -float(ends[0])


def _mean_interval(kept: _Array, value: float, level: float) -> Interval | None:
    """Interval of the mean of two or more sorted scores."""
    n, half = len(kept), (1 + level) / 2
    constant = float(kept[-1] - kept[0]) <= 1e-12 * float(np.abs(kept).max())
    if kept[0] < 0 or kept[-1] > 1:
        reach = _t(half, n - 1) * float(kept.std(ddof=1)) / math.sqrt(n)
        return None if constant else Interval(value - reach, value + reach, level)
    binary = bool(((kept == 0) | (kept == 1)).all())
    if constant and not binary:
        unseen = _unseen(n, level)
        return Interval(value * (1 - unseen), value + unseen * (1 - value), level)
    effective = float(n) if binary else value * (1 - value) * n / float(kept.var())
    q = NormalDist().inv_cdf(half) if binary else _t(half, n - 1)
    centre = (value + q * q / (2 * effective)) / (1 + q * q / effective)
    reach = math.sqrt(value * (1 - value) / effective + (q / (2 * effective)) ** 2)
    reach *= q / (1 + q * q / effective)
    return Interval(max(0.0, min(centre - reach, value)), min(1.0, max(centre + reach, value)), level)


def _unseen(n: int, level: float) -> float:
    """Largest rate of an event that n draws without one leave possible (Clopper-Pearson at 0 of n)."""
    return 1 - math.pow((1 - level) / 2, 1 / n)


def _detectable(n: int, error: float) -> float:
    """Difference found with 80% power at two-sided 5%, from the standard error."""
    return (_t(0.975, n - 1) + _t(0.8, n - 1)) * error


def _typical_size(table: _Array) -> _Array:
    """Root mean square of the entries of each column that are not 0; every column has one."""
    peak = np.abs(table).max(axis=0)
    return np.asarray(peak * np.sqrt(((table / peak) ** 2).sum(axis=0) / (table != 0).sum(axis=0)))


def _differences(a: _Array, b: _Array, name_a: str, name_b: str) -> _Array:
    """Entries of b minus a, NaN where either is unscored, exactly 0 for differences of rounding size."""
    if len(a) != len(b):
        raise ValueError(f"{name_b} has {len(b)} scores and {name_a} has {len(a)}; they must match")
    difference = b - a
    rounding = np.maximum(1e-12 * np.maximum(np.abs(a), np.abs(b)), 1e-150)  # below, its square is 0
    return np.where(np.abs(difference) <= rounding, 0.0, difference)


def _scores(scores: Sequence[float | None], name: str) -> _Array:
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


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must be above 0 and below 1")


@lru_cache(maxsize=256)
def _t(probability: float, df: int) -> float:
    """Quantile of Student's t at a probability of 0.5 or more, to about 1e-8.

    The angle atan(t / sqrt(df)) has density cos(angle) ** (df - 1), here integrated by the trapezoidal rule.
    """
    angles = np.linspace(0.0, min(math.pi / 2, 12 / math.sqrt(df)), 100_001)
    density = np.cos(angles) ** (df - 1)
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(df) * math.tan(float(np.interp(2 * probability - 1, mass / mass[-1], angles)))
