"""Copies of programs that share their LMs: a copied LM would drag its history along."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import dspy

__all__ = ["Copier", "own_copy", "own_value"]

_PLAIN = (str, bytes, int, float, complex, bool, type(None), type)


def own_copy(program: Any, exchange: Callable[[Any], Any] = lambda lm: lm) -> Any:
    """A deep copy of a program or module that holds the same LMs, or what they are exchanged for.

    LMs are found wherever modules hold them: on predictors (frozen ones too), as attributes, in lists and dicts. What
    can't be copied (a lock, a Python module) is shared, and so is what must be closed (a client, a file, an event
    loop): the end of a copy would close the original's. Predictors never are.

    Raises:
        ValueError: A predictor sits in something that can't be copied, so a copy would write into the original.
    """
    shared = _shared(program)
    shared.update({id(lm): exchange(lm) for _, lm in program.named_sub_modules(dspy.BaseLM)})
    return _copy(program, shared)


class Copier:
    """Makes own copies of one program, which must stay as it is: what its copies share is looked for once."""

    def __init__(self, program: Any) -> None:
        """Look for the program's LMs and the names of its predictors."""
        self.program = program
        self.names = {p.stage: name for name, p in program.named_sub_modules(dspy.Predict)}
        """Names of its predictors by `predictor.stage`, which survives copying."""
        self.names.update({p.stage: name for name, p in program.named_predictors()})
        self._shared = _shared(program)

    def copy(self) -> Any:
        """As `own_copy`."""
        return _copy(self.program, self._shared)


def own_value(value: Any) -> Any:
    """A deep copy of any value; what must not or can't be copied is shared."""
    shared: dict[int, Any] = {}
    _share(value, shared)
    try:
        return _deepcopy(value, shared)
    except Exception:
        return value


def _shared(program: Any) -> dict[int, Any]:
    """By `id`, what copies of the program share with it."""
    shared = {id(lm): lm for _, lm in program.named_sub_modules(dspy.BaseLM)}
    _share(program, shared)
    return shared


def _copy(program: Any, shared: dict[int, Any]) -> Any:
    copied = _deepcopy(program, shared)
    mine = {id(predictor) for _, predictor in copied.named_sub_modules(dspy.Predict)}
    if both := [name for name, p in program.named_sub_modules(dspy.Predict) if id(p) in mine]:
        raise ValueError(f"predictors {both} are held by an object that can't be deep-copied; hold them in the module")
    return copied


def _deepcopy(value: Any, shared: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(value, dict(shared))
    except Exception:  # a part with a way of its own to make a copy, which fails: the inner ones are tried first
        for part in reversed(_share(value, shared)):
            if callable(getattr(type(part), "__deepcopy__", None)):
                try:
                    copy.deepcopy(part, dict(shared))
                except Exception:
                    shared[id(part)] = part
        return copy.deepcopy(value, dict(shared))


def _share(value: Any, shared: dict[int, Any]) -> list[Any]:
    """Enter into `shared` the smallest parts of a value that must not or can't be copied; return the other parts.

    Nothing is copied for a look: a copy that fails halfway leaves an object behind that was never made ready, and whose
    end closes what it holds.
    """
    waiting, found, seen = [value], [], set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, _PLAIN) or id(part) in shared or id(part) in seen:
            continue
        if isinstance(part, ModuleType) or _must_be_closed(type(part)):
            shared[id(part)] = part
            continue
        try:
            waiting += _parts(part)
        except Exception:  # no copy can be made of it
            shared[id(part)] = part
        else:
            seen.add(id(part))
            found.append(part)  # kept, so that no other object gets its id
    return found


def _must_be_closed(kind: type) -> bool:
    if issubclass(kind, dspy.Module):
        return False
    names = {name for base in kind.__mro__ for name in vars(base)}  # a look by `hasattr` makes mocks grow without end
    enters = bool(names & {"__exit__", "__aexit__"})
    return "__del__" in names or (enters and bool(names & {"close", "aclose", "shutdown"}))


def _parts(value: Any) -> Iterable[Any]:
    """What `copy.deepcopy` would copy for a value; raises what it would raise."""
    if type(value) is dict:
        return [*value.keys(), *value.values()]
    if type(value) in (list, tuple, set, frozenset):
        return list(value)
    if callable(getattr(type(value), "__deepcopy__", None)):
        return [
            *getattr(value, "__dict__", {}).values(),
            *(getattr(value, "__pydantic_private__", None) or {}).values(),
        ]
    if (self := getattr(value, "__self__", None)) is not None and callable(value):  # a bound method
        return [self]
    made = value.__reduce_ex__(4)
    if isinstance(made, str):
        return []
    return [*made[1], *made[2:3], *(item for items in made[3:5] if items is not None for item in items)]
