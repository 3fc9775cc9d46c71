"""Budgets: what a run may spend is what it spends, counted where the money goes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dspy
import pytest
from dspy.lm15 import RateLimitError, Usage
from support.scripted import TOKENS, Call, Triage, examples, learner, scripted_lm, told
from support.waiting import LONG, stops

from trgrpo_dspy import FatalError, Reflector, TrainingFreeGRPO
from trgrpo_dspy.engine.calls import state
from trgrpo_dspy.engine.calls.gate import Gate
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.errors import RunStopped
from trgrpo_dspy.meter import Budget, Meter, Stage, total_spend
from trgrpo_dspy.offline.server import OfflineServer

THREADS = 16
A_CALL = sum(TOKENS)
PRICES = {"scripted/model": (1.0, 1.0)}
A_PRICE = A_CALL / 1e6


def slow(seconds: float = 0.004) -> Callable[[Call], Any]:
    """The learner, with replies that take a while and come back in any order."""

    def script(call: Call) -> Any:
        time.sleep(seconds * (0.2 + call.chance("latency") % 100 / 60))
        return learner(call)

    return script


def compile_with(budget: Budget | None, lm: dspy.LM, program: dspy.Module | None = None, **options: Any) -> dspy.Module:
    settings = {
        "metric": told, "num_epochs": 2, "batch_size": 4, "num_threads": THREADS, "group_size": 4,
        "learn_from": "contrast", "reflector": Reflector(form="paper", summarize="always"), **options,
    }  # fmt: skip
    valset = settings.pop("valset", examples(6, start=8))
    with dspy.context(lm=lm):
        optimizer = TrainingFreeGRPO(budget=budget, **settings)
        return optimizer.compile(program or dspy.Predict(Triage), trainset=examples(8), valset=valset)


# -- caps: the whole run takes about 88 calls ------------------------------------------------------------------------


@pytest.mark.parametrize("calls", [1, 23.4, 61.7])
@pytest.mark.parametrize("cap", ["max_lm_calls", "max_tokens", "max_cost"])
def test_a_cap_is_overshot_by_calls_in_flight_at_most_and_that_of_calls_never(cap: str, calls: float) -> None:
    most = {"max_lm_calls": int(calls), "max_tokens": int(calls * A_CALL), "max_cost": calls * A_PRICE}[cap]
    lm = scripted_lm(slow())
    results = compile_with(Budget(**{cap: most}, prices=PRICES), lm).detailed_results
    made, total = len(lm.engine.calls), results.total
    assert made == most if cap == "max_lm_calls" else int(calls) <= made < calls + THREADS
    assert (total.calls, total.prompt_tokens + total.completion_tokens) == (made, made * A_CALL)
    assert total.cost == pytest.approx(made * A_PRICE)
    assert results.stop_reason == cap


def test_time_is_overshot_by_calls_in_flight_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped, late = stops(monkeypatch), []

    def script(call: Call) -> Any:
        if stopped.is_set():
            late.append(call)
        return slow(0.1)(call)  # takes 0.02 to 0.19 s

    began = time.monotonic()
    compiled = compile_with(Budget(max_seconds=0.4), scripted_lm(script))
    assert 0.4 <= time.monotonic() - began < LONG
    assert compiled.detailed_results.stop_reason == "max_seconds"
    assert len(late) < THREADS, "only what was about to be sent"


def test_time_does_not_wait_for_work_that_hangs_nor_for_a_pool_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the end of the time wakes the driver: it comes in the first call, which lasts until the run is stopped."""
    stopped, clock = stops(monkeypatch), SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("trgrpo_dspy.meter.meter.time", clock)
    in_time: list[bool] = []

    def script(call: Call) -> Any:
        time.sleep(0.2)  # by now the driver waits, most likely
        clock.now = 1.0
        in_time.append(stopped.wait(LONG / 3))
        return learner(call)

    compile_with(Budget(max_seconds=0.5), lm := scripted_lm(script))
    assert in_time == [True] and len(lm.engine.calls) == 1


