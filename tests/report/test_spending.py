"""What was spent, and what the next run would cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from trgrpo_dspy.report import RunHistory
from trgrpo_dspy.report.html import render_report
from trgrpo_dspy.report.spending import next_runs, spend_rows
from trgrpo_dspy.report.text import money


def test_rows_add_up_beside_what_was_expected(history: RunHistory) -> None:
    *rows, whole = spend_rows(history)
    assert sum(row.spend.calls for row in rows) == whole.spend.calls == history.total.calls
    assert sum(row.share for row in rows) == pytest.approx(1.0)
    assert history.started.estimate is not None and whole.expected == history.started.estimate.calls
    assert {row.stage for row in rows} >= {"rollout", "comparison", "consolidation", "validation"}


def priced(history: RunHistory, **changes: Any) -> RunHistory:
    """The history with these facts in each row of its spend."""
    assert history.ended is not None
    spend = tuple(replace(row, failed=0, **changes) for row in history.ended.spend)
    return replace(history, ended=replace(history.ended, spend=spend))


def test_the_same_run_costs_the_same_and_an_epoch_its_share(history: RunHistory) -> None:
    again, epoch, before, after = next_runs(priced(history, cost=0.5))
    assert again.calls == history.total.calls and again.cost == pytest.approx(0.5 * len(history.spend))
    assert again.tokens == pytest.approx(history.total.prompt_tokens + history.total.completion_tokens)
    assert "num_epochs=3" in epoch.what and 0 < epoch.calls < again.calls
    assert before.calls == after.calls == 1000 and before.tokens == pytest.approx(18_000)  # 11 and 7 a call


def test_cached_replies_are_paid_the_next_time_and_an_unknown_price_stays_unknown(history: RunHistory) -> None:
    assert history.ended is not None
    half = [replace(row, failed=0, calls=2 * row.calls, cached=row.calls) for row in history.ended.spend]
    cached = replace(history, ended=replace(history.ended, spend=tuple(half)))
    assert next_runs(cached)[0].tokens == pytest.approx(2 * next_runs(priced(history))[0].tokens)
    assert next_runs(priced(history, cost=None))[0].cost is None


def test_what_is_not_known_is_a_dash_and_never_nothing_spent(history: RunHistory) -> None:
    """A stage without a call has no cost either where no price is known: not '$0.00' beside a dash."""
    assert history.ended is not None
    idle = replace(history, ended=replace(history.ended, spend=history.ended.spend[1:]))
    unknown, known = (spend_rows(priced(idle, cost=cost)) for cost in (None, 0.5))
    assert 0 in {row.spend.calls for row in unknown} and {money(row.spend.cost) for row in unknown} == {money(None)}
    assert "$0.00" in {money(row.spend.cost) for row in known} and money(None) == "\N{EN DASH}"
    assert "$0.00" not in render_report(priced(idle, cost=None))


def test_a_run_that_ended_early_is_filled_up_to_what_was_expected(history: RunHistory) -> None:
    assert history.ended is not None and history.started.estimate is not None
    one = tuple(replace(row, calls=1, failed=0) for row in history.ended.spend)
    early = replace(history, ended=replace(history.ended, stop_reason="max_cost", spend=one))
    again = next_runs(early)[0]
    assert again.calls >= history.started.estimate.calls and not any("epoch" in row.what for row in next_runs(early))
    assert next_runs(replace(history, ended=None)) == () == spend_rows(replace(history, ended=None))
