"""What makes a group of attempts worth comparing. Plain records and pure functions: no dspy, no LM.

Every statistic here leaves unscored attempts out and counts them apart.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass, field, replace

from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.program.rollout import Rollout

__all__ = ["RolloutGroup", "has_contrast", "mean"]


@dataclass(frozen=True)
class RolloutGroup:
    """The attempts at one example: what GRPO calls a group."""

    example: int
    """Index of the example in the trainset: the group's identity."""
    task: str
    """The example's inputs, rendered as text and bounded."""
    expected: str
    """The example's labels, rendered; empty if there are none or the mode is label-free."""
    rollouts: tuple[Rollout, ...] = field(default=())
    """In order of `attempt`, whatever order they came back in."""
    label_free: bool = False
    """Whether the run has no metric: then answers are compared, not scores."""

    @property
    def usable(self) -> tuple[Rollout, ...]:
        """The attempts that can be compared: scored ones, or in the label-free mode those that answered."""
        if self.label_free:
            return tuple(r for r in self.rollouts if r.outcome is Outcome.LABEL_FREE)
        return tuple(r for r in self.rollouts if _scored([r.score]))

    @property
    def observed(self) -> str:
        """What most of the usable attempts found out beyond the task (`Rollout.observed`); empty if that is nothing."""
        counts = Counter(r.observed for r in self.usable if r.observed)
        return counts.most_common(1)[0][0] if counts else ""

    @property
    def informative(self) -> bool:
        """Whether the group holds a contrast to learn from (Training-Free GRPO, section 3)."""
        if self.label_free:
            return len({r.compared for r in self.usable}) > 1
        return has_contrast([r.score for r in self.rollouts])

    @property
    def identical(self) -> bool:
        """Whether two or more usable attempts came back word for word the same, all of them."""
        return len(self.usable) > 1 and len({(r.transcript, r.answer) for r in self.usable}) == 1

    def without_transcripts(self) -> RolloutGroup:
        """The group with each transcript replaced by its hash: what a step keeps of it, however many groups it has."""
        bare = (replace(r, transcript=hashlib.sha256(r.transcript.encode()).hexdigest()[:16]) for r in self.rollouts)
        return replace(self, rollouts=tuple(bare))


def _scored(scores: list[float | None]) -> list[float]:
    """The scores that are verdicts: neither None nor NaN nor infinite."""
    return [s for s in scores if s is not None and math.isfinite(s)]


def has_contrast(scores: list[float | None]) -> bool:
    """Tell whether scores spread enough to say that one attempt beat another.

    At least two scored attempts and ``max - min > 1e-6 * max(1, |max|, |min|)``: a spread that rounding cannot make,
    in whatever range the metric scores.
    """
    scored = _scored(scores)
    if len(scored) < 2:
        return False
    high, low = max(scored), min(scored)
    return high - low > 1e-6 * max(1.0, abs(high), abs(low))


def mean(scores: list[float | None]) -> float | None:
    """Mean of what is scored; None when nothing is."""
    scored = _scored(scores)
    return math.fsum(scored) / len(scored) if scored else None
