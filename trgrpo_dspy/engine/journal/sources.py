"""Where code comes from, and what it changes while it runs."""

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
import site
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
_IMPORT = dis.opmap["IMPORT_NAME"]
_CODE = (FunctionType, MethodType, ModuleType, functools.partial, type)
_STORES = frozenset(
    number for name, number in dis.opmap.items()
    if name.startswith(("STORE_", "DELETE_")) and name.endswith(("_ATTR", "_SUBSCR", "_GLOBAL", "_DEREF", "_SLICE"))
)  # fmt: skip
"""Operations by which code changes anything but its own variables."""
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
def _folders() -> tuple[tuple[str, str], ...]:
    """Folders of code that is not the user's, with whose it is; the most special first."""
    paths = sysconfig.get_paths()
    found = [(str(Path(__file__).parents[2]), Origin.OURS), (str(Path(dspy.__file__).parent), Origin.LIBRARY)]
    sites = [paths["purelib"], paths["platlib"], site.getusersitepackages(), *site.getsitepackages()]
    found += [(path, Origin.LIBRARY) for path in sites]
    found += [(paths[name], Origin.STANDARD) for name in ("stdlib", "platstdlib")]
    return tuple((os.path.realpath(path) + os.sep, whose) for path, whose in found)


@functools.cache
def _of_file(path: str) -> str:
    if path.startswith("<frozen"):
        return Origin.STANDARD
    if path.startswith("<"):  # typed in, or made by `exec`
        return Origin.OWN
    real = os.path.realpath(path)
    of_folder = next((whose for folder, whose in _folders() if real.startswith(folder)), Origin.OWN)
    if of_folder != Origin.OURS and ("site-packages" in real or "dist-packages" in real):
        return Origin.LIBRARY
    return of_folder


def _of_module(name: str) -> str:
    module = sys.modules.get(name)
    if name in ("", "__main__") or (module is None and name.split(".")[0] not in sys.stdlib_module_names):
        return Origin.OWN
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    if file is None:
        return Origin.STANDARD if name.split(".")[0] in sys.stdlib_module_names else Origin.OWN
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
    named = value if hasattr(value, "__qualname__") else type(value)
    name = f"{named.__module__}.{named.__qualname__}" if hasattr(named, "__module__") else str(named.__qualname__)
    if isinstance(value, ModuleType):
        return value.__name__
    return f"{name} {mark(compiled(value.__code__))}" if "<" in name and hasattr(value, "__code__") else name


def is_generated(cls: type, name: str, method: FunctionType) -> bool:
    """Whether a method was written by `dataclass`; its `__init__` tells all there is to know."""
    code = getattr(method, "__wrapped__", method).__code__  # a `__repr__` is wrapped
    return dataclasses.is_dataclass(cls) and name != "__init__" and code.co_filename == "<string>"


def compiled(code: CodeType) -> list[Any]:
    """All of a function that decides what it does: not where it stands, and not its comments."""
    consts = [
        compiled(const)
        if isinstance(const, CodeType)
        else sorted(map(repr, const))
        if isinstance(const, frozenset)
        else repr(const)
        for const in code.co_consts
    ]
    return [
        code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, code.co_argcount,
        code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags, consts,
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
    if _IMPORT not in code.co_code[::2]:
        return
    steps = [step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG"]
    for level, wanted, step in zip(steps, steps[1:], steps[2:], strict=False):
        if step.opcode == _IMPORT and isinstance(level.argval, int):
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
    finder = _Finder()
    if not _stores(code):  # most functions: their files need not be parsed
        return Changes()
    for node in _functions(code.co_filename).get(code.co_firstlineno, ()):
        if getattr(node, "name", "<lambda>") == code.co_name:
            finder.find(node)
    return Changes(frozenset(finder.names), frozenset(finder.attributes))


def _stores(code: CodeType) -> bool:
    """Whether a function, or one inside it, may change anything: by its bytecode, or by a method of a container."""
    if not _STORES.isdisjoint(code.co_code[::2]) or not _MUTATORS.isdisjoint(code.co_names):
        return True
    return any(_stores(const) for const in code.co_consts if isinstance(const, CodeType))


@functools.lru_cache(maxsize=256)
def _functions(filename: str) -> dict[int, list[ast.stmt | ast.expr]]:
    """The functions of a file by their first line."""
    found: dict[int, list[ast.stmt | ast.expr]] = {}
    with suppress(SyntaxError, ValueError, RecursionError, OSError):
        for node in ast.walk(ast.parse("".join(linecache.getlines(filename)))):
            if isinstance(node, _FUNCTIONS):
                lines = [node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))]
                found.setdefault(min(lines), []).append(node)
    return found


class _Finder:
    """Collects what functions change."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self._local: set[str] = set()

    def find(self, function: ast.stmt | ast.expr) -> None:
        """Collect what a function and those inside it change."""
        inside = list(ast.walk(function))[1:]
        if getattr(function, "name", "") in _MAKERS:  # what they assign is a setting; what they define may change it
            inner = [part for part in inside if isinstance(part, _FUNCTIONS)]
            inside = [part for each in inner for part in ast.walk(each)]
        outer = {name for part in inside if isinstance(part, (ast.Global, ast.Nonlocal)) for name in part.names}
        stored = {p.id for p in inside if isinstance(p, ast.Name) and isinstance(p.ctx, ast.Store)}
        parameters = {part.arg for part in ast.walk(function) if isinstance(part, ast.arg)}
        self._local = (stored | parameters) - outer - {"self", "cls"}
        self.names |= outer
        for part in inside:
            if isinstance(part, (ast.Attribute, ast.Subscript)) and isinstance(part.ctx, (ast.Store, ast.Del)):
                self._changed(part if isinstance(part, ast.Attribute) else part.value)
            elif isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr in _MUTATORS:
                self._changed(part.func.value)

    def _changed(self, value: ast.expr) -> None:
        """Note the name or attribute that holds what is changed."""
        while isinstance(value, ast.Subscript):
            value = value.value
        base = value.value if isinstance(value, ast.Attribute) else value
        if isinstance(base, ast.Name) and base.id in self._local:
            return
        if isinstance(value, ast.Attribute):
            self.attributes.add(value.attr)
        elif isinstance(value, ast.Name):
            self.names.add(value.id)