def test_a_budget_that_suffices_changes_nothing_and_the_first_cap_that_is_reached_ends_the_run() -> None:
    free, capped = scripted_lm(), scripted_lm()
    one, calls = compile_with(None, free), len(free.engine.calls)
    budget = Budget(max_lm_calls=calls, max_tokens=calls * A_CALL, max_cost=calls * A_PRICE, prices=PRICES)
    other = compile_with(budget, capped)
    assert one.experiences == other.experiences and len(capped.engine.calls) == calls
    assert other.detailed_results.stop_reason == "completed"
    first = compile_with(Budget(max_lm_calls=20, max_tokens=10_000, max_seconds=60), scripted_lm())
    assert first.detailed_results.stop_reason == "max_lm_calls"


# -- where calls are made ----------------------------------------------------------------------------------------------


class TwoCalls(dspy.Module):
    """A program whose attempt makes two calls, the second in threads of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = dspy.Predict(Triage), dspy.Predict(Triage)

    def forward(self, ticket: str) -> Any:
        self.first(ticket=ticket)
        pool = dspy.Parallel(num_threads=2, disable_progress_bar=True)
        return pool([(self.second, {"ticket": ticket}), (self.second, {"ticket": f"{ticket} again"})])[0]


class GathersCalls(dspy.Module):
    """Five calls at a time in one event loop."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict(Triage)

    def forward(self, ticket: str) -> Any:
        async def all_of_them() -> list[Any]:
            return await asyncio.gather(*(self.answer.acall(ticket=f"{ticket} {i}") for i in range(5)))

        return asyncio.run(all_of_them())[0]


