"""Copies of programs that share their LMs: a copied LM would drag its history along."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import dspy

__all__ = ["Copier", "own_copy"]


def own_copy(program: Any, exchange: Callable[[Any], Any] = lambda lm: lm) -> Any:
    """A deep copy of a program or module that holds the same LMs, or what they are exchanged for.

    LMs are found wherever modules hold them: on predictors (frozen ones too), as attributes, in lists and dicts. What
    can't be copied (a lock, a client, a socket) is shared; predictors never are.

    Args:
        program: The module; it is not changed.
        exchange: Called with each LM; what it returns takes that LM's place in the copy.

    Raises:
        ValueError: A predictor sits in something that can't be copied, so a copy would write into the original.
    """
    return _copy(program, {id(lm): exchange(lm) for _, lm in program.named_sub_modules(dspy.BaseLM)})


class Copier:
    """Makes own copies of one program, which must stay as it is: what its copies share is looked for once."""

    def __init__(self, program: Any) -> None:
        """Look for the program's LMs and the names of its predictors."""
        self.program = program
        self.names = {p.stage: name for name, p in program.named_sub_modules(dspy.Predict)}
        """Names of its predictors by `predictor.stage`, which survives copying."""
        self.names.update({p.stage: name for name, p in program.named_predictors()})
        self._lms = {id(lm): lm for _, lm in program.named_sub_modules(dspy.BaseLM)}

    def copy(self) -> Any:
        """As `own_copy`."""
        return _copy(self.program, dict(self._lms))


def _copy(program: Any, shared: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(program, dict(shared))
    except Exception:  # something in the user's module can't be copied: share just that
        _share_what_cannot_be_copied(program, shared, set())
    copied = copy.deepcopy(program, dict(shared))
    mine = {id(predictor) for _, predictor in copied.named_sub_modules(dspy.Predict)}
    if both := [name for name, p in program.named_sub_modules(dspy.Predict) if id(p) in mine]:
        raise ValueError(f"predictors {both} are held by an object that can't be deep-copied; hold them in the module")
    return copied


def _share_what_cannot_be_copied(value: Any, shared: dict[int, Any], seen: set[int]) -> None:
    """Enter into `shared` the smallest parts of a value that `copy.deepcopy` refuses."""
    if id(value) in seen or id(value) in shared:
        return
    seen.add(id(value))
    try:
        copy.deepcopy(value, dict(shared))
        return
    except Exception:
        for part in _parts(value):
            _share_what_cannot_be_copied(part, shared, seen)
    try:
        copy.deepcopy(value, dict(shared))
    except Exception:
        shared[id(value)] = value


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    return list(getattr(value, "__dict__", {}).values())
