"""What one attempt was, and what makes a group of attempts worth comparing.

Plain records: no dspy, no LM. *Unscored is not zero*: `Rollout.score` is `None` when no verdict exists, and every
statistic here leaves such attempts out and counts them apart.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Outcome", "Rollout", "RolloutGroup", "has_contrast", "mean"]


class Outcome(str, enum.Enum):
    """How an attempt ended. The first four carry a score; the others are unscored."""

    COMPLETED = "completed"
    """The program answered and the metric scored the answer."""
    PROGRAM_ERROR = "program_error"
    """The program raised; it gets the failure score."""
    PARSE_ERROR = "parse_error"
    """A reply could not be parsed into the predictor's fields; it gets the failure score."""
    CONTEXT_WINDOW = "context_window"
    """The prompt did not fit the model; it gets the failure score."""
    INFRASTRUCTURE = "infrastructure"
    """An outage (rate limit, timeout, transport, server error, a tool's dead connection): unscored."""
    METRIC_ERROR = "metric_error"
    """The metric raised, or returned None, NaN or something that is no score: unscored."""
    LABEL_FREE = "label_free"
    """Answered, in a run without a metric: there is nothing to score."""

    @property
    def failed(self) -> bool:
        """Whether the program itself failed (a verdict: the attempt gets the failure score)."""
        return self in (Outcome.PROGRAM_ERROR, Outcome.PARSE_ERROR, Outcome.CONTEXT_WINDOW)

    @property
    def scoreless(self) -> bool:
        """Whether a score was wanted and there is none."""
        return self in (Outcome.INFRASTRUCTURE, Outcome.METRIC_ERROR)


@dataclass(frozen=True)
class Rollout:
    """One attempt of the program at one example."""

    example: int
    """Index of the example in its set."""
    attempt: int
    """Index of the attempt within its group, from 0."""
    outcome: Outcome
    """How the attempt ended."""
    score: float | None
    """The metric's score in the metric's own range; None is unscored."""
    feedback: str = ""
    """What the metric said about the answer; empty if it said nothing."""
    answer: str = ""
    """The program's final outputs, rendered as text and bounded; empty if there are none."""
    compared: str = ""
    """The output fields that the label-free mode compares, normalised; empty otherwise."""
    transcript: str = ""
    """What the program did, step by step, as bounded text."""
    error: str = ""
    """Exception type and last line, for attempts that failed or are unscored."""
    lm_calls: int = 0
    """LM calls this attempt made, as DSPy makes them."""
    tool_calls: int = 0
    """Tool calls this attempt made."""
    prompt_tokens: int = 0
    """Prompt tokens billed."""
    completion_tokens: int = 0
    """Completion tokens billed."""
    cost: float | None = None
    """US dollars, as far as known; None is unknown."""
    seconds: float = 0.0
    """Wall time, in seconds."""


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
    def informative(self) -> bool:
        """Whether the group holds a contrast to learn from (Training-Free GRPO, section 3)."""
        if self.label_free:
            return len({r.compared for r in self.usable}) > 1
        return has_contrast([r.score for r in self.rollouts])

    @property
    def identical(self) -> bool:
        """Whether two or more usable attempts came back word for word the same, all of them."""
        return len(self.usable) > 1 and len({(r.transcript, r.answer) for r in self.usable}) == 1

    def outcomes(self) -> Counter[str]:
        """Attempts by outcome."""
        return Counter(r.outcome.value for r in self.rollouts)


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
