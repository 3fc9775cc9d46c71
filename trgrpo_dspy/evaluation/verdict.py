"""What may be said of a run: which library is returned, one honest sentence, and what the user should know.

Never a program that scored below the input on the valset; on a tie the input. 'Improved' is said only where the
interval of the gain, simultaneous over all libraries that were measured, lies above zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import dspy

from trgrpo_dspy.engine.calls.health import TOO_MANY_LOST
from trgrpo_dspy.engine.runner import task_text
from trgrpo_dspy.evaluation.statistics.selection import select_best
from trgrpo_dspy.meter import Spend

from .measurement import FAILED, MANY_UNSCORED, UNSCORED, attempt_warnings
from .result import Measurement, Verdict

__all__ = ["decide", "warnings_after", "warnings_before", "with_ending"]

MOSTLY_SCORED = 0.9
"""Share of the examples the input was scored on that a library must be scored on to be chosen."""
MANY_CUT = 0.05
"""Share of replies cut by length in a stage from which the verdict says so."""
FEW_EXAMPLES = 30
"""Validation examples below which an interval is not to be relied on."""


def decide(
    baseline: Measurement | None,
    measured: Sequence[Measurement],
    *,
    last_step: int,
    wanted: bool = True,
    changed: bool = False,
    seed: int = 0,
) -> Verdict:
    """Choose among the libraries that were measured.

    Args:
        baseline: The input on the valset; None without one.
        measured: The libraries made, in order.
        last_step: The step that is returned where nothing is measured.
        wanted: Whether there is a valset.
        changed: Whether any step changed the library, measured or not.
        seed: Seed of the bootstrap.
    """
    if baseline is None and wanted:
        return Verdict("Not measured: the run ended before the input was; the input is returned.", None, 0)
    if baseline is None:
        return Verdict("Not measured: there was no valset, so the last library is returned.", None, last_step)
    if baseline.mean.n == 0:
        return Verdict("Not measured: no validation example could be scored, so the input is returned.", None, 0)
    tried = measured
    # What is missing is not missing by chance: a library that makes the metric fail must not look good for it.
    measured = [m for m in tried if _paired(baseline, m) >= MOSTLY_SCORED * baseline.mean.n]
    if tried and not measured:
        why = (
            f"none of {_libraries(len(tried))} could be scored on {100 * MOSTLY_SCORED:.0f}% of the validation "
            f"examples the input was scored on ({_outcomes(tried)})"
        )
        return Verdict(f"Not measured, the input is returned: {why}.", None, 0, tried=len(tried))
    if not measured:
        why = "no step changed the library" if last_step else "no step was completed"
        why = "the run ended before a new library was measured" if changed else why
        return Verdict(f"No improvement found, the input is returned: {why}.", False, 0)
    found = select_best(baseline.scores, [m.scores for m in measured], seed=seed)
    if found.best is None or found.gain is None or found.interval is None:
        text = (
            f"No improvement found, the input is returned: none of {_libraries(len(measured))} scored above it "
            f"on {found.n} validation examples."
        )
        return Verdict(text, False, 0, found.gain, found.interval, len(measured))
    step, interval = measured[found.best].step, found.interval
    size = len(baseline.scores)
    unscored = f", {size - found.n} unscored" if found.n < size else ""
    facts = (
        f"{found.gain:+.3f} on {found.n} validation examples{unscored} ({100 * interval.level:.0f}% interval "
        f"{interval.low:+.3f} to {interval.high:+.3f}, accounting for {_libraries(len(measured))} tried)"
    )
    if found.n < FEW_EXAMPLES:
        facts += f", by an interval that is only a rough guide below {FEW_EXAMPLES} examples"
    if found.improved:
        text = f"Improved: {facts}; the library of step {step} is returned."
    else:
        text = f"Not distinguishable from noise: {facts}; step {step}, the best measured, is returned."
    return Verdict(text, found.improved, step, found.gain, interval, len(measured))


def _paired(baseline: Measurement, other: Measurement) -> int:
    """Examples scored for both."""
    return sum(a is not None and b is not None for a, b in zip(baseline.scores, other.scores, strict=True))


def _outcomes(measured: Sequence[Measurement]) -> str:
    """How the attempts at validation examples ended, of all libraries together."""
    counts: Counter[str] = Counter()
    for one in measured:
        counts.update(one.outcomes)
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _libraries(count: int) -> str:
    return "1 library" if count == 1 else f"{count} libraries"


def with_ending(
    verdict: Verdict, stop_reason: str, spend: Sequence[Spend], *, problem: str = "", journaled: bool = False
) -> Verdict:
    """Add to a verdict how the run ended and what its replies suffered from.

    Args:
        verdict: The verdict on what was measured.
        stop_reason: Why the run ended.
        spend: What it spent, by stage and model.
        problem: What an attempt met, where none could be scored.
        journaled: Whether there is a journal to go on from.
    """
    notes = [] if stop_reason == "completed" else [_ENDINGS.get(stop_reason, f"The run ended early: {stop_reason}.")]
    if problem:
        notes[-1] = notes[-1].rstrip(".") + f" ({problem})."
    if journaled and stop_reason in _CAPS:
        more = "" if stop_reason == "max_seconds" else f" and a larger {stop_reason}"
        notes.append(f"To go on, run it again with the same log_dir{more}.")
    for stage in dict.fromkeys(row.stage for row in spend):
        calls = sum(row.calls for row in spend if row.stage == stage)
        cut = sum(row.truncated for row in spend if row.stage == stage)
        if cut > MANY_CUT * calls:
            notes.append(f"{cut} of {calls} replies in stage '{stage}' were cut by length: raise the LM's max_tokens.")
    return replace(verdict, text=" ".join([verdict.text, *notes]))


_CAPS = ("max_lm_calls", "max_tokens", "max_cost", "max_seconds")
_ENDINGS = {
    "interrupted": "The run was interrupted.",
    "unscored": "The run ended early: no attempt could be scored.",
    "fatal": "The run ended early: nothing further could succeed.",
    "error_rate": f"The run ended early because {TOO_MANY_LOST}.",
    **{cap: f"The run ended early: {cap} was reached." for cap in _CAPS},
}


def warnings_before(trainset: Sequence[dspy.Example], valset: Sequence[dspy.Example]) -> tuple[str, ...]:
    """What can be said of the data before anything is spent."""
    found = []
    train = {task_text(example) for example in trainset}
    if shared := sum(task_text(example) in train for example in valset):
        found.append(
            f"{shared} of {len(valset)} validation examples have the same inputs as training examples: the measured "
            "gain will be too good; take them out of one of the sets."
        )
    if valset and len(valset) < FEW_EXAMPLES:
        found.append(
            f"The valset has {len(valset)} examples: too few to tell a gain of 10 points from noise; use 60 or more, "
            "or val_repeats= where the program varies from run to run."
        )
    return tuple(found)


def warnings_after(
    groups: int,
    informative: int,
    identical: int,
    outcomes: Mapping[str, int],
    errors: Mapping[str, str] | None = None,
    lost: Mapping[str, int] | None = None,
) -> tuple[str, ...]:
    """What can be said of the groups once the run is over.

    Args:
        groups: Groups that were rolled out.
        informative: Those with a contrast.
        identical: Those whose usable attempts all came back word for word the same; where some groups are informative,
            those with the best score left out.
        outcomes: Attempts by outcome.
        errors: The first error of each outcome.
        lost: Reflection replies that could not be used, by stage and reason.
    """
    attempts = sum(outcomes.values())
    nothing_said = sum(outcomes.get(name, 0) for name in (*UNSCORED, *FAILED))
    found = list(attempt_warnings(outcomes, errors or {}))
    if sum((lost or {}).values()) > groups * MANY_UNSCORED:
        told = ", ".join(f"{count} {reason}" for reason, count in (lost or {}).items())
        found.append(
            f"Reflection replies were lost ({told}): check the reflection LM, its max_tokens, or your reflector."
        )
    if groups and informative == 0 and nothing_said < attempts:
        found.append(
            "No group had a contrast: the attempts at each example came out alike, so there was nothing to learn from. "
            "The examples are too easy or too hard for this model, the metric is too coarse, or the attempts do not "
            "vary; try a higher rollout_temperature, a larger group_size, other examples, or a finer metric."
        )
    if 2 * identical > groups:
        found.append(
            f"In {identical} of {groups} groups all attempts came back identical: a predictor with temperature=0, a "
            "model that ignores the temperature (the offline server wants dspy.LM(seed=...)), or a cache in front of "
            "it. They teach nothing and cost the same."
        )
    return tuple(found)
