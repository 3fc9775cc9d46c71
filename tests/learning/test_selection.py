"""Which groups teach, and what counts as falling short."""

from __future__ import annotations

import math
from typing import Any

import pytest

from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.learning.group import RolloutGroup
from trgrpo_dspy.learning.selection import Ceiling, contrast, every_attempt, mistakes
from trgrpo_dspy.program.rollout import Rollout


def group(*scores: float | None, expected: str = "queue: billing", feedback: str = "", **fields: Any) -> RolloutGroup:
    rollouts = (
        Rollout(0, i, Outcome.COMPLETED if s is not None else Outcome.INFRASTRUCTURE, s, feedback=feedback)
        for i, s in enumerate(scores)
    )
    return RolloutGroup(0, "ticket: refund", expected, tuple(rollouts), **fields)


@pytest.mark.parametrize(
    ("scores", "by_contrast", "by_mistakes"),
    [
        ((0.0, 1.0), "contrast", "contrast"),
        ((0.0, 0.0), "", "mistakes"),
        ((0.5, 0.5), "", "mistakes"),
        ((1.0, 1.0), "", ""),
        ((0.3, 0.1 + 0.2), "", "mistakes"),
        ((1.0, 1.0 - 1e-9), "", ""),
        ((None, 0.0), "", "mistakes"),
        ((None, 1.0), "", ""),
        ((None, None), "", ""),
        ((math.nan, 0.0), "", "mistakes"),
        ((math.nan, math.nan), "", ""),
        ((), "", ""),
    ],
)
def test_what_a_group_teaches_by(scores: Any, by_contrast: str, by_mistakes: str) -> None:
    assert contrast(group(*scores), 1.0) == by_contrast
    assert mistakes(group(*scores), 1.0) == by_mistakes


def test_mistakes_need_a_label_or_feedback() -> None:
    assert mistakes(group(0.0, 0.0, expected=""), 1.0) == ""
    assert mistakes(group(0.0, 0.0, expected="", feedback="too long"), 1.0) == "mistakes"


def test_label_free_groups_teach_by_their_answers_only() -> None:
    answers = tuple(Rollout(0, i, Outcome.LABEL_FREE, None, compared=c) for i, c in enumerate("ab"))
    differing = RolloutGroup(0, "t", "", answers, label_free=True)
    alike = RolloutGroup(0, "t", "", answers[:1] * 2, label_free=True)
    assert (contrast(differing, 1.0), mistakes(differing, 1.0), mistakes(alike, 1.0)) == ("answers", "answers", "")


def test_every_attempt() -> None:
    assert [every_attempt(group(*s), 1.0) for s in ((1.0,), (0.0, 1.0), (None,))] == ["mistakes", "contrast", ""]


class TestCeiling:
    def test_metrics_are_taken_to_reach_one_until_enough_is_known(self) -> None:
        ceiling = Ceiling()
        assert ceiling.value == 1.0
        ceiling.note([0.4, None] * 19)
        assert ceiling.value == 1.0
        ceiling.note([0.3])
        assert ceiling.value == 0.4

    def test_attempts_that_all_scored_alike_say_nothing_of_what_the_metric_can_give(self) -> None:
        ceiling = Ceiling()
        ceiling.note([0.0] * 100)
        assert ceiling.value == 1.0 and mistakes(group(0.0, 0.0), ceiling.value) == "mistakes"
        ceiling.note([0.25])
        assert ceiling.value == 0.25

    def test_metrics_above_one(self) -> None:
        ceiling = Ceiling()
        ceiling.note([55.0])
        assert ceiling.value == 55.0
