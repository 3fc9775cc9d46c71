"""Every LM call of a run is seen, counted, sampled as asked and stopped, whatever way the program makes it."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from types import SimpleNamespace
from typing import Any

import dspy
import pytest
from dspy.lm15 import AuthError, BillingError, RateLimitError, ServerError, UnsupportedModelError
from support.scripted import QUEUES, TOKENS, Call, Reply, Triage, exact, examples, learner, scripted_lm

from trgrpo_dspy import FatalError, RunStopped, TrainingFreeGRPO, evaluate
from trgrpo_dspy.engine.calls.gate import Gate
from trgrpo_dspy.engine.calls.reported import was_cut
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.engine.runner import Runner
from trgrpo_dspy.meter import Stage
from trgrpo_dspy.program.copies import own_copy


def rollout_unit(*key: int | str, temperature: float | None = 0.7) -> Unit:
    return Unit(Stage.ROLLOUT, 1, ("rollout", 1, *key), resample=True, temperature=temperature)


def run(program: dspy.Module, calls: Gate | None = None, unit: Unit | None = None, **inputs: Any) -> tuple[Any, Unit]:
    calls, unit = calls or Gate(backoff=0.001), unit or rollout_unit(0, 0)
    calls.bind(program)
    with calls.context(unit):
        return program(**(inputs or {"ticket": "refund case 1"})), unit


class Chooses(dspy.Module):
    """Picks an LM in `forward`."""

    def __init__(self, other: dspy.LM, way: str) -> None:
        super().__init__()
        self.predict, self.other, self.way = dspy.Predict(Triage), other, way

    def forward(self, ticket: str) -> Any:
        if self.way == "argument":
            return self.predict(ticket=ticket, lm=self.other)
        with dspy.context(lm=self.other):
            return self.predict(ticket=ticket)


class TestWhoIsSeen:
    def test_the_settings_lm(self, lm: dspy.LM) -> None:
        _, unit = run(dspy.Predict(Triage))
        assert len(unit.account.calls) == len(lm.engine.calls) == 1
        assert lm.engine.calls[0].temperature == 0.7

    def test_an_lm_bound_to_a_predictor(self, lm: dspy.LM) -> None:
        own = scripted_lm(name="scripted/own")
        program = dspy.Predict(Triage)
        program.lm = own
        _, unit = run(program)
        assert [c.model for c in unit.account.calls] == ["scripted/own"]
        assert own.engine.calls[0].temperature == 0.7
        assert not lm.engine.calls

    @pytest.mark.parametrize("way", ["argument", "context"])
    def test_an_lm_chosen_in_forward(self, lm: dspy.LM, way: str) -> None:
        other = scripted_lm(name="scripted/other")
        _, unit = run(Chooses(other, way))
        assert [c.model for c in unit.account.calls] == ["scripted/other"]
        assert other.engine.calls[0].temperature == 0.7
        assert other.history == [] and not lm.engine.calls

    def test_the_lm_an_adapter_holds(self, lm: dspy.LM) -> None:
        extraction = scripted_lm(name="scripted/extraction")
        with dspy.context(adapter=dspy.TwoStepAdapter(extraction)):
            prediction, unit = run(dspy.Predict(Triage))
        assert sorted(c.model for c in unit.account.calls) == ["scripted/extraction", "scripted/model"]
        assert prediction.queue in QUEUES and extraction.history == []

    def test_predictors_of_a_frozen_sub_module(self, lm: dspy.LM) -> None:
        own = scripted_lm(name="scripted/own")
        program = Chooses(scripted_lm(), "argument")
        program.frozen = dspy.ChainOfThought(Triage)
        program.frozen._compiled = True
        program.frozen.predict.lm = own
        program.forward = lambda ticket: program.frozen(ticket=ticket)
        _, unit = run(program)
        assert [c.model for c in unit.account.calls] == ["scripted/own"]

    def test_parallel_inside_a_program(self, lm: dspy.LM) -> None:
        class Fans(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.predict = dspy.Predict(Triage)

            def forward(self, ticket: str) -> Any:
                pairs = [(self.predict, {"ticket": f"{ticket} {i}"}) for i in range(5)]
                return dspy.Prediction(all=dspy.Parallel(num_threads=3, disable_progress_bar=True)(pairs))

        prediction, unit = run(Fans())
        assert len(prediction.all) == 5
        assert len(unit.account.calls) == 5 and {c.temperature for c in lm.engine.calls} == {0.7}

    @pytest.mark.parametrize("way", ["asyncify", "acall"])
    def test_async_code_inside_a_program(self, lm: dspy.LM, way: str) -> None:
        class Async(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.predict = dspy.Predict(Triage)

            def forward(self, ticket: str) -> Any:
                call = dspy.asyncify(self.predict) if way == "asyncify" else self.predict.acall

                async def all_of_them() -> list[Any]:
                    return await asyncio.gather(*(call(ticket=f"{ticket} {i}") for i in range(4)))

                return asyncio.run(all_of_them())[0]

        prediction, unit = run(Async())
        assert prediction.queue in QUEUES
        assert len(unit.account.calls) == 4 and {c.temperature for c in lm.engine.calls} == {0.7}
        assert all(c.completion_tokens == TOKENS[1] for c in unit.account.calls)

    @pytest.mark.parametrize("own_lm", [False, True])
    @pytest.mark.parametrize("lm_temperature", [None, 1.0])
    @pytest.mark.parametrize("module", [dspy.BestOfN, dspy.Refine])
    def test_best_of_n_keeps_its_own_sampling(
        self, lm: dspy.LM, module: Any, lm_temperature: float | None, own_lm: bool
    ) -> None:
        used = scripted_lm(temperature=lm_temperature, name="scripted/used")
        inner = dspy.Predict(Triage)
        inner.demos = [dspy.Example(ticket="laptop", queue="hardware").with_inputs("ticket")]
        if own_lm:
            inner.lm = used
        program = module(module=inner, N=3, reward_fn=lambda args, pred: 0.0, threshold=1.0)
        with dspy.context(lm=lm if own_lm else used):
            _, unit = run(program)
        tries = [c for c in used.engine.calls if c.kind == "program" and "queue" in c.outputs]
        assert [c.temperature for c in tries] == [1.0, 1.0, 1.0], "its own temperature, not the rollout's"
        assert len({c.seed for c in tries}) == 3, "each try is drawn by itself"
        assert len(unit.account.calls) == len(used.engine.calls) + len(lm.engine.calls), "all calls are counted"

    def test_an_adapter_of_no_known_kind_is_used_as_it_is(self, lm: dspy.LM) -> None:
        def adapter(lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> Any:
            lm("whatever")
            return [{"queue": "legal"}]

        with dspy.context(adapter=adapter):
            prediction, unit = run(dspy.Predict(Triage))
        assert prediction.queue == "legal" and len(unit.account.calls) == 1

    def test_the_same_lm_is_observed_once(self) -> None:
        calls, lm = Gate(), scripted_lm()
        assert calls.observe(lm) is calls.observe(lm) is calls.observe(calls.observe(lm))
        assert calls.observe("no lm") == "no lm"

    def test_a_deep_copy_inside_a_program_shares_the_gate(self) -> None:
        calls = Gate()
        program = dspy.Predict(Triage)
        program.lm = scripted_lm()
        calls.bind(program)
        copied = copy.deepcopy(program)
        assert copied.lm is not program.lm and copied.lm._handler is calls


class TestWhatIsRecorded:
    @pytest.mark.parametrize("no_history", [False, True])
    def test_tokens_and_cost(self, lm: dspy.LM, no_history: bool) -> None:
        with dspy.context(disable_history=no_history):
            _, unit = run(dspy.Predict(Triage))
        (call,) = unit.account.calls
        assert (call.prompt_tokens, call.completion_tokens) == TOKENS
        assert call.cost is None, "a model without a price has an unknown cost, not 0"
        assert not call.cached and not call.truncated and not call.failed and call.retries == 0

    @pytest.mark.parametrize("no_history", [False, True])
    @pytest.mark.parametrize("n", [1, 2])
    def test_thefinish_reason(self, lm: dspy.LM, no_history: bool, n: int) -> None:
        lm.engine.script = lambda call: Reply("[[ ## queue ## ]]\nlegal", "length")
        with dspy.context(disable_history=no_history):
            _, unit = run(dspy.Predict(Triage, n=n))
        assert unit.truncated and unit.account.calls[0].truncated

    @pytest.mark.parametrize("cost", [None, 0.25])
    def test_a_price_is_what_dspy_says(self, lm: dspy.LM, cost: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dspy.clients.costs.estimate_cost", lambda *args, **kwargs: (cost, {}))
        _, unit = run(dspy.Predict(Triage))
        assert unit.account.calls[0].cost == cost

    @pytest.mark.parametrize(
        "response, cut",
        [
            ({"choices": [{"finish_reason": "stop"}]}, False),
            ({"choices": [{"finish_reason": "stop"}, {"finish_reason": "length"}]}, True),
            (SimpleNamespace(choices=[SimpleNamespace(finish_reason="length")]), True),
            ({"incomplete_details": {"reason": "max_output_tokens"}}, True),
            ({"incomplete_details": {"reason": "content_filter"}}, False),
            (({"finish_reason": "stop"}, {"finish_reason": "max_tokens"}), True),
            ({"choices": [{"finish_reason": "MAX_TOKENS"}]}, True),
            ({"choices": []}, False),
            ((), False),
            (None, False),
        ],
    )
    def test_every_backends_way_of_saying_it_was_cut(self, response: Any, cut: bool) -> None:
        assert (was_cut(response)) == cut

    def test_a_cached_reply_that_was_cut_is_still_cut(self, dspy_cache: None) -> None:
        lm = scripted_lm(lambda call: Reply("[[ ## queue ## ]]\nlegal", "length"), cache=True)
        with dspy.context(lm=lm):
            units = [run(dspy.Predict(Triage))[1] for _ in range(2)]
        assert [unit.account.calls[0].cached for unit in units] == [False, True]
        assert all(unit.truncated for unit in units)

    def test_usage_tracking_still_works(self, lm: dspy.LM) -> None:
        with dspy.context(track_usage=True):
            prediction, unit = run(dspy.Predict(Triage))
        assert prediction.get_lm_usage()["scripted/model"]["completion_tokens"] == TOKENS[1]
        assert unit.account.calls[0].completion_tokens == TOKENS[1]

    def test_a_cached_reply_costs_nothing(self, dspy_cache: None) -> None:
        cached = scripted_lm(cache=True)
        with dspy.context(lm=cached):
            _, first = run(dspy.Predict(Triage))
            _, second = run(dspy.Predict(Triage))
            _, third = run(dspy.Predict(Triage), unit=rollout_unit(0, 1))
        assert len(cached.engine.calls) == 2
        assert not first.account.calls[0].cached and not third.account.calls[0].cached, (
            "another attempt is another draw"
        )
        assert second.account.calls[0].cached
        assert second.account.calls[0].cost == 0.0 and second.account.calls[0].completion_tokens == 0

    def test_a_second_run_is_served_by_the_cache(self, dspy_cache: None) -> None:
        cached = scripted_lm(cache=True)
        with dspy.context(lm=cached):
            results = [
                TrainingFreeGRPO(metric=exact, group_size=3, num_epochs=1).compile(
                    dspy.Predict(Triage), trainset=examples(6)
                )
                for _ in range(2)
            ]
        first, second = (r.detailed_results.total for r in results)
        assert first.cached == 0 and first.prompt_tokens > 0
        assert second.cached == second.calls == first.calls
        assert second.cost == 0.0 and second.prompt_tokens == 0
        assert results[0].experiences == results[1].experiences

    def test_spend_by_stage_and_model(self, lm: dspy.LM) -> None:
        calls = Gate()
        run(dspy.Predict(Triage), calls, rollout_unit(0, 0))
        run(dspy.Predict(Triage), calls, Unit(Stage.VALIDATION, 2))
        spend = calls.state.meter.spend()
        assert [(s.stage, s.calls, s.prompt_tokens) for s in spend] == [
            ("rollout", 1, TOKENS[0]),
            ("validation", 1, TOKENS[0]),
        ]
        assert [s.stage for s in calls.state.meter.spend(2)] == ["validation"]

    def test_calls_outside_any_unit_count_too(self) -> None:
        calls = Gate()
        observed = calls.observe(scripted_lm(lambda call: "hello"))
        observed("hi")
        assert calls.state.meter.spend()[0].calls == 1


class Seen(dspy.utils.BaseCallback):
    def __init__(self) -> None:
        self.lms: list[Any] = []
        self.modules = 0

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.lms.append(instance)

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.modules += 1


class TestWhatStaysAsItWas:
    def test_lm_history_and_settings(self) -> None:
        lm, seen = scripted_lm(temperature=0.2), Seen()
        before = (dict(lm.kwargs), lm.num_retries, list(lm.callbacks), type(lm))
        with dspy.context(lm=lm, callbacks=[seen], adapter=dspy.ChatAdapter()):
            settings = dspy.settings.copy()
            run(dspy.Predict(Triage))
            assert dspy.settings.copy() == settings
        assert (dict(lm.kwargs), lm.num_retries, list(lm.callbacks), type(lm)) == before
        assert lm.history == []
        assert seen.modules == 1 and len(seen.lms) == 1, "the user's callbacks see the run"

    def test_callbacks_of_an_lm_see_its_calls(self) -> None:
        seen = Seen()
        with dspy.context(lm=scripted_lm(callbacks=[seen])):
            run(dspy.Predict(Triage))
        assert len(seen.lms) == 1

    def test_the_global_history_goes_on_unless_disabled(self, lm: dspy.LM) -> None:
        from dspy.clients.base_lm import GLOBAL_HISTORY

        GLOBAL_HISTORY.clear()  # it holds no more than so many
        with dspy.context(disable_history=True):
            run(dspy.Predict(Triage))
        assert len(GLOBAL_HISTORY) == 0
        program = dspy.Predict(Triage)
        run(program)
        assert len(GLOBAL_HISTORY) == 1
        assert len(program.history) == 1, "a program may read its own history"

    def test_a_saved_program_with_an_observed_lm_names_the_users_class(self) -> None:
        observed = Gate().observe(dspy.LM("openai/gpt-4o-mini"))
        assert observed.dump_state()["_dspy_lm_class"] == "dspy.clients.lm.LM"


class TestTemperature:
    @pytest.mark.parametrize(
        "lm_temperature, own, expected", [(None, None, 0.7), (0.0, None, 0.7), (0.2, None, 0.7), (0.2, 0.4, 0.4)]
    )
    def test_a_predictors_own_wins(self, lm_temperature: float | None, own: float | None, expected: float) -> None:
        lm = scripted_lm(temperature=lm_temperature)
        config = {} if own is None else {"temperature": own}
        with dspy.context(lm=lm):
            run(dspy.Predict(Triage, **config))
        assert lm.engine.calls[0].temperature == expected

    def test_a_predictor_at_zero_stays_at_zero_without_a_warning(self, lm: dspy.LM) -> None:
        run(dspy.Predict(Triage, temperature=0))  # warnings are errors here
        assert lm.engine.calls[0].temperature == 0

    def test_an_lm_at_zero_is_evaluated_at_zero_without_a_warning(self) -> None:
        lm = scripted_lm(temperature=0)
        with dspy.context(lm=lm):
            evaluate(dspy.Predict(Triage), examples(2), exact, k=2)
        assert {c.temperature for c in lm.engine.calls} == {0}

    def test_models_that_refuse_a_temperature_keep_theirs(self) -> None:
        lm = scripted_lm(name="openai/gpt-5-mini", max_tokens=16000, temperature=1.0)
        assert "max_completion_tokens" in lm.kwargs
        with dspy.context(lm=lm):
            run(dspy.Predict(Triage))
        assert lm.engine.calls[0].temperature == 1.0

    def test_validation_runs_at_the_programs_own(self) -> None:
        lm = scripted_lm(temperature=0.3)
        with dspy.context(lm=lm):
            run(dspy.Predict(Triage), unit=Unit(Stage.VALIDATION, 1, ("validation", 0, 1), resample=True))
        assert lm.engine.calls[0].temperature == 0.3

    def test_the_judge_of_a_metric_keeps_its_own(self) -> None:
        judge = scripted_lm(lambda call: {"verdict": "True"}, temperature=0.1, name="scripted/judge")
        grade = dspy.Predict("ticket, queue -> verdict: bool")
        grade.lm = judge

        def metric(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
            with dspy.context(lm=judge):
                return grade(ticket=example.ticket, queue=prediction.queue).verdict

        with dspy.context(lm=scripted_lm()):
            calls = Gate()
            program, unit = dspy.Predict(Triage), rollout_unit(0, 0)
            rollout = Runner(calls, metric).attempt(program, examples(1)[0], unit, index=0, attempt=0)
        assert rollout.score == 1.0
        assert [c.temperature for c in judge.engine.calls] == [0.1]
        assert judge.engine.calls[0].seed == 7, "the judge's own seed"
        assert rollout.lm_calls == 2 and {c.model for c in unit.account.calls} == {"scripted/model", "scripted/judge"}


class TestSeeds:
    def test_a_seed_is_derived_for_each_attempt(self, lm: dspy.LM) -> None:
        for key in ((0, 0), (0, 1), (1, 0), (0, 0)):
            run(dspy.Predict(Triage), unit=rollout_unit(*key))
        seeds = [c.seed for c in lm.engine.calls]
        assert seeds[0] == seeds[3] and len(set(seeds)) == 3 and 7 not in seeds
        assert all(isinstance(s, int) and 0 <= s < 2**31 for s in seeds)

    def test_runs_of_another_seed_draw_others(self, lm: dspy.LM) -> None:
        for seed in (0, 1):
            run(dspy.Predict(Triage), Gate(seed=seed))
        assert lm.engine.calls[0].seed != lm.engine.calls[1].seed

    def test_an_lm_without_a_seed_gets_none(self) -> None:
        lm = scripted_lm(seed=None)
        with dspy.context(lm=lm):
            run(dspy.Predict(Triage))
        assert lm.engine.calls[0].seed is None

    def test_a_predictors_own_seed_wins(self, lm: dspy.LM) -> None:
        run(dspy.Predict(Triage, seed=3))
        assert lm.engine.calls[0].seed == 3

    def test_without_resampling_the_request_is_the_users(self, lm: dspy.LM) -> None:
        run(dspy.Predict(Triage), unit=Unit(Stage.EVALUATION))
        assert lm.engine.calls[0].seed == 7 and lm.engine.calls[0].temperature is None


def failing(times: int, error: BaseException) -> Any:
    """Fail the first requests, then answer."""
    return lambda call: error if call.number < times else learner(call)


class TestRetries:
    @pytest.mark.parametrize("error", [RateLimitError("slow down"), ServerError("500")])
    def test_an_outage_is_tried_again_and_counted(self, error: BaseException) -> None:
        lm = scripted_lm(failing(2, error), num_retries=3)
        with dspy.context(lm=lm):
            prediction, unit = run(dspy.Predict(Triage))
        assert prediction.queue in QUEUES and len(lm.engine.calls) == 3
        assert len(unit.account.calls) == 1 and unit.account.calls[0].retries == 2 and not unit.account.calls[0].failed
        assert unit.account.outage is None

    def test_async_calls_are_tried_again_too(self) -> None:
        lm = scripted_lm(failing(2, ServerError("500")), num_retries=3)
        calls, unit = Gate(backoff=0.001), rollout_unit(0, 0)
        with dspy.context(lm=lm), calls.context(unit):
            asyncio.run(dspy.Predict(Triage).acall(ticket="refund"))
        assert len(lm.engine.calls) == 3 and [c.retries for c in unit.account.calls] == [2]

    def test_async_calls_that_fail_are_counted_too(self) -> None:
        lm = scripted_lm(failing(99, ServerError("500")), num_retries=1)
        calls, unit = Gate(backoff=0.001), rollout_unit(0, 0)
        with dspy.context(lm=lm), calls.context(unit), pytest.raises(dspy.utils.exceptions.LMServerError):
            asyncio.run(dspy.Predict(Triage).acall(ticket="refund"))
        assert [(c.retries, c.failed) for c in unit.account.calls] == [(1, True)] and unit.account.outage is not None

    def test_retries_end_where_the_lm_says(self) -> None:
        lm = scripted_lm(failing(99, ServerError("500")), num_retries=2)
        unit = rollout_unit(0, 0)
        with dspy.context(lm=lm), pytest.raises(dspy.utils.exceptions.LMServerError):
            run(dspy.Predict(Triage), unit=unit)
        assert len(lm.engine.calls) == 3
        assert (
            unit.account.calls[0].failed and unit.account.calls[0].retries == 2 and unit.account.calls[0].cost is None
        )
        assert unit.account.outage is not None

    @pytest.mark.parametrize("error", [ValueError("a bug of the engine"), dspy.lm15.ContextLengthError("too long")])
    def test_what_will_not_pass_is_not_tried_again(self, error: BaseException) -> None:
        lm = scripted_lm(failing(99, error), num_retries=3)
        with dspy.context(lm=lm), pytest.raises(Exception, match=str(error)):
            run(dspy.Predict(Triage))
        assert len(lm.engine.calls) == 1

    def test_a_hint_is_followed(self) -> None:
        lm = scripted_lm(failing(1, RateLimitError("slow down", retry_after=0.2)), num_retries=1)
        started = time.monotonic()
        with dspy.context(lm=lm):
            run(dspy.Predict(Triage))
        assert time.monotonic() - started >= 0.2

    def test_waiting_ends_with_the_run(self) -> None:
        lm = scripted_lm(failing(99, RateLimitError("slow down", retry_after=50)), num_retries=1)
        calls = Gate()
        import threading

        threading.Timer(0.1, calls.stop).start()
        started = time.monotonic()
        with dspy.context(lm=lm), pytest.raises(RunStopped):
            run(dspy.Predict(Triage), calls)
        assert time.monotonic() - started < 10


FATAL = [AuthError("bad key"), BillingError("no credit"), UnsupportedModelError("no such model")]


class Stubborn(dspy.Module):
    """Swallows whatever goes wrong and tries again."""

    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict(Triage)
        self.reached_end = 0

    def forward(self, ticket: str) -> Any:
        for _ in range(5):
            with contextlib.suppress(Exception):
                return self.predict(ticket=ticket)
        self.reached_end += 1
        return dspy.Prediction(queue="access")


class TestFatal:
    def test_it_shuts_the_gate(self) -> None:
        lm, calls = scripted_lm(lambda call: AuthError("bad key")), Gate()
        program = dspy.Predict(Triage)
        with dspy.context(lm=lm):
            with pytest.raises(dspy.utils.exceptions.LMAuthError):
                run(program, calls)
            for _ in range(3):
                with pytest.raises(RunStopped):
                    run(program, calls)
        assert len(lm.engine.calls) == 1 and calls.stopped and calls.state.ending.fatal is not None

    def test_a_program_that_swallows_it_is_stopped(self) -> None:
        lm, program = scripted_lm(lambda call: AuthError("bad key")), Stubborn()
        with dspy.context(lm=lm), pytest.raises(RunStopped):
            run(program)
        assert len(lm.engine.calls) == 1 and program.reached_end == 0

    def test_an_agent_whose_tool_asks_an_lm_is_stopped(self, lm: dspy.LM) -> None:
        inner = scripted_lm(lambda call: AuthError("bad key"), name="scripted/inner")

        def search(query: str) -> str:
            with dspy.context(lm=inner):
                return str(dspy.Predict("query -> found")(query=query).found)

        lm.engine.script = lambda call: {
            "next_thought": "search", "next_tool_name": "search", "next_tool_args": '{"query": "x"}', "queue": "legal",
            "reasoning": "so",
        }  # fmt: skip
        with pytest.raises(RunStopped):
            run(dspy.ReAct(Triage, tools=[search], max_iters=5))
        assert len(inner.engine.calls) == 1 and len(lm.engine.calls) == 1

    @pytest.mark.parametrize("error", FATAL)
    @pytest.mark.parametrize("program", [dspy.Predict(Triage), Stubborn()])
    @pytest.mark.parametrize("valset", [None, 5])
    def test_a_whole_compile_costs_one_request(self, program: Any, error: BaseException, valset: int | None) -> None:
        lm = scripted_lm(lambda call: error)
        optimizer = TrainingFreeGRPO(metric=exact, num_threads=8)
        with dspy.context(lm=lm), pytest.raises(FatalError, match="scripted/model"):
            optimizer.compile(program, trainset=examples(20), valset=examples(valset, start=50) if valset else None)
        assert len(lm.engine.calls) == 1

    def test_no_lm_at_all(self) -> None:
        with pytest.raises(FatalError, match=r"dspy\.configure"):
            evaluate(dspy.Predict(Triage), examples(2), exact)

    def test_a_wrong_key_of_the_judge(self, lm: dspy.LM) -> None:
        judge = scripted_lm(lambda call: AuthError("bad key"), name="scripted/judge")

        def metric(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
            with dspy.context(lm=judge):
                return bool(dspy.Predict("queue -> verdict: bool")(queue=prediction.queue).verdict)

        with pytest.raises(FatalError, match="scripted/judge"):
            evaluate(dspy.Predict(Triage), examples(8), metric)
        assert len(judge.engine.calls) == 1

    def test_a_wrong_key_of_the_reflection_lm(self, lm: dspy.LM) -> None:
        reflection = scripted_lm(lambda call: AuthError("bad key"), name="scripted/reflection")
        with pytest.raises(FatalError, match="scripted/reflection"):
            TrainingFreeGRPO(metric=exact, reflection_lm=reflection, num_threads=2).compile(
                dspy.Predict(Triage), trainset=examples(8)
            )
        assert len(reflection.engine.calls) <= 2

    def test_it_is_found_before_other_groups_are_paid_for(self, lm: dspy.LM) -> None:
        """Of another LM than the attempts': it is asked as soon as there is a group to learn from."""
        reflection = scripted_lm(lambda call: AuthError("bad key"), name="scripted/reflection")
        optimizer = TrainingFreeGRPO(metric=exact, group_size=5, reflection_lm=reflection, num_threads=2)
        with pytest.raises(FatalError, match="scripted/reflection"):
            optimizer.compile(dspy.Predict(Triage), trainset=examples(40))
        assert len(lm.engine.calls) <= 100  # of 200
        assert len(reflection.engine.calls) == 1
        lm.engine.calls.clear()
        with pytest.raises(FatalError, match="scripted/reflection"):
            optimizer.estimate(dspy.Predict(Triage), trainset=examples(40), sample=1)
        assert len(lm.engine.calls) == 2

    def test_keys_do_not_get_into_the_message(self) -> None:
        lm = scripted_lm(lambda call: AuthError("Incorrect API key provided: sk-abcdefghijklmnop1234"))
        with dspy.context(lm=lm), pytest.raises(FatalError) as caught:
            evaluate(dspy.Predict(Triage), examples(1), exact)
        assert "abcdefghij" not in str(caught.value)

    def test_a_stopped_call_is_not_counted(self) -> None:
        lm, calls = scripted_lm(lambda call: call.memory.update(x=1) or learner(call)), Gate()
        calls.stop()
        with dspy.context(lm=lm), pytest.raises(RunStopped):
            run(dspy.Predict(Triage), calls)
        assert not lm.engine.calls and calls.state.meter.spend() == ()


