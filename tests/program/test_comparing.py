"""Which answers count as the same in the label-free mode."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import dspy
import pytest
from support.scripted import examples, scripted_lm

from trgrpo_dspy import FatalError, TrainingFreeGRPO
from trgrpo_dspy.program.scoring import normalised


@pytest.mark.parametrize(
    "same",
    [
        ["Paris", "paris", " PARIS ", "Paris.", "Paris\n"],
        ["No, not yet", "no,  not yet.", "NO, NOT YET"],
        ["Jean-Luc d'Arc", "jean-luc d'arc"],
        ["5", "5.", " 5 "],
        ["10 mg", "10  mg."],
        ["caf\u00e9", "cafe\u0301"],
        ["a = 1\nb = 2", "a = 1  \nb = 2\n"],
    ],
    ids=repr,
)
def test_the_same(same: list[str]) -> None:
    assert len({normalised(text) for text in same}) == 1


@pytest.mark.parametrize(
    "different",
    [
        ["5", "5!", "5?", "-5", "5%", "5.0", "5,"],
        ["10 Mg", "10 mg", "10 MG"],
        ["x²", "x2", "x_2", "X2"],
        ["½", "1/2", "1\u20442"],
        ["if a:\n    b()\nc()", "if a:\n    b()\n    c()", "if a:\n  b()\nc()"],
        ["A_b", "a_b"],
        ["f(x)", "F(x)"],
        ["x\ny", "x y"],
        ["re-sign", "resign"],
        ['["a"]', '["A"]'],
        ["", "."],
    ],
    ids=repr,
)
def test_different(different: list[str]) -> None:
    for one, other in combinations(different, 2):
        assert normalised(one) != normalised(other), (one, other)


def test_any_answer_is_its_own_normal_form() -> None:
    for text in ("Paris.", "  5!  ", "a\n  b\n", "..", "...", "x.."):
        assert normalised(normalised(text)) == normalised(text)


@pytest.mark.parametrize("output", ["reasoning", "rationale", "history"])
def test_outputs_that_are_never_compared_are_named_with_the_way_out(output: str) -> None:
    """Nothing would ever be compared, and the user be told that the task is too easy."""

    class Tells(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.say = dspy.Predict(f"ticket -> {'said' if output == 'history' else output}")

        def forward(self, ticket: str) -> Any:
            found = self.say(ticket=ticket)
            return dspy.Prediction(**{output: next(iter(found.values()))})

    with dspy.context(lm=scripted_lm()):
        settings: dict[str, Any] = {"metric": None, "num_epochs": 1, "group_size": 2}
        with pytest.raises(FatalError, match=rf"compare_fields=\['{output}'\]"):
            TrainingFreeGRPO(**settings).compile(Tells(), trainset=examples(2))
        TrainingFreeGRPO(**settings, compare_fields=[output]).compile(Tells(), trainset=examples(2))
