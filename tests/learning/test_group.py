"""Unscored is not zero: every statistic of a group has a twin with None and NaN that says the same."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.learning.group import RolloutGroup, has_contrast, mean
from trgrpo_dspy.program.rollout import Rollout

numbers = st.floats(-1e6, 1e6)
unscored = st.sampled_from([None, math.nan, math.inf, -math.inf])


def group(*scores: float | None, label_free: bool = False, compared: str | None = None) -> RolloutGroup:
    """Attempts with these scores; `compared` has a letter for each, '-' for an attempt that failed."""
    rollouts = []
    for i, score in enumerate(scores):
        outcome = Outcome.INFRASTRUCTURE if score is None else Outcome.COMPLETED
        if compared is not None:
            outcome = Outcome.PROGRAM_ERROR if compared[i] == "-" else Outcome.LABEL_FREE
        rollouts.append(Rollout(0, i, outcome, score, compared=compared[i] if compared else ""))
    return RolloutGroup(0, "task", "expected", tuple(rollouts), label_free=label_free)


@given(st.lists(numbers, max_size=6), st.lists(st.tuples(st.integers(0, 6), unscored), max_size=4))
def test_unscored_attempts_change_no_statistic(scores: list[float], extra: list[tuple[int, float | None]]) -> None:
    twin: list[float | None] = list(scores)
    for place, value in extra:
        twin.insert(place, value)
    assert has_contrast(twin) == has_contrast(list(scores))
    assert mean(twin) == mean(list(scores))
    ours, theirs = group(*twin), group(*scores)
    assert ours.informative == theirs.informative
    assert [r.score for r in ours.usable] == [r.score for r in theirs.usable]
    assert len(ours.rollouts) == len(scores) + len(extra)


@given(st.lists(numbers, max_size=6), st.randoms())
def test_the_order_of_attempts_changes_no_statistic(scores: list[float | None], random: Random) -> None:
    shuffled = list(scores)
    random.shuffle(shuffled)
    assert has_contrast(shuffled) == has_contrast(scores)
    assert mean(shuffled) == mean(scores)


@pytest.mark.parametrize(
    ("scores", "contrast"),
    [
        ([], False),
        ([1.0], False),
        ([1.0, None], False),
        ([1.0, math.nan], False),
        ([math.nan, 1.0, 0.0], True),
        ([0.0, math.nan, 1.0], True),
        ([None, None], False),
        ([0.0, 0.0], False),
        ([1.0, 1.0, 1.0], False),
        ([0.0, 1.0], True),
        ([0.0, 1e-6], False),
        ([0.0, 1.1e-6], True),
        ([0.0, 5e-324], False),
        ([1e-9, 0.0], False),
        ([0.1 + 0.2, 0.3], False),
        ([-1.0, -2.0], True),
        ([-1.0, 1.0], True),
        ([-100.0, -100.0001], False),
        ([-100.0, -100.001], True),
        ([1e9, 1e9 + 500], False),
        ([1e9, 1e9 + 1500], True),
        ([1e300, 1e300], False),
        ([1e300, 2e300], True),
        ([-1.7e308, 1.7e308], True),
        ([math.inf, 0.0], False),
        ([0.3, 0.7, 0.5], True),
        ([1, 0], True),
        ([True, False], True),
    ],
)
def test_contrast_is_a_spread_that_rounding_cannot_make(scores: list[float | None], contrast: bool) -> None:
    assert has_contrast(scores) is contrast
    assert group(*scores).informative is contrast


def test_all_scored_but_between_zero_and_one_is_not_the_test() -> None:
    """The reference asks for 0 < mean < 1: wrong for continuous scores of any range."""
    assert has_contrast([-5.0, 5.0])
    assert has_contrast([3.0, 4.0])
    assert not has_contrast([0.5, 0.5])


def test_mean_of_nothing_is_nothing() -> None:
    assert mean([]) is None
    assert mean([None, math.nan]) is None
    assert mean([0.0, None]) == 0.0
    assert mean([1.0, 0.0, None]) == 0.5
    assert mean([0.1] * 10) == 0.1


def test_a_failure_with_its_score_counts_and_an_outage_does_not() -> None:
    failed = Rollout(0, 0, Outcome.PROGRAM_ERROR, 0.0)
    outage = Rollout(0, 1, Outcome.INFRASTRUCTURE, None)
    good = Rollout(0, 2, Outcome.COMPLETED, 1.0)
    both = RolloutGroup(0, "", "", (failed, outage, good))
    assert both.usable == (failed, good)
    assert both.informative
    assert not RolloutGroup(0, "", "", (outage, good)).informative


def test_outcomes_that_are_the_programs_own_failure() -> None:
    assert {outcome.value for outcome in Outcome if outcome.failed} == {
        "program_error",
        "parse_error",
        "context_window",
    }


def test_outcomes_in_which_a_score_is_missing() -> None:
    """All but what was scored, what counts as a failure, and what no score was asked for."""
    rest = {Outcome.COMPLETED, Outcome.LABEL_FREE, *(outcome for outcome in Outcome if outcome.failed)}
    assert {outcome for outcome in Outcome if outcome.scoreless} == set(Outcome) - rest


@pytest.mark.parametrize(
    ("compared", "informative", "usable"),
    [("ab", True, 2), ("aa", False, 2), ("a-", False, 1), ("a-b", True, 2), ("--", False, 0), ("-", False, 0)],
)
def test_without_a_metric_differing_answers_are_the_contrast(compared: str, informative: bool, usable: int) -> None:
    attempts = group(*[None] * len(compared), label_free=True, compared=compared)
    assert attempts.informative is informative
    assert len(attempts.usable) == usable


def test_without_a_metric_scores_are_not_looked_at() -> None:
    assert not group(0.0, 1.0, label_free=True, compared="aa").informative
    assert group(1.0, 1.0, label_free=True, compared="ab").informative


def test_identical_means_all_usable_attempts_word_for_word() -> None:
    def attempt(number: int, transcript: str, answer: str = "a", score: float | None = 1.0) -> Rollout:
        return Rollout(0, number, Outcome.COMPLETED, score, answer=answer, transcript=transcript)

    assert RolloutGroup(0, "", "", (attempt(0, "t"), attempt(1, "t"))).identical
    assert RolloutGroup(0, "", "", (attempt(0, "t"), attempt(1, "t"), attempt(2, "u", score=None))).identical
    assert not RolloutGroup(0, "", "", (attempt(0, "t"), attempt(1, "u"))).identical
    assert not RolloutGroup(0, "", "", (attempt(0, "t"), attempt(1, "t", answer="b"))).identical
    assert not RolloutGroup(0, "", "", (attempt(0, "t"),)).identical
    assert not RolloutGroup(0, "", "", ()).identical


def test_records_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Rollout(0, 0, Outcome.COMPLETED, 1.0).score = 0.0  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        group(1.0).task = "other"  # type: ignore[misc]
