"""One attempt: how it ended, what it scored, and what is left unscored."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import dspy
import pytest
from dspy.lm15 import ContextLengthError, RateLimitError, ServerError, TransportError
from support.scripted import TOKENS, Triage, exact, examples, learner, scripted_lm, told

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


class Fails(dspy.Module):
    """Raises; asks its predictor first."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.predict, self.error = dspy.Predict(Triage), error

    def forward(self, ticket: str) -> Any:
        self.predict(ticket=ticket)
        raise self.error


class TestOutcomes:
    def test_an_answer_that_is_scored(self, lm: dspy.LM) -> None:
        lm.engine.script = lambda call: {"queue": "billing"}
        rollout = attempt(dspy.Predict(Triage), told)
        assert (rollout.outcome, rollout.score, rollout.feedback) == (Outcome.COMPLETED, 1.0, "right")
        assert (rollout.example, rollout.attempt) == (4, 2)
        assert rollout.answer == "queue: billing" and "billing" in rollout.transcript and rollout.error == ""
        assert (rollout.lm_calls, rollout.prompt_tokens, rollout.completion_tokens) == (1, *TOKENS)
        assert rollout.cost is None and rollout.seconds > 0

    def test_a_program_error(self, lm: dspy.LM) -> None:
        rollout = attempt(Fails(KeyError("no such field")), failure_score=-1.0)
        assert (rollout.outcome, rollout.score) == (Outcome.PROGRAM_ERROR, -1.0)
        assert "KeyError" in rollout.error and "no such field" in rollout.transcript
        assert "queue" in rollout.transcript, "what it did before it failed can be learned from"

    def test_only_the_last_line_of_a_traceback_is_told(self, lm: dspy.LM) -> None:
        rollout = attempt(Fails(RuntimeError("Traceback (most recent call last):\n  File secret.py\nValueError: bad")))
        assert rollout.error == "RuntimeError: ValueError: bad" and "secret.py" not in rollout.transcript

    def test_a_parse_error(self, lm: dspy.LM) -> None:
        lm.engine.script = lambda call: "no fields at all, just prose"
        rollout = attempt(dspy.Predict(Triage), failure_score=0.25)
        assert (rollout.outcome, rollout.score) == (Outcome.PARSE_ERROR, 0.25)
        assert "just prose" in rollout.transcript and rollout.lm_calls == 2

    def test_a_context_window(self, lm: dspy.LM) -> None:
        lm.engine.script = lambda call: ContextLengthError("too long")
        rollout = attempt(dspy.Predict(Triage))
        assert (rollout.outcome, rollout.score) == (Outcome.CONTEXT_WINDOW, 0.0)

    def test_a_program_that_returns_no_prediction(self, lm: dspy.LM) -> None:
        class Plain(dspy.Module):
            def forward(self, ticket: str) -> Any:
                return f"plain {ticket}"

        rollout = attempt(Plain(), lambda e, p, trace=None: p.startswith("plain"))
        assert (rollout.outcome, rollout.score) == (Outcome.COMPLETED, 1.0)
        assert rollout.answer == "output: plain refund case 0"

    def test_a_program_that_returns_nothing(self, lm: dspy.LM) -> None:
        class Nothing(dspy.Module):
            def forward(self, ticket: str) -> Any:
                return None

        rollout = attempt(Nothing(), lambda e, p, trace=None: p is None)
        assert (rollout.outcome, rollout.score, rollout.answer) == (Outcome.COMPLETED, 1.0, "")

    @pytest.mark.parametrize("error", [SystemExit(3), SystemExit(), GeneratorExit(), asyncio.CancelledError()])
    def test_an_exit_of_the_program_or_its_metric_is_a_failure_of_the_attempt(
        self, lm: dspy.LM, error: BaseException
    ) -> None:
        def metric(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
            raise error

        failed = attempt(Fails(error))
        assert (failed.outcome, failed.score) == (Outcome.PROGRAM_ERROR, 0.0)
        assert failed.error.startswith(type(error).__name__)
        assert attempt(dspy.Predict(Triage), metric).outcome is Outcome.METRIC_ERROR

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), RunStopped("over")])
    def test_ctrl_c_and_the_end_of_the_run_are_no_failure(self, lm: dspy.LM, error: BaseException) -> None:
        with pytest.raises(type(error)):
            attempt(Fails(error))

    @pytest.mark.parametrize("error", [RateLimitError("429"), ServerError("500"), TransportError("reset")])
    def test_an_outage_of_the_lm(self, lm: dspy.LM, error: BaseException) -> None:
        lm.engine.script = lambda call: error
        rollout = attempt(dspy.Predict(Triage), failure_score=0.5)
        assert (rollout.outcome, rollout.score) == (Outcome.INFRASTRUCTURE, None)
        assert len(lm.engine.calls) == 1, "retries are the LM call's own business"

    def test_an_outage_the_program_swallowed(self, lm: dspy.LM) -> None:
        class Swallows(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.predict = dspy.Predict(Triage)

            def forward(self, ticket: str) -> Any:
                try:
                    return self.predict(ticket=ticket)
                except Exception:
                    return dspy.Prediction(queue="access")

        lm.engine.script = lambda call: ServerError("500")
        rollout = attempt(Swallows())
        assert (rollout.outcome, rollout.score) == (Outcome.INFRASTRUCTURE, None)

    def test_an_outage_raised_from_another_error(self, lm: dspy.LM) -> None:
        class Looks(Fails):
            def forward(self, ticket: str) -> Any:
                raise RuntimeError("could not look it up") from ConnectionError("connection reset")

        assert attempt(Looks(ValueError())).outcome is Outcome.INFRASTRUCTURE

    def test_where_python_itself_failed_the_program_runs_again(self, lm: dspy.LM) -> None:
        class Parses(Fails):
            tries: ClassVar = [SystemError("AST constructor recursion depth mismatch (before=66, after=63)")]

            def forward(self, ticket: str) -> Any:
                if self.tries:
                    raise self.tries.pop()
                return dspy.Prediction(queue="billing")

        rollout = attempt(Parses(ValueError()))
        assert (rollout.outcome, rollout.score) == (Outcome.COMPLETED, 1.0)


class TestMetric:
    @pytest.mark.parametrize(
        "value, problem",
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

    def test_a_metric_that_raises_is_unscored(self, lm: dspy.LM) -> None:
        calls = []

        def metric(example: Any, prediction: Any, trace: Any = None) -> float:
            calls.append(1)
            raise ZeroDivisionError("division by zero")

        rollout = attempt(dspy.Predict(Triage), metric)
        assert (rollout.outcome, rollout.score) == (Outcome.METRIC_ERROR, None)
        assert "ZeroDivisionError" in rollout.error and len(calls) == 1

    @pytest.mark.parametrize("swallowed", [False, True])
    @pytest.mark.parametrize("times, score", [(1, 1.0), (99, None)])
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

    def test_scores_of_any_kind(self, lm: dspy.LM) -> None:
        for value, score in ((True, 1.0), (False, 0.0), (-3, -3.0), (1e6, 1e6), ({"score": 0.5}, 0.5)):
            assert attempt(dspy.Predict(Triage), lambda e, p, value=value: value).score == score

    def test_it_gets_the_whole_example_and_no_trace(self, lm: dspy.LM) -> None:
        seen: list[Any] = []
        attempt(dspy.Predict(Triage), lambda gold, pred, trace, name, pred_trace: seen.append((gold, trace)) or 1)
        assert seen[0][0].queue == "billing" and seen[0][1] is None

    def test_its_own_trace_is_not_the_programs(self, lm: dspy.LM) -> None:
        def metric(example: Any, prediction: Any, trace: Any = None) -> bool:
            return bool(dspy.Predict("x -> judgement")(x="JUDGE-MARK").judgement)

        assert "JUDGE-MARK" not in attempt(dspy.Predict(Triage), metric).transcript

    def test_label_free_attempts_have_no_score(self, lm: dspy.LM) -> None:
        lm.engine.script = lambda call: {"reasoning": "because", "queue": "LEGAL!".lower().strip("!")}
        rollout = attempt(dspy.ChainOfThought(Triage), None, failure_score=0.5)
        assert (rollout.outcome, rollout.score, rollout.feedback) == (Outcome.LABEL_FREE, None, "")
        assert rollout.compared == "legal"
        failed = attempt(Fails(KeyError("x")), None, failure_score=0.5)
        assert (failed.outcome, failed.score) == (Outcome.PROGRAM_ERROR, None)

    def test_compared_fields_are_normalised(self, lm: dspy.LM) -> None:
        class Says(dspy.Module):
            def __init__(self, text: str) -> None:
                super().__init__()
                self.text = text

            def forward(self, ticket: str) -> Any:
                return dspy.Prediction(answer=self.text, aside=self.text * 2)

        same = [attempt(Says(text), None, compare_fields=["answer"]).compared for text in ("Forty  two.", " forty two")]
        assert same[0] == same[1] == "forty two"
        signs = {
            attempt(Says(text), None, compare_fields=["answer"]).compared for text in ("-5", "5", "x<3", "x>3", "C++")
        }
        assert len(signs) == 5, "what differs in a sign differs"
        with pytest.raises(FatalError, match="compare_fields"):
            attempt(Says("x"), None, compare_fields=["nothing"])


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
    def test_an_agent_is_scored_and_told(self, lm: dspy.LM, kind: str) -> None:
        lm.engine.script = agent_script

        def search(query: str) -> str:
            return "FOUND-IT"

        rollout = attempt(agent(kind, search))
        assert rollout.score == 1.0 and rollout.tool_calls >= 1
        assert rollout.transcript.count("FOUND-IT") == 1, "each observation is told once"

    @pytest.mark.parametrize("error", [InfrastructureError("index is down"), ConnectionError("reset")])
    def test_an_outage_of_a_tool_is_tried_again(self, lm: dspy.LM, kind: str, error: Exception) -> None:
        lm.engine.script = agent_script
        tries: list[int] = []

        def search(query: str) -> str:
            tries.append(1)
            if len(tries) == 1:
                raise error
            return "FOUND-IT"

        rollout = attempt(agent(kind, search))
        assert (rollout.outcome, rollout.score) == (Outcome.COMPLETED, 1.0)
        assert len(tries) == 2 and "FOUND-IT" in rollout.transcript and "reset" not in rollout.transcript
        assert rollout.lm_calls == len(lm.engine.calls), "the first try was paid for too"

    def test_a_tool_that_stays_down_leaves_the_attempt_unscored(self, lm: dspy.LM, kind: str) -> None:
        lm.engine.script = agent_script
        tries: list[int] = []

        def search(query: str) -> str:
            tries.append(1)
            raise InfrastructureError("index is down")

        rollout = attempt(agent(kind, search), failure_score=0.5)
        assert (rollout.outcome, rollout.score) == (Outcome.INFRASTRUCTURE, None)
        assert len(tries) == 3 and "index is down" in rollout.error

    def test_a_tools_own_error_is_an_observation_and_a_verdict(self, lm: dspy.LM, kind: str) -> None:
        lm.engine.script = agent_script
        tries: list[int] = []

        def search(query: str) -> str:
            tries.append(1)
            raise ValueError("no such customer")

        rollout = attempt(agent(kind, search))
        assert (rollout.outcome, rollout.score) == (Outcome.COMPLETED, 1.0)
        assert len(tries) == 1 and "no such customer" in rollout.transcript

    def test_a_fatal_error_of_a_tool_ends_the_run(self, lm: dspy.LM, kind: str) -> None:
        """Also where the agent makes an observation of it: a key that was refused is nothing to learn from."""
        lm.engine.script = agent_script

        def search(query: str) -> str:
            raise FatalError("the search key was refused")

        with pytest.raises(FatalError, match="the search key was refused"):
            evaluate(agent(kind, search), examples(4), exact, num_threads=4)
        assert len(lm.engine.calls) == 1


class TestInputs:
    def test_a_program_that_changes_its_inputs_changes_nothing_of_the_users(self, lm: dspy.LM) -> None:
        class Eats(dspy.Module):
            def forward(self, things: list[str]) -> Any:
                things.pop()
                return dspy.Prediction(left=len(things))

        example = dspy.Example(things=["a", "b"]).with_inputs("things")
        for _ in range(3):
            assert attempt(Eats(), lambda e, p, trace=None: p.left, example=example).score == 1.0
        assert example.things == ["a", "b"]

    def test_an_agent_that_appends_to_a_history_starts_each_attempt_afresh(self, lm: dspy.LM) -> None:
        history = dspy.History(messages=[{"ticket": "earlier", "queue": "legal"}])

        class Remembers(dspy.Module):
            def forward(self, ticket: str, history: dspy.History) -> Any:
                history.messages.append({"ticket": ticket})
                return dspy.Prediction(queue="billing", turns=len(history.messages))

        example = dspy.Example(ticket="refund", history=history, queue="billing").with_inputs("ticket", "history")
        for _ in range(2):
            assert attempt(Remembers(), lambda e, p, trace=None: p.turns, example=example).score == 2.0
        assert len(history.messages) == 1

    def test_inputs_that_cannot_be_copied_are_shared(self, lm: dspy.LM) -> None:
        class Uses(dspy.Module):
            def forward(self, lock: Any) -> Any:
                return dspy.Prediction(same=lock is held)

        held = threading.Lock()
        example = dspy.Example(lock=held).with_inputs("lock")
        assert attempt(Uses(), lambda e, p, trace=None: p.same, example=example).score == 1.0

    def test_only_the_inputs_reach_the_program(self, lm: dspy.LM) -> None:
        lm.engine.script = lambda call: learner(call)
        example = dspy.Example(ticket="refund", queue="SECRET-LABEL").with_inputs("ticket")
        attempt(dspy.Predict(Triage), example=example)
        assert "SECRET-LABEL" not in lm.engine.calls[0].text


def test_task_and_expected_texts() -> None:
    example = dspy.Example(ticket="refund", note="n" * 9000, queue="billing").with_inputs("ticket", "note")
    assert task_text(example).startswith("ticket: refund\n") and len(task_text(example)) <= 4000
    assert expected_text(example) == "queue: billing"
    assert expected_text(dspy.Example(ticket="x").with_inputs("ticket")) == ""


def test_the_transcript_is_bounded(lm: dspy.LM) -> None:
    lm.engine.script = lambda call: {"reasoning": "r" * 100_000, "queue": "legal"}
    rollout = attempt(dspy.ChainOfThought(Triage), transcript_tokens=300)
    assert len(rollout.transcript) <= 1200 and "cut" in rollout.transcript
    assert len(rollout.answer) <= 1200
