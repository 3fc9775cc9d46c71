"""The code and values that a program, a metric or a tool reaches, so that a change of any of them is noticed.

From an object the walk follows attributes and its class; from a function the globals that it names, functions of
modules that it names or imports, closures, defaults, decorators and attributes; recursively, through the user's own
code. Of installed packages the version is taken, of the standard library nothing.

- Code is compared as compiled: comments and places in a file do not count.
- What the code itself changes while it runs (a counter, a memo) is state, no setting, and is left out; so are secrets
  by their names, and times, process ids and folders that every process makes anew.
- Loops are followed once, and a bounded number of objects is read.

What only running shows is not noticed: names looked up by text (`getattr`, `eval`), files, environment variables.
"""

from __future__ import annotations

import functools
import itertools
import re
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import Any

import dspy
from pydantic import BaseModel

from trgrpo_dspy.failures.secrets import names_secret

from .plain import is_of_this_process, mark, plain
from .sources import Origin, changes, compiled, imported, is_code, is_generated, name_of, names_in, origin, version

__all__ = ["reach"]

_DEEPEST = 100
_MOST_OBJECTS = 20_000
_MOST_READ = 50_000
"""Levels and objects to follow and containers to read at most."""

Holder = tuple[Any, ...]
"""What a value is reached by: ('global', id of its module's names, name), ('cell', id), ('attribute', name) or ()."""


def reach(
    roots: Mapping[str, Any], describe: Callable[[Any], Any], known: Iterable[Any] = ()
) -> dict[str, dict[str, Any]]:
    """Follow objects, functions and classes.

    Args:
        roots: Where to begin; their names begin the names of what they hold.
        describe: Describes an LM or a predictor.
        known: Objects that are described elsewhere.

    Returns:
        By name the 'code' of the user's own (hashes), what it 'holds' (numbers as they are, all else by hash) and the
        versions of installed 'packages'.
    """
    walk = _Walk(describe, known)
    for name, root in roots.items():
        walk.follow(name, root)
    walk.run()
    found = {"code": walk.code, "holds": walk.values, "packages": walk.packages}
    return {what: dict(sorted(named.items())) for what, named in found.items()}


@functools.cache
def _dspys_own(predictor: bool) -> frozenset[str]:
    """Attributes that DSPy gives every module or predictor: they are described elsewhere, or the run's business."""
    return frozenset(vars(dspy.Predict("question -> answer") if predictor else dspy.Module()))


