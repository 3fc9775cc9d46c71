"""Which labelled examples entries are held against, and labels that no program can answer."""

from __future__ import annotations

import dspy
import pytest
from support.scripted import Triage

from trgrpo_dspy.learning.cases import answer_fields, cases_for, unanswerable
from trgrpo_dspy.library import Edit


@pytest.mark.parametrize("label, said", [("billling", True), ("billing", False), (None, False)])
def test_labels_that_the_program_can_not_answer_are_said(label: str | None, said: bool) -> None:
    """A slip of the pen would else be learned as a rule."""
    examples = [dspy.Example(ticket="t", queue=q).with_inputs("ticket") for q in ("legal", label)]
    text = unanswerable("trainset", examples, answer_fields(dspy.Predict(Triage)))
    slip = "trainset[1] has 'billling' for 'queue', which allows 'access', 'billing'"
    assert bool(text) == said and (not said or slip in text)


@pytest.mark.parametrize(
    ("observed", "order"), [({}, [2, 1, 0, 3]), ({3: "look(3) -> 9 EUR", 2: "look(2) -> 8 EUR"}, [2, 3])]
)
def test_where_attempts_find_more_out_than_the_task_tells_examples_count_with_it(
    observed: dict[int, str], order: list[int]
) -> None:
    trainset = [dspy.Example(ticket=f"t{i}", queue="legal").with_inputs("ticket") for i in range(4)]
    cases = cases_for([1], [Edit("ADD", text="x", sources=(2,))], trainset, {"queue": ()}, observed)
    assert [case.example for case in cases] == order
    assert [case.observed for case in cases] == [observed.get(i, "") for i in order]