def judged(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
    """A metric that asks an LM."""
    judge = dspy.Predict("question -> verdict")
    judge(question=f"Is {prediction.queue} right for {example.ticket}?")
    return float(prediction.queue == example.queue)


@pytest.mark.parametrize("cap", [3, 17])
@pytest.mark.parametrize("program", [TwoCalls, GathersCalls])
def test_calls_inside_a_program_count(program: type[dspy.Module], cap: int) -> None:
    lm = scripted_lm(slow(0.002))
    compiled = compile_with(Budget(max_lm_calls=cap), lm, program())
    assert len(lm.engine.calls) == cap == compiled.detailed_results.total.calls


@pytest.mark.parametrize("cap", [9, 24])
def test_calls_inside_a_metric_count(cap: int) -> None:
    lm = scripted_lm(slow(0.002))
    compiled = compile_with(Budget(max_lm_calls=cap), lm, metric=judged)
    spent = {row.stage: row.calls for row in compiled.detailed_results.spend}
    assert spent["rollout" if cap > 12 else "validation"] > 0  # the baseline takes twelve
    assert sum(spent.values()) == cap == len(lm.engine.calls)


def test_calls_of_one_event_loop_do_not_wait_for_each_other_for_ever() -> None:
    """A cap of two, five calls in one thread: blocking it would keep the two from ever coming back."""
    lm, calls = scripted_lm(), Gate(Meter(Budget(max_lm_calls=2)))
    with calls.context(Unit(Stage.ROLLOUT), lm=lm), pytest.raises(RunStopped):
        GathersCalls()(ticket="refund")
    assert len(lm.engine.calls) == 2


def test_a_call_that_is_cancelled_gives_its_reservation_back() -> None:
    calls = Gate(Meter(Budget(max_lm_calls=1)), requests_per_minute=6)
    calls.state.waiting.pace()  # the next turn is in ten seconds

    async def one() -> None:
        with calls.context(Unit(Stage.ROLLOUT), lm=scripted_lm()):
            await asyncio.wait_for(dspy.Predict(Triage).acall(ticket="refund"), 0.1)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(one())
    assert calls.state.meter.reserve() == (True, "")


def test_an_lm_that_asks_another_one_is_one_call() -> None:
    """A router: its own reservation is enough, and it does not wait for itself."""
    calls = Gate(Meter(Budget(max_lm_calls=1)))
    inner = scripted_lm(lambda call: "[[ ## queue ## ]]\nbilling\n\n[[ ## completed ## ]]", name="scripted/inner")
    found: list[Any] = []

    def ask() -> None:
        with calls.context(Unit(Stage.ROLLOUT), lm=scripted_lm(lambda call: calls.observe(inner)(call.user)[0])):
            found.append(dspy.Predict(Triage)(ticket="refund").queue)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(LONG)
    assert found == ["billing"]
    assert total_spend(calls.state.meter.spend()).calls == 1


def test_a_run_from_the_cache_needs_no_budget(dspy_cache: None) -> None:
    lm = scripted_lm(cache=True)
    first = compile_with(None, lm)
    calls = len(lm.engine.calls)
    again = compile_with(Budget(max_lm_calls=1, max_tokens=1), lm)
    total = again.detailed_results.total
    assert len(lm.engine.calls) == calls == total.cached
    assert (again.detailed_results.stop_reason, again.experiences) == ("completed", first.experiences)
    assert (total.prompt_tokens, total.completion_tokens, total.cost) == (0, 0, 0.0)


def test_calls_wait_near_the_cap(dspy_cache: None) -> None:
    """With one reservation, three calls at a time: the cached ones all get through, one after the other."""
    lm = scripted_lm(cache=True)
    pairs = [(dspy.Predict(Triage), {"ticket": f"refund {i}"}) for i in range(3)]
    with dspy.context(lm=lm):
        for predictor, inputs in pairs:
            predictor(**inputs)
    calls = Gate(Meter(Budget(max_lm_calls=1)))
    with calls.context(Unit(Stage.ROLLOUT), lm=lm):
        found = dspy.Parallel(num_threads=3, disable_progress_bar=True)(pairs)
    assert [bool(f.queue) for f in found] == [True] * 3
    assert len(lm.engine.calls) == 3 and not calls.stopped


# -- the result --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cap", [1, 30, 80])
def test_whenever_the_end_comes_what_is_returned_is_what_was_measured_best(cap: int) -> None:
    compiled = compile_with(Budget(max_lm_calls=cap), scripted_lm(slow(0.002)))
    results, verdict = compiled.detailed_results, compiled.detailed_results.verdict
    assert "The run ended early: max_lm_calls was reached." in verdict.text
    assert (results.baseline is None) == (cap < 6)
    measured = {m.step: m for m in results.measured}
    if verdict.step == 0:
        assert len(compiled.experiences) == 0 and compiled.signature.instructions == Triage.instructions
    else:
        assert compiled.experiences == measured[verdict.step].library
        assert measured[verdict.step].mean.value == max(m.mean.value or 0.0 for m in results.measured)
    assert type(results).from_json(results.to_json()) == results


def test_what_it_learned_until_then_is_kept_and_without_a_valset_returned() -> None:
    whole = compile_with(None, scripted_lm(), valset=None).detailed_results
    first_step = sum(row.calls for row in whole.steps[0].spend)
    compiled = compile_with(Budget(max_lm_calls=first_step + 5), scripted_lm(), valset=None)
    results = compiled.detailed_results
    assert [s.library for s in results.steps] == [whole.steps[0].library] == [compiled.experiences]
    assert (results.stop_reason, results.verdict.step) == ("max_lm_calls", 1) and len(compiled.experiences) > 0


def test_a_cap_that_is_reached_already_asks_nothing_also_where_the_price_is_new(tmp_path: Path) -> None:
    before = compile_with(Budget(max_lm_calls=20), scripted_lm(), log_dir=tmp_path)
    for budget in (
        Budget(max_lm_calls=20), Budget(max_tokens=20 * A_CALL), Budget(max_cost=20 * A_PRICE, prices=PRICES)
    ):  # fmt: skip
        lm = scripted_lm()
        again = compile_with(budget, lm, log_dir=tmp_path)
        assert not lm.engine.calls and again.experiences == before.experiences
        cap = next(name for name in ("max_lm_calls", "max_tokens", "max_cost") if getattr(budget, name))
        assert again.detailed_results.stop_reason == cap and again.detailed_results.total.calls == 20
    assert again.detailed_results.total.cost == pytest.approx(20 * A_PRICE)


# -- prices ------------------------------------------------------------------------------------------------------------


def test_an_unknown_price_is_refused_at_the_first_reply_whoever_gets_it() -> None:
    lm, other = scripted_lm(), scripted_lm(name="scripted/other")
    with pytest.raises(FatalError, match=r"'scripted/model' is unknown.*prices=\{'scripted/model': \(") as caught:
        compile_with(Budget(max_cost=5.0), lm)
    assert len(lm.engine.calls) == 1 and "max_tokens or max_lm_calls" in str(caught.value)
    with pytest.raises(FatalError, match="'scripted/other' is unknown"):
        compile_with(Budget(max_cost=5.0, prices=PRICES), lm, reflection_lm=other)
    assert len(other.engine.calls) == 1


def test_a_price_is_by_the_million_and_an_unknown_one_stays_unknown() -> None:
    priced = compile_with(Budget(max_lm_calls=10, prices={"scripted/model": (2.0, 30.0)}), scripted_lm())
    assert priced.detailed_results.total.cost == pytest.approx(10 * (TOKENS[0] * 2 + TOKENS[1] * 30) / 1e6)
    results = compile_with(Budget(max_lm_calls=10), scripted_lm()).detailed_results
    assert results.total.cost is None and '"cost": null' in results.to_json()
    assert results.spend_table.splitlines()[-1].split()[-1] == "?"


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"max_lm_calls": 0}, ValueError),
        ({"max_lm_calls": 1.5}, TypeError),
        ({"max_lm_calls": True}, TypeError),
        ({"max_tokens": -1}, ValueError),
        ({"max_cost": float("nan")}, ValueError),
        ({"max_cost": "5"}, TypeError),
        ({"max_seconds": float("inf")}, ValueError),
        ({"prices": {"m": (1.0,)}}, ValueError),
        ({"prices": {"m": (1.0, -1.0)}}, ValueError),
        ({"prices": {"m": 1.0}}, ValueError),
    ],
)
def test_bad_values_are_named(values: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(values))):
        Budget(**values)


