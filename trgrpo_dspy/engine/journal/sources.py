"""Where code comes from, what it names, and what it changes while it runs."""

from __future__ import annotations

import ast
import dataclasses
import dis
import functools
import importlib
import importlib.metadata
import importlib.util
import linecache
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import dspy

from .plain import mark

__all__ = [
    "Changes", "Origin", "changes", "compiled", "imported", "is_code", "is_generated", "name_of", "names_in", "origin",
    "version",
]  # fmt: skip

_MUTATORS = frozenset(
    ("add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "insert", "pop", "popitem", "popleft",
     "put", "put_nowait", "remove", "setdefault", "subtract", "update")
)  # fmt: skip
"""Methods by which code changes a container that it holds."""
_CODE = (FunctionType, MethodType, ModuleType, functools.partial, type)
_MAKERS = ("__init__", "__post_init__", "__new__")
"""Methods that make an object."""
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class Origin:
    """Whose code it is."""

    OWN, LIBRARY, STANDARD, OURS = "own", "library", "standard", "ours"


@dataclass(frozen=True)
class Changes:
    """What a function changes outside itself."""

    names: frozenset[str] = frozenset()
    """Global and closed-over names that it assigns, or whose containers it changes."""
    attributes: frozenset[str] = frozenset()
    """Attributes of objects, likewise."""


# -- whose code it is ------------------------------------------------------------------------------------------------


@functools.cache
def _of_file(path: str) -> str:
    if path.startswith("<"):  # else typed in, or made by `exec`
        return Origin.STANDARD if path.startswith("<frozen") else Origin.OWN
    real, paths = os.path.realpath(path), sysconfig.get_paths()

    def within(folder: str | Path) -> bool:
        return real.startswith(os.path.realpath(folder) + os.sep)

    if within(Path(__file__).parents[2]):
        return Origin.OURS
    if "site-packages" in real or "dist-packages" in real or within(Path(dspy.__file__).parent):
        return Origin.LIBRARY
    return Origin.STANDARD if within(paths["stdlib"]) or within(paths["platstdlib"]) else Origin.OWN


def _of_module(name: str) -> str:
    module = sys.modules.get(name)
    standard = name.split(".")[0] in sys.stdlib_module_names
    if name in ("", "__main__") or (module is None and not standard):
        return Origin.OWN
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    if file is None:
        return Origin.STANDARD if standard else Origin.OWN
    return _of_file(file)


def origin(value: Any) -> str:
    """Whose a function, class, module or object is."""
    if isinstance(value, ModuleType):
        return _of_module(value.__name__)
    code = getattr(value, "__code__", None)
    if isinstance(code, CodeType) and not code.co_filename.startswith("<"):
        return _of_file(code.co_filename)
    owner = value if isinstance(value, type) or isinstance(code, CodeType) else type(value)
    return _of_module(str(getattr(owner, "__module__", "") or ""))


@functools.cache
def version(package: str) -> str:
    """The version of an installed package, by the name it is imported under."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return str(getattr(sys.modules.get(package), "__version__", "unknown"))


# -- what code is ----------------------------------------------------------------------------------------------------


def is_code(value: Any) -> bool:
    """Whether a value is a function, class or module, or stands for one."""
    return isinstance(value, _CODE) or "__wrapped__" in getattr(value, "__dict__", ())  # by name: others have any


def name_of(value: Any) -> str:
    """The name of a function, class or module, or of an object's class; with a hash where several have that name."""
    if isinstance(value, ModuleType):
        return value.__name__
    named = value if hasattr(value, "__qualname__") else type(value)
    name = f"{named.__module__}.{named.__qualname__}" if hasattr(named, "__module__") else str(named.__qualname__)
    return f"{name} {mark(compiled(value.__code__))}" if "<" in name and hasattr(value, "__code__") else name


def is_generated(cls: type, name: str, method: FunctionType) -> bool:
    """Whether a method was written by `dataclass`; its `__init__` tells all there is to know."""
    code = getattr(method, "__wrapped__", method).__code__  # a `__repr__` is wrapped
    return dataclasses.is_dataclass(cls) and name != "__init__" and code.co_filename == "<string>"


def compiled(code: CodeType) -> list[Any]:
    """All of a function that decides what it does: not where it stands, and not its comments."""

    def constant(value: Any) -> Any:
        if isinstance(value, CodeType):
            return compiled(value)
        return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)

    return [
        code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, code.co_argcount,
        code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags, [constant(value) for value in code.co_consts],
    ]  # fmt: skip


