"""What the user should know of data and settings: before anything is spent, and once the run is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dspy

from .examples import contradicting, distinct_inputs, input_digest
from .outcomes import FAILED, MANY_UNSCORED, UNSCORED, attempt_warnings

__all__ = ["FEW_EXAMPLES", "contradiction", "warnings_after", "warnings_before"]

FEW_EXAMPLES = 30
"""Distinct validation inputs below which an interval is not to be relied on."""


def warnings_before(trainset: Sequence[dspy.Example], valset: Sequence[dspy.Example]) -> tuple[str, ...]:
    """What can be said of the data before anything is spent."""
    found = [contradiction(name, examples) for name, examples in (("trainset", trainset), ("valset", valset))]
    train = {input_digest(example) for example in trainset}
    if shared := sum(input_digest(example) in train for example in valset):
        found.append(
            f"{shared} of {len(valset)} validation examples have the same inputs as training examples: the measured "
            "gain will be too good; take them out of one of the sets."
        )
    distinct = len(set(distinct_inputs(valset)))
    if distinct < len(valset):
        found.append(
            f"The valset has {len(valset)} examples and {distinct} distinct inputs: copies tell nothing new, and every "
            "interval is over the distinct inputs. To measure each input several times pass val_repeats=."
        )
    if valset and distinct < FEW_EXAMPLES:
        found.append(
            f"The valset has {distinct} {'examples' if distinct == len(valset) else 'distinct inputs'}: too few to "
            "tell a gain of 10 points from noise; use 60 or more, or val_repeats= where the program varies from run to "
            "run."
        )
    return tuple(filter(None, found))


def contradiction(name: str, examples: Sequence[dspy.Example]) -> str:
    """What is said of examples with equal inputs and different labels; empty if there are none."""
    pairs = contradicting(examples)
    if not pairs:
        return ""
    first, other = pairs[0]
    return (
        f"{len(pairs)} of {len(examples)} examples of the {name} have the same inputs as an earlier one and other "
        f"labels ({name}[{first}] and {name}[{other}] are the first): no program can answer both; check the labels."
    )


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