class _Walk:
    """One walk. Values are read after all code that is reached so far: the code says which of them are state."""

    def __init__(self, describe: Callable[[Any], Any], known: Iterable[Any]) -> None:
        self.code: dict[str, str] = {}
        self.values: dict[str, Any] = {}
        self.packages: dict[str, str] = {}
        self._describe = describe
        self._met: dict[int, Any] = {id(one): one for one in known}
        self._objects: deque[tuple[Any, ...]] = deque()
        self._data: deque[tuple[Any, ...]] = deque()
        self._names = {"forward", "aforward"}
        """What reached code names, and so may call."""
        self._changed: set[Holder] = set()
        self._methods: set[int] = set()
        self._changers: list[tuple[str, frozenset[str]]] = []

    def run(self) -> None:
        """Follow everything there is."""
        while self._objects or self._data:
            if len(self._met) > _MOST_OBJECTS:
                self.values["what is beyond"] = f"{_MOST_OBJECTS} objects was not read"
                return
            queue, work = (self._objects, self._visit) if self._objects else (self._data, self._read)
            label, *rest = queue.popleft()
            try:
                work(label, *rest)
            except Exception:  # the attributes of the user's objects may be code of any kind
                _put(self.values, label, "not readable")

    def follow(self, label: str, value: Any) -> None:
        """Take in an object to be visited, once."""
        if label.count(".") > _DEEPEST:
            self.values["what is deeper"] = f"{_DEEPEST} levels was not read"
        elif id(value) not in self._met:
            self._met[id(value)] = value  # kept: an id is unique among living objects only
            self._objects.append((label, value))

    def _take(self, label: str, value: Any, holder: Holder = ()) -> None:
        """Take in a value that has a name: code is visited, data is read later."""
        if not is_code(value):
            self._data.append((label, value, holder))
            return
        if (name := name_of(value)) != label and label:  # which of several it is that goes by this name
            _put(self.values, label, name)
        self.follow(label, value)

    def _visit(self, label: str, value: Any) -> None:
        if isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self.follow(label, value.__func__)
            self._take(label, value.__self__)
        elif isinstance(value, functools.partial):
            self.follow(label, value.func)
            self._take(f"{label} arguments".strip(), [value.args, value.keywords])
        elif isinstance(value, types.ModuleType):
            self._module(value, [name for name in vars(value) if not name.startswith("__")])
        elif isinstance(value, type):
            self._class(value)
        elif is_code(value):  # such as functools.lru_cache
            self.follow(label, value.__wrapped__)
        elif isinstance(value, dspy.Tool):
            self.follow(label, value.func)
        else:
            self._object(label, value)

    # -- code ------------------------------------------------------------------------------------------------------

    def _function(self, function: types.FunctionType) -> None:
        own, code = self._is_own(function), function.__code__
        label = f"{function.__module__}.{function.__qualname__}"
        cells = [(name, cell) for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True)]
        if own:
            _put(self.code, label, mark(compiled(code)))
            self._names.update(names_in(code))
            found = changes(code)
            self._changed.update(("global", id(function.__globals__), name) for name in found.names)
            self._changed.update(("cell", id(cell)) for name, cell in cells if name in found.names)
            self._changers.append((function.__name__ if id(function) in self._methods else "", found.attributes))
            self._globals(function)
        for name, cell in cells:
            try:
                value = cell.cell_contents
            except ValueError:  # a name that is not bound yet
                continue
            if own or is_code(value) or self._is_own(value):
                self._take(f"{label} {name}", value, ("cell", id(cell)))
            elif isinstance(value, Mapping):  # such as the functions that `singledispatch` chooses from
                for item in filter(is_code, value.values()):
                    self.follow(label, item)
        given = function.__defaults__ or ()
        defaults = dict(zip(code.co_varnames[code.co_argcount - len(given) :], given, strict=False))
        for key, value in {**defaults, **(function.__kwdefaults__ or {}), **vars(function)}.items():
            if value is not None and (own or is_code(value)):
                self._take(f"{label} {key}", value, ("attribute", key))

    def _globals(self, function: types.FunctionType) -> None:
        """Follow what a function names in its module, and what it imports."""
        names, known = names_in(function.__code__), function.__globals__
        for name in names:
            if name not in known or name == "__builtins__":
                continue
            value = known[name]
            if isinstance(value, types.ModuleType):
                self._module(value, names)
            else:
                self._take(f"{function.__module__}.{name}", value, ("global", id(known), name))
        for module in imported(function.__code__, str(known.get("__package__") or "")):
            if isinstance(module, str):
                self.packages[module] = version(module)
            else:
                self._module(module, names)

    def _module(self, module: types.ModuleType, names: Sequence[str], above: tuple[int, ...] = ()) -> None:
        """Follow these names of a module."""
        if not self._is_own(module) or id(module) in above:
            return
        for name in names:
            value = vars(module).get(name)
            if isinstance(value, types.ModuleType):
                self._module(value, names, (*above, id(module)))
            elif name in vars(module):
                self._take(f"{module.__name__}.{name}", value, ("global", id(vars(module)), name))

    def _class(self, cls: type) -> None:
        if not self._is_own(cls):
            return
        label = f"{cls.__module__}.{cls.__qualname__}"
        for base in (*cls.__bases__, type(cls)):
            self.follow(base.__qualname__, base)
        for name, value in list(vars(cls).items()):
            functions = [getattr(value, part, None) for part in ("__func__", "fget", "fset", "fdel", "func")]
            methods = [one for one in [value, *functions] if isinstance(one, types.FunctionType)]
            for method in methods:  # with class and static methods, properties
                if not is_generated(cls, name, method):
                    self._methods.update({id(method)} - self._met.keys())
                    self._take(f"{label}.{name}", method)
            if not methods and not name.startswith(("__", "_abc_", "model_")):
                self._take(f"{label}.{name}", value, ("attribute", name))
        if callable(schema := getattr(cls, "model_json_schema", None)):  # a signature or another pydantic model
            try:
                _put(self.values, label, mark(schema()))
            except Exception:  # any type may stand in a field
                _put(self.values, label, "no schema")

    # -- values ----------------------------------------------------------------------------------------------------

    def _object(self, label: str, value: Any) -> None:
        """Follow the attributes of an object of the user's own, or of a DSPy module."""
        self.follow(label, type(value))
        if isinstance(value, dspy.Predict):
            _put(self.values, f"{label} prompt", mark(self._describe(value)))
        slots = [getattr(cls, "__slots__", ()) for cls in type(value).__mro__]
        names = [name for of_class in slots for name in ([of_class] if isinstance(of_class, str) else of_class)]
        held = {name: getattr(value, name) for name in names if hasattr(value, name)} | getattr(value, "__dict__", {})
        for name, item in sorted(held.items(), key=lambda pair: str(pair[0])):
            dspys = isinstance(value, dspy.Module) and name in _dspys_own(isinstance(value, dspy.Predict))
            private = str(name).startswith("_") and origin(type(value)) != Origin.OWN
            if not dspys and not private and name not in ("__dict__", "__weakref__"):
                self._take(f"{label}.{name}" if label else str(name), item, ("attribute", name))

    def _read(self, label: str, value: Any, holder: Holder) -> None:
        """Keep what a value says, unless it is state, a secret, or made anew by every process."""
        name = re.split(r"[. ]", label)[-1]
        ours = type(value).__module__.startswith("trgrpo_dspy.")  # such as what an earlier run left in its result
        if ours or names_secret(name) or is_of_this_process(value) or self._is_state(holder):
            return
        if isinstance(value, dspy.BaseLM):
            _put(self.values, label, self._describe(value))
        elif not isinstance(value, dspy.Module) or id(value) not in self._met:
            read = plain(value, functools.partial(self._refer, label, itertools.count()), most=_MOST_READ)
            named = isinstance(read, str) and id(value) in self._met
            as_is = value is None or isinstance(value, (bool, int, float)) or named
            _put(self.values, label, read if as_is else mark([type(value).__name__, read]))

    def _refer(self, label: str, numbers: Iterator[int], value: Any) -> Any:
        """What stands for an object among plain values; None is its content."""
        if isinstance(value, dspy.BaseLM):
            return self._describe(value)
        if is_of_this_process(value):
            return type(value).__name__
        if isinstance(value, PurePath):
            return list(value.parts[-3:])  # the same files in another folder
        if isinstance(value, Enum):
            return str(value)
        if isinstance(value, (dspy.Module, dspy.Tool)) or is_code(value) or self._is_own(value):
            number = next(numbers)
            self.follow(f"{label}[{number}]" if number else label, value)
            return name_of(value)
        known = isinstance(value, (dspy.Example, BaseModel)) or hasattr(value, "tolist")
        running = type(value).__module__.startswith(("dspy.", "trgrpo_dspy.")) or repr(value).startswith("<")
        return type(value).__qualname__ if running and not known else None  # a client, a lock, a file is no value

    def _is_state(self, holder: Holder) -> bool:
        """Whether the code that was reached changes what holds the value."""
        if holder[:1] != ("attribute",):
            return holder in self._changed
        return any(
            holder[1] in attributes and (not method or method in self._names or method.startswith("__"))
            for method, attributes in self._changers
        )

    def _is_own(self, value: Any) -> bool:
        """Whether it is the user's own; the version of an installed package is kept."""
        whose = origin(value)
        if whose == Origin.LIBRARY:
            owner = value if hasattr(value, "__module__") or isinstance(value, types.ModuleType) else type(value)
            package = str(getattr(owner, "__module__", None) or getattr(owner, "__name__", "")).partition(".")[0]
            self.packages[package] = version(package)
        return whose == Origin.OWN


def _put(into: dict[str, Any], label: str, value: Any) -> None:
    """Keep a value under its name; another one of that name gets a number."""
    name, number = label, 1
    while name in into and into[name] != value:
        number += 1
        name = f"{label} ({number})"
    into[name] = value
