"""Competition mathematics: the programs."""

from __future__ import annotations

import dspy
import pytest

from programs import math_reasoning
from trgrpo_dspy.engine.calls.gate import Gate
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.engine.runner import Runner
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.meter import Stage
from trgrpo_dspy.offline import offline_lm

EXTRA = "needs the extra: pip install 'trgrpo-dspy[math]'"


class TestPrograms:
    def test_modes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("TRGRPO_MATH_MODE", raising=False)
        assert isinstance(math_reasoning.program(), dspy.ChainOfThought)
        monkeypatch.setenv("TRGRPO_MATH_MODE", "fast")
        with pytest.raises(ValueError, match="'direct' or 'agent'"):
            math_reasoning.program()

    def test_the_agent_is_chosen_by_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("pydantic_monty", reason=EXTRA)
        monkeypatch.setenv("TRGRPO_MATH_MODE", "agent")
        program = math_reasoning.program()
        assert list(program.tools) == ["run_python", "finish"]
        assert [name for name, _ in program.named_predictors()] == ["react", "extract.predict"]

    def test_an_attempt_of_the_agent(self) -> None:
        pytest.importorskip("pydantic_monty", reason=EXTRA)
        calls = Gate(backoff=0.001)
        program = math_reasoning.agent()
        calls.bind(program)
        example = dspy.Example(problem="What is 128 * 379 + 5?", answer="48517").with_inputs("problem")
        with dspy.context(lm=offline_lm()):
            unit = Unit(Stage.ROLLOUT, 1, ("rollout", 1, 0, 0), resample=True, temperature=0.7)
            rollout = Runner(calls, math_reasoning.metric).attempt(program, example, unit, index=0, attempt=0)
        assert rollout.outcome is Outcome.COMPLETED, rollout.error
        assert rollout.score == 1.0 and rollout.feedback == "Right: expected 48517, got 48517."
        assert rollout.transcript.count("next_tool_name: run_python") == 1
        assert rollout.transcript.count("128 * 379 + 5") == 1
        assert rollout.transcript.count("observation: 48517") == 1, rollout.transcript

    def test_each_attempt_has_a_sandbox_of_its_own(self) -> None:
        pytest.importorskip("pydantic_monty", reason=EXTRA)
        steps = [
            {"next_thought": "t", "next_tool_name": "run_python", "next_tool_args": {"code": "x = 1"}},
            {"next_thought": "t", "next_tool_name": "run_python", "next_tool_args": {"code": "x += 1\nx"}},
            {"next_thought": "t", "next_tool_name": "finish", "next_tool_args": {}},
            {"reasoning": "r", "answer": "2"},
        ]
        program = math_reasoning.agent()
        late = [{**steps[1]}, steps[2], steps[3]]
        with dspy.context(lm=dspy.utils.DummyLM([*steps, *late])):
            first, second = program(problem="p"), program(problem="p")
        assert first.trajectory["observation_1"] == "2"
        assert "NameError" in second.trajectory["observation_0"]
