"""Copies of programs that share their LMs: a copied LM would drag its history along."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import dspy

__all__ = ["own_copy"]


def own_copy(program: Any, exchange: Callable[[Any], Any] = lambda lm: lm) -> Any:
    """A deep copy of a program or module that holds the same LMs, or what they are exchanged for.

    LMs are found wherever modules hold them: on predictors (frozen ones too), as attributes, in lists and dicts.

    Args:
        program: The module; it is not changed.
        exchange: Called with each LM; what it returns takes that LM's place in the copy.
    """
    lms = {id(lm): exchange(lm) for _, lm in program.named_sub_modules(dspy.BaseLM)}
    try:
        return copy.deepcopy(program, dict(lms))
    except Exception:  # something in the user's module can't be copied: DSPy's own copy shares just that
        copied = program.deepcopy()
    predictors = dict(program.named_sub_modules(dspy.Predict))
    for name, predictor in copied.named_sub_modules(dspy.Predict):
        predictor.lm = exchange(predictors[name].lm)
    return copied
