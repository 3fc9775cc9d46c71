"""The predictors of the reflection steps, and how one is called with the inputs that are there."""

from __future__ import annotations

import functools
from typing import Any

import dspy

from trgrpo_dspy.library.entries import guard_fields

from . import paper_prompts, prompts

__all__ = ["ask", "predictors_of"]


def predictors_of(form: str, label_free: bool) -> dict[str, dspy.Predict]:
    """The predictor of each step."""
    if form == "paper":
        used: dict[str, Any] = {
            "summarize": paper_prompts.SummarizeAttempt,
            "compare": paper_prompts.CompareAnswers if label_free else paper_prompts.CompareAttempts,
            "propose": paper_prompts.ProposeEdits,
            "consolidate": paper_prompts.MergeEdits,
        }
    else:
        used = {
            "summarize": prompts.DescribeAttempt,
            "compare": prompts.CompareGroupsUnlabelled if label_free else prompts.CompareGroups,
            "consolidate": prompts.ConsolidateEdits,
        }
        if not label_free:
            used |= {"check": prompts.CheckEntries, "judge": prompts.JudgeEntries, "repair": prompts.RepairEntries}
    return {name: dspy.Predict(signature) for name, signature in used.items()}


def ask(predictor: dspy.Predict, **inputs: str) -> Any:
    """Call a step with the inputs that are there: an absent input is an absent field."""
    absent = tuple(name for name in predictor.signature.input_fields if not inputs.get(name))
    signature = _without(predictor.signature, absent, predictor.signature.instructions)
    # The XML adapter does not escape inputs: a tag named like a field of the prompt would close it.
    known = {
        name: guard_fields(value, predictor.signature.fields)
        for name, value in inputs.items()
        if value and name in predictor.signature.input_fields
    }
    return predictor(signature=signature, **known)


@functools.lru_cache(maxsize=64)
def _without(signature: Any, absent: tuple[str, ...], instructions: str) -> Any:
    """The signature without some fields, made once: making a class is slow.

    The instructions are part of the key because they can be changed in place.
    """
    for name in absent:
        signature = signature.delete(name)
    return signature
