"""What `to_inspect` writes is read back by inspect_ai itself."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import ServerError
from support.scripted import Triage, examples, scripted_lm, told

from trgrpo_dspy import Evaluation, TrainingFreeGRPO, evaluate
from trgrpo_dspy.evaluation.run_log import run_to_inspect

pytest.importorskip("inspect_ai")
from inspect_ai.log import read_eval_log


def script(call: Any) -> Any:
    if "printer" in call.user:
        return ServerError("500 <script>\ud83d")
    return "prose" if "contract" in call.user else {"queue": "access"}


@pytest.fixture(scope="module")
def measured() -> Evaluation:
    with dspy.context(lm=scripted_lm(script)):
        return evaluate(dspy.Predict(Triage), examples(4), told, k=2)


@pytest.mark.parametrize("name", ["x.eval", "x.json"])
def test_every_attempt_is_a_sample(measured: Evaluation, tmp_path: Path, name: str) -> None:
    measured.to_inspect(tmp_path / name, name="tickets")
    log = read_eval_log(str(tmp_path / name))
    assert (log.status, log.eval.task, log.eval.model, log.eval.config.epochs) == (
        "success", "tickets", "scripted/model", 2
    )  # fmt: skip
    found = {(sample.id, sample.epoch): sample for sample in log.samples}
    assert sorted(found) == [(i, e) for i in (1, 2, 3, 4) for e in (1, 2)]
    refund, login, printer, contract = (found[i, 2] for i in (1, 2, 3, 4))
    assert "refund case 0" in refund.input and "billing" in refund.target
    score = refund.scores["metric"]
    assert (score.value, score.explanation) == (0.0, "expected billing") and "access" in score.answer
    assert login.scores["metric"].value == 1.0 and login.error is None
    assert math.isnan(printer.scores["metric"].value) and "500" in printer.error.message
    assert contract.scores["metric"].value == 0.0 and contract.metadata["outcome"] == "parse_error"
    (scored,) = log.results.scores
    assert (scored.scored_samples, scored.unscored_samples) == (6, 2)
    assert scored.metrics["mean"].value == pytest.approx(measured.score) == 1 / 3
    assert log.stats.started_at <= log.stats.completed_at != "", "else the viewer shows a duration of NaN days"
    assert log.results.total_samples == 8 and log.stats.model_usage["scripted/model"].input_tokens > 0


def test_a_part_and_an_older_record_are_written_as_what_they_are(measured: Evaluation, tmp_path: Path) -> None:
    part = replace(measured, rollouts=(*measured.rollouts[:2], (), ()), tasks=(), stop_reason="max_cost", spend=())
    part.to_inspect(tmp_path / "part.eval")
    log = read_eval_log(str(tmp_path / "part.eval"))
    assert (log.status, len(log.samples), log.samples[0].input, log.eval.model) == ("cancelled", 4, "", "unknown")


def test_a_path_of_another_kind_is_refused(measured: Evaluation, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.eval or \.json"):
        measured.to_inspect(tmp_path / "x.csv")


def test_all_attempts_of_a_run_are_written_with_what_they_did(tmp_path: Path) -> None:
    with dspy.context(lm=scripted_lm()):
        optimizer = TrainingFreeGRPO(metric=told, group_size=2, num_epochs=1, log_dir=tmp_path / "run")
        results = optimizer.compile(
            dspy.Predict(Triage), trainset=examples(3), valset=examples(4, start=8)
        ).detailed_results
    run_to_inspect(tmp_path / "run", tmp_path / "run.eval")
    log = read_eval_log(str(tmp_path / "run.eval"))
    found = {(sample.id, sample.epoch): sample for sample in log.samples}
    assert len(found) == len(log.samples) == results.total_metric_calls and log.status == "success"
    assert {("rollout 1/2", 2), ("validation 0/3", 1)} <= set(found)
    sample = found["rollout 1/2", 2]
    assert "printer case 2" in sample.input and "hardware" in sample.target and "queue" in sample.messages[1].content
    assert (sample.metadata["stage"], sample.metadata["step"]) == ("rollout", 1)
    last = results.measured[-1].mean.value
    assert log.results.scores[0].metrics["mean"].value == pytest.approx(last)
    usage = log.stats.model_usage["scripted/model"]
    assert (usage.input_tokens, usage.output_tokens) == (results.total.prompt_tokens, results.total.completion_tokens)
