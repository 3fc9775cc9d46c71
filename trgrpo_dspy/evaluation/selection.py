"""Which library a run returns: the best on the valset, and never one that scored below the input.

A tie goes to the input, else to the earlier library. A library counts only if it was scored on nearly all examples that
the input was scored on: what is missing is not missing by chance, and a library that makes the metric fail must not
look good for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .result import Measurement
from .statistics.best import Best, select_best

__all__ = ["MOSTLY_SCORED", "Selection", "select_library"]

MOSTLY_SCORED = 0.9
"""Share of the examples the input was scored on that a library must be scored on to be chosen."""


@dataclass(frozen=True)
class Selection:
    """The library that is returned."""

    step: int
    """Step that made it; 0 is the input."""
    compared: int
    """Libraries that were scored on enough examples to be chosen."""
    best: Best | None
    """The best of these against the input; None if there is none to compare."""


def select_library(baseline: Measurement, measured: Sequence[Measurement], seed: int = 0) -> Selection:
    """Choose among the input and the libraries that were measured.

    Args:
        baseline: The input on the valset.
        measured: The libraries, in the order they were made.
        seed: Seed of the resampling behind the interval.
    """
    enough = [m for m in measured if _scored_for_both(baseline, m) >= MOSTLY_SCORED * baseline.mean.n]
    if not enough:
        return Selection(0, 0, None)
    best = select_best(baseline.scores, [m.scores for m in enough], seed=seed, units=baseline.inputs or None)
    return Selection(0 if best.best is None else enough[best.best].step, len(enough), best)


def _scored_for_both(a: Measurement, b: Measurement) -> int:
    return sum(x is not None and y is not None for x, y in zip(a.scores, b.scores, strict=True))
