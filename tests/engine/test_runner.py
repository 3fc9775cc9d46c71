"""One attempt: how it ended, what it scored, and what is left unscored."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from typing import Any

import dspy
import pytest
from dspy.lm15 import ContextLengthError, RateLimitError, ServerError, TransportError
from support.scripted import TOKENS, Triage, exact, examples, scripted_lm, told

from trgrpo_dspy import FatalError, InfrastructureError, RunStopped, evaluate
from trgrpo_dspy.engine.calls.gate import Gate
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.engine.runner import Runner
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.meter import Stage
from trgrpo_dspy.program.examples import expected_text, task_text
from trgrpo_dspy.program.rollout import Rollout


def attempt(
    program: dspy.Module, metric: Any = exact, *, example: dspy.Example | None = None, **options: Any
) -> Rollout:
    calls = Gate(backoff=0.001)
    calls.bind(program)
    unit = Unit(Stage.ROLLOUT, 1, ("rollout", 1, 4, 2), resample=True, temperature=0.7)
    return Runner(calls, metric, **options).attempt(program, example or examples(1)[0], unit, index=4, attempt=2)


class Does(dspy.Module):
    """Asks its predictor, then returns or raises what a function makes of the inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.predict, self.function = dspy.Predict(Triage), function

    def forward(self, **inputs: Any) -> Any:
        if "ticket" in inputs:
            self.predict(ticket=inputs["ticket"])
        result = self.function(**inputs)
        if isinstance(result, BaseException):
            raise result
        return result


def fails(error: BaseException) -> dspy.Module:
    return Does(lambda ticket: error)


class TestOutcomes:
    def test_an_answer_that_is_scored(self, lm: dspy.LM) -> None:
        lm.engine.script = lambda call: {"queue": "billing"}
        example = dspy.Example(ticket="refund", queue="billing", note="SECRET-LABEL").with_inputs("ticket")
        rollout = attempt(dspy.Predict(Triage), told, example=example)
        assert (rollout.outcome, rollout.score, rollout.feedback) == (Outcome.COMPLETED, 1.0, "right")
        assert (rollout.example, rollout.attempt) == (4, 2)
        assert rollout.answer == "queue: billing" and "billing" in rollout.transcript and rollout.error == ""
        assert (rollout.lm_calls, rollout.prompt_tokens, rollout.completion_tokens) == (1, *TOKENS)
        assert rollout.cost is None and rollout.seconds > 0
        assert "SECRET-LABEL" not in lm.engine.calls[0].text, "only the inputs reach the program"

    @pytest.mark.parametrize("error", [KeyError("x"), SystemExit(3), GeneratorExit(), asyncio.CancelledError()])
    def test_what_the_program_raises_is_its_failure_and_what_the_metric_raises_no_verdict(
        self, lm: dspy.LM, error: BaseException
    ) -> None:
        scored: list[int] = []

        def metric(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
            scored.append(1)
            raise error

        failed = attempt(fails(error), failure_score=-1.0)
        assert (failed.outcome, failed.score) == (Outcome.PROGRAM_ERROR, -1.0)
        assert failed.error.startswith(type(error).__name__)
        assert "queue" in failed.transcript, "what it did before it failed can be learned from"
        unscored = attempt(dspy.Predict(Triage), metric)
        assert (unscored.outcome, unscored.score, len(scored)) == (Outcome.METRIC_ERROR, None, 1)
        assert type(error).__name__ in unscored.error

    def test_only_the_last_line_of_a_traceback_is_told(self, lm: dspy.LM) -> None:
        rollout = attempt(fails(RuntimeError("Traceback (most recent call last):\n  File secret.py\nValueError: bad")))
        assert rollout.error == "RuntimeError: ValueError: bad" and "secret.py" not in rollout.transcript

    @pytest.mark.parametrize(
        ("reply", "outcome", "score", "calls"),
        [
            ("no fields at all, just prose", Outcome.PARSE_ERROR, 0.25, 2),
            (ContextLengthError("too long"), Outcome.CONTEXT_WINDOW, 0.25, 1),
            (RateLimitError("429"), Outcome.INFRASTRUCTURE, None, 1),  # retries are the LM call's own business
            (ServerError("500"), Outcome.INFRASTRUCTURE, None, 1),
            (TransportError("reset"), Outcome.INFRASTRUCTURE, None, 1),
        ],
    )
    def test_what_the_lm_replied(
        self, lm: dspy.LM, reply: Any, outcome: Outcome, score: float | None, calls: int
    ) -> None:
        lm.engine.script = lambda call: reply
        rollout = attempt(dspy.Predict(Triage), failure_score=0.25)
        assert (rollout.outcome, rollout.score, rollout.lm_calls) == (outcome, score, calls)
        assert len(lm.engine.calls) == calls
        assert isinstance(reply, Exception) or "just prose" in rollout.transcript

    @pytest.mark.parametrize(("returned", "answer"), [("plain", "output: plain"), (None, "")])
    def test_a_program_that_returns_no_prediction(self, lm: dspy.LM, returned: Any, answer: str) -> None:
        rollout = attempt(Does(lambda ticket: returned), lambda e, p, trace=None: p == returned)
        assert (rollout.outcome, rollout.score, rollout.answer) == (Outcome.COMPLETED, 1.0, answer)

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), RunStopped("over")])
    def test_ctrl_c_and_the_end_of_the_run_are_no_failure(self, lm: dspy.LM, error: BaseException) -> None:
        with pytest.raises(type(error)):
            attempt(fails(error))

    def test_an_outage_the_program_swallowed_or_raised_as_another_error(self, lm: dspy.LM) -> None:
        class Swallows(Does):
            def forward(self, ticket: str) -> Any:
                try:
                    return self.predict(ticket=ticket)
                except Exception:
                    return dspy.Prediction(queue="access")

        hidden = RuntimeError("could not look it up")
        hidden.__cause__ = ConnectionError("connection reset")
        assert attempt(fails(hidden)).outcome is Outcome.INFRASTRUCTURE
        lm.engine.script = lambda call: ServerError("500")
        rollout = attempt(Swallows(lambda: None))
        assert (rollout.outcome, rollout.score) == (Outcome.INFRASTRUCTURE, None)

    def test_where_python_itself_failed_the_program_runs_again(self, lm: dspy.LM) -> None:
        tries = [dspy.Prediction(queue="billing"), SystemError("AST constructor recursion depth mismatch")]
        rollout = attempt(Does(lambda ticket: tries.pop()))
        assert (rollout.outcome, rollout.score) == (Outcome.COMPLETED, 1.0)

    def test_the_transcript_is_bounded(self, lm: dspy.LM) -> None:
        lm.engine.script = lambda call: {"reasoning": "r" * 100_000, "queue": "legal"}
        rollout = attempt(dspy.ChainOfThought(Triage), transcript_tokens=300)
        assert len(rollout.transcript) <= 1200 and "cut" in rollout.transcript
        assert len(rollout.answer) <= 1200


