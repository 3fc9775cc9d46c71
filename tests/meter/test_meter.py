"""Unknown prices stay unknown, cached replies are free, and no call is lost between threads."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trgrpo_dspy.meter import LMCall, Meter, Spend, Stage, total_spend

CALL = LMCall("m", prompt_tokens=10, completion_tokens=2, provider_cached_tokens=4, cost=0.5)

calls = st.builds(
    LMCall,
    st.sampled_from(["a", "b"]),
    st.integers(0, 100),
    st.integers(0, 100),
    st.integers(0, 100),
    st.one_of(st.none(), st.integers(0, 8).map(lambda n: n / 4)),
    st.booleans(),
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
)
records = st.lists(st.tuples(calls, st.sampled_from(Stage), st.integers(0, 3)), max_size=20)


def metered(rows: list[tuple[LMCall, Stage, int]]) -> Meter:
    meter = Meter()
    for row in rows:
        meter.record(*row)
    return meter


def test_one_call_is_counted_in_full() -> None:
    meter = metered([(replace(CALL, retries=3, truncated=True), Stage.SUMMARY, 1)])
    assert meter.spend() == (
        Spend(
            "summary",
            "m",
            calls=1,
            retries=3,
            truncated=1,
            prompt_tokens=10,
            completion_tokens=2,
            provider_cached_tokens=4,
            cost=0.5,
        ),
    )


def test_one_unknown_price_makes_the_sum_unknown_and_not_smaller() -> None:
    meter = metered([(CALL, Stage.ROLLOUT, 1), (replace(CALL, cost=None), Stage.ROLLOUT, 1), (CALL, Stage.SUMMARY, 1)])
    rollout, summary = meter.spend()
    assert rollout.cost is None
    assert rollout.prompt_tokens == 20
    assert summary.cost == 0.5
    assert total_spend(meter.spend()).cost is None


@pytest.mark.parametrize("price", [None, 0.5])
def test_cached_replies_and_failed_calls_cost_nothing_whatever_their_price(price: float | None) -> None:
    cached = replace(CALL, cost=price, cached=True)
    failed = replace(CALL, cost=price, failed=True)
    (row,) = metered([(cached, Stage.ROLLOUT, 1), (failed, Stage.ROLLOUT, 1), (CALL, Stage.ROLLOUT, 1)]).spend()
    assert (row.calls, row.cached, row.failed, row.cost) == (3, 1, 1, 0.5)


def test_a_price_of_zero_is_known() -> None:
    assert metered([(replace(CALL, cost=0.0), Stage.ROLLOUT, 1)]).spend()[0].cost == 0.0


def test_nothing_spent_is_nothing() -> None:
    assert Meter().spend() == ()
    assert Meter().spend(3) == ()
    assert total_spend(()) == Spend("total", "")
    assert total_spend(()).cost == 0.0


def test_rows_come_in_the_order_of_the_stages_and_then_of_the_models() -> None:
    rows = [(replace(CALL, model=model), stage, 1) for stage in Stage for model in ("b", "a")]
    random.Random(0).shuffle(rows)
    assert [(row.stage, row.model) for row in metered(rows).spend()] == [
        (stage.value, model) for stage in Stage for model in ("a", "b")
    ]


def test_the_stages_are_in_the_order_of_the_algorithm() -> None:
    assert [stage.value for stage in Stage] == [
        "rollout",
        "summary",
        "comparison",
        "proposals",
        "consolidation",
        "check",
        "repair",
        "validation",
        "evaluation",
    ]


@given(records)
def test_the_steps_add_up_to_the_whole(rows: list[tuple[LMCall, Stage, int]]) -> None:
    meter = metered(rows)
    steps = [row for step in range(4) for row in meter.spend(step)]
    assert total_spend(steps) == total_spend(meter.spend())
    assert total_spend(meter.spend()).calls == len(rows)
    for step in range(4):
        assert total_spend(meter.spend(step)).calls == sum(at == step for _, _, at in rows)


@given(records, st.randoms())
def test_the_order_of_calls_changes_nothing(rows: list[tuple[LMCall, Stage, int]], random: random.Random) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert metered(shuffled).spend() == metered(rows).spend()


def test_no_call_is_lost_between_threads() -> None:
    meter = Meter()
    with ThreadPoolExecutor(16) as pool:
        for step in range(8):
            for _ in range(500):
                pool.submit(meter.record, CALL, Stage.ROLLOUT, step)
    (row,) = meter.spend()
    assert (row.calls, row.prompt_tokens, row.cost) == (4000, 40_000, 2000.0)
    assert meter.spend(5)[0].calls == 500
