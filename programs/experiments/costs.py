"""What an experiment will take, from a few trial attempts, before it begins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trgrpo_dspy import Estimate, FatalError
from trgrpo_dspy.meter import Stage
from trgrpo_dspy.meter.estimate import INFORMATIVE

from .plan import Plan, arm_name, base
from .tasks import Task

__all__ = ["TRIALS", "Expected", "expect", "told", "total"]

TRIALS = 3
"""Trial attempts an estimate rests on, one more made at the first problem."""


@dataclass(frozen=True)
class Expected:
    """What one part of an experiment is expected to take."""

    part: str
    calls: float
    """LM calls."""
    tokens: float
    """Prompt and completion tokens."""
    cost: float | None
    """US dollars; None is unknown."""


def expect(plan: Plan, task: Task, trial: Estimate) -> list[Expected]:
    """The parts of an experiment, priced by a trial of the full method.

    Args:
        plan: What is measured.
        task: The problems.
        trial: The optimizer's estimate with a sample, for the same plan and task.

    Raises:
        FatalError: None of the trial attempts got a reply.
    """
    groups = len(task.trainset) * plan.epochs
    rows = {row.stage: row for row in trial.stages}
    usual = rows[Stage.ROLLOUT.value]  # for a stage the trial never came to
    if not usual.completion_tokens:
        raise FatalError(
            f"none of the trial attempts got a reply from LM {plan.model!r}: check its name, which is 'provider/model' "
            "as LiteLLM writes it, and that the service is up"
        )

    def part(name: str, calls: dict[str, float]) -> Expected:
        used = {stage: usual if rows[stage].prompt_tokens is None else rows[stage] for stage in calls}
        asked = [(used[stage], number / used[stage].calls) for stage, number in calls.items()]
        tokens = sum(((r.prompt_tokens or 0) + (r.completion_tokens or 0)) * share for r, share in asked)
        costs = [None if r.cost is None else r.cost * share for r, share in asked]
        known = None if None in costs else sum(c for c in costs if c is not None)
        return Expected(name, sum(calls.values()), tokens, known)

    attempt = rows[Stage.ROLLOUT.value].calls / (groups * plan.group_size)
    problems = sum(len(s.examples) for s in task.sets)
    reflection = (Stage.SUMMARY, Stage.COMPARISON, Stage.PROPOSALS)
    whole = {stage.value: rows[stage.value].calls for stage in (Stage.ROLLOUT, *reflection, Stage.CONSOLIDATION)}
    alone = {stage.value: float(groups) for stage in reflection}
    learning = {
        "full": whole,
        "label-free": whole,
        "single": {**whole, **alone, Stage.ROLLOUT.value: groups * attempt},
        "written": {Stage.PROPOSALS.value: 1.0},
    }
    found = []
    for arm in plan.arms:
        if arm != "input":
            found.append(part(f"{arm_name(arm)}: learning", learning[base(arm)]))
        found.append(part(f"{arm_name(arm)}: evaluation", {Stage.ROLLOUT.value: problems * plan.k * attempt}))
    if plan.curve:
        between = rows[Stage.CONSOLIDATION.value].calls - 1  # one a step
        found.append(part("learning curve: evaluation", {Stage.ROLLOUT.value: between * problems * plan.k * attempt}))
    return found


def total(parts: Iterable[Expected]) -> Expected:
    """All parts together."""
    parts = list(parts)
    costs = [p.cost for p in parts]
    known = None if None in costs else sum(c for c in costs if c is not None)
    return Expected("all", sum(p.calls for p in parts), sum(p.tokens for p in parts), known)


def told(parts: Iterable[Expected]) -> str:
    """The parts as lines, and what they rest on."""
    parts = list(parts)
    lines = [f"{'expected':<44}{'LM calls':>10}{'tokens':>14}{'cost, $':>10}"]
    for row in (*parts, total(parts)):
        cost = "?" if row.cost is None else f"{row.cost:.2f}"
        lines.append(f"{row.part:<44}{row.calls:>10,.0f}{row.tokens:>14,.0f}{cost:>10}")
    share = f"{100 * INFORMATIVE:.0f}%"
    return "\n".join(
        [
            *lines,
            f"From {TRIALS + 1} trial attempts, {share} of groups taken to be informative: rough. "
            "The trial is in no table.",
        ]
    )