class TestMetric:
    @pytest.mark.parametrize(
        ("value", "problem"),
        [
            (None, "None"),
            (math.nan, "nan"),
            (math.inf, "inf"),
            ("good", "str"),
            ({"feedback": "no score"}, "None"),
            (dspy.Prediction(score=math.nan), "nan"),
            ([1.0], "list"),
        ],
    )
    def test_no_verdict_is_unscored(self, lm: dspy.LM, value: Any, problem: str) -> None:
        rollout = attempt(dspy.Predict(Triage), lambda e, p, trace=None: value, failure_score=0.5)
        assert (rollout.outcome, rollout.score) == (Outcome.METRIC_ERROR, None)
        assert problem in rollout.error

    @pytest.mark.parametrize("swallowed", [False, True])
    @pytest.mark.parametrize(("times", "score"), [(1, 1.0), (99, None)])
    def test_an_outage_of_its_judge_is_tried_again(
        self, lm: dspy.LM, times: int, score: float | None, swallowed: bool
    ) -> None:
        judge = scripted_lm(lambda call: ServerError("500") if call.number < times else {"verdict": "True"})

        def metric(example: Any, prediction: Any, trace: Any = None) -> float:
            try:
                with dspy.context(lm=judge):
                    return float(dspy.Predict("queue -> verdict: bool")(queue=prediction.queue).verdict)
            except Exception:
                if swallowed:
                    return 0.0
                raise

        rollout = attempt(dspy.Predict(Triage), metric)
        assert rollout.score == score
        assert rollout.outcome is (Outcome.METRIC_ERROR if score is None else Outcome.COMPLETED)
        assert len(judge.engine.calls) == (2 if times == 1 else 3)
        assert len(lm.engine.calls) == 1, "the attempt itself is not made again"

    def test_it_gets_the_whole_example_and_no_trace_and_its_own_is_not_the_programs(self, lm: dspy.LM) -> None:
        def metric(gold: Any, pred: Any, trace: Any, name: Any, pred_trace: Any) -> Any:
            assert gold.queue == "billing" and trace is None
            dspy.Predict("x -> judgement")(x="JUDGE-MARK")
            return {"score": -3}

        rollout = attempt(dspy.Predict(Triage), metric)
        assert rollout.score == -3.0 and "JUDGE-MARK" not in rollout.transcript

    def test_label_free_attempts_have_no_score(self, lm: dspy.LM) -> None:
        lm.engine.script = lambda call: {"reasoning": "because", "queue": "legal"}
        rollout = attempt(dspy.ChainOfThought(Triage), None, failure_score=0.5)
        assert (rollout.outcome, rollout.score, rollout.feedback) == (Outcome.LABEL_FREE, None, "")
        assert rollout.compared == "legal"
        failed = attempt(fails(KeyError("x")), None, failure_score=0.5)
        assert (failed.outcome, failed.score) == (Outcome.PROGRAM_ERROR, None)

    def test_compared_fields_are_normalised(self, lm: dspy.LM) -> None:
        def compared(text: str, *fields: str) -> str:
            says = Does(lambda ticket: dspy.Prediction(answer=text, aside=text * 2))
            return attempt(says, None, compare_fields=fields).compared

        assert compared("Forty  two.", "answer") == compared(" forty two", "answer") == "forty two"
        signs = {compared(text, "answer") for text in ("-5", "5", "x<3", "x>3", "C++")}
        assert len(signs) == 5, "what differs in a sign differs"
        with pytest.raises(FatalError, match="compare_fields"):
            compared("x", "nothing")


