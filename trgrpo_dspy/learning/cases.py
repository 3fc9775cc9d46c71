"""Which labelled examples a step's entries are held against."""

from __future__ import annotations

from collections.abc import Sequence

import dspy

from trgrpo_dspy.engine.runner import expected_text, task_text
from trgrpo_dspy.program.transcript.rendering import cut_middle, text_of

from .check import Case
from .draft import Draft
from .schedule import Step

__all__ = ["cases_for", "label_of"]

_TASK_TOKENS = 200
"""Of an example's inputs where examples stand side by side."""


def cases_for(step: Step, draft: Draft, trainset: Sequence[dspy.Example]) -> list[Case]:
    """The labelled examples, those that the changed entries come from first, then the step's, then the others."""
    sources = sorted({source for edit in draft.edits.values() for source in edit.sources if source < len(trainset)})
    order = dict.fromkeys([*sources, *step.examples, *range(len(trainset))])
    return [_case(index, trainset[index]) for index in order if expected_text(trainset[index])]


def label_of(example: dspy.Example) -> str:
    """The value of an example's only label; empty if it has none or several."""
    labels = [value for _, value in example.labels().items()]
    return text_of(labels[0]) if len(labels) == 1 else ""


def _case(index: int, example: dspy.Example) -> Case:
    return Case(index, cut_middle(task_text(example), _TASK_TOKENS), expected_text(example), label_of(example))
