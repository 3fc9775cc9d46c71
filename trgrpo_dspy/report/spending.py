"""What a run spent, on what, and what the next run would cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from trgrpo_dspy.meter import Spend, Stage, total_spend
from trgrpo_dspy.meter.estimate import StageEstimate

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
    """What it is."""
    calls: float
    """LM calls."""
    tokens: float
    """Prompt and completion tokens."""
    cost: float | None
    """US dollars; None is unknown."""


def spend_rows(history: RunHistory) -> tuple[SpendRow, ...]:
    """A row a stage that was expected or used, in order, and one for all; empty until the run has ended."""
    if history.ended is None:
        return ()
    expected = _expected(history)
    whole = max(1, _tokens(history.total))
    rows = []
    for stage in (stage.value for stage in Stage):
        spend = _of(history, stage)
        if spend.calls or (stage in expected and expected[stage].calls):
            wanted = expected[stage].calls if stage in expected else None
            rows.append(SpendRow(stage, spend, wanted, _tokens(spend) / whole))
    total = sum(row.calls for row in expected.values()) if expected else None
    return (*rows, SpendRow("all", history.total, total, 1.0))


def next_runs(history: RunHistory) -> tuple[NextRun, ...]:
    """The same run again, one epoch more of a completed one, and answers of the program: at what this run paid."""
    if history.ended is None or history.started.run != "compile":
        return ()
    completed = history.ended.stop_reason == "completed"
    expected = _expected(history)
    stages = dict.fromkeys((*(row.stage for row in history.spend), *expected))

    def wanted(stage: str) -> float:
        made = float(_of(history, stage).calls)
        return made if completed or stage not in expected else max(made, expected[stage].calls)

    found = [_priced("The same run again, from the beginning", history, {stage: wanted(stage) for stage in stages})]
    epochs = max((step.epoch for step in history.steps if step.ended is not None), default=0)
    if completed and epochs:
        measured = max(1, len(history.measured))
        more = {stage: wanted(stage) / epochs for stage in stages}
        more[Stage.VALIDATION.value] = wanted(Stage.VALIDATION.value) * (measured - 1) / measured / epochs
        found.append(_priced(f"One epoch more: resume with num_epochs={epochs + 1}", history, more))
    return (*found, *_answers(history))


def _answers(history: RunHistory) -> Iterator[NextRun]:
    """A thousand answers of the input and of what was returned, by the attempts that measured them."""
    returned = history.ended.step if history.ended is not None else 0
    for step, what in {
        0: "input program",
        returned: f"returned program, of step {returned}" if returned else "input program",
    }.items():
        made = history.measured[step].attempts if step in history.measured else ()
        attempts = [r for r in made if r.score is not None]
        if attempts:
            scale = 1000 / len(attempts)
            costs = [r.cost for r in attempts if r.cost is not None]
            calls, tokens = (
                sum(r.lm_calls for r in attempts),
                sum(r.prompt_tokens + r.completion_tokens for r in attempts),
            )
            cost = scale * sum(costs) if len(costs) == len(attempts) else None
            yield NextRun(f"1,000 answers of the {what}", scale * calls, scale * tokens, cost)


def _priced(what: str, history: RunHistory, calls: dict[str, float]) -> NextRun:
    """These calls by stage, at what a call of the stage took that was not cached; else at what any call took."""
    tokens, cost = 0.0, 0.0
    known = True
    for stage, wanted in calls.items():
        spend = _of(history, stage)
        spend = spend if _paid(spend) else history.total
        factor = wanted / max(1, _paid(spend))
        tokens += factor * _tokens(spend)
        known = known and spend.cost is not None
        cost += factor * (spend.cost or 0.0)
    return NextRun(what, sum(calls.values()), tokens, cost if known else None)


def _expected(history: RunHistory) -> dict[str, StageEstimate]:
    estimate = history.started.estimate
    return {row.stage: row for row in estimate.stages} if estimate is not None else {}


def _of(history: RunHistory, stage: str) -> Spend:
    rows: Iterable[Spend] = (row for row in history.spend if row.stage == stage)
    return total_spend(rows)


def _paid(spend: Spend) -> int:
    return spend.calls - spend.cached - spend.failed


def _tokens(spend: Spend) -> int:
    return spend.prompt_tokens + spend.completion_tokens