def agent(kind: str, tool: Callable[..., Any]) -> dspy.Module:
    return dspy.ReAct(Triage, [tool], max_iters=3) if kind == "ReAct" else dspy.ReActV2(Triage, [tool], max_iters=3)


def agent_script(call: Any) -> Any:
    """Search once, then finish."""
    searched = "observation_0" in call.user or len(call.messages) > 1
    if "tool_calls" in call.outputs:
        step = (
            {"name": "submit", "args": {"queue": "billing"}} if searched else {"name": "search", "args": {"query": "x"}}
        )
        return {"next_thought": "on", "tool_calls": {"tool_calls": [step]}}
    name, args = ("finish", {}) if searched else ("search", {"query": "x"})
    return {
        "next_thought": "on", "next_tool_name": name, "next_tool_args": args, "reasoning": "so", "queue": "billing",
    } if "next_thought" in call.outputs else {"reasoning": "so", "queue": "billing"}  # fmt: skip


@pytest.mark.parametrize("kind", ["ReAct", "ReActV2"])
class TestTools:
    @pytest.mark.parametrize(
        ("answers", "score", "calls"),
        [
            (["FOUND-IT"], 1.0, 1),
            ([InfrastructureError("index is down"), "FOUND-IT"], 1.0, 2),
            ([ConnectionError("reset"), "FOUND-IT"], 1.0, 2),
            ([InfrastructureError("index is down")] * 3, None, 3),
            ([ValueError("no such customer")], 1.0, 1),  # an observation, and a verdict
        ],
        ids=["answers", "is down once", "is reset once", "stays down", "fails"],
    )
    def test_an_outage_of_a_tool_is_tried_again(
        self, lm: dspy.LM, kind: str, answers: list[Any], score: float | None, calls: int
    ) -> None:
        lm.engine.script = agent_script
        tries: list[Any] = []

        def search(query: str) -> str:
            tries.append(answers[len(tries)])
            if isinstance(tries[-1], Exception):
                raise tries[-1]
            return tries[-1]

        rollout = attempt(agent(kind, search), failure_score=0.5)
        assert (rollout.score, len(tries)) == (score, calls)
        assert rollout.outcome is (Outcome.INFRASTRUCTURE if score is None else Outcome.COMPLETED)
        assert rollout.lm_calls == len(lm.engine.calls), "the first try was paid for too"
        assert rollout.transcript.count(str(answers[-1])) == 1, "each observation is told once, of the last try alone"
        assert score is not None or "index is down" in rollout.error

    def test_a_fatal_error_of_a_tool_ends_the_run(self, lm: dspy.LM, kind: str) -> None:
        """Also where the agent makes an observation of it: a key that was refused is nothing to learn from."""
        lm.engine.script = agent_script

        def search(query: str) -> str:
            raise FatalError("the search key was refused")

        with pytest.raises(FatalError, match="the search key was refused"):
            evaluate(agent(kind, search), examples(4), exact, num_threads=4)
        assert len(lm.engine.calls) == 1


def test_a_program_that_changes_its_inputs_changes_nothing_of_the_users(lm: dspy.LM) -> None:
    """What can't be copied is shared."""

    def eats(things: list[str], history: dspy.History, lock: Any) -> Any:
        assert lock is held
        things.pop()
        history.messages.append({"ticket": "refund"})
        return dspy.Prediction(left=len(things), turns=len(history.messages))

    held = threading.Lock()
    given = {"things": ["a", "b"], "history": dspy.History(messages=[{"ticket": "earlier"}]), "lock": held}
    example = dspy.Example(**given).with_inputs(*given)
    for _ in range(2):
        assert attempt(Does(eats), lambda e, p, trace=None: p.left + p.turns, example=example).score == 3.0
    assert example.things == ["a", "b"] and len(example.history.messages) == 1


def test_task_and_expected_texts() -> None:
    example = dspy.Example(ticket="refund", note="n" * 9000, queue="billing").with_inputs("ticket", "note")
    assert task_text(example).startswith("ticket: refund\n") and len(task_text(example)) <= 4000
    assert expected_text(example) == "queue: billing"
    assert expected_text(dspy.Example(ticket="x").with_inputs("ticket")) == ""
