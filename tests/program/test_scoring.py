"""Any metric DSPy knows, read once; what is no verdict is unscored, never zero."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import dspy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trgrpo_dspy.program.scoring import Score, adapt_metric, read_score

EXAMPLE = dspy.Example(question="q", answer="a").with_inputs("question")
PREDICTION = dspy.Prediction(answer="a")


def scored(value: Any) -> Score:
    return adapt_metric(lambda example, prediction: value)(EXAMPLE, PREDICTION)


class Lazy:
    """A scalar as deep learning libraries have them: a number only through `item`."""

    def __init__(self, *values: float) -> None:
        self.values = values

    def __repr__(self) -> str:
        return "Lazy"

    def item(self) -> float:
        if len(self.values) != 1:
            raise RuntimeError("a Tensor with 2 elements cannot be converted to Scalar")
        return self.values[0]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (True, 1.0),
        (False, 0.0),
        (3, 3.0),
        (-2.5, -2.5),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7.0),
        (np.bool_(False), 0.0),
        (np.array(0.75), 0.75),
        (np.array([0.75]), 0.75),
        (Lazy(0.5), 0.5),
        (Fraction(1, 4), 0.25),
        (Decimal("0.1"), 0.1),
        (1e100, 1e100),
        (dspy.Prediction(score=0.0), 0.0),
        (dspy.Prediction(score=True, feedback=None), 1.0),
        (dspy.Example(score=np.float32(2)), 2.0),
        ({"score": 1}, 1.0),
        (MappingProxyType({"score": 1}), 1.0),
    ],
    ids=repr,
)  # fmt: skip
def test_numbers_of_every_kind_are_scores(value: Any, number: float) -> None:
    score = scored(value)
    assert score == Score(number)
    assert type(score.value) is float


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "the metric returned no score (None)"),
        ({}, "the metric returned no score (None)"),
        (dspy.Prediction(feedback="x"), "the metric returned no score (None)"),
        (dspy.Prediction(score=None), "the metric returned no score (None)"),
        (math.nan, "the metric returned nan"),
        (math.inf, "the metric returned inf"),
        (-math.inf, "the metric returned -inf"),
        (np.float64("nan"), "the metric returned nan"),
        (np.array([np.nan]), "the metric returned nan"),
        (Decimal("NaN"), "the metric returned nan"),
        (Decimal("sNaN"), "the metric returned what is no float: cannot convert signaling NaN to float"),
        (10**400, "the metric returned what is no float: int too large to convert to float"),
        (Fraction(10**400), "the metric returned what is no float: integer division result too large for a float"),
        ("0.5", "the metric returned a str, not a number: '0.5'"),
        ("x" * 500, f"the metric returned a str, not a number: '{'x' * 80}'"),
        (1j, "the metric returned a complex, not a number: '1j'"),
        ([1.0], "the metric returned a list, not a number: '[1.0]'"),
        ((True, "why"), "the metric returned a tuple, not a number: \"(True, 'why')\""),
        (np.array([1, 2]), "the metric returned a ndarray, not a number: '[1 2]'"),
        (Lazy(0.5, 1.0), "the metric returned a Lazy, not a number: 'Lazy"),
        ({"score": "good"}, "the metric returned a str, not a number: 'good'"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_number_is_unscored_with_the_reason(value: Any, problem: str) -> None:
    score = scored(value)
    assert score.value is None
    assert score.problem.startswith(problem[:60])
    assert len(score.problem) < 200


@given(st.floats())
def test_every_float_is_a_finite_score_or_a_problem(value: float) -> None:
    score = read_score(value)
    assert (score.value == value and not score.problem) if abs(value) <= 1e100 else score.value is None
    assert (score.value is None) == bool(score.problem)


@pytest.mark.parametrize(
    ("feedback", "text"), [("good", "good"), (None, ""), ("", ""), (["a", 1], "['a', 1]"), (7, "7")], ids=repr
)
def test_feedback_comes_along_as_text(feedback: Any, text: str) -> None:
    assert scored(dspy.Prediction(score=0.5, feedback=feedback)) == Score(0.5, text)
    assert scored({"score": 0.5, "feedback": feedback}) == Score(0.5, text)
    assert scored({"score": None, "feedback": feedback}).feedback == text


# --- Arguments


class Judge:
    """An object with `__call__`."""

    def __call__(self, example: dspy.Example, prediction: Any, trace: Any = None) -> float:
        return float(example.answer == prediction.answer and trace is None)

    def method(self, example: dspy.Example, prediction: Any) -> float:
        return self(example, prediction)


def same(example: dspy.Example, prediction: Any, *others: Any) -> bool:
    """True for the right answer, if nothing else is given."""
    return all(other is None for other in others) and bool(example.answer == prediction.answer)


class JudgeModule(dspy.Module):
    """A metric that is a DSPy module, as `dspy.SemanticF1` is."""

    def forward(self, example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
        return same(example, prediction, trace)


def with_threshold(threshold: float, example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
    return threshold == 0.5 and same(example, prediction, trace)


METRICS: dict[str, Callable[..., Any]] = {
    "two": lambda example, prediction: same(example, prediction),
    "three": lambda example, prediction, trace: same(example, prediction, trace),
    "three with a default": lambda example, prediction, trace=None: same(example, prediction, trace),
    "GEPA's five": lambda gold, pred, trace, pred_name, pred_trace: same(gold, pred, trace, pred_name, pred_trace),
    "five with defaults": lambda gold, pred, trace=None, name=None, p=None: same(gold, pred, trace, name, p),
    "any number": lambda *args: len(args) == 2 and same(*args),
    "two and more": lambda example, prediction, *args, strict=True, **kw: (
        not (args or kw) and same(example, prediction)
    ),
    "an object": Judge(),
    "a method": Judge().method,
    "a module": JudgeModule(),
    "a partial": functools.partial(with_threshold, 0.5),
    "a partial by name": functools.partial(
        lambda example, prediction, threshold, trace=None: with_threshold(threshold, example, prediction, trace),
        threshold=0.5,
    ),
}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_metrics_are_called_as_they_want_to_be(metric: Callable[..., Any]) -> None:
    score = adapt_metric(metric)
    assert score(EXAMPLE, PREDICTION) == Score(1.0)
    assert score(EXAMPLE, dspy.Prediction(answer="b")) == Score(0.0)


@pytest.mark.parametrize("name", ["two", "three with a default", "an object", "a method", "any number"])
def test_what_dspys_own_evaluation_can_call_scores_the_same(name: str) -> None:
    metric = METRICS[name]

    class Echo(dspy.Module):
        def forward(self, question: str) -> dspy.Prediction:
            return dspy.Prediction(answer=question)

    examples = [dspy.Example(question=q, answer="a").with_inputs("question") for q in "aab"]
    evaluate = dspy.Evaluate(devset=examples, metric=metric, num_threads=1, display_progress=False)
    theirs = [float(score) for _, _, score in evaluate(Echo()).results]
    ours = adapt_metric(metric)
    assert [ours(example, Echo()(question=example.question)).value for example in examples] == theirs


NO_FUNCTION = r"metric=.* must be a function metric\(example, prediction, trace=None\), or None"
NO_METRIC = r"metric '.*' takes \(.*\).*; write it as metric\(example, prediction, trace=N"


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        *[(metric, NO_FUNCTION) for metric in (1.0, "exact_match", None, [])],
        (lambda: 1.0, NO_METRIC),
        (lambda example: 1.0, NO_METRIC),
        (lambda a, b, c, d, e, f: 1.0, NO_METRIC),
        (lambda example, prediction, *, threshold: 1.0, NO_METRIC),
    ],
)
def test_what_is_no_metric_is_refused_when_adapted_saying_how_to_write_it(metric: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        adapt_metric(metric)
    assert adapt_metric(max)(1, 2) == Score(2.0), "a callable that does not tell its arguments gets two"  # type: ignore[arg-type]


def test_what_a_metric_raises_passes_through() -> None:
    def broken(example: Any, prediction: Any) -> float:
        raise KeyError("label")

    with pytest.raises(KeyError, match="label"):
        adapt_metric(broken)(EXAMPLE, PREDICTION)
