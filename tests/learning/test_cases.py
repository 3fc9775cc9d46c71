"""Which labelled examples entries are held against, and labels that no program can answer."""

from __future__ import annotations

import dspy
import pytest
from support.scripted import Triage

from trgrpo_dspy.learning.cases import answer_fields, unanswerable


@pytest.mark.parametrize("label, said", [("billling", True), ("billing", False), (None, False)])
def test_labels_that_the_program_can_not_answer_are_said(label: str | None, said: bool) -> None:
    """A slip of the pen would else be learned as a rule."""
    examples = [dspy.Example(ticket="t", queue=q).with_inputs("ticket") for q in ("legal", label)]
    text = unanswerable("trainset", examples, answer_fields(dspy.Predict(Triage)))
    slip = "trainset[1] has 'billling' for 'queue', which allows 'access', 'billing'"
    assert bool(text) == said and (not said or slip in text)
