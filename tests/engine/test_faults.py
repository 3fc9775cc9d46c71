"""Bad backends: what fails at the start costs next to nothing, what fails later costs no result."""

from __future__ import annotations

import importlib
import itertools
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import AuthError, InvalidRequestError, ServerError
from dspy.utils.callback import BaseCallback
from support.scripted import Call, Reply, Triage, exact, examples, learner, scripted_lm, told, write
from support.waiting import LONG

from benchmarks.fault_campaign import Scenario, run
from trgrpo_dspy import FatalError, InfrastructureError, TrainingFreeGRPO, evaluate
from trgrpo_dspy.engine import tools
from trgrpo_dspy.engine.calls import state, units
from trgrpo_dspy.meter import Budget
from trgrpo_dspy.offline.faults import FaultPlan, Faults
from trgrpo_dspy.offline.server import OfflineServer


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "BACKOFF", 0.005)


def compile_with(lm: dspy.LM, program: dspy.Module | None = None, **options: Any) -> dspy.Module:
    settings = {"metric": told, "num_epochs": 1, "group_size": 4, "num_threads": 16, **options}
    with dspy.context(lm=lm):
        return TrainingFreeGRPO(**settings).compile(
            program or dspy.Predict(Triage), trainset=examples(8), valset=examples(6, start=8)
        )


class Tries(BaseCallback):
    """Counts the requests a client makes, also those no server sees."""

    def __init__(self) -> None:
        self.count = 0

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.count += 1


@pytest.fixture
def tries() -> Iterator[Tries]:
    counter = Tries()
    with dspy.context(callbacks=[counter]):
        yield counter