# -- spend -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["auto", "litellm"])
def test_spend_adds_up_to_what_the_server_saw(engine: str) -> None:
    with OfflineServer() as server:
        lm = server.lm(engine)
        other = dspy.LM("openai/other", engine=engine, api_base=server.url, api_key="offline", cache=False, seed=1)
        results = compile_with(None, lm, reflection_lm=other, num_epochs=1).detailed_results
        seen = server.requests
    assert {"rollout", "comparison", "validation"} <= {row.stage for row in results.spend}
    for model in ("offline", "other"):
        spent = total_spend(row for row in results.spend if row.model == f"openai/{model}")
        there = [r for r in seen if r.model == model]
        assert spent.calls == len(there) > 5
        assert spent.prompt_tokens == sum(r.prompt_tokens for r in there) > 0
        assert spent.completion_tokens == sum(r.completion_tokens for r in there) > 0
    assert results.total.calls == len(seen)
    baseline = 6  # calls before the first step
    assert sum(row.calls for step in results.steps for row in step.spend) == results.total.calls - baseline


def test_retries_are_counted_apart_and_under_no_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "BACKOFF", 0.001)

    def flaky(call: Call) -> Any:
        key = repr((call.text, call.seed))
        call.memory[key] += 1
        return RateLimitError("busy") if call.memory[key] == 1 else learner(call)

    lm = scripted_lm(flaky, num_retries=3)
    total = compile_with(Budget(max_lm_calls=40), lm).detailed_results.total
    assert (total.calls, total.retries, total.failed, len(lm.engine.calls)) == (40, 40, 0, 80)
    assert total.prompt_tokens == 40 * TOKENS[0]


def test_tokens_that_the_provider_had_in_its_own_cache_are_counted() -> None:
    class CountsCached(scripted_lm().engine.__class__):  # type: ignore[misc]
        def complete(self, request: Any) -> Any:
            usage = Usage(input_tokens=TOKENS[0], output_tokens=TOKENS[1], cache_read_tokens=5)
            return replace(super().complete(request), usage=usage)

    lm = dspy.LM("scripted/model", engine=CountsCached(), cache=False)
    total = compile_with(Budget(max_lm_calls=10), lm).detailed_results.total
    assert (total.provider_cached_tokens, total.prompt_tokens) == (50, 10 * TOKENS[0])
