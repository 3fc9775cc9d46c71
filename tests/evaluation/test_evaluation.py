"""Measuring programs: what counts, what is left out, and that the score is `dspy.Evaluate`'s."""

from __future__ import annotations

import hashlib
from typing import Any

import dspy
import pytest
from dspy.lm15 import ContextLengthError, ServerError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.scripted import RIGHT, Triage, exact, examples, lm_state, program_state, scripted_lm, told, word_of

from trgrpo_dspy import Evaluation, compare, evaluate
from trgrpo_dspy.program.copies import own_copy


def dspy_score(program: dspy.Module, devset: list[dspy.Example], metric: Any, failure_score: float = 0.0) -> float:
    evaluator = dspy.Evaluate(
        devset=devset, metric=metric, num_threads=1, max_errors=10_000, failure_score=failure_score,
        display_progress=False,
    )  # fmt: skip
    return float(evaluator(program).score)


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
    right = call.chance() % 2
    return {"reasoning": "so", "queue": RIGHT[word] if right and word else "legal"}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    salt=st.integers(0, 1000),
    size=st.integers(1, 12),
    failure_score=st.sampled_from([0.0, 0.25, -1.0, 1.0]),
    threads=st.sampled_from([1, 4]),
    form=st.sampled_from(["number", "bool", "feedback", "graded"]),
)
def test_the_score_is_dspys_on_the_same_calls(
    salt: int, size: int, failure_score: float, threads: int, form: str
) -> None:
    metrics = {
        "number": exact,
        "bool": lambda e, p, trace=None: p.queue == e.queue,
        "feedback": told,
        "graded": lambda e, p, trace=None: len(p.queue) / 10 - 0.3,
    }
    lm, devset = scripted_lm(odd_script), examples(size)
    with dspy.context(lm=lm):
        ours = evaluate(Odd(salt), devset, metrics[form], failure_score=failure_score, num_threads=threads)
        asked = sorted(call.text for call in lm.engine.calls)
        lm.engine.calls.clear()
        theirs = dspy_score(Odd(salt), devset, metrics[form], failure_score)
    assert ours.score is not None
    assert round(100 * ours.score, 2) == pytest.approx(theirs, abs=0.011)
    assert sorted(call.text for call in lm.engine.calls) == asked, "the very same requests"


def test_failures_are_counted_apart(lm: dspy.LM) -> None:
    lm.engine.script = odd_script
    found = evaluate(Odd(1), examples(30), exact)
    assert sum(found.outcomes.values()) == 30
    assert {"program_error", "parse_error", "context_window", "completed"} <= set(found.outcomes)
    assert found.mean.n == 30 and found.mean.unscored == 0


def test_what_has_no_verdict_is_in_no_mean(lm: dspy.LM) -> None:
    lm.engine.script = lambda call: ServerError("500") if "refund" in call.user else {"queue": "access"}
    devset = examples(16)
    found = evaluate(dspy.Predict(Triage), devset, exact)
    assert found.outcomes == {"completed": 14, "infrastructure": 2}
    assert [s is None for s in found.scores] == ["refund" in e.ticket for e in devset]
    assert found.score == pytest.approx(4 / 14) and found.mean.unscored == 2
    assert "0.286 (95% interval 0.117 to 0.546) over 14 of 16 examples; " in str(found)


def test_nothing_scored(lm: dspy.LM) -> None:
    found = evaluate(dspy.Predict(Triage), examples(3), lambda e, p, trace=None: None)
    assert found.score is None and found.outcomes == {"metric_error": 3} and str(found).startswith("unscored")


def test_k_attempts(lm: dspy.LM) -> None:
    lm.kwargs["temperature"] = 1.0
    found = evaluate(dspy.Predict(Triage), examples(8), exact, k=6)
    assert len(lm.engine.calls) == 48 and all(len(attempts) == 6 for attempts in found.rollouts)
    seeds = [c.seed for c in lm.engine.calls if c.user == lm.engine.calls[0].user]
    assert len(set(seeds)) == 6 and 7 in seeds, "the first attempt is dspy.Evaluate's, the others are new draws"
    assert found.score is not None and 0 < found.score < 1
    assert found.score == pytest.approx(found.pass_at(1))
    assert found.pass_at(6) >= found.pass_at(3) >= found.pass_at(1)  # type: ignore[operator]
    assert found.pass_at(7) is None
    assert found.pass_at(1, threshold=2.0) == 0.0
    again = evaluate(dspy.Predict(Triage), examples(8), exact, k=6, num_threads=1)
    assert again.scores == found.scores
    other = evaluate(dspy.Predict(Triage), examples(8), exact, k=6, seed=1)
    assert other.scores != found.scores


