"""The user's metric, adapted: any of the forms DSPy knows, recognised once, unscored never taken for zero.

A metric may take two or three arguments (`example, prediction, trace`), as DSPy calls them, or GEPA's five
(`gold, pred, trace, pred_name, pred_trace`); it may return a bool, a number of any range, or a `dspy.Prediction` (or
mapping) with `score` and `feedback`; it may be an `async def`. It is called with `trace=None`, as `dspy.Evaluate` does.
Where there is no metric, `normalised` says which answers are the same.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import numbers
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import dspy

from .calling import finished

__all__ = ["Metric", "Score", "adapt_metric", "normalised"]

_LARGEST = 1e100
"""Largest score: its square must still be a number."""
_PROSE = re.compile(r"[^\W\d_]+(?:[ ,'\u2019-]+[^\W\d_]+)*")
"""Words alone. In numbers, units, formulas and code a letter's case and every sign may carry the meaning."""
Metric = Callable[..., Any]
"""A metric as the user writes it."""


@dataclass(frozen=True)
class Score:
    """A metric's verdict."""

    value: float | None
    """The score, finite; None if there is no verdict."""
    feedback: str = ""
    """What the metric said beside the score."""
    problem: str = ""
    """Why there is no verdict; empty if there is one."""


def adapt_metric(metric: Metric) -> Callable[[dspy.Example, Any], Score]:
    """Wrap a metric so that it always returns a `Score`; what it raises passes through.

    Raises:
        TypeError: The metric can't be called, or takes a number of arguments no convention has.
    """
    if not callable(metric):
        raise TypeError(
            f"metric={metric!r} must be a function metric(example, prediction, trace=None), "
            "or None for the label-free mode"
        )
    extra = (None,) * (_required_arguments(metric) - 2)

    call = metric.acall if isinstance(metric, dspy.Module) and not hasattr(type(metric), "forward") else metric

    def score(example: dspy.Example, prediction: Any) -> Score:
        return read_score(finished(call(example, prediction, *extra)))

    return score


def _required_arguments(metric: Metric) -> int:
    """How many positional arguments the metric must be given: 2, 3 or 5."""
    try:
        signature = inspect.signature(metric)
    except (TypeError, ValueError):
        return 2
    parameters = signature.parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    needs_names = any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)
    if needs_names or len(required) not in (0, 1, 2, 3, 5) or (len(positional) < 2 and not takes_any):
        raise TypeError(
            f"metric {getattr(metric, '__name__', metric)!r} takes {signature}; write it as "
            "metric(example, prediction, trace=None) or metric(gold, pred, trace, pred_name, pred_trace)"
        )
    return max(2, len(required))


def read_score(value: Any) -> Score:
    """Read what a metric returned; None, NaN and what is no number are unscored, with the reason."""
    feedback = ""
    if isinstance(value, (dspy.Prediction, dspy.Example, Mapping)):
        feedback = value.get("feedback") or ""
        value = value.get("score")
    return replace(_read_number(value), feedback=str(feedback))


def _read_number(value: Any) -> Score:
    if value is None:
        return Score(None, problem="the metric returned no score (None)")
    if not isinstance(value, numbers.Number) and callable(item := getattr(value, "item", None)):
        with contextlib.suppress(TypeError, ValueError, RuntimeError):  # an array of several numbers
            value = item()  # a scalar of numpy or torch
    if not isinstance(value, (numbers.Real, Decimal)):
        return Score(None, problem=f"the metric returned a {type(value).__name__}, not a number: {str(value)[:80]!r}")
    try:
        number = float(value)
    except (OverflowError, ValueError) as error:  # an int beyond a float's range, a signalling NaN
        return Score(None, problem=f"the metric returned what is no float: {error}")
    if abs(number) > _LARGEST:
        return Score(None, problem=f"the metric returned {number:g}; scores up to {_LARGEST:g} can be averaged")
    return Score(number) if math.isfinite(number) else Score(None, problem=f"the metric returned {number}")


def normalised(text: str) -> str:
    """An answer as it is compared: equal for answers that differ only in spaces, a full stop or the case of words.

    What differs otherwise stays different: `5` and `5!`, `10 Mg` and `10 mg`, x² and x2, code indented in another way.
    """
    lines = [line.rstrip() for line in unicodedata.normalize("NFC", text).splitlines()]
    text = "\n".join(lines).strip("\n")
    if "\n" in text:
        return text
    text = " ".join(text.split())
    if len(text) > 1 and text.endswith(".") and text[-2].isalnum():
        text = text[:-1]
    return text.casefold() if _PROSE.fullmatch(text) else text
