"""What a run will take, before anything is spent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from .meter import Spend, Stage, added_up

__all__ = ["INFORMATIVE", "Estimate", "StageEstimate", "estimate_calls"]

INFORMATIVE = 1 / 3
"""Share of groups that teach, where nothing better is known: about a third in practice."""
_LEAST_NODE = 8
"""Examples at least in one node of a consolidation that is made in a tree."""
_TABLE = 64
"""Examples at most in one table of evidence."""
_PER_CHECK = 30
"""Examples of one call of a check."""
_CHECKS = 3
"""Calls of one check at most."""


@dataclass(frozen=True)
class StageEstimate:
    """What one stage will take."""

    stage: str
    """A `Stage` value."""
    calls: float
    """LM calls expected."""
    at_most: float
    """LM calls if every group is informative and every step changes the library."""
    prompt_tokens: float | None = None
    """Prompt tokens expected; None without trial calls."""
    completion_tokens: float | None = None
    """Completion tokens expected; None without trial calls."""
    cost: float | None = None
    """US dollars expected; None without trial calls, or if a price is unknown."""


@dataclass(frozen=True)
class Estimate:
    """What a run will take, by stage."""

    stages: tuple[StageEstimate, ...]
    """In order."""
    sample: int = 0
    """Trial attempts it rests on; 0 means that one LM call an attempt and predictor was assumed."""

    @property
    def calls(self) -> float:
        """LM calls expected in all."""
        return sum(row.calls for row in self.stages)

    @property
    def at_most(self) -> float:
        """LM calls in all, at most."""
        return sum(row.at_most for row in self.stages)

    @property
    def cost(self) -> float | None:
        """US dollars expected in all; None is unknown."""
        return _sum(row.cost for row in self.stages)

    def priced(self, trials: Iterable[Spend], sample: int, *, steps: int = 1, growth: float = 0.0) -> Estimate:
        """Add tokens and cost from trial calls: each stage's calls at the mean of its trials.

        Args:
            trials: What the trial calls spent, by stage. Validation takes the rollouts' mean (it is the same program);
                where the comparison brought no lesson, the steps after it take its own.
            sample: Trial attempts made.
            steps: Steps of the run.
            growth: Tokens by which the library is expected to lengthen a prompt, from the second step on.
        """
        spent = added_up(trials, lambda row: row.stage)
        if Stage.ROLLOUT.value in spent:
            spent[Stage.VALIDATION.value] = spent[Stage.ROLLOUT.value]
        if Stage.COMPARISON.value in spent:
            for stage in (Stage.PROPOSALS, Stage.CONSOLIDATION, Stage.CHECK, Stage.REPAIR):
                spent.setdefault(stage.value, spent[Stage.COMPARISON.value])
        return Estimate(
            tuple(_price(row, spent, growth * _share_with_library(row, steps)) for row in self.stages), sample
        )

    def __str__(self) -> str:
        """A table, a line a stage."""
        prompt = _sum(row.prompt_tokens for row in self.stages)
        completion = _sum(row.completion_tokens for row in self.stages)
        total = StageEstimate("all", self.calls, self.at_most, prompt, completion, self.cost)
        head = f"{'stage':<14}{'calls':>9}{'at most':>9}{'prompt':>12}{'completion':>12}{'cost, $':>10}"
        return "\n".join([head, *map(_line, (*self.stages, total))])


def estimate_calls(
    *,
    examples: int,
    steps: int,
    epochs: int,
    group_size: int,
    val_examples: int,
    val_repeats: int,
    calls_per_attempt: float,
    measured: int | None = None,
    groups_per_comparison: int = 1,
    form: str = "paper",
    checks: bool = False,
) -> Estimate:
    """LM calls by stage.

    Args:
        examples: Size of the trainset.
        steps: Steps of the run.
        epochs: Passes over the trainset.
        group_size: Attempts at each example.
        val_examples: Size of the valset; 0 for none.
        val_repeats: Attempts at each validation example.
        calls_per_attempt: LM calls an attempt makes.
        measured: Steps after which the library is measured; None is all.
        groups_per_comparison: Groups at most in one comparison.
        form: "paper" summarizes every attempt and proposes in a call of its own; "batch" does so for none.
        checks: Whether new entries are held against labelled examples.
    """
    groups, measurements = examples * epochs, steps if measured is None else measured
    attempts = groups * group_size * calls_per_attempt
    validation = val_examples * val_repeats * calls_per_attempt * (measurements + 1)
    teaching, batch = groups * INFORMATIVE, math.ceil(groups / steps)
    calls: dict[Stage, tuple[float, float]] = {Stage.ROLLOUT: (attempts, attempts)}
    if form == "paper":
        calls[Stage.SUMMARY] = teaching * group_size, groups * group_size
        calls[Stage.COMPARISON] = calls[Stage.PROPOSALS] = teaching, groups
        calls[Stage.CONSOLIDATION] = steps, steps
    else:
        calls[Stage.SUMMARY] = 0, groups * group_size
        calls[Stage.COMPARISON] = max(steps, teaching / groups_per_comparison), groups
        calls[Stage.CONSOLIDATION] = steps * _nodes(batch), steps * (1 + math.ceil(groups / steps / _LEAST_NODE))
        if checks:
            made = steps * min(_CHECKS, math.ceil(examples / _PER_CHECK))
            calls |= {Stage.CHECK: (made, 2 * made), Stage.REPAIR: (steps / 2, steps)}
    calls[Stage.VALIDATION] = validation, validation
    return Estimate(tuple(StageEstimate(stage.value, float(n), float(most)) for stage, (n, most) in calls.items()))


def _nodes(groups: int) -> int:
    """Calls that consolidate a batch: one, or those of a tree where it is too large for one table."""
    if groups <= _TABLE:
        return 1
    return math.ceil(groups / max(_LEAST_NODE, math.ceil(math.sqrt(groups)))) + 1


def _share_with_library(row: StageEstimate, steps: int) -> float:
    """Share of a stage's prompts that carry what was learned before."""
    if row.stage == Stage.SUMMARY.value:
        return 0.0
    return steps / (steps + 1) if row.stage == Stage.VALIDATION.value else (steps - 1) / steps


def _price(row: StageEstimate, spent: Mapping[str, Spend], growth: float) -> StageEstimate:
    trial = spent.get(row.stage)
    if not row.calls:  # none are expected, so none need a price
        return replace(row, prompt_tokens=0.0, completion_tokens=0.0, cost=0.0)
    if trial is None or not trial.calls:
        return row
    scale, more = row.calls / trial.calls, row.calls * growth
    tokens = trial.prompt_tokens + trial.completion_tokens
    cost = None if trial.cost is None else trial.cost * (scale + more / max(1, tokens))
    prompt, completion = trial.prompt_tokens * scale + more, trial.completion_tokens * scale
    return StageEstimate(row.stage, row.calls, row.at_most, prompt, completion, cost)


def _sum(values: Iterable[float | None]) -> float | None:
    """The sum; None if any is unknown."""
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) if len(known) == len(found) else None


def _line(row: StageEstimate) -> str:
    prompt, completion = ("?" if n is None else f"{n:,.0f}" for n in (row.prompt_tokens, row.completion_tokens))
    cost = "?" if row.cost is None else f"{row.cost:.2f}"
    return f"{row.stage:<14}{row.calls:>9.0f}{row.at_most:>9.0f}{prompt:>12}{completion:>12}{cost:>10}"
