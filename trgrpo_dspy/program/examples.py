"""The inputs and labels of an example, as bounded text."""

from __future__ import annotations

import math

import dspy

from .transcript.rendering import render_fields

__all__ = ["expected_text", "is_missing", "task_text"]


def task_text(example: dspy.Example, max_tokens: int = 1000) -> str:
    """The example's inputs as bounded text."""
    return render_fields(dict(example.inputs().items()), max_tokens)


def is_missing(label: object) -> bool:
    """Whether a label says nothing: None or NaN, as rows of a table without a label hold."""
    return label is None or (isinstance(label, float) and math.isnan(label))


def expected_text(example: dspy.Example, max_tokens: int = 500) -> str:
    """The example's labels as bounded text; empty if it has none."""
    return render_fields({n: v for n, v in example.labels().items() if not is_missing(v)}, max_tokens)
