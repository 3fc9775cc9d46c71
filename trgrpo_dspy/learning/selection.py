"""Which groups teach: the second step of the algorithm. Pure functions of a group; no dspy, no LM.

A selection is a function `teaches(group, ceiling) -> str`. It returns what the group teaches by: 'contrast' (some
attempts beat others), 'mistakes' (all fell short alike, and a label or feedback says of what), 'answers' (label-free:
the attempts disagree), or '' for nothing. To add one, write such a function and pass it as
`TrainingFreeGRPO(learn_from=...)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .group import RolloutGroup, has_contrast

__all__ = ["SELECTIONS", "Ceiling", "Selection", "contrast", "every_attempt", "mistakes"]

Selection = Callable[[RolloutGroup, float], str]
"""Says what a group teaches by, given the highest score that attempts are known to reach."""


def contrast(group: RolloutGroup, ceiling: float) -> str:
    """The paper's selection (section 3): groups whose attempts scored differently."""
    if not group.informative:
        return ""
    return "answers" if group.label_free else "contrast"


def mistakes(group: RolloutGroup, ceiling: float) -> str:
    """Contrast, and beside it groups that all fell short of the ceiling where a label or feedback says of what."""
    if by := contrast(group, ceiling):
        return by
    scores = [r.score for r in group.usable if r.score is not None]
    if group.label_free or not scores or not (group.expected or any(r.feedback for r in group.usable)):
        return ""
    return "mistakes" if max(scores) < ceiling and has_contrast([max(scores), ceiling]) else ""


def every_attempt(group: RolloutGroup, ceiling: float) -> str:
    """Every group with a scored attempt, right or wrong: what is left of the method at group size 1."""
    return contrast(group, ceiling) or ("mistakes" if group.usable else "")


SELECTIONS: dict[str, Selection] = {"contrast": contrast, "mistakes": mistakes}
"""Selections by the name that `learn_from` takes."""


class Ceiling:
    """The highest score that attempts are known to reach, taken from finished work only.

    Groups of a step are compared while others of the step still run, so their scores can't count yet: the result would
    depend on which came back first.
    """

    _ENOUGH = 20
    """Scored attempts from which their maximum says what the metric gives."""

    def __init__(self) -> None:
        """Nothing is known: metrics are taken to reach 1."""
        self._scored = 0
        self._best, self._least = float("-inf"), float("inf")

    def note(self, scores: Iterable[float | None]) -> None:
        """Take scores of finished work into account."""
        for score in scores:
            if score is not None:
                self._scored += 1
                self._best, self._least = max(self._best, score), min(self._least, score)

    @property
    def value(self) -> float:
        """The highest score seen; at least 1 while few attempts were scored, or all alike.

        Attempts that all scored alike say nothing of what the metric can give: a program at 0 has most to learn.
        """
        known = self._scored >= self._ENOUGH and self._best > self._least
        return self._best if known else max(1.0, self._best)