# -- what a function names -------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def names_in(code: CodeType) -> tuple[str, ...]:
    """The global names and attributes that a function names, with those of the functions inside it."""
    inner = [name for const in code.co_consts if isinstance(const, CodeType) for name in names_in(const)]
    return tuple(dict.fromkeys([*code.co_names, *inner]))


def imported(code: CodeType, package: str) -> Iterator[ModuleType | str]:
    """What a function imports when it runs: modules of the user's own code, and names of packages."""
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from imported(const, package)
    steps = [step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG"]
    for level, wanted, step in zip(steps, steps[1:], steps[2:], strict=False):
        if step.opname == "IMPORT_NAME" and isinstance(level.argval, int):
            with suppress(Exception):  # the user's module may do anything when imported, and may be absent
                yield from _resolve("." * level.argval + step.argval, package, wanted.argval or ())


def _resolve(name: str, package: str, wanted: tuple[str, ...]) -> Iterator[ModuleType | str]:
    name = importlib.util.resolve_name(name, package)
    top = name.partition(".")[0]
    spec = None if top in sys.stdlib_module_names else importlib.util.find_spec(top)
    file = None if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), None)
    if file is None:
        return
    if _of_file(file) != Origin.OWN:
        yield top
        return
    module = importlib.import_module(name)
    for part in wanted:
        if not hasattr(module, part):
            importlib.import_module(f"{name}.{part}")
    yield module


# -- what a function changes -----------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def changes(code: CodeType) -> Changes:
    """What a function changes outside itself, as its source says; nothing where the source can't be read."""
    held: set[ast.Name | ast.Attribute] = set()
    outer: set[str] = set()
    for function in _functions(code.co_filename).get(code.co_firstlineno, ()):
        if getattr(function, "name", "<lambda>") == code.co_name:
            inside = _inside(function)
            declared = {name for part in inside if isinstance(part, (ast.Global, ast.Nonlocal)) for name in part.names}
            stored = {p.id for p in inside if isinstance(p, ast.Name) and isinstance(p.ctx, ast.Store)}
            parameters = {part.arg for part in ast.walk(function) if isinstance(part, ast.arg)}
            local = (stored | parameters) - declared - {"self", "cls"}
            held |= {holder for part in inside for holder in _holders(part) if _base(holder) not in local}
            outer |= declared
    names = {holder.id for holder in held if isinstance(holder, ast.Name)}
    return Changes(frozenset(names | outer), frozenset(h.attr for h in held if isinstance(h, ast.Attribute)))


def _inside(function: ast.AST) -> list[ast.AST]:
    """What a function consists of. What a maker assigns is a setting; what it defines may change that."""
    inside = list(ast.walk(function))[1:]
    if getattr(function, "name", "") in _MAKERS:
        inside = [part for inner in inside if isinstance(inner, _FUNCTIONS) for part in ast.walk(inner)]
    return inside


def _holders(part: ast.AST) -> Iterator[ast.Name | ast.Attribute]:
    """The name or attribute that holds what a piece of code changes, if it changes anything."""
    held: ast.AST | None = None
    if isinstance(part, (ast.Attribute, ast.Subscript)) and isinstance(part.ctx, (ast.Store, ast.Del)):
        held = part
    elif isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr in _MUTATORS:
        held = part.func.value
    while isinstance(held, ast.Subscript):
        held = held.value
    if isinstance(held, (ast.Name, ast.Attribute)):
        yield held


def _base(holder: ast.Name | ast.Attribute) -> str:
    """The name by which code reaches a holder; empty for anything else."""
    base = holder.value if isinstance(holder, ast.Attribute) else holder
    return base.id if isinstance(base, ast.Name) else ""


@functools.lru_cache(maxsize=256)
def _functions(filename: str) -> dict[int, list[ast.AST]]:
    """The functions of a file by their first line."""
    found: dict[int, list[ast.AST]] = {}
    with suppress(SyntaxError, ValueError, RecursionError, OSError):
        for node in ast.walk(ast.parse("".join(linecache.getlines(filename)))):
            if isinstance(node, _FUNCTIONS):
                lines = [node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))]
                found.setdefault(min(lines), []).append(node)
    return found
