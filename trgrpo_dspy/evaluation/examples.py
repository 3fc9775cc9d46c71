"""The examples a program is measured on or learns from: what is refused, and which of them have equal inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import dspy

from trgrpo_dspy.engine.journal.plain import plain

__all__ = ["check_examples", "contradicting", "distinct_inputs", "input_digest"]


def check_examples(name: str, examples: Sequence[dspy.Example]) -> None:
    """Refuse a set that is empty, holds what is no example, or examples without inputs."""
    if not isinstance(examples, Sequence) or isinstance(examples, (str, bytes)):
        raise TypeError(f"{name} must be a list of dspy.Example, got {type(examples).__name__}")
    if not examples:
        raise ValueError(f"{name} is empty; it needs at least one dspy.Example")
    for index, example in enumerate(examples):
        if not isinstance(example, dspy.Example):
            raise TypeError(
                f"{name}[{index}] is a {type(example).__name__}; make it a dspy.Example(...).with_inputs(...)"
            )
        if not getattr(example, "_input_keys", None):
            raise ValueError(f"{name}[{index}] has no inputs; say which fields are: example.with_inputs('question')")


def distinct_inputs(examples: Sequence[dspy.Example]) -> tuple[int, ...]:
    """For each example the index of the first one with equal inputs: its own, unless it is a copy."""
    first: dict[str, int] = {}
    return tuple(first.setdefault(input_digest(example), index) for index, example in enumerate(examples))


def contradicting(examples: Sequence[dspy.Example]) -> list[tuple[int, int]]:
    """Examples with equal inputs and other labels than the first one with these inputs: pairs of (first, example)."""
    labels = [_digest(dict(example.labels().items())) for example in examples]
    inputs = enumerate(distinct_inputs(examples))
    return [(first, index) for index, first in inputs if labels[index] != labels[first]]


def input_digest(example: dspy.Example) -> str:
    """A hash of the example's inputs: the same for equal inputs, in whatever order the fields stand."""
    return _digest(dict(example.inputs().items()))


def _digest(fields: dict[str, Any]) -> str:
    try:
        text = json.dumps(fields, sort_keys=True, default=_plain)
    except (TypeError, ValueError, RecursionError):  # keys that are no text, or a value that holds itself
        text = repr(sorted(fields.items()))
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()


def _plain(value: Any) -> Any:
    """The value as plain data; an object that shows nothing of its content is equal to itself alone."""
    opaque = all(getattr(type(value), name) is getattr(object, name) for name in ("__repr__", "__eq__"))
    if opaque and not callable(value):
        return f"{type(value).__qualname__} {id(value)}"
    return plain(value)
