"""Examples a program is measured on or learns from: what is refused, which have equal inputs, what is said of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import dspy

from trgrpo_dspy.engine.journal.plain import plain

from .warnings import FEW_EXAMPLES

__all__ = ["check_examples", "contradiction", "distinct_inputs", "warnings_before"]


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
    return tuple(first.setdefault(_digest(example.inputs()), index) for index, example in enumerate(examples))


def warnings_before(trainset: Sequence[dspy.Example], valset: Sequence[dspy.Example]) -> tuple[str, ...]:
    """What can be said of the data before anything is spent."""
    found = [contradiction(name, examples) for name, examples in (("trainset", trainset), ("valset", valset))]
    train = {_digest(example.inputs()) for example in trainset}
    if shared := sum(_digest(example.inputs()) in train for example in valset):
        found.append(
            f"{shared} of {len(valset)} validation examples have the same inputs as training examples: the measured "
            "gain will be too good; take them out of one of the sets."
        )
    distinct = len(set(distinct_inputs(valset)))
    if distinct < len(valset):
        found.append(
            f"The valset has {len(valset)} examples and {distinct} distinct inputs: copies tell nothing new, and every "
            "interval is over the distinct inputs. To measure each input several times pass val_repeats=."
        )
    if valset and distinct < FEW_EXAMPLES:
        found.append(
            f"The valset has {distinct} {'examples' if distinct == len(valset) else 'distinct inputs'}: too few to "
            "tell a gain of 10 points from noise; use 60 or more, or val_repeats= where the program varies from run to "
            "run."
        )
    return tuple(filter(None, found))


def contradiction(name: str, examples: Sequence[dspy.Example]) -> str:
    """What is said of examples with equal inputs and different labels; empty if there are none."""
    labels = [_digest(example.labels()) for example in examples]
    pairs = [(first, i) for i, first in enumerate(distinct_inputs(examples)) if labels[i] != labels[first]]
    if not pairs:
        return ""
    first, other = pairs[0]
    return (
        f"{len(pairs)} of {len(examples)} examples of the {name} have the same inputs as an earlier one and other "
        f"labels ({name}[{first}] and {name}[{other}] are the first): no program can answer both; check the labels."
    )


def _digest(example: dspy.Example) -> str:
    """A hash of the example's fields: the same for equal values, in whatever order the fields stand."""
    fields = dict(example.items())
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
