"""Scores of two programs, and the ends of an interval."""

from __future__ import annotations

from typing import Any


def ends(interval: Any) -> tuple[float, float]:
    return interval.low, interval.high


def flips(wins: int, losses: int, ties: int) -> tuple[list[float], list[float]]:
    """0/1 scores of two programs with so many wins, losses and ties of the second."""
    return [0.0] * wins + [1.0] * losses + [1.0] * ties, [1.0] * wins + [0.0] * losses + [1.0] * ties
