"""An interval, and what intervals are made with: quantiles, resamples, and the worst that may not have been drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .units import Array

__all__ = ["LEVEL", "Interval", "resamples_of", "t_quantile", "typical_size", "unseen_end", "unseen_rate"]

LEVEL = 0.95
"""Confidence level of every interval."""
_CELLS = 100_000  # resampling weights held in memory at once; small blocks stay in the cache

Single = NDArray[np.float32]


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval."""

    low: float
    """Lower end, in score units."""
    high: float
    """Upper end, in score units."""
    level: float = LEVEL
    """Confidence level, a fraction such as 0.95."""

    def __format__(self, number: str) -> str:
        """'95% interval 0.1 to 0.3', its ends in this number format."""
        return f"{100 * self.level:.0f}% interval {self.low:{number}} to {self.high:{number}}"


def unseen_end(values: Array, span: float, t: float) -> float:
    """Student's upper end for these values and part of one more, as large as `span`; the more are not 0 the less."""
    weight = (2 / (int(np.count_nonzero(values)) + 1)) ** 2
    total = len(values) + weight
    mean = (math.fsum(values) + weight * span) / total
    spread = (math.fsum(values**2) + weight * span**2) / total - mean**2
    return mean + t * math.sqrt(max(spread, 0.0) / (total - 1))


def unseen_rate(n: float) -> float:
    """Largest rate of an event that n draws without one leave possible (Clopper-Pearson at 0 of n)."""
    return 1 - math.pow((1 - LEVEL) / 2, 1 / n)


def typical_size(table: Array) -> Array:
    """Root mean square of the entries of each column that are not 0; every column has one."""
    peak = np.abs(table).max(axis=0)
    return np.asarray(peak * np.sqrt(((table / peak) ** 2).sum(axis=0) / (table != 0).sum(axis=0)))


def resamples_of(n: int, resamples: int, seed: int) -> Iterator[tuple[Single, Single]]:
    """Blocks of (rows, n): how often each example is drawn with replacement, and random signs."""
    generator = np.random.default_rng(seed)
    block = max(1, min(resamples, _CELLS // n))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        cells = generator.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        weights = np.bincount(cells.ravel(), minlength=rows * n).reshape(rows, n)
        octets = generator.integers(0, 256, size=(rows, -(-n // 8)), dtype=np.uint8)
        signs = np.unpackbits(octets, axis=1, count=n) * np.float32(2) - np.float32(1)
        yield weights.astype(np.float32), signs


@lru_cache(maxsize=256)
def t_quantile(probability: float, df: int) -> float:
    """Quantile of Student's t at a probability of 0.5 or more, to about 1e-8.

    The angle atan(t / sqrt(df)) has density cos(angle) ** (df - 1), here integrated by the trapezoidal rule.
    """
    angles = np.linspace(0.0, min(math.pi / 2, 12 / math.sqrt(df)), 100_001)
    density = np.cos(angles) ** (df - 1)
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(df) * math.tan(float(np.interp(2 * probability - 1, mass / mass[-1], angles)))
