"""Measuring programs: what counts, what is left out, and that the score is `dspy.Evaluate`'s."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import ContextLengthError, ServerError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.scripted import RIGHT, Triage, exact, examples, scripted_lm, told, word_of

from trgrpo_dspy import compare, evaluate

DEV = examples(10)


class Odd(dspy.Module):
    """Fails, parses badly, or answers with one to three calls: by the hash of its input."""

    def __init__(self, salt: int) -> None:
        super().__init__()
        self.salt, self.first, self.second = salt, dspy.Predict(Triage), dspy.ChainOfThought(Triage)

    def forward(self, ticket: str) -> Any:
        kind = int(hashlib.sha256(f"{self.salt}{ticket}".encode()).hexdigest(), 16) % 5
        if kind == 0:
            raise KeyError(ticket)
        if kind == 1:
            return self.first(ticket=f"{ticket} UNREADABLE")
        if kind == 2:
            return self.first(ticket=f"{ticket} TOO-LONG")
        return self.second(ticket=ticket) if kind == 3 else self.first(ticket=self.first(ticket=ticket).queue + ticket)


def odd_script(call: Any) -> Any:
    if "UNREADABLE" in call.user:
        return "prose"
    if "TOO-LONG" in call.user:
        return ContextLengthError("too long")
    word = word_of(call.user)
    return {"reasoning": "so", "queue": RIGHT[word] if call.chance() % 2 and word else "legal"}


METRICS = {
    "number": exact,
    "bool": lambda e, p, trace=None: p.queue == e.queue,
    "feedback": told,
    "graded": lambda e, p, trace=None: len(p.queue) / 10 - 0.3,
}


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    salt=st.integers(0, 1000),
    size=st.integers(1, 12),
    copies=st.integers(0, 12),
    failure_score=st.sampled_from([0.0, 0.25, -1.0, 1.0]),
    threads=st.sampled_from([1, 4]),
    metric=st.sampled_from(sorted(METRICS)),
)
def test_the_score_is_dspys_on_the_same_calls(
    salt: int, size: int, copies: int, failure_score: float, threads: int, metric: str
) -> None:
    """Also where some inputs stand in the set more often than others."""
    lm, devset = scripted_lm(odd_script), examples(size)
    devset += devset[:copies]
    with dspy.context(lm=lm):
        ours = evaluate(Odd(salt), devset, METRICS[metric], failure_score=failure_score, num_threads=threads)
        asked = sorted(call.text for call in lm.engine.calls)
        lm.engine.calls.clear()
        theirs = dspy.Evaluate(
            devset=devset, metric=METRICS[metric], num_threads=1, max_errors=10_000, failure_score=failure_score,
            display_progress=False,
        )(Odd(salt))  # fmt: skip
    assert round(100 * ours.score, 2) == pytest.approx(float(theirs.score), abs=0.011)
    assert sorted(call.text for call in lm.engine.calls) == asked, "the very same requests"


def test_failures_are_counted_apart(lm: dspy.LM) -> None:
    lm.engine.script = odd_script
    found = evaluate(Odd(1), examples(30), exact)
    assert sum(found.outcomes.values()) == 30 and (found.mean.n, found.mean.unscored) == (30, 0)
    assert {"program_error", "parse_error", "context_window", "completed"} <= set(found.outcomes)


def test_what_has_no_verdict_is_in_no_mean(lm: dspy.LM) -> None:
    lm.engine.script = lambda call: ServerError("500") if "refund" in call.user else {"queue": "access"}
    devset = examples(16)
    found = evaluate(dspy.Predict(Triage), devset, exact)
    assert found.outcomes == {"completed": 14, "infrastructure": 2}
    assert [s is None for s in found.scores] == ["refund" in e.ticket for e in devset]
    assert found.score == pytest.approx(4 / 14) and found.mean.unscored == 2
    assert "0.286 (95% interval 0.117 to 0.546) over 14 of 16 examples; " in str(found)
    nothing = evaluate(dspy.Predict(Triage), devset[1:4], lambda e, p, trace=None: None)
    assert nothing.score is None and nothing.outcomes == {"metric_error": 3} and str(nothing).startswith("unscored")


def test_k_attempts(lm: dspy.LM) -> None:
    lm.kwargs["temperature"] = 1.0
    found = evaluate(dspy.Predict(Triage), examples(8), exact, k=6)
    assert len(lm.engine.calls) == 48 and all(len(attempts) == 6 for attempts in found.rollouts)
    assert [(s.stage, s.calls) for s in found.spend] == [("evaluation", 48)]
    seeds = [c.seed for c in lm.engine.calls if c.user == lm.engine.calls[0].user]
    assert len(set(seeds)) == 6 and 7 in seeds, "the first attempt is dspy.Evaluate's, the others are new draws"
    assert 0 < found.score < 1 and found.score == pytest.approx(found.pass_at(1))
    assert found.pass_at(6) >= found.pass_at(3) >= found.pass_at(1)  # type: ignore[operator]
    assert found.pass_at(7) is None and found.pass_at(1, threshold=2.0) == 0.0
    assert evaluate(dspy.Predict(Triage), examples(8), exact, k=6, num_threads=1).scores == found.scores
    assert evaluate(dspy.Predict(Triage), examples(8), exact, k=6, seed=1).scores != found.scores


def test_the_temperature_is_the_programs_own_unless_another_is_asked_for() -> None:
    lm = scripted_lm(temperature=0.9)
    with dspy.context(lm=lm):
        for options, program in (({}, {}), ({"temperature": 0.3}, {}), ({"temperature": 0.3}, {"temperature": 0.6})):
            evaluate(dspy.Predict(Triage, **program), DEV[:2], exact, **options)
    assert [call.temperature for call in lm.engine.calls] == [0.9] * 2 + [0.3] * 2 + [0.6] * 2
    assert lm.kwargs["temperature"] == 0.9


def test_callbacks_hear_of_the_whole_evaluation(lm: dspy.LM) -> None:
    heard: list[Any] = []
    found = evaluate(dspy.Predict(Triage), DEV, exact, k=2, callbacks=[heard.append])
    started, *attempts, ended = heard
    assert started.run == "evaluate" and started.attempts == len(attempts) == 20
    assert started.valset == found.tasks and "refund case 0" in found.tasks[0][0] and "billing" in found.tasks[0][1]
    assert {(a.rollout.example, a.rollout.attempt) for a in attempts} == {(i, j) for i in range(10) for j in range(2)}
    assert ended.verdict == str(found) and ended.stop_reason == "completed" and ended.spend == found.spend


# -- comparison --------------------------------------------------------------------------------------------------------


class Fixed(dspy.Module):
    """Right on the first `count` tickets."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, ticket: str) -> Any:
        right = int(ticket.rsplit(" ", 1)[1]) < self.count
        return dspy.Prediction(queue=RIGHT[word_of(ticket)] if right else "none")