class TestTheCampaign:
    @pytest.mark.parametrize(("engine", "program"), [("auto", "agent"), ("litellm", "predict")])
    def test_a_run_on_a_bad_backend_keeps_its_promises(
        self, engine: str, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Each kind of error comes up, whatever the prompts; few hang, since the client waits so long for each that no
        # other reply is late, on whatever machine.
        kinds = itertools.chain(("429", "500", "hang", "reset", "hang"), itertools.cycle(("429", "500", "reset")))
        plan = Faults.plan

        def in_turn(self: Faults, request: str, attempt: int) -> FaultPlan:
            found = plan(self, request, attempt)
            return replace(found, fault=next(kinds)) if found.fault in self.errors else found

        monkeypatch.setattr(Faults, "plan", in_turn)
        importlib.import_module("litellm")  # its import takes seconds, in which the first request would "never end"
        size = 3 if program == "agent" else 6  # an agent makes several calls
        found = run(Scenario(engine, program, size, valset=2, threads=8, tool_outages=25, timeout=5.0), tmp_path)
        assert found.problems == []
        faults = Counter(r.fault for r in found.requests)
        assert {"429", "500", "hang", "reset", "garbage", "truncated"} <= set(faults)
        assert found.results.total.retries > 5
        assert "were cut by length: raise the LM's max_tokens." in found.results.verdict.text
        if program == "agent":
            assert found.seen.tool_outages > 0

    def test_it_would_notice_a_tools_outage(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The same run, with eyes shut to what tools meet."""
        monkeypatch.setattr(tools.ToolWatch, "on_tool_end", lambda *args, **kwargs: None)
        found = run(Scenario("auto", "agent", examples=3, valset=3, tool_outages=60), tmp_path)
        assert "though its transcript tells of an outage" in "\n".join(found.problems)

    def test_it_would_notice_lessons_from_replies_that_were_cut(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The same run, with eyes shut to finish reasons; so many are cut that some of the reflection's are."""
        monkeypatch.setattr(units.Unit, "truncated", False)
        found = run(Scenario("auto", "predict", examples=4, valset=3, truncate_rate=0.4), tmp_path)
        assert "replies cut" in "\n".join(found.problems)


WRONG = [
    ({"require_key": "right"}, {"api_key": "wrong-key-1"}, "the key was refused: check the provider's API key"),
    ({"strict_model": True}, {"model": "openai/unheard-of"}, "does not know this model: check the model string"),
    ({"error_rate": 1.0, "errors": ("quota",)}, {}, "no credit or quota left: top it up"),
]


class TestAtTheStart:
    @pytest.mark.parametrize("engine", ["auto", "litellm"])
    @pytest.mark.parametrize(("server", "settings", "advice"), WRONG, ids=["key", "model", "credit"])
    def test_what_no_retry_can_mend_costs_one_request(
        self, server: dict[str, Any], settings: dict[str, Any], advice: str, engine: str, tries: Tries
    ) -> None:
        with OfflineServer(**server) as backend:
            known = {"model": "openai/offline", "api_base": backend.url, "api_key": "right", "num_retries": 8}
            lm = dspy.LM(engine=engine, cache=False, **{**known, **settings})
            with pytest.raises(FatalError, match=advice) as caught:
                compile_with(lm)
        assert len(backend.requests) == tries.count == 1
        assert f"LM {lm.model!r}" in str(caught.value)

    @pytest.mark.parametrize(
        ("kind", "threads", "retries"),
        [("500", 1, 0), ("500", 16, 8), ("429", 16, 3), ("reset", 16, 8), ("hang", 16, 3), ("malformed", 1, 8)],
    )
    def test_a_server_that_always_fails(self, kind: str, threads: int, retries: int, tries: Tries) -> None:
        with OfflineServer(error_rate=1.0, errors=(kind,), retry_after=0.005, hang_seconds=LONG) as backend:
            lm = backend.lm(num_retries=retries, timeout=0.5 if kind == "hang" else LONG)
            with pytest.raises(FatalError, match=r"LM 'openai/offline': none of 8 requests got a reply\. Check that"):
                compile_with(lm, num_threads=threads)
        assert len(backend.requests) == tries.count == 8

    @pytest.mark.parametrize(("engine", "retries"), [("auto", 8), ("litellm", 0), ("litellm", 8)])
    def test_a_dead_port(self, engine: str, retries: int, tries: Tries) -> None:
        with socket.socket() as dead:  # the test keeps the port, and nobody listens at it
            dead.bind(("127.0.0.1", 0))
            known = {"api_base": f"http://127.0.0.1:{dead.getsockname()[1]}/v1", "api_key": "x", "num_retries": retries}
            lm = dspy.LM("openai/offline", engine=engine, cache=False, **known)
            with pytest.raises(FatalError, match=r"none of 8 requests got a reply.*address, network, timeout"):
                compile_with(lm)
        assert tries.count == 8

    def test_a_backend_that_refuses_every_request(self, tries: Tries) -> None:
        """An unknown parameter: each attempt would fail, and the run would end with nothing learned."""
        lm = scripted_lm(lambda call: InvalidRequestError("unknown parameter: verbosity"))
        with pytest.raises(FatalError, match=r"none of 8 requests.*unknown parameter: verbosity"):
            compile_with(lm)
        assert len(lm.engine.calls) == 8

    def test_one_refused_request_is_the_attempts_own(self) -> None:
        def refuses(call: Call) -> Any:
            refused = "refund" in call.user and call.kind == "program"
            return InvalidRequestError("a policy") if refused else learner(call)

        results = compile_with(scripted_lm(refuses)).detailed_results
        assert results.steps[0].outcomes["program_error"] == 4
        assert results.stop_reason == "completed"

    def test_a_program_that_asks_sixteen_times_at_once(self) -> None:
        class Many(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.answer = dspy.Predict(Triage)

            def forward(self, ticket: str) -> Any:
                pool = dspy.Parallel(num_threads=16, disable_progress_bar=True)
                return pool([(self.answer, {"ticket": f"{ticket} {i}"}) for i in range(16)])[0]

        lm = scripted_lm(lambda call: time.sleep(0.05) or AuthError("no such key"))
        with pytest.raises(FatalError, match="the key was refused"):
            compile_with(lm, Many())
        assert len(lm.engine.calls) == 1

    @pytest.mark.parametrize("role", ["reflection", "judge"])
    @pytest.mark.parametrize(("answer", "requests"), [(AuthError("no"), 1), (ServerError("down"), 8)])
    def test_of_a_second_lm(self, answer: Exception, requests: int, role: str) -> None:
        """The program's LM works; that of the reflection or of the metric does not."""
        other = scripted_lm(lambda call: time.sleep(0.02) or answer, name="scripted/other", num_retries=7)

        def judged(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
            with dspy.context(lm=other):
                dspy.Predict("question -> verdict")(question=f"{example.ticket} {prediction.queue}?")
            return exact(example, prediction)

        with pytest.raises(FatalError, match="LM 'scripted/other'"):
            compile_with(scripted_lm(), **{"metric": judged} if role == "judge" else {"reflection_lm": other})
        assert len(other.engine.calls) == requests

    def test_of_a_resumed_run(self, tmp_path: Path) -> None:
        """The journal's replies say nothing of the key."""
        compile_with(scripted_lm(), log_dir=tmp_path, budget=Budget(max_lm_calls=20))
        lm = scripted_lm(lambda call: AuthError("revoked"))
        with pytest.raises(FatalError, match="the key was refused"):
            compile_with(lm, log_dir=tmp_path)
        assert len(lm.engine.calls) == 1

    def test_of_an_evaluation_and_an_estimate(self) -> None:
        lm = scripted_lm(lambda call: AuthError("no"))
        with dspy.context(lm=lm):
            with pytest.raises(FatalError, match="the key was refused"):
                evaluate(dspy.Predict(Triage), examples(20), exact, num_threads=16)
            with pytest.raises(FatalError, match="the key was refused"):
                TrainingFreeGRPO(metric=exact).estimate(dspy.Predict(Triage), trainset=examples(20), sample=3)
        assert len(lm.engine.calls) == 2


class TestLater:
    def dies_at(self, number: int) -> Callable[[Call], Any]:
        return lambda call: ServerError("gone") if call.number >= number else learner(call)

    def test_the_run_ends_with_the_best_so_far_and_says_so(self) -> None:
        lm = scripted_lm(self.dies_at(95), num_retries=1)
        compiled = compile_with(lm, batch_size=4, num_epochs=3)
        results = compiled.detailed_results
        assert results.stop_reason == "error_rate"
        assert "because more than half of the recent LM calls failed" in results.verdict.text
        assert results.steps
        assert compiled.experiences == {m.step: m.library for m in results.measured}[results.verdict.step]
        # 21 of 40 calls, tried twice, and what was under way.
        assert 95 + 2 * 21 <= len(lm.engine.calls) <= 95 + 2 * (21 + 16)

    def test_lost_calls_below_the_limit_are_left_out_and_counted(self) -> None:
        lm = scripted_lm(lambda call: ServerError("busy") if call.chance("lost") % 4 == 0 else learner(call))
        results = compile_with(lm).detailed_results
        (step,) = results.steps
        assert results.stop_reason == "completed"
        assert 0 < step.outcomes["infrastructure"] < 32
        assert sum(step.outcomes.values()) == 32
        assert results.baseline.mean.unscored == results.baseline.outcomes.get("infrastructure", 0)

    def test_an_evaluation_says_so_too(self) -> None:
        lm = scripted_lm(self.dies_at(10))
        with dspy.context(lm=lm), pytest.raises(InfrastructureError, match="given up: more than half of the recent"):
            evaluate(dspy.Predict(Triage), examples(80), exact, num_threads=8)
        assert len(lm.engine.calls) < 60


@pytest.mark.parametrize("cut", ["within a word", "though it reads well"])
def test_a_reply_that_was_cut_is_no_lesson_and_counted_by_stage_with_the_cure(cut: str) -> None:
    def script(call: Call) -> Any:
        answer = learner(call)
        if call.kind != "comparison":
            return answer
        return Reply("[[ ## comparison ## ]]\nIt read the ti" if "word" in cut else write(call, answer), "length")

    compiled = compile_with(scripted_lm(script))
    results, (step,) = compiled.detailed_results, compiled.detailed_results.steps
    assert len(compiled.experiences) == 0 and step.informative > 0
    assert {row.stage for row in results.spend if row.truncated} == {"comparison"}
    (truncated,) = (row.truncated for row in results.spend if row.stage == "comparison")
    sentence = f"{truncated} of {truncated} replies in stage 'comparison' were cut by length: raise the LM's max"
    assert sentence in results.verdict.text
    asked = 2 if "word" in cut else 1  # DSPy asks again in another format
    assert step.lost == {"comparison: cut by length": truncated / asked}
