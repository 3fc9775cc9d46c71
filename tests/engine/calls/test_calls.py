"""Every LM call of a run is seen, counted, sampled as asked and stopped, whatever way the program makes it."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import dspy
import pytest
from dspy.lm15 import AuthError, BillingError, RateLimitError, ServerError, UnsupportedModelError
from dspy.utils.exceptions import LMAuthError, LMServerError
from support.scripted import QUEUES, TOKENS, Call, Reply, Triage, exact, examples, learner, scripted_lm
from support.waiting import LONG, stops

from trgrpo_dspy import FatalError, RunStopped, TrainingFreeGRPO, evaluate
from trgrpo_dspy.engine.calls.gate import Gate
from trgrpo_dspy.engine.calls.reported import was_cut
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.engine.runner import Runner
from trgrpo_dspy.meter import Stage
from trgrpo_dspy.program.copies import own_copy


def rollout_unit(*key: int | str) -> Unit:
    return Unit(Stage.ROLLOUT, 1, ("rollout", 1, *key), resample=True, temperature=0.7)


def run(program: dspy.Module, calls: Gate | None = None, unit: Unit | None = None) -> tuple[Any, Unit]:
    calls, unit = calls or Gate(backoff=0.001), unit or rollout_unit(0, 0)
    with calls.context(unit):
        return own_copy(program, calls.observe)(ticket="refund case 1"), unit


def arun(program: dspy.Module, calls: Gate | None = None, unit: Unit | None = None) -> tuple[Any, Unit]:
    class Asynchronous(dspy.Module):
        def forward(self, ticket: str) -> Any:
            return asyncio.run(program.acall(ticket=ticket))

    return run(Asynchronous(), calls, unit)


def models(unit: Unit) -> list[str]:
    return [call.model for call in unit.account.calls]


class Does(dspy.Module):
    """A program whose `forward` is a function of its predictor, another LM and the ticket."""

    def __init__(self, work: Callable[[dspy.Predict, Any, str], Any], other: Any = None) -> None:
        super().__init__()
        self.predict, self.other, self.work = dspy.Predict(Triage), other, work

    def forward(self, ticket: str) -> Any:
        return self.work(self.predict, self.other, ticket)


def in_context(predict: dspy.Predict, other: Any, ticket: str) -> Any:
    with dspy.context(lm=other):
        return predict(ticket=ticket)


def bound(other: Any) -> dspy.Module:
    program = dspy.Predict(Triage)
    program.lm = other
    return program


def frozen(other: Any) -> dspy.Module:
    program = Does(lambda predict, other, ticket: None)
    program.frozen = dspy.ChainOfThought(Triage)
    program.frozen._compiled = True
    program.frozen.predict.lm = other
    program.forward = lambda ticket: program.frozen(ticket=ticket)
    return program


OTHERS: dict[str, Callable[[Any], dspy.Module]] = {
    "bound to a predictor": bound,
    "of a frozen sub-module": frozen,
    "an argument": lambda other: Does(lambda predict, other, ticket: predict(ticket=ticket, lm=other), other),
    "a context": lambda other: Does(in_context, other),
    "called by the program": lambda other: Does(lambda predict, other, ticket: other(ticket), other),
}


def side_by_side(predict: dspy.Predict, _: Any, ticket: str) -> Any:
    pairs = [(predict, {"ticket": f"{ticket} {i}"}) for i in range(4)]
    return dspy.Parallel(num_threads=3, disable_progress_bar=True)(pairs)[0]


def gathered(predict: dspy.Predict, asyncify: bool, ticket: str) -> Any:
    call = dspy.asyncify(predict) if asyncify else predict.acall

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(call(ticket=f"{ticket} {i}") for i in range(4)))

    return asyncio.run(all_of_them())[0]


class TestWhoIsSeen:
    @pytest.mark.parametrize("what", OTHERS)
    def test_another_lm(self, lm: dspy.LM, what: str) -> None:
        other = scripted_lm(name="scripted/other")
        calls, program = Gate(), OTHERS[what](other)
        calls.bind(program)
        _, unit = run(program, calls)
        assert models(unit) == ["scripted/other"] and other.engine.calls[0].temperature == 0.7
        assert other.history == [] and not lm.engine.calls

    def test_the_lm_an_adapter_holds(self, lm: dspy.LM) -> None:
        extraction = scripted_lm(name="scripted/extraction")
        with dspy.context(adapter=dspy.TwoStepAdapter(extraction)):
            prediction, unit = run(dspy.Predict(Triage))
        assert sorted(models(unit)) == ["scripted/extraction", "scripted/model"]
        assert prediction.queue in QUEUES and extraction.history == []

    @pytest.mark.parametrize(
        "program",
        [Does(side_by_side), Does(gathered, True), Does(gathered, False)],
        ids=["parallel", "asyncify", "acall"],
    )
    def test_calls_side_by_side(self, lm: dspy.LM, program: dspy.Module) -> None:
        prediction, unit = run(program)
        assert prediction.queue in QUEUES and {c.temperature for c in lm.engine.calls} == {0.7}
        assert [c.completion_tokens for c in unit.account.calls] == [TOKENS[1]] * 4

    @pytest.mark.parametrize(
        ("module", "temperature", "own_lm"),
        [(dspy.BestOfN, None, True), (dspy.BestOfN, 1.0, False), (dspy.Refine, 1.0, True)],
    )
    def test_best_of_n_keeps_its_own_sampling(self, lm: dspy.LM, module: Any, temperature: Any, own_lm: bool) -> None:
        used = scripted_lm(temperature=temperature, name="scripted/used")
        inner = dspy.Predict(Triage)
        inner.demos = [dspy.Example(ticket="laptop", queue="hardware").with_inputs("ticket")]
        inner.lm = used if own_lm else None
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

    def test_one_copy_of_each_lm_behind_one_gate(self) -> None:
        calls, program = Gate(), bound(scripted_lm())
        assert calls.observe(program.lm) is calls.observe(program.lm) is calls.observe(calls.observe(program.lm))
        assert calls.observe("no lm") == "no lm"
        calls.bind(program)
        copied = copy.deepcopy(program)
        assert copied.lm is not program.lm and copied.lm._handler is calls


class TestWhatIsRecorded:
    @pytest.mark.parametrize("no_history", [False, True])
    @pytest.mark.parametrize("n", [1, 2])
    def test_tokens_cost_and_finish_reason(self, lm: dspy.LM, no_history: bool, n: int) -> None:
        lm.engine.script = lambda call: Reply("[[ ## queue ## ]]\nlegal", "length" if n == 2 else "stop")
        with dspy.context(disable_history=no_history, track_usage=True):
            prediction, unit = run(dspy.Predict(Triage, n=n))
        (call,) = unit.account.calls
        assert (call.prompt_tokens, call.completion_tokens) == (n * TOKENS[0], n * TOKENS[1])
        assert prediction.get_lm_usage()["scripted/model"]["completion_tokens"] == n * TOKENS[1], "for the user too"
        assert call.cost is None, "a model without a price has an unknown cost, not 0"
        assert unit.truncated is call.truncated is (n == 2)
        assert not call.cached and not call.failed and call.retries == 0

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
        assert was_cut(response) == cut

    def test_a_cached_reply_costs_nothing_and_stays_cut(self, dspy_cache: None) -> None:
        lm = scripted_lm(lambda call: Reply("[[ ## queue ## ]]\nlegal", "length"), cache=True)
        with dspy.context(lm=lm):
            units = [run(dspy.Predict(Triage), unit=rollout_unit(0, attempt))[1] for attempt in (0, 0, 1)]
        assert [unit.account.calls[0].cached for unit in units] == [False, True, False], "an attempt is another draw"
        assert len(lm.engine.calls) == 2 and all(unit.truncated for unit in units)
        assert units[1].account.calls[0].cost == 0.0 and units[1].account.calls[0].completion_tokens == 0

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

    def test_spend_by_stage_also_outside_any_unit(self, lm: dspy.LM) -> None:
        calls = Gate()
        run(dspy.Predict(Triage), calls, Unit(Stage.VALIDATION, 2))
        calls.observe(lm)("hi")
        assert [(s.stage, s.calls, s.prompt_tokens) for s in calls.state.meter.spend()] == [
            ("rollout", 1, TOKENS[0]), ("validation", 1, TOKENS[0]),
        ]  # fmt: skip
        assert [s.stage for s in calls.state.meter.spend(2)] == ["validation"]


class Seen(dspy.utils.BaseCallback):
    def __init__(self) -> None:
        self.lms, self.modules = 0, 0

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.lms += 1

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.modules += 1


class TestWhatStaysAsItWas:
    def test_lm_callbacks_and_settings(self) -> None:
        of_lm, seen = Seen(), Seen()
        lm = scripted_lm(temperature=0.2, callbacks=[of_lm])
        before = (dict(lm.kwargs), lm.num_retries, list(lm.callbacks), type(lm))
        with dspy.context(lm=lm, callbacks=[seen], adapter=dspy.ChatAdapter()):
            settings = dspy.settings.copy()
            run(dspy.Predict(Triage))
            assert dspy.settings.copy() == settings
        assert (dict(lm.kwargs), lm.num_retries, list(lm.callbacks), type(lm)) == before and lm.history == []
        assert (seen.modules, seen.lms, of_lm.lms) == (1, 1, 1), "the user's callbacks see the run"

    def test_the_global_history_goes_on_unless_disabled(self, lm: dspy.LM) -> None:
        from dspy.clients.base_lm import GLOBAL_HISTORY

        GLOBAL_HISTORY.clear()  # it holds no more than so many
        program, calls = dspy.Predict(Triage), Gate()
        for disabled, kept in ((True, 0), (False, 1)):
            with dspy.context(disable_history=disabled), calls.context(rollout_unit(0)):
                program(ticket="refund")
            assert len(GLOBAL_HISTORY) == len(program.history) == kept, "a program may read its own history"

    def test_a_saved_program_with_an_observed_lm_names_the_users_class(self) -> None:
        observed = Gate().observe(dspy.LM("openai/gpt-4o-mini"))
        assert observed.dump_state()["_dspy_lm_class"] == "dspy.clients.lm.LM"


VALIDATION, PLAIN = Unit(Stage.VALIDATION, 1, ("validation", 0, 1), resample=True), Unit(Stage.EVALUATION)


class TestSampling:
    @pytest.mark.parametrize(
        ("lm", "own", "unit", "temperature"),
        [
            ({}, {}, rollout_unit(), 0.7),
            ({"temperature": 0.0}, {}, rollout_unit(), 0.7),
            ({"temperature": 0.2}, {"temperature": 0.4}, rollout_unit(), 0.4),
            ({}, {"temperature": 0}, rollout_unit(), 0),  # without a warning: here they are errors
            ({"temperature": 0}, {}, VALIDATION, 0),
            ({"temperature": 0.3}, {}, VALIDATION, 0.3),
            ({"name": "openai/gpt-5-mini", "max_tokens": 16000, "temperature": 1.0}, {}, rollout_unit(), 1.0),
            ({}, {}, PLAIN, None),
        ],
    )
    def test_temperature(self, lm: dict[str, Any], own: dict[str, Any], unit: Unit, temperature: Any) -> None:
        used = scripted_lm(**lm)
        with dspy.context(lm=used):
            run(dspy.Predict(Triage, **own), unit=unit)
        assert used.engine.calls[0].temperature == temperature
        assert (used.engine.calls[0].seed == 7) is (unit is PLAIN)

    def test_a_seed_is_derived_for_each_attempt(self, lm: dspy.LM) -> None:
        for key in ((0, 0), (0, 1), (1, 0), (0, 0)):
            run(dspy.Predict(Triage), unit=rollout_unit(*key))
        run(dspy.Predict(Triage), Gate(seed=1))
        seeds = [c.seed for c in lm.engine.calls]
        assert seeds[0] == seeds[3] and len(set(seeds)) == 4 and 7 not in seeds
        assert all(isinstance(s, int) and 0 <= s < 2**31 for s in seeds)

    @pytest.mark.parametrize(("seed", "own", "sent"), [(None, {}, None), (7, {"seed": 3}, 3)])
    def test_no_seed_and_a_predictors_own_stay(self, seed: int | None, own: dict[str, Any], sent: int | None) -> None:
        lm = scripted_lm(seed=seed)
        with dspy.context(lm=lm):
            run(dspy.Predict(Triage, **own))
        assert lm.engine.calls[0].seed == sent

    def test_the_judge_of_a_metric_keeps_its_own(self, lm: dspy.LM) -> None:
        judge = scripted_lm(lambda call: {"verdict": "True"}, temperature=0.1, name="scripted/judge")
        grade = dspy.Predict("ticket, queue -> verdict: bool")

        def metric(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
            with dspy.context(lm=judge):
                return grade(ticket=example.ticket, queue=prediction.queue).verdict

        unit = rollout_unit(0, 0)
        rollout = Runner(Gate(), metric).attempt(dspy.Predict(Triage), examples(1)[0], unit, index=0, attempt=0)
        assert [(c.temperature, c.seed) for c in judge.engine.calls] == [(0.1, 7)]
        assert (rollout.score, rollout.lm_calls) == (1.0, 2) and set(models(unit)) == {
            "scripted/model",
            "scripted/judge",
        }


def failing(times: int, error: BaseException) -> Any:
    """Fail the first requests, then answer."""
    return lambda call: error if call.number < times else learner(call)


class TestRetries:
    @pytest.mark.parametrize("way", [run, arun])
    @pytest.mark.parametrize("error", [RateLimitError("slow down"), ServerError("500")])
    def test_an_outage_is_tried_again_and_counted(self, error: BaseException, way: Any) -> None:
        lm = scripted_lm(failing(2, error), num_retries=3)
        with dspy.context(lm=lm):
            prediction, unit = way(dspy.Predict(Triage))
        assert prediction.queue in QUEUES and len(lm.engine.calls) == 3
        assert [(c.retries, c.failed) for c in unit.account.calls] == [(2, False)] and unit.account.outage is None

    @pytest.mark.parametrize("way", [run, arun])
    def test_retries_end_where_the_lm_says(self, way: Any) -> None:
        lm, unit = scripted_lm(failing(99, ServerError("500")), num_retries=2), rollout_unit(0, 0)
        with dspy.context(lm=lm), pytest.raises(LMServerError):
            way(dspy.Predict(Triage), unit=unit)
        assert len(lm.engine.calls) == 3 and unit.account.outage is not None
        assert [(c.retries, c.failed, c.cost) for c in unit.account.calls] == [(2, True, None)]

    @pytest.mark.parametrize("error", [ValueError("a bug of the engine"), dspy.lm15.ContextLengthError("too long")])
    def test_what_will_not_pass_is_not_tried_again(self, error: BaseException) -> None:
        lm = scripted_lm(failing(99, error), num_retries=3)
        with dspy.context(lm=lm), pytest.raises(Exception, match=str(error)):
            run(dspy.Predict(Triage))
        assert len(lm.engine.calls) == 1

    def test_a_hint_is_followed_until_the_run_ends(self) -> None:
        for hint, ends in ((0.2, False), (50, True)):
            lm, calls = scripted_lm(failing(1, RateLimitError("slow down", retry_after=hint)), num_retries=1), Gate()
            threading.Timer(0.1, calls.stop).start() if ends else None
            began = time.monotonic()
            with dspy.context(lm=lm), pytest.raises(RunStopped) if ends else contextlib.nullcontext():
                run(dspy.Predict(Triage), calls)
            assert hint <= time.monotonic() - began if not ends else time.monotonic() - began < 45


def stubborn(predict: dspy.Predict, _: Any, ticket: str) -> Any:
    """Swallows whatever goes wrong and tries again."""
    for _attempt in range(5):
        with contextlib.suppress(Exception):
            return predict(ticket=ticket)
    return dspy.Prediction(queue="access")


def refuses(name: str) -> dspy.LM:
    return scripted_lm(lambda call: AuthError("bad key"), name=f"scripted/{name}")


class TestFatal:
    def test_it_shuts_the_gate_and_refused_calls_do_not_count(self) -> None:
        lm, calls = refuses("model"), Gate()
        with dspy.context(lm=lm):
            for error in (LMAuthError, RunStopped, RunStopped):
                with pytest.raises(error):
                    run(dspy.Predict(Triage), calls)
        assert len(lm.engine.calls) == calls.state.meter.spend()[0].calls == 1
        assert calls.stopped and calls.state.ending.fatal is not None

    def test_an_agent_whose_tool_asks_an_lm_is_stopped(self, lm: dspy.LM) -> None:
        inner = refuses("inner")

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

    @pytest.mark.parametrize(
        ("error", "program", "valset"),
        [
            (AuthError("bad key"), Does(stubborn), None),
            (BillingError("no credit"), dspy.Predict(Triage), 5),
            (UnsupportedModelError("no such model"), Does(stubborn), 5),
        ],
    )
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
        judge = refuses("judge")

        def metric(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
            with dspy.context(lm=judge):
                return bool(dspy.Predict("queue -> verdict: bool")(queue=prediction.queue).verdict)

        with pytest.raises(FatalError, match="scripted/judge"):
            evaluate(dspy.Predict(Triage), examples(8), metric)
        assert len(judge.engine.calls) == 1

    def test_a_wrong_key_of_the_reflection_lm_is_found_before_other_groups_are_paid_for(
        self, lm: dspy.LM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is asked as soon as there is a group to learn from; a call beyond those waits until that has happened."""
        stopped, late = stops(monkeypatch), []

        def script(call: Call) -> Any:
            if call.number >= 100:
                late.append(not stopped.wait(0 if True in late else LONG))
            return learner(call)

        lm.engine.script = script
        reflection = refuses("reflection")
        optimizer = TrainingFreeGRPO(metric=exact, group_size=5, reflection_lm=reflection, num_threads=2)
        with pytest.raises(FatalError, match="scripted/reflection"):
            optimizer.compile(dspy.Predict(Triage), trainset=examples(40))
        assert len(lm.engine.calls) <= 102 and True not in late  # of 200
        assert len(reflection.engine.calls) == 1
        lm.engine.calls.clear()
        with pytest.raises(FatalError, match="scripted/reflection"):
            optimizer.estimate(dspy.Predict(Triage), trainset=examples(40), sample=1)
        assert len(lm.engine.calls) == 2
