"""What a run spent, on what, and what the next run would cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trgrpo_dspy.meter.meter import Spend, Stage, total_spend

if TYPE_CHECKING:
    from .history import RunHistory

__all__ = ["NextRun", "SpendRow", "next_runs", "spend_rows"]


@dataclass(frozen=True)
class SpendRow:
    """What one stage spent, beside what was expected of it."""

    stage: str
    """A `Stage` value, or 'all'."""
    spend: Spend
    """All models together."""
    expected: float | None
    """LM calls expected; None is unknown."""
    share: float
    """Share of all tokens, 0 to 1."""


@dataclass(frozen=True)
class NextRun:
    """What something else would take, by what this run took."""

    what: str
    calls: float
    tokens: float
    cost: float | None
    """US dollars; None is unknown."""


def spend_rows(history: RunHistory) -> tuple[SpendRow, ...]:
    """A row a stage that was expected or used, in order, and one for all; empty until the run has ended."""
    if history.ended is None:
        return ()
    expected, total = _expected(history), history.total
    rows = []
    for stage in (stage.value for stage in Stage):
        spend = _of(history, stage)
        if spend.calls or expected.get(stage):
            # Nothing was spent, but where no price is known '$0.00' would look like one.
            spend = spend if spend.calls or total.cost is not None else replace(spend, cost=None)
            rows.append(SpendRow(stage, spend, expected.get(stage), _tokens(spend) / max(1, _tokens(total))))
    return (*rows, SpendRow("all", total, sum(expected.values()) if expected else None, 1.0))


def next_runs(history: RunHistory) -> tuple[NextRun, ...]:
    """The same run again, one epoch more of a completed one, and answers of the program: at what this run paid."""
    if history.ended is None or history.started.run != "compile":
        return ()
    completed, expected = history.ended.stop_reason == "completed", _expected(history)
    stages = dict.fromkeys((*(row.stage for row in history.spend), *expected))
    made = {stage: float(_of(history, stage).calls) for stage in stages}
    wanted = made if completed else {stage: max(calls, expected.get(stage, 0.0)) for stage, calls in made.items()}
    found = [_priced("The same run again, from the beginning", history, wanted)]
    epochs = max((step.epoch for step in history.steps if step.ended is not None), default=0)
    if completed and epochs:
        measured = max(1, len(history.measured))
        more = {stage: calls / epochs for stage, calls in wanted.items()}
        more[Stage.VALIDATION.value] = wanted.get(Stage.VALIDATION.value, 0.0) * (measured - 1) / measured / epochs
        found.append(_priced(f"One epoch more: resume with num_epochs={epochs + 1}", history, more))
    return (*found, *_answers(history, history.ended.step))


def _answers(history: RunHistory, returned: int) -> Iterator[NextRun]:
    """A thousand answers of the input and of what was returned, by the attempts that measured them."""
    programs = {0: "input program"} | ({returned: f"returned program, of step {returned}"} if returned else {})
    for step, what in programs.items():
        made = history.measured[step].attempts if step in history.measured else ()
        if attempts := [r for r in made if r.score is not None]:
            scale, costs = 1000 / len(attempts), [r.cost for r in attempts if r.cost is not None]
            calls = sum(r.lm_calls for r in attempts)
            tokens = sum(r.prompt_tokens + r.completion_tokens for r in attempts)
            cost = scale * sum(costs) if len(costs) == len(attempts) else None
            yield NextRun(f"1,000 answers of the {what}", scale * calls, scale * tokens, cost)


def _priced(what: str, history: RunHistory, calls: Mapping[str, float]) -> NextRun:
    """These calls by stage, at what a call of the stage took that was not cached; else at what any call took."""
    tokens, cost = 0.0, None if history.total.cost is None else 0.0
    for stage, wanted in calls.items():
        spend = _of(history, stage)
        spend = spend if _paid(spend) else history.total
        factor = wanted / max(1, _paid(spend))
        tokens += factor * _tokens(spend)
        cost = None if cost is None or spend.cost is None else cost + factor * spend.cost
    return NextRun(what, sum(calls.values()), tokens, cost)


def _expected(history: RunHistory) -> dict[str, float]:
    """LM calls that were expected, by stage."""
    estimate = history.started.estimate
    return {row.stage: row.calls for row in estimate.stages} if estimate is not None else {}


def _of(history: RunHistory, stage: str) -> Spend:
    return total_spend(row for row in history.spend if row.stage == stage)


def _paid(spend: Spend) -> int:
    return spend.calls - spend.cached - spend.failed


def _tokens(spend: Spend) -> int:
    return spend.prompt_tokens + spend.completion_tokens
