"""What is said where many attempts have no score, or failed, or taught nothing. No dspy, no LM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trgrpo_dspy.failures.outcome import Outcome

__all__ = ["FEW_EXAMPLES", "UNSCORED", "attempt_warnings", "warnings_after"]

FEW_EXAMPLES = 30
"""Distinct validation inputs below which an interval is not to be relied on."""
MANY_UNSCORED = 0.2
"""Share of unscored attempts from which the user is warned."""
MANY_FAILED = 0.5
"""Share of attempts in which the program itself failed from which the user is warned."""
UNSCORED = tuple(outcome.value for outcome in Outcome if outcome.scoreless)
"""Outcomes without a score."""
FAILED = tuple(outcome.value for outcome in Outcome if outcome.failed)
"""Outcomes in which the program itself failed."""


def attempt_warnings(outcomes: Mapping[str, int], errors: Mapping[str, str]) -> tuple[str, ...]:
    """What is to be said of attempts many of which have no score or failed, with the first error of each outcome."""
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


def warnings_after(
    groups: int,
    informative: int,
    outcomes: Mapping[str, int],
    errors: Mapping[str, str] | None = None,
    lost: Mapping[str, int] | None = None,
    *,
    answered: int = 0,
    identical: int = 0,
) -> tuple[str, ...]:
    """What can be said of the groups once the run is over.

    Args:
        groups: Groups that were rolled out.
        informative: Those with a contrast.
        outcomes: Attempts by outcome.
        errors: The first error of each outcome.
        lost: Reflection replies that could not be used, by stage and reason.
        answered: Groups with two or more attempts that came to an answer.
        identical: Those of them whose answers and transcripts are word for word the same.
    """
    nothing_said = sum(outcomes.get(name, 0) for name in (*UNSCORED, *FAILED))
    found = list(attempt_warnings(outcomes, errors or {}))
    if sum((lost or {}).values()) > groups * MANY_UNSCORED:
        reasons = ", ".join(f"{count} {reason}" for reason, count in (lost or {}).items())
        found.append(
            f"Reflection replies were lost ({reasons}): check the reflection LM, its max_tokens, or your reflector."
        )
    if answered and identical == answered:  # one group that varies shows that the model samples
        found.append(
            f"In all {groups} groups the attempts came back word for word the same, so none had a contrast. "
            "The model may be certain of every answer; or nothing is sampled: a predictor with temperature=0, a "
            "model that ignores the temperature (the offline server wants dspy.LM(seed=...)), or a cache before it."
        )
    elif groups and informative == 0 and nothing_said < sum(outcomes.values()):
        found.append(
            "No group had a contrast: the attempts at each example scored alike. "
            "The examples are too easy or too hard for this model, or the metric is too coarse; try a higher "
            "rollout_temperature, a larger group_size, other examples, or a finer metric."
        )
    return tuple(found)
