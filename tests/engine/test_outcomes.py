"""Runs in which nothing can be scored end before they have cost much, and lose nothing when they go on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.scripted import Triage, exact, examples, scripted_lm

from trgrpo_dspy import FatalError, JournalError, TrainingFreeGRPO, evaluate
from trgrpo_dspy.engine.calls.state import RunState
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.engine.outcomes import Outcomes
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.meter import Stage
from trgrpo_dspy.program.rollout import Rollout

TYPO = r"metric_error: the metric raised AttributeError: .*quueue"


def typo(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
    return float(prediction.quueue == example.queue)


def but_case_0(example: dspy.Example, prediction: Any, trace: Any = None) -> float | None:
    return None if example.ticket.endswith("case 0") else exact(example, prediction)


class Raises(dspy.Module):
    """Raises at tickets that hold a text, before or after it asks, until the environment says that all is mended."""

    def __init__(self, error: Exception, *, at: str = "case", asks: bool = False) -> None:
        super().__init__()
        self.answer = dspy.Predict(Triage)
        self.error, self.at, self.asks = error, at, asks

    def forward(self, ticket: str) -> Any:
        found = self.answer(ticket=ticket) if self.asks or self.at not in ticket else None
        if self.at in ticket and "MENDED" not in os.environ:
            raise self.error
        return found


class TestARun:
    @pytest.mark.parametrize("threads", [1, 16])
    def test_without_a_valset_a_broken_metric_costs_twenty_attempts(self, threads: int) -> None:
        lm = scripted_lm()
        with dspy.context(lm=lm):
            compiled = TrainingFreeGRPO(metric=typo, num_threads=threads).compile(
                dspy.Predict(Triage), trainset=examples(40)
            )
        results = compiled.detailed_results
        assert results.stop_reason == "unscored" and results.steps == () and len(compiled.experiences) == 0
        assert 20 <= len(lm.engine.calls) < 20 + threads
        assert "The run ended early: no attempt could be scored (metric_error: the metric raised" in str(results)

    def test_a_broken_metric_on_a_small_valset_is_told_once(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", "trgrpo_dspy")
        with dspy.context(lm=scripted_lm()):
            TrainingFreeGRPO(metric=typo).compile(
                dspy.Predict(Triage), trainset=examples(40), valset=examples(10, start=100)
            )
        assert sum("quueue" in message for message in caplog.messages) == 1

    def test_what_a_program_finds_fatal_is_no_interruption(self) -> None:
        program = Raises(FatalError("the badge was refused"), at="case 2")
        with dspy.context(lm=scripted_lm()), pytest.raises(FatalError, match="the badge was refused") as caught:
            TrainingFreeGRPO(metric=exact, num_threads=2).compile(
                program, trainset=examples(6, start=200), valset=examples(10, start=100)
            )
        results = caught.value.program.detailed_results
        assert results.stop_reason == "fatal" and results.baseline.mean.n == 10
        assert "interrupted" not in str(results)

    @pytest.mark.parametrize(
        ("metric", "unscored"),
        [(lambda e, p, trace=None: 1.0 if e.ticket.endswith("case 0") else None, 55), (None, 0)],
        ids=["one score", "label-free"],
    )
    def test_one_score_is_enough_to_go_on_and_without_a_metric_none_is_needed(self, metric: Any, unscored: int) -> None:
        with dspy.context(lm=scripted_lm()):
            compiled = TrainingFreeGRPO(metric=metric, num_epochs=1, num_threads=1).compile(
                dspy.Predict(Triage), trainset=examples(12)
            )
        (step,) = compiled.detailed_results.steps
        assert compiled.detailed_results.stop_reason == "completed"
        assert step.outcomes.get("metric_error", 0) == unscored

    @pytest.mark.parametrize("broken", ["tool", "metric"])
    def test_the_same_run_goes_on_when_what_was_broken_is_mended(
        self, broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Attempts without a verdict are made again; what the LM said is not asked for again."""
        lm = scripted_lm()

        program = Raises(ConnectionError("it is down"), asks=True) if broken == "tool" else dspy.Predict(Triage)

        def results(metric: Any) -> Any:
            optimizer = TrainingFreeGRPO(metric=metric, num_epochs=1, num_threads=1, log_dir=tmp_path)
            return optimizer.compile(program, trainset=examples(8)).detailed_results

        with dspy.context(lm=lm):
            assert results(exact if broken == "tool" else typo).stop_reason == "unscored"
            assert len(lm.engine.calls) == 20
            monkeypatch.setenv("MENDED", "yes")
            assert results(exact).steps[0].outcomes == {"completed": 40}
            assert len(lm.engine.of("program")) == 40
            with pytest.raises(JournalError, match="metric function"):
                results(typo)


class TestAnEvaluation:
    def test_a_broken_metric_ends_it_and_is_named(self, caplog: pytest.LogCaptureFixture) -> None:
        lm = scripted_lm()
        with dspy.context(lm=lm):
            found = evaluate(dspy.Predict(Triage), examples(400), typo, num_threads=4)
        assert found.partial and found.stop_reason == "unscored" and len(lm.engine.calls) < 30
        assert "no attempt could be scored (metric_error: the metric raised" in "".join(caplog.messages)
        assert sum("quueue" in message for message in caplog.messages) == 1
        assert "partial, ended because going on was in vain: " in str(found)
        assert "attempts have no score" in str(found) and "quueue" in str(found)

    def test_one_example_without_a_label_ends_nothing(self) -> None:
        with dspy.context(lm=scripted_lm()):
            found = evaluate(dspy.Predict(Triage), examples(4), but_case_0, k=32, num_threads=4)
        assert found.stop_reason == "completed" and found.mean.n == 3 and found.mean.unscored == 1

    def test_an_estimate_names_it(self) -> None:
        optimizer = TrainingFreeGRPO(metric=typo, num_threads=4)
        with dspy.context(lm=scripted_lm()), pytest.raises(ValueError, match=f"no attempt could be scored .{TYPO}"):
            optimizer.estimate(dspy.Predict(Triage), trainset=examples(40), sample=30)


class TestKeeping:
    def test_the_first_error_is_the_one_named(self) -> None:
        outcomes = Outcomes(state := RunState())
        for number in range(20):
            error = "the tool is down" if number == 0 else "no score"
            outcomes.keep(Unit(Stage.ROLLOUT), Rollout(number, 0, Outcome.INFRASTRUCTURE, None, error=error))
        assert state.ending.reason == "unscored"
        assert state.ending.problem == "no attempt could be scored (infrastructure: the tool is down)"

    def test_what_has_a_verdict_is_kept_once_there_is_a_score(self) -> None:
        kept: list[int] = []

        class Journal:
            def finish(self, unit: str, rollout: Rollout) -> Rollout:
                kept.append(rollout.example)
                return rollout

        state = RunState(journal=Journal())  # type: ignore[arg-type]
        outcomes = Outcomes(state)
        lost, scored = (Outcome.INFRASTRUCTURE, None), (Outcome.COMPLETED, 0.0)
        for number, ended in enumerate([lost, (Outcome.METRIC_ERROR, None), scored, lost]):
            outcomes.keep(Unit(Stage.ROLLOUT), Rollout(number, 0, *ended))
            assert kept == [[0], [0], [0, 1, 2], [0, 1, 2, 3]][number]  # an outage the journal does not commit
        assert not state.ending.event.is_set()