def test_spend_is_told(lm: dspy.LM) -> None:
    found = evaluate(dspy.Predict(Triage), examples(5), exact)
    assert [(s.stage, s.calls) for s in found.spend] == [("evaluation", 5)]


class Fixed(dspy.Module):
    """Right on the first `count` tickets."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, ticket: str) -> Any:
        right = int(ticket.rsplit(" ", 1)[1]) < self.count
        return dspy.Prediction(queue=RIGHT[word_of(ticket)] if right else "none")


class TestCompare:
    def test_a_paired_difference(self) -> None:
        found = compare(Fixed(10), Fixed(30), examples(60), exact)
        assert found.difference == pytest.approx(20 / 60)
        assert (found.wins, found.ties, found.losses) == (20, 40, 0)
        assert found.interval is not None and found.interval.low > 0

    def test_order_matters(self) -> None:
        forth, back = (
            compare(Fixed(10), Fixed(30), examples(60), exact),
            compare(Fixed(30), Fixed(10), examples(60), exact),
        )
        assert back.difference == pytest.approx(-forth.difference) and back.losses == 20

    def test_only_examples_scored_for_both(self) -> None:
        def metric(example: Any, prediction: Any, trace: Any = None) -> float | None:
            number = int(example.ticket.rsplit(" ", 1)[1])
            if number < 10 and prediction.queue == "none":
                return None
            return exact(example, prediction)

        found = compare(Fixed(0), Fixed(60), examples(40), metric)
        assert found.n == 30 and found.wins == 30


class TestArguments:
    @pytest.mark.parametrize(
        "arguments, error, text",
        [
            ({"k": 0}, ValueError, "k=0"),
            ({"k": 1.5}, TypeError, "k=1.5"),
            ({"num_threads": 0}, ValueError, "num_threads=0"),
            ({"devset": []}, ValueError, "devset is empty"),
            ({"devset": "text"}, TypeError, "devset must be a list"),
            ({"devset": [{"ticket": "x"}]}, TypeError, r"devset\[0\] is a dict"),
            ({"devset": [dspy.Example(ticket="x")]}, ValueError, r"devset\[0\] has no inputs"),
            ({"metric": None}, TypeError, "metric=None"),
            ({"metric": "exact"}, TypeError, "metric='exact'"),
            ({"metric": lambda: 1}, TypeError, "metric"),
        ],
    )
    def test_bad_ones_are_named(self, lm: dspy.LM, arguments: dict[str, Any], error: type, text: str) -> None:
        with pytest.raises(error, match=text):
            evaluate(dspy.Predict(Triage), **{"devset": examples(2), "metric": exact, **arguments})
        assert not lm.engine.calls

    def test_a_tuple_will_do(self, lm: dspy.LM) -> None:
        assert isinstance(evaluate(dspy.Predict(Triage), tuple(examples(2)), exact), Evaluation)


class TestOwnCopy:
    def test_lms_are_shared_and_the_rest_is_copied(self) -> None:
        lm = scripted_lm()
        lm.history.append({"a": "long history"})
        program = dspy.ChainOfThought(Triage)
        program.predict.lm, program.other = lm, {"lms": [lm]}
        copied = own_copy(program)
        assert copied.predict.lm is lm and copied.other["lms"][0] is lm
        assert copied.predict is not program.predict and copied.other is not program.other

    def test_what_cannot_be_copied_is_shared(self, caplog: Any) -> None:
        import threading

        program = dspy.ChainOfThought(Triage)
        program.lock, program.predict.lm = threading.Lock(), scripted_lm()
        copied = own_copy(program)
        assert copied.lock is program.lock
        assert copied.predict is not program.predict and copied.predict.lm is program.predict.lm
        copied.predict.signature = copied.predict.signature.with_instructions("changed")
        assert program.predict.signature.instructions != "changed"

    def test_the_program_that_was_measured_is_unchanged(self, lm: dspy.LM) -> None:
        program = dspy.ChainOfThought(Triage)
        program.predict.lm = own = scripted_lm(temperature=0.5)
        before = program_state(program), lm_state(own)
        evaluate(program, examples(3), exact)
        assert (program_state(program), lm_state(own)) == before


def test_evaluations_of_different_examples_are_not_compared() -> None:
    with dspy.context(lm=scripted_lm()):
        before, after = (evaluate(dspy.Predict(Triage), examples(3, start=start), exact) for start in (0, 3))
        again = evaluate(dspy.Predict(Triage), examples(3), exact)
    assert again.versus(before).n == 3
    with pytest.raises(ValueError, match="of different examples"):
        after.versus(before)
