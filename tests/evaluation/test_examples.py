"""Which examples have equal inputs, and what is said of sets that hold copies or contradict themselves."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from pydantic import BaseModel
from support.scripted import Triage, exact, examples, scripted_lm

from trgrpo_dspy import Evaluation, TrainingFreeGRPO, compare, evaluate
from trgrpo_dspy.evaluation.examples import contradiction, distinct_inputs, warnings_before
from trgrpo_dspy.evaluation.warnings import warnings_after
from trgrpo_dspy.events import LibraryMeasured, StepEnded


class Opaque:
    pass


class Point(BaseModel):
    x: int


def asked(value: Any, label: Any = 0) -> dspy.Example:
    return dspy.Example(q=value, label=label).with_inputs("q")


SAME, LOOP = Opaque(), []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a", "b", "a"], (0, 1, 0)),
        ([1, "1", 1.0], (0, 1, 2)),
        ([{"a": 1, "b": [2]}, {"b": [2], "a": 1}, {"a": 1, "b": [3]}], (0, 0, 2)),
        ([{1: 2, "a": 3}, {1: 2, "a": 3}, {1: 2, "a": 4}], (0, 0, 2)),
        ([Point(x=1), Point(x=1), Point(x=2)], (0, 0, 2)),
        ([SAME, SAME, Opaque()], (0, 0, 2)),
        ([[Opaque()], [Opaque()]], (0, 1)),
        ([f"{'a' * 9000}{i}{'b' * 9000}" for i in range(2)], (0, 1)),
        (["\ud83d", "\ud83d"], (0, 0)),
        ([LOOP, LOOP], (0, 0)),
        ([dspy.Image(url="http://x/a.png"), dspy.Image(url="http://x/a.png")], (0, 0)),
    ],
    ids=lambda value: "",
)
def test_equal_inputs_are_one(values: list[Any], expected: tuple[int, ...]) -> None:
    assert distinct_inputs([asked(value, label) for label, value in enumerate(values)]) == expected


def test_the_order_of_the_fields_and_the_labels_do_not_matter() -> None:
    one = dspy.Example(a=1, b=2, label="x").with_inputs("a", "b")
    assert distinct_inputs([one, dspy.Example(b=2, label="y", a=1).with_inputs("b", "a")]) == (0, 0)


def test_other_labels_for_equal_inputs_are_found() -> None:
    rows = [asked("a", "x"), asked("b", "x"), asked("a", "y"), asked("a", "x"), asked("b", "x"), asked("a", "z")]
    said = contradiction("devset", rows)
    assert said.startswith("2 of 6 examples of the devset") and "(devset[0] and devset[2] are the first)" in said
    assert contradiction("devset", [asked("a", "x")] * 5) == ""


def test_what_is_said_of_the_data() -> None:
    train, many = [asked(i) for i in range(5)], [asked(f"v{i}") for i in range(40)]
    assert warnings_before(train, many) == ()
    assert "2 of 42 validation examples have the same inputs" in warnings_before(train, [*many, *train[:2]])[0]
    assert "The valset has 5 examples: too few" in warnings_before(train, many[:5])[0]
    copies, few = warnings_before(train, many[:20] * 5)
    assert "The valset has 100 examples and 20 distinct inputs" in copies and "20 distinct inputs: too few" in few
    assert warnings_before(train * 3, many) == (), "copies in a trainset are no fault"
    for sets, name in ((([*train, asked(3, "other")], many), "trainset"), ((train, [*many, asked("v1", 1)]), "valset")):
        found = warnings_before(*sets)
        assert found[0].startswith(f"1 of {len(sets[name == 'valset'])} examples of the {name} have the same inputs")
        assert "no program can answer both" in found[0]
    long = "a" * 9000
    assert warnings_before([asked(f"{long}1{long}")], [asked(f"{long}{i}{long}") for i in range(2, 42)]) == ()


@pytest.mark.parametrize(
    ("answered", "identical", "informative", "said"),
    [(4, 4, 0, "word for word the same"), (4, 3, 1, ""), (4, 3, 0, "No group had a contrast"), (0, 0, 0, "No group")],
)
def test_identical_attempts_are_named_only_where_no_group_varies(
    answered: int, identical: int, informative: int, said: str
) -> None:
    found = warnings_after(4, informative, {"completed": 20}, answered=answered, identical=identical)
    assert len(found) == bool(said) and said in "".join(found)


def test_nothing_is_said_of_a_contrast_where_everything_failed() -> None:
    (only,) = warnings_after(4, 0, {"program_error": 20}, {"program_error": "KeyError: 'x'"})
    assert only.startswith("In 20 of 20 attempts the program itself failed (20 program_error, the first: KeyError")
    (lost,) = warnings_after(4, 2, {"completed": 20}, lost={"comparison: cut off": 2})
    assert "Reflection replies were lost (2 comparison: cut off)" in lost
    assert "10 of 20 attempts have no score" in warnings_after(4, 2, {"completed": 10, "infrastructure": 10})[0]
    assert warnings_after(0, 0, {}) == warnings_after(4, 2, {"completed": 20}) == ()


def test_an_evaluation_of_copies_has_the_interval_without_them() -> None:
    with dspy.context(lm=scripted_lm()):
        once, often = (evaluate(dspy.Predict(Triage), examples(20) * times, exact) for times in (1, 5))
        found = compare(dspy.Predict(Triage), dspy.ChainOfThought(Triage), examples(20) * 5, exact)
    assert often.mean.distinct == 20 and often.score == once.score and often.mean.n == 100
    assert often.mean.interval == once.mean.interval and once.mean.interval is not None
    assert "over 100 examples (20 distinct); " in str(often) and "distinct" not in str(once)
    assert "over 100 examples (20 distinct): " in str(found) and "too few examples to rely on" in str(found)
    again = Evaluation.from_json(often.to_json())
    assert again.versus(often).distinct == 20 and again.pass_at_with_interval(1).distinct == 20


def test_a_run_on_a_valset_of_copies_counts_each_input_once() -> None:
    heard: list[Any] = []
    with dspy.context(lm=scripted_lm()):
        optimizer = TrainingFreeGRPO(metric=exact, group_size=2, num_epochs=1, callbacks=[heard.append])
        compiled = optimizer.compile(dspy.Predict(Triage), trainset=examples(4, start=90), valset=examples(10) * 5)
    results = compiled.detailed_results
    assert results.baseline.inputs == tuple(range(10)) * 5 and results.baseline.mean.distinct == 10
    assert [event.distinct for event in heard if isinstance(event, LibraryMeasured)][:1] == [10]
    assert [(e.attempts, e.scored) for e in heard if isinstance(e, StepEnded)] == [(8, 8)]
    assert "50 validation examples (10 distinct)" in results.verdict.text
    assert any("50 examples and 10 distinct inputs" in warning for warning in results.warnings)
    assert "input: validation 0." in str(results) and "over 50 examples (10 distinct)" in str(results)


def test_a_run_in_which_nothing_was_scored_says_so_before_all_else() -> None:
    with dspy.context(lm=scripted_lm()):
        optimizer = TrainingFreeGRPO(metric=lambda e, p, trace=None: None, group_size=2, num_epochs=1)
        results = optimizer.compile(dspy.Predict(Triage), trainset=examples(4)).detailed_results
    assert results.verdict.text.startswith("Not measured: no attempt could be scored, and there was no valset, so ")


def test_a_devset_that_contradicts_itself_is_named(caplog: pytest.LogCaptureFixture) -> None:
    devset = [*examples(4), examples(4)[0].copy(queue="legal")]
    with dspy.context(lm=scripted_lm()):
        evaluate(dspy.Predict(Triage), devset, exact)
    assert "1 of 5 examples of the devset have the same inputs as an earlier one and other labels" in caplog.text
