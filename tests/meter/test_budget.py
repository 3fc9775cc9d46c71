"""Budgets: what a run may spend is what it spends, counted where the money goes."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import RateLimitError, Usage
from support.scripted import RIGHT, TOKENS, Call, Triage, examples, learner, scripted_lm, told

from trgrpo_dspy import FatalError, Reflector, TrainingFreeGRPO
from trgrpo_dspy.engine.calls import state
from trgrpo_dspy.engine.calls.gate import Gate
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.errors import RunStopped
from trgrpo_dspy.meter import Budget, LMCall, Meter, Spend, Stage, total_spend
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


def learner_text(call: Call) -> Any:
    return "[[ ## queue ## ]]\nbilling\n\n[[ ## completed ## ]]"


def compile_with(budget: Budget | None, lm: dspy.LM, program: dspy.Module | None = None, **options: Any) -> dspy.Module:
    settings = {
        "metric": told, "num_epochs": 2, "batch_size": 4, "num_threads": THREADS, "group_size": 4,
        "learn_from": "contrast", "reflector": Reflector(form="paper", summarize="always"), **options,
    }  # fmt: skip
    optimizer = TrainingFreeGRPO(budget=budget, **settings)
    with dspy.context(lm=lm):
        return optimizer.compile(program or dspy.Predict(Triage), trainset=examples(8), valset=examples(6, start=8))


def random_values(low: float, high: float, count: int = 5) -> list[float]:
    chance = random.Random(f"{low} {high}")
    return [round(chance.uniform(low, high), 3) for _ in range(count)]


# The whole run takes about 88 calls.
CALLS = [1, 2, *map(int, random_values(3, 80))]


class TestCaps:
    @pytest.mark.parametrize("cap", CALLS)
    def test_calls_are_never_overshot_nor_left_unused(self, cap: int) -> None:
        lm = scripted_lm(slow())
        compiled = compile_with(Budget(max_lm_calls=cap), lm)
        assert len(lm.engine.calls) == cap == compiled.detailed_results.total.calls
        assert compiled.detailed_results.stop_reason == "max_lm_calls"

    @pytest.mark.parametrize("cap", [int(v) for v in random_values(A_CALL, 78 * A_CALL)])
    def test_tokens_are_overshot_by_calls_in_flight_at_most(self, cap: int) -> None:
        lm = scripted_lm(slow())
        compiled = compile_with(Budget(max_tokens=cap), lm)
        spent = len(lm.engine.calls) * A_CALL
        assert cap <= spent < cap + THREADS * A_CALL
        total = compiled.detailed_results.total
        assert total.prompt_tokens + total.completion_tokens == spent
        assert compiled.detailed_results.stop_reason == "max_tokens"

    @pytest.mark.parametrize("calls", random_values(1, 78))
    def test_cost_is_overshot_by_calls_in_flight_at_most(self, calls: float) -> None:
        lm = scripted_lm(slow())
        compiled = compile_with(Budget(max_cost=calls * A_PRICE, prices=PRICES), lm)
        assert calls <= len(lm.engine.calls) < calls + THREADS
        assert compiled.detailed_results.total.cost == pytest.approx(len(lm.engine.calls) * A_PRICE)
        assert compiled.detailed_results.stop_reason == "max_cost"

    @pytest.mark.parametrize("seconds", random_values(0.05, 0.6, 3))
    def test_time_is_overshot_by_calls_in_flight_at_most(self, seconds: float) -> None:
        lm = scripted_lm(slow(0.1))  # a call takes 0.02 to 0.19 s
        began = time.monotonic()
        compiled = compile_with(Budget(max_seconds=seconds), lm)
        assert seconds <= time.monotonic() - began < seconds + 0.2 + 0.3
        assert compiled.detailed_results.stop_reason == "max_seconds"

    def test_time_does_not_wait_for_work_that_hangs_nor_for_a_pool_that_waits(self) -> None:
        """Only the end of the time wakes the driver."""
        lm = scripted_lm(lambda call: time.sleep(1.0) or learner(call))
        began = time.monotonic()
        compile_with(Budget(max_seconds=0.5), lm)
        assert time.monotonic() - began < 2.5
        assert len(lm.engine.calls) == 1

    def test_a_budget_that_suffices_changes_nothing(self) -> None:
        free, capped = scripted_lm(), scripted_lm()
        one = compile_with(None, free)
        calls = len(free.engine.calls)
        budget = Budget(max_lm_calls=calls, max_tokens=calls * A_CALL, max_cost=calls * A_PRICE, prices=PRICES)
        other = compile_with(budget, capped)
        assert one.experiences == other.experiences
        assert other.detailed_results.stop_reason == "completed"
        assert len(capped.engine.calls) == calls

    def test_the_first_cap_that_is_reached_ends_the_run(self) -> None:
        lm = scripted_lm(slow())
        compiled = compile_with(Budget(max_lm_calls=20, max_tokens=10_000, max_seconds=60), lm)
        assert compiled.detailed_results.stop_reason == "max_lm_calls"


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


class TestWhereCallsAreMade:
    @pytest.mark.parametrize("cap", [1, 3, 17])
    @pytest.mark.parametrize("program", [TwoCalls, GathersCalls])
    def test_inside_a_program(self, program: type[dspy.Module], cap: int) -> None:
        lm = scripted_lm(slow(0.002))
        compiled = compile_with(Budget(max_lm_calls=cap), lm, program())
        assert len(lm.engine.calls) == cap == compiled.detailed_results.total.calls

    def test_calls_of_one_event_loop_do_not_wait_for_each_other_for_ever(self) -> None:
        """A cap of two, five calls in one thread: blocking it would keep the two from ever coming back."""
        lm, calls = scripted_lm(), Gate(Meter(Budget(max_lm_calls=2)))
        with calls.context(Unit(Stage.ROLLOUT), lm=lm), pytest.raises(RunStopped):
            GathersCalls()(ticket="refund")
        assert len(lm.engine.calls) == 2

    def test_a_call_that_is_cancelled_gives_its_place_back(self) -> None:
        calls = Gate(Meter(Budget(max_lm_calls=1)), requests_per_minute=6)
        lm = scripted_lm()
        calls.state.waiting.pace()  # the next turn is in ten seconds

        async def one() -> None:
            with calls.context(Unit(Stage.ROLLOUT), lm=lm):
                await asyncio.wait_for(dspy.Predict(Triage).acall(ticket="refund"), 0.1)

        with pytest.raises(asyncio.TimeoutError):
            asyncio.run(one())
        assert calls.state.meter.reserve() == (True, "")

    def test_an_lm_that_asks_another_one_is_one_call(self) -> None:
        """A router: its own place is enough, and it does not wait for itself."""
        calls, inner = Gate(Meter(Budget(max_lm_calls=1))), scripted_lm(name="scripted/inner")

        def route(call: Call) -> Any:
            return calls.observe(inner)(call.user)[0]

        inner.engine.script = learner_text
        found: list[Any] = []

        def ask() -> None:
            with calls.context(Unit(Stage.ROLLOUT), lm=scripted_lm(route)):
                found.append(dspy.Predict(Triage)(ticket="refund").queue)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(10)
        assert found == ["billing"]
        assert total_spend(calls.state.meter.spend()).calls == 1

    @pytest.mark.parametrize("cap", [2, 9, 24])
    def test_inside_a_metric(self, cap: int) -> None:
        lm = scripted_lm(slow(0.002))
        compiled = compile_with(Budget(max_lm_calls=cap), lm, metric=judged)
        assert len(lm.engine.calls) == cap
        spent = {row.stage: row.calls for row in compiled.detailed_results.spend}
        assert spent["rollout" if cap > 12 else "validation"] > 0  # the baseline takes twelve
        assert sum(spent.values()) == cap


class TestPlaces:
    """A place is reserved before a call, and given back where nothing was spent."""

    def test_a_cached_reply_gives_its_place_back(self) -> None:
        meter = Meter(Budget(max_lm_calls=1))
        assert meter.reserve() == (True, "")
        assert meter.reserve() == (False, "")  # wait: it may come back
        meter.record(LMCall("m", cached=True), Stage.ROLLOUT, 0, reserved=True)
        assert meter.reserve() == (True, "")
        meter.record(LMCall("m"), Stage.ROLLOUT, 0, reserved=True)
        assert meter.reserve() == (False, "max_lm_calls")

    def test_an_unused_place_is_given_back(self) -> None:
        meter = Meter(Budget(max_lm_calls=1))
        meter.reserve()
        meter.give_back()
        assert meter.reserve() == (True, "")

    def test_a_run_from_the_cache_needs_no_budget(self, dspy_cache: None) -> None:
        lm = scripted_lm(cache=True)
        first = compile_with(None, lm)
        calls = len(lm.engine.calls)
        again = compile_with(Budget(max_lm_calls=1, max_tokens=1), lm)
        assert len(lm.engine.calls) == calls == again.detailed_results.total.cached
        assert again.detailed_results.stop_reason == "completed"
        assert again.experiences == first.experiences
        total = again.detailed_results.total
        assert (total.prompt_tokens, total.completion_tokens, total.cost) == (0, 0, 0.0)

    def test_calls_wait_near_the_cap(self, dspy_cache: None) -> None:
        """With one place, three calls at a time: the cached ones all get through, one after the other."""
        lm = scripted_lm(cache=True)
        with dspy.context(lm=lm):
            for i in range(3):
                dspy.Predict(Triage)(ticket=f"refund {i}")
        calls = Gate(Meter(Budget(max_lm_calls=1)))
        with calls.context(Unit(Stage.ROLLOUT), lm=lm):
            pairs = [(dspy.Predict(Triage), {"ticket": f"refund {i}"}) for i in range(3)]
            found = dspy.Parallel(num_threads=3, disable_progress_bar=True)(pairs)
        assert [bool(f.queue) for f in found] == [True] * 3
        assert len(lm.engine.calls) == 3
        assert not calls.stopped


class TestTheResult:
    @pytest.mark.parametrize("cap", [1, 6, 30, 60, 80])
    def test_it_is_consistent(self, cap: int) -> None:
        """Whenever the end comes, what is returned is what was measured best, and all of it is told."""
        lm = scripted_lm(slow(0.002))
        compiled = compile_with(Budget(max_lm_calls=cap), lm)
        results = compiled.detailed_results
        verdict = results.verdict
        assert "The run ended early: max_lm_calls was reached." in verdict.text
        libraries = {m.step: m.library for m in results.measured}
        assert (results.baseline is None) == (cap < 6)
        assert compiled.experiences == libraries.get(verdict.step, compiled.experiences)
        if verdict.step == 0:
            assert len(compiled.experiences) == 0
            assert compiled.signature.instructions == Triage.instructions
        else:
            best = max(m.mean.value or 0.0 for m in results.measured)
            assert next(m for m in results.measured if m.step == verdict.step).mean.value == best
        assert type(results).from_json(results.to_json()) == results

    def test_what_it_learned_until_then_is_kept(self) -> None:
        free = scripted_lm()
        whole = compile_with(None, free, num_epochs=1).detailed_results
        first_step = sum(row.calls for step in (0, 1) for row in _spend_of(whole, step))
        capped = scripted_lm()
        compiled = compile_with(Budget(max_lm_calls=first_step + 5), capped, num_epochs=1)
        assert [s.step for s in compiled.detailed_results.steps] == [1]
        assert compiled.detailed_results.steps[0].library == whole.steps[0].library
        assert compiled.detailed_results.verdict.step == 1
        assert len(compiled.experiences) > 0

    def test_without_a_valset_the_last_library_is_returned(self) -> None:
        lm = scripted_lm()
        optimizer = TrainingFreeGRPO(
            metric=told, num_epochs=2, batch_size=4, num_threads=4, budget=Budget(max_lm_calls=60)
        )
        with dspy.context(lm=lm):
            compiled = optimizer.compile(dspy.Predict(Triage), trainset=examples(8))
        assert compiled.detailed_results.stop_reason == "max_lm_calls"
        assert compiled.experiences == compiled.detailed_results.steps[-1].library
        assert len(compiled.experiences) > 0


def _spend_of(results: Any, step: int) -> tuple[Spend, ...]:
    steps = [row for s in results.steps for row in s.spend]
    if step:
        return results.steps[step - 1].spend
    # Before the first step there is only the measurement of the input.
    return tuple(r for r in results.spend if r.stage == "validation") if not steps else _before(results)


def _before(results: Any) -> tuple[Spend, ...]:
    later = sum(row.calls for s in results.steps for row in s.spend)
    return (Spend("validation", "", results.total.calls - later),)


class TestResuming:
    def test_with_a_higher_budget(self, tmp_path: Path) -> None:
        whole_lm = scripted_lm()
        whole = compile_with(None, whole_lm)
        made = 0
        for cap in (7, 25, 26, 70):
            lm = scripted_lm(slow(0.002))
            part = compile_with(Budget(max_lm_calls=cap), lm, log_dir=tmp_path)
            made += len(lm.engine.calls)
            assert made == cap == part.detailed_results.total.calls
            assert part.detailed_results.stop_reason == "max_lm_calls"
        lm = scripted_lm()
        done = compile_with(None, lm, log_dir=tmp_path)
        assert made + len(lm.engine.calls) == len(whole_lm.engine.calls)
        assert done.experiences == whole.experiences
        assert done.detailed_results.spend == whole.detailed_results.spend
        assert done.detailed_results.stop_reason == "completed"

    @pytest.mark.parametrize(
        "budget",
        [Budget(max_lm_calls=20), Budget(max_tokens=20 * A_CALL), Budget(max_cost=20 * A_PRICE, prices=PRICES)],
    )
    def test_a_cap_that_is_reached_already(self, budget: Budget, tmp_path: Path) -> None:
        first = scripted_lm()
        before = compile_with(budget, first, log_dir=tmp_path)
        lm = scripted_lm()
        again = compile_with(budget, lm, log_dir=tmp_path)
        assert not lm.engine.calls
        assert again.detailed_results.stop_reason == before.detailed_results.stop_reason
        assert again.detailed_results.total == before.detailed_results.total
        assert again.experiences == before.experiences

    def test_what_was_paid_without_a_price_counts_once_there_is_one(self, tmp_path: Path) -> None:
        compile_with(Budget(max_lm_calls=20), scripted_lm(), log_dir=tmp_path)
        lm = scripted_lm()
        compiled = compile_with(Budget(max_cost=20 * A_PRICE, prices=PRICES), lm, log_dir=tmp_path)
        assert not lm.engine.calls
        assert compiled.detailed_results.stop_reason == "max_cost"
        assert compiled.detailed_results.total.cost == pytest.approx(20 * A_PRICE)


class TestPrices:
    def test_an_unknown_price_is_refused_at_the_first_reply(self) -> None:
        lm = scripted_lm()
        with pytest.raises(FatalError, match=r"'scripted/model' is unknown.*prices=\{'scripted/model': \(") as caught:
            compile_with(Budget(max_cost=5.0), lm)
        assert len(lm.engine.calls) == 1
        assert "max_tokens or max_lm_calls" in str(caught.value)

    def test_a_price_is_by_the_million(self) -> None:
        lm = scripted_lm()
        compiled = compile_with(Budget(max_lm_calls=10, prices={"scripted/model": (2.0, 30.0)}), lm)
        assert compiled.detailed_results.total.cost == pytest.approx(10 * (TOKENS[0] * 2 + TOKENS[1] * 30) / 1e6)

    def test_a_model_without_a_price_among_priced_ones(self) -> None:
        lm, other = scripted_lm(), scripted_lm(name="scripted/other")
        with pytest.raises(FatalError, match="'scripted/other' is unknown"):
            compile_with(Budget(max_cost=5.0, prices=PRICES), lm, reflection_lm=other)
        assert len(other.engine.calls) == 1

    def test_unknown_stays_unknown(self) -> None:
        compiled = compile_with(Budget(max_lm_calls=10), scripted_lm())
        results = compiled.detailed_results
        assert results.total.cost is None
        assert '"cost": null' in results.to_json()
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
    def test_bad_values_are_named(self, values: dict[str, Any], error: type[Exception]) -> None:
        with pytest.raises(error, match=next(iter(values))):
            Budget(**values)


class CountsCached(scripted_lm().engine.__class__):  # type: ignore[misc]
    """Tells of prompt tokens that the provider had in its own cache."""

    def complete(self, request: Any) -> Any:
        from dataclasses import replace

        response = super().complete(request)
        return replace(response, usage=Usage(input_tokens=TOKENS[0], output_tokens=TOKENS[1], cache_read_tokens=5))


class TestSpend:
    @pytest.mark.parametrize("engine", ["auto", "litellm"])
    def test_it_adds_up_to_what_the_server_saw(self, engine: str) -> None:
        with OfflineServer() as server:
            lm = server.lm(engine)
            other = dspy.LM("openai/other", engine=engine, api_base=server.url, api_key="offline", cache=False, seed=1)
            results = compile_with(None, lm, reflection_lm=other, num_epochs=1).detailed_results
            seen = server.requests
        assert {"rollout", "comparison", "validation"} <= {row.stage for row in results.spend}
        assert {row.model for row in results.spend} == {"openai/offline", "openai/other"}
        for model in ("offline", "other"):
            told_of = total_spend(row for row in results.spend if row.model == f"openai/{model}")
            there = [r for r in seen if r.model == model]
            assert told_of.calls == len(there) > 5
            assert told_of.prompt_tokens == sum(r.prompt_tokens for r in there) > 0
            assert told_of.completion_tokens == sum(r.completion_tokens for r in there) > 0
        assert results.total.calls == len(seen)

    def test_retries_are_counted_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(state, "BACKOFF", 0.001)

        def flaky(call: Call) -> Any:
            key = repr((call.text, call.seed))
            call.memory[key] += 1
            fails = call.chance("fails") % 3
            return RateLimitError("busy") if call.memory[key] <= fails else learner(call)

        lm = scripted_lm(flaky, num_retries=3)
        total = compile_with(None, lm).detailed_results.total
        assert total.retries > 20
        assert total.failed == 0
        assert len(lm.engine.calls) == total.calls + total.retries
        assert total.prompt_tokens == total.calls * TOKENS[0]

    @pytest.mark.parametrize("cap", [5, 40])
    def test_a_cap_counts_calls_not_retries(self, cap: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(state, "BACKOFF", 0.001)

        def flaky(call: Call) -> Any:
            key = repr((call.text, call.seed))
            call.memory[key] += 1
            return RateLimitError("busy") if call.memory[key] == 1 else learner(call)

        lm = scripted_lm(flaky, num_retries=3)
        total = compile_with(Budget(max_lm_calls=cap), lm).detailed_results.total
        assert (total.calls, total.retries, len(lm.engine.calls)) == (cap, cap, 2 * cap)

    def test_provider_cached_tokens(self) -> None:
        lm = dspy.LM("scripted/model", engine=CountsCached(), cache=False)
        results = compile_with(Budget(max_lm_calls=10), lm).detailed_results
        assert results.total.provider_cached_tokens == 50
        assert results.total.prompt_tokens == 10 * TOKENS[0]

    def test_steps_add_up(self) -> None:
        results = compile_with(None, scripted_lm()).detailed_results
        in_steps = sum(row.calls for step in results.steps for row in step.spend)
        assert in_steps + len(RIGHT) - 2 == results.total.calls  # six validation calls before the first step