def test_a_call_object_reads_every_style(lm: dspy.LM) -> None:
    """The scripted model itself: what it reads from prompts is what other tests rely on."""
    program = dspy.Predict(Triage)
    for adapter in (dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()):
        with dspy.context(adapter=adapter):
            program(ticket="refund case 1")
    assert [c.style for c in lm.engine.calls] == ["chat", "json", "xml"]
    assert all(isinstance(c, Call) and c.input("ticket") == "refund case 1" for c in lm.engine.calls)
    assert all(c.outputs == ["queue"] and c.kind == "program" for c in lm.engine.calls)


def test_an_lm_that_the_program_calls_itself_is_observed() -> None:
    class Direct(dspy.Module):
        def __init__(self, lm: dspy.LM) -> None:
            super().__init__()
            self.writer = lm
            self.answer = dspy.Predict("question -> answer")

        def forward(self, question: str) -> dspy.Prediction:
            return dspy.Prediction(answer=self.writer(question)[0])

    own = scripted_lm(lambda call: "said so", name="scripted/own")
    program = Direct(own)
    calls = Gate()
    copied = own_copy(program, calls.observe)
    with calls.context(Unit(Stage.ROLLOUT, 1, ("a",))) as unit:
        copied(question="why?")
    assert [call.model for call in unit.account.calls] == ["scripted/own"]
    assert program.writer is own and own.history == []
