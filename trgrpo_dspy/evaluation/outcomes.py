"""Outcomes without a score, outcomes that are the program's own failure, and what is said where either is frequent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trgrpo_dspy.failures.outcome import Outcome

__all__ = ["FAILED", "MANY_UNSCORED", "UNSCORED", "attempt_warnings"]

MANY_UNSCORED = 0.2
"""Share of unscored attempts from which the user is warned."""
MANY_FAILED = 0.5
"""Share of attempts in which the program itself failed from which the user is warned."""
UNSCORED = tuple(outcome.value for outcome in Outcome if outcome.scoreless)
"""Outcomes without a score."""
FAILED = tuple(outcome.value for outcome in Outcome if outcome.failed)
"""Outcomes in which the program itself failed."""


def attempt_warnings(outcomes: Mapping[str, int], errors: Mapping[str, str]) -> tuple[str, ...]:
    """What is to be said of attempts many of which have no score, or in many of which the program itself failed.

    Args:
        outcomes: Attempts by outcome.
        errors: The first error of each outcome.
    """
    found, attempts = [], sum(outcomes.values())
    unscored = sum(outcomes.get(name, 0) for name in UNSCORED)
    failed = sum(outcomes.get(name, 0) for name in FAILED)
    if unscored > attempts * MANY_UNSCORED:
        found.append(
            f"{unscored} of {attempts} attempts have no score: an LM or a tool that is down or too slow, or a metric "
            f"that raises or returns no number ({_first(outcomes, errors, UNSCORED)})."
        )
    if failed > attempts * MANY_FAILED:
        found.append(
            f"In {failed} of {attempts} attempts the program itself failed ({_first(outcomes, errors, FAILED)})."
        )
    return tuple(found)


def _first(outcomes: Mapping[str, int], errors: Mapping[str, str], names: Sequence[str]) -> str:
    """Counts of these outcomes, each with the first error that was met."""
    found = [name for name in names if outcomes.get(name)]
    return "; ".join(f"{outcomes[n]} {n}" + (f", the first: {errors[n]}" if n in errors else "") for n in found)