def test_a_paired_difference_is_b_minus_a() -> None:
    found, back = (compare(Fixed(a), Fixed(b), examples(60), exact) for a, b in ((10, 30), (30, 10)))
    assert found.difference == pytest.approx(20 / 60) and found.interval.low > 0
    assert (found.wins, found.ties, found.losses) == (20, 40, 0)
    assert back.difference == pytest.approx(-found.difference) and back.losses == 20


def test_evaluations_of_different_examples_are_not_compared() -> None:
    before, after, again = (evaluate(Fixed(9), examples(3, start=start), exact) for start in (0, 3, 0))
    assert again.versus(before).n == 3
    with pytest.raises(ValueError, match="of different examples"):
        after.versus(before)


# -- arguments ---------------------------------------------------------------------------------------------------------


def test_the_options_are_the_signature() -> None:
    for function in (evaluate, compare):
        parameters = inspect.signature(function).parameters
        assert {"k", "num_threads", "temperature", "log_dir", "callbacks"} <= set(parameters)
        assert parameters["seed"].default == 0 and parameters["k"].default == 1 and "options" not in parameters


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"k": 0}, ValueError, "k=0"),
        ({"num_threads": 0}, ValueError, "num_threads=0 must be at least 1"),
        ({"devset": []}, ValueError, "devset is empty"),
        ({"devset": "text"}, TypeError, "devset must be a list"),
        ({"devset": [{"ticket": "x"}]}, TypeError, r"devset\[0\] is a dict"),
        ({"devset": [dspy.Example(ticket="x")]}, ValueError, r"devset\[0\] has no inputs"),
        ({"metric": None}, TypeError, "metric=None"),
        ({"metric": "exact"}, TypeError, "metric='exact'"),
        ({"metric": lambda: 1}, TypeError, "metric"),
        ({"temperature": 0}, ValueError, "temperature=0 must be above 0 and at most 2; None keeps"),
        ({"failure_score": float("inf")}, ValueError, "failure_score=inf must be finite"),
        ({"seed": 1.0}, TypeError, "seed=1.0 must be a whole number"),
        ({"rollout_timeout": 0}, ValueError, "rollout_timeout=0 must be above 0"),
        ({"budget": 5}, TypeError, "budget must be a Budget, got int; write budget=Budget"),
        ({"log_dir": ""}, ValueError, "log_dir='' names no directory"),
        ({"program": "program"}, TypeError, "program must be a dspy.Module, got str"),
        ({"num_thread": 4}, TypeError, r"evaluate\(\) has no option 'num_thread'; did you mean num_threads=?"),
        ({"colour": 4}, TypeError, r"evaluate\(\) has no option 'colour'; its options are num_threads, seed, budget"),
    ],
)
def test_bad_arguments_are_named_and_leave_nothing(
    lm: dspy.LM, tmp_path: Path, arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    good = {"program": dspy.Predict(Triage), "devset": DEV, "metric": exact, "log_dir": tmp_path / "run"}
    with pytest.raises(error, match=text):
        evaluate(**{**good, **arguments})
    assert not lm.engine.calls and not (tmp_path / "run").exists()
    with pytest.raises(TypeError, match=r"b must be a dspy\.Module, got function"):
        compare(dspy.Predict(Triage), exact, DEV, exact)
