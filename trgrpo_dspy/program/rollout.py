"""What one attempt was: a plain record.

*Unscored is not zero*: `Rollout.score` is `None` when no verdict exists.
"""

from __future__ import annotations

from dataclasses import dataclass

from trgrpo_dspy.failures.outcome import Outcome

__all__ = ["Rollout"]


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
    observed: str = ""
    """What tools returned and what predictors were given beyond the task, a line each, at most 200 tokens."""
    error: str = ""
    """Exception type and last line, for attempts that failed or are unscored."""
    shown: tuple[str, ...] = ()
    """Ids of the entries the attempt was shown."""
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
