"""The record of an evaluation: what was measured, told, summed up and kept."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trgrpo_dspy import Evaluation
from trgrpo_dspy.evaluation.measurement import summarize_evaluation
from trgrpo_dspy.evaluation.statistics.intervals import mean_with_interval, pass_at_k
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.meter import Spend
from trgrpo_dspy.program.rollout import Rollout

SPEND = (Spend("evaluation", "m", calls=6, prompt_tokens=1200, completion_tokens=34, cost=0.5),)


def evaluation(scores: list[list[float | None]], **changes: Any) -> Evaluation:
    """One rollout a score; None is an attempt that met an outage."""
    kept = {"tool_calls": 2, "lm_calls": 3, "prompt_tokens": 10, "completion_tokens": 4, "cost": 0.25, "seconds": 1.5}
    rollouts = [
        tuple(
            Rollout(i, j, Outcome.INFRASTRUCTURE, None, error="down")
            if score is None
            else Rollout(i, j, Outcome.COMPLETED, score, **{"answer": f"queue: {j}", **kept, **changes})
            for j, score in enumerate(attempts)
        )
        for i, attempts in enumerate(scores)
    ]
    return summarize_evaluation(rollouts, SPEND)


def test_pass_at_k_is_the_mean_of_the_estimator_with_its_interval() -> None:
    found = evaluation([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [1, 0, None, None]])
    expected = [pass_at_k(4, 2, 2), 0.0, 1.0, pass_at_k(2, 1, 2)]
    assert found.pass_at(2) == pytest.approx(sum(expected) / 4)
    assert found.pass_at_with_interval(2) == mean_with_interval(expected)
    third = found.pass_at_with_interval(3)
    assert (third.n, third.unscored) == (3, 1) and third.value == found.pass_at(3)
    assert found.pass_at(5) is None and found.pass_at_with_interval(5).n == 0
    assert found.pass_at(1) == pytest.approx(found.score)
    assert found.pass_at(1, threshold=0.0) == 1.0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=3, max_size=6), min_size=2, max_size=8))
def test_pass_at_k_grows_with_k_and_falls_with_the_threshold(scores: list[list[float | None]]) -> None:
    found = evaluation(scores)
    rates = [found.pass_at(k) or 0.0 for k in (1, 2, 3)]
    assert rates == sorted(rates)
    assert (found.pass_at(2, threshold=0.5) or 0.0) >= rates[1] - 1e-12
    interval = found.pass_at_with_interval(2).interval
    assert interval is not None and 0 <= interval.low <= rates[1] + 1e-12 and rates[1] - 1e-12 <= interval.high <= 1


@pytest.mark.parametrize(("k", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)])
def test_a_bad_k_is_named(k: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"k={k}"):
        evaluation([[1.0]]).pass_at(k)


def test_what_an_attempt_took_on_average_and_what_is_unknown_is_none() -> None:
    found = evaluation([[1, 0], [None, 1]]).per_attempt
    assert (found.attempts, found.tool_calls, found.lm_calls, found.seconds) == (3, 2, 3, 1.5)
    assert (found.prompt_tokens, found.completion_tokens, found.cost) == (10, 4, 0.25)
    unpriced, nothing = evaluation([[1, 0]], cost=None).per_attempt, evaluation([[None], [None]]).per_attempt
    assert unpriced.cost is None and unpriced.tool_calls == 2
    assert (nothing.attempts, nothing.tool_calls, nothing.cost, nothing.seconds) == (0, None, None, None)


def test_rows_are_plain_data_and_make_a_dataset() -> None:
    found = replace(evaluation([[1, None], [0, 0.5]]), tasks=(("q0", "a0"), ("q1", "a1")))
    rows = found.rows()
    assert json.loads(json.dumps(rows)) == rows
    assert [(row["example"], row["task"], row["expected"]) for row in rows] == [(0, "q0", "a0"), (1, "q1", "a1")]
    assert rows[0]["scores"] == [1, None] and rows[0]["outcomes"] == ["completed", "infrastructure"]
    assert rows[0]["score"] == 1.0 and rows[1]["score"] == 0.25
    assert rows[0]["cost"] == [0.25, None] and rows[0]["errors"] == ["", "down"]
    assert rows[1]["answers"] == ["queue: 0", "queue: 1"]
    for column in ("lm_calls", "tool_calls", "prompt_tokens", "completion_tokens", "seconds"):
        assert rows[1][column] == [getattr(r, column) for r in found.rollouts[1]]
    assert pytest.importorskip("datasets").Dataset.from_list(rows).to_list() == rows


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.none() | st.floats(-1e6, 1e6), max_size=3), min_size=1, max_size=4),
    st.sampled_from(["completed", "max_cost"]),
)
def test_json_there_and_back(scores: list[list[float | None]], reason: str) -> None:
    found = evaluation(scores)
    object.__setattr__(found, "stop_reason", reason)
    again = Evaluation.from_json(found.to_json())
    assert again == found and again.to_json() == found.to_json()
    assert Evaluation.from_json(found.to_json().encode()) == found


def test_json_of_an_older_version_is_read() -> None:
    found = evaluation([[1.0]])
    older = json.loads(found.to_json())
    for name in ("data", "inputs", "tasks", "calls_before", "schema_version"):
        del older[name]
    assert Evaluation.from_json(json.dumps(older)) == found
    with pytest.raises(ValueError, match="this is no evaluation: "):
        Evaluation.from_json('{"rollouts": 3}')


def test_a_line_tells_what_was_measured() -> None:
    one = str(evaluation([[1], [0], [None]]))
    assert one.startswith("0.500 (95% interval") and "over 2 of 3 examples" in one
    assert "6 LM calls, 1,234 tokens, cost $0.50" in one and "partial" not in one and "Mean@" not in one
    many = str(evaluation([[1, 0], [0, 0]]))
    assert many.startswith("Mean@2 0.250 (95% interval") and "Pass@2 0.500 (95% interval" in many
    graded = str(evaluation([[0.5, 0.5], [0, 1]]))
    assert "Pass@2 (score at least 1) 0.500 (95% interval" in graded, "else it is below the mean for no reason"
    fewer = str(evaluation([[1, None], [0, 1], [1, 1], [None, None]]))
    assert "over 3 of 4 examples, Pass@2 over the 2 with 2 scores; " in fewer and "with 2 scores" not in many


def test_an_error_of_rounding_is_no_failure() -> None:
    tenths = 0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1  # `sum` is exact in newer Pythons
    assert tenths < 1 and evaluation([[tenths], [0.9999]]).pass_at(1) == 0.5
    assert evaluation([[-1e-17], [-0.1]]).pass_at(1, threshold=0.0) == 0.5
    with pytest.raises(ValueError, match="threshold=nan must be a number"):
        evaluation([[1]]).pass_at(1, threshold=math.nan)


def test_a_part_says_so() -> None:
    found = evaluation([[1, 1], [], []])
    object.__setattr__(found, "stop_reason", "max_tokens")
    assert found.partial and not evaluation([[1]]).partial
    assert str(found).endswith("partial, ended by max_tokens: 1 of 3 examples done")
    whole = evaluation([[1, 0], [0, 0], [0, 0]])
    for one, other in ((found, whole), (whole, found)):
        compared = one.versus(other)
        assert compared.stop_reason == "max_tokens" and "partial, ended by max_tokens" in str(compared)
        assert (compared.n, compared.unscored) == (1, 2)
    assert "partial" not in str(whole.versus(whole))


def test_versus_refuses_what_it_cant_pair() -> None:
    with pytest.raises(ValueError, match="the evaluations have 1 and 2 examples; compare evaluations of the same"):
        evaluation([[1]]).versus(evaluation([[1], [0]]))
    one, other = (replace(evaluation([[1]]), data=f"1 examples, {name}") for name in ("aa", "bb"))
    with pytest.raises(ValueError, match="of different examples \\(1 examples, bb; 1 examples, aa\\); compare"):
        other.versus(one)
    assert one.versus(one).n == one.versus(evaluation([[1]])).n == 1, "kept by an older version: not known"
    with pytest.raises(TypeError, match="other must be an Evaluation, got float"):
        evaluation([[1]]).versus(0.5)  # type: ignore[arg-type]


def test_versus_tells_the_detectable_difference_and_the_flips() -> None:
    before, after = evaluation([[0, 0], [1, 0], [1, 1]] * 12), evaluation([[1, 1], [1, 1], [1, 1]] * 12)
    found = after.versus(before)
    assert found.difference == pytest.approx(0.5) and found.detectable is not None
    assert f"differences from {found.detectable:.3f} can be detected" in str(found)
    assert [flip.after - flip.before for flip in found.flips] == [1.0] * 12 + [0.5] * 12
    assert math.isclose(found.flips[0].before, 0.0) and found.flips[0].example == 0


def test_a_notebook_shows_figures_and_the_lowest_scores_and_every_text_is_data() -> None:
    found = evaluation([[1, 1]] * 12 + [[0, 0], [None, None]], answer="<img src=x onerror=alert(1)>")
    found = replace(found, tasks=(("<b>task</b>", "expected"),) * 14)
    shown = found._repr_html_()
    assert shown.startswith("<div") and "Mean@2 0.923" in shown and "over 13 of 14 examples" in shown
    assert "<img" not in shown and "<b>task" not in shown and "&lt;img" in shown and "color:" not in shown
    assert shown.index(">0.000<") < shown.index(">1.000<") and shown.count(">1.000<") == 9
