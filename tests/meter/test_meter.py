"""Unknown prices stay unknown, cached replies are free, and no call is lost between threads."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trgrpo_dspy.meter import Budget, LMCall, Meter, Spend, Stage, total_spend

CALL = LMCall("m", prompt_tokens=10, completion_tokens=2, provider_cached_tokens=4, cost=0.5)

calls = st.builds(
    LMCall,
    st.sampled_from(["a", "b"]),
    *[st.integers(0, 100)] * 3,
    st.none() | st.integers(0, 8).map(lambda n: n / 4),
    st.booleans(),
    st.integers(0, 3),
    *[st.booleans()] * 2,
)
records = st.lists(st.tuples(calls, st.sampled_from(Stage), st.integers(0, 3)), max_size=20)


def metered(rows: list[tuple[LMCall, Stage, int]]) -> Meter:
    meter = Meter()
    for row in rows:
        meter.record(*row)
    return meter


def test_one_call_is_counted_in_full_and_none_is_nothing() -> None:
    (row,) = metered([(replace(CALL, retries=3, truncated=True), Stage.SUMMARY, 1)]).spend()
    assert row == Spend(
        "summary", "m", calls=1, retries=3, truncated=1, prompt_tokens=10, completion_tokens=2,
        provider_cached_tokens=4, cost=0.5,
    )  # fmt: skip
    assert Meter().spend() == Meter().spend(3) == ()
    assert total_spend(()) == Spend("total", "", cost=0.0)


def test_one_unknown_price_makes_the_sum_unknown_and_not_smaller() -> None:
    meter = metered([(CALL, Stage.ROLLOUT, 1), (replace(CALL, cost=None), Stage.ROLLOUT, 1), (CALL, Stage.SUMMARY, 1)])
    rollout, summary = meter.spend()
    assert (rollout.cost, rollout.prompt_tokens, summary.cost) == (None, 20, 0.5)
    assert total_spend(meter.spend()).cost is None


@pytest.mark.parametrize("price", [None, 0.5])
def test_cached_replies_and_failed_calls_cost_nothing_whatever_their_price(price: float | None) -> None:
    cached, failed = replace(CALL, cost=price, cached=True), replace(CALL, cost=price, failed=True)
    (row,) = metered([(call, Stage.ROLLOUT, 1) for call in (cached, failed, CALL)]).spend()
    assert (row.calls, row.cached, row.failed, row.cost) == (3, 1, 1, 0.5)


def test_rows_come_in_the_order_of_the_algorithms_stages_and_then_of_the_models() -> None:
    rows = [(replace(CALL, model=model), stage, 1) for stage in Stage for model in ("b", "a")]
    random.Random(0).shuffle(rows)
    order = [
        "rollout", "summary", "comparison", "proposals", "consolidation", "check", "repair", "validation", "evaluation"
    ]  # fmt: skip
    assert [(row.stage, row.model) for row in metered(rows).spend()] == [(s, m) for s in order for m in ("a", "b")]


@settings(max_examples=40)
@given(records, st.randoms())
def test_the_steps_add_up_to_the_whole_in_any_order(
    rows: list[tuple[LMCall, Stage, int]], random: random.Random
) -> None:
    shuffled = random.sample(rows, len(rows))
    meter = metered(rows)
    assert metered(shuffled).spend() == meter.spend()
    steps = [meter.spend(step) for step in range(4)]
    assert total_spend(row for step in steps for row in step) == total_spend(meter.spend())
    assert [total_spend(step).calls for step in steps] == [sum(at == i for *_, at in rows) for i in range(4)]


def test_no_call_is_lost_between_threads() -> None:
    meter = Meter()
    with ThreadPoolExecutor(16) as pool:
        for step in range(8):
            for _ in range(100):
                pool.submit(meter.record, CALL, Stage.ROLLOUT, step)
    (row,) = meter.spend()
    assert (row.calls, row.prompt_tokens, row.cost) == (800, 8000, 400.0)
    assert meter.spend(5)[0].calls == 100


def test_a_call_is_reserved_under_the_cap_and_given_back_where_nothing_was_spent() -> None:
    meter = Meter(Budget(max_lm_calls=1))
    assert meter.reserve() == (True, "")
    assert meter.reserve() == (False, ""), "wait: the reservation may come back"
    meter.record(replace(CALL, cached=True), Stage.ROLLOUT, 0, reserved=True)
    assert meter.reserve() == (True, "")
    meter.give_back()
    assert meter.reserve() == (True, "")
    meter.record(CALL, Stage.ROLLOUT, 0, reserved=True)
    assert meter.reserve() == (False, "max_lm_calls")
