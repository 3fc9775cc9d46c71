"""Which labelled examples a step's entries are held against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args, get_origin

import dspy

from trgrpo_dspy.library.edits import Edit
from trgrpo_dspy.program.examples import expected_text, is_missing, task_text
from trgrpo_dspy.program.transcript.rendering import cut_middle, text_of

__all__ = ["Case", "allowed_values", "answer_fields", "cases_for", "label_of", "unanswerable"]

_TASK_TOKENS = 200
"""Of an example's inputs where examples stand side by side."""


@dataclass(frozen=True)
class Case:
    """A labelled example that entries are held against."""

    example: int
    """Index into the trainset."""
    task: str
    """Its inputs, as bounded text."""
    expected: str
    """Its labels, as bounded text."""
    label: str
    """The one label's value where there is one; empty otherwise."""
    observed: str = ""
    """What attempts found out beyond the task, with tools or otherwise; empty if that is nothing."""


def cases_for(
    batch: Sequence[int],
    edits: Iterable[Edit],
    trainset: Sequence[dspy.Example],
    answers: Mapping[str, tuple[str, ...]],
    observed: Mapping[int, str],
) -> list[Case]:
    """The labelled examples: those that the edits come from first, then those of the batch, then the others.

    Where attempts find out more than the task tells, an example counts once that was `observed`.
    """
    sources = sorted({source for edit in edits for source in edit.sources if source < len(trainset)})
    order = dict.fromkeys([*sources, *batch, *range(len(trainset))])
    return [
        _case(index, trainset[index], answers, observed.get(index, ""))
        for index in order
        if expected_text(trainset[index]) and (not observed or index in observed)
    ]


def answer_fields(program: dspy.Module) -> dict[str, tuple[str, ...]]:
    """The output fields of a program's predictors, each with the values its type allows; empty for free text."""
    found: dict[str, tuple[str, ...]] = {}
    for _, predictor in program.named_predictors():
        for name, field in predictor.signature.output_fields.items():
            kind = field.annotation
            values = get_args(kind) if get_origin(kind) is Literal else (True, False) if kind is bool else ()
            found[name] = tuple(map(text_of, values))
    return found


def label_of(example: dspy.Example, answers: Mapping[str, tuple[str, ...]]) -> str:
    """The value of the only label that is an output field of the program; empty if there is none or several.

    Where no label is an output field (the program makes its prediction itself), the value of the only label.
    """
    labels = {name: value for name, value in example.labels().items() if not is_missing(value)}
    named = {name: value for name, value in labels.items() if name in answers} or labels
    return text_of(next(iter(named.values()))) if len(named) == 1 else ""


def allowed_values(trainset: Sequence[dspy.Example], answers: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The values that the labelled output fields allow by their type."""
    labelled = {name for example in trainset for name, _ in example.labels().items()}
    return tuple(value for name, values in answers.items() if name in labelled for value in values)


def _case(index: int, example: dspy.Example, answers: Mapping[str, tuple[str, ...]], observed: str) -> Case:
    task = cut_middle(task_text(example), _TASK_TOKENS)
    return Case(index, task, expected_text(example), label_of(example, answers), observed)


def unanswerable(name: str, examples: Sequence[dspy.Example], answers: Mapping[str, tuple[str, ...]]) -> str:
    """What is said of labels that the program's types do not allow it to answer; empty if there are none."""
    found = [
        (i, field, text_of(value))
        for i, example in enumerate(examples)
        for field, value in example.labels().items()
        if not is_missing(value) and (allowed := answers.get(field)) and text_of(value) not in allowed
    ]
    if not found:
        return ""
    i, field, value = found[0]
    return (
        f"{len(found)} labels of the {name} are none that the program can answer: {name}[{i}] has {value[:60]!r} for "
        f"{field!r}, which allows {', '.join(map(repr, answers[field][:8]))}; correct the label or the type."
    )
