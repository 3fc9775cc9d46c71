"""Options on the command line: `--set name=value` for every option, read by its type and explained by its docstring.

Nothing is said twice: names, types, defaults and meanings come from the option dataclasses themselves.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass, replace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from trgrpo_dspy.learning.reflector import Reflector
from trgrpo_dspy.meter.meter import Budget

from .errors import InputError
from .target import resolve

if typing.TYPE_CHECKING:
    from trgrpo_dspy.engine.options import Options

__all__ = ["OptionText", "built", "texts_of"]

OWN = {"log_dir": "--log-dir", "reflection_lm": "--reflection-model", "metric": "`metric` in TARGET"}
"""Options that are given in another way."""
PARTS = {"budget": Budget, "reflector": Reflector}
"""Options that are objects: what they are made of is set as `budget.max_tokens=...`."""
_PLAIN = (bool, int, float, str, type(None))
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True)
class OptionText:
    """An option, to be shown and read."""

    name: str
    """As `--set` takes it."""
    default: str
    """As the source has it; empty where it must be given."""
    meaning: str
    """Its docstring, in one paragraph."""
    hint: Any
    """Its type."""


def texts_of(cls: type[Options]) -> list[OptionText]:
    """All options of a command, those of its parts too."""
    own = [text for text in _fields_of(cls) if text.name not in OWN and text.name not in PARTS]
    parts = [
        replace(text, name=f"{whole}.{text.name}")
        for whole, kind in PARTS.items()
        if whole in cls.names()
        for text in (_fields_of(kind) if is_dataclass(kind) else _arguments_of(kind))
        if all(map(_is_plain, _kinds(text.hint)))
    ]
    return [*own, *parts]


def built(cls: type[Options], given: Mapping[str, str]) -> dict[str, Any]:
    """The arguments for options that were given as text."""
    known = {text.name: text.hint for text in texts_of(cls)}
    found: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    for name, text in given.items():
        if name in OWN and name in cls.names():
            raise InputError(f"--set {name}: use {OWN[name]}")
        if name not in known:
            raise _unknown(name, list(known))
        whole, _, part = name.rpartition(".")
        (parts.setdefault(whole, {}) if whole else found)[part] = _read(name, known[name], text)
    return found | {whole: PARTS[whole](**values) for whole, values in parts.items()}


def _unknown(name: str, known: list[str]) -> InputError:
    ends = {text.rpartition(".")[2]: text for text in known}
    near = [ends[name]] if name in ends else difflib.get_close_matches(name, known, 2)
    near = near or [ends[end] for end in difflib.get_close_matches(name, ends, 2)]
    if name in PARTS:
        near = [text for text in known if text.startswith(f"{name}.")]
    hint = f"did you mean {' or '.join(near)}?" if near else "`trgrpo options` lists all"
    return InputError(f"--set {name}: there is no such option; {hint}")


# -- values by their types ---------------------------------------------------------------------------------------------


def _read(name: str, hint: Any, text: str) -> Any:
    kinds = list(_kinds(hint))
    if type(None) in kinds and text.lower() in ("none", "null"):
        return None
    if ":" in text and not all(map(_is_plain, kinds)):
        return resolve(text)
    errors = []
    for kind in kinds:
        try:
            return _value(kind, text)
        except ValueError as error:
            errors.append(str(error))
    raise InputError(f"--set {name}={text}: {errors[0]}")


def _kinds(hint: Any) -> Iterator[Any]:
    """The types that a hint allows, without annotations and unions."""
    origin = get_origin(hint)
    if origin in (Annotated, typing.Union, types.UnionType):
        for part in get_args(hint)[: 1 if origin is Annotated else None]:
            yield from _kinds(part)
    else:
        yield hint


def _is_plain(kind: Any) -> bool:
    return kind in _PLAIN or get_origin(kind) is Literal


def _value(kind: Any, text: str) -> Any:
    if kind is str:
        return text
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"a {'whole ' if kind is int else ''}number is wanted") from None
    if kind is bool and text.lower() not in _BOOLEANS:
        raise ValueError("true or false is wanted")
    if kind is bool:
        return _BOOLEANS[text.lower()]
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise ValueError(f"one of {', '.join(get_args(kind))} is wanted")
        return text
    if get_args(kind) == (str,):  # a sequence or collection of names
        return [part.strip() for part in text.split(",") if part.strip()]
    raise ValueError("an object is wanted; name one as my_task.py:name, or my_task.py:name() to call it")


# -- meanings from the source ------------------------------------------------------------------------------------------


def _fields_of(cls: type) -> Iterator[OptionText]:
    """The fields of a dataclass and then of its bases, with the docstrings below them."""
    hints = get_type_hints(cls, include_extras=True)
    for base in filter(is_dataclass, cls.__mro__):
        (tree,) = ast.parse(inspect.cleandoc(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, after in zip(tree.body, [*tree.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign):
                name = ast.unparse(field.target)
                yield OptionText(name, _default(field.value), _text(after), hints[name])


def _default(value: ast.expr | None) -> str:
    if isinstance(value, ast.Call):  # field(default_factory=dict)
        return "{}" if "dict" in ast.unparse(value) else "()"
    return "" if value is None else ast.unparse(value)


def _text(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return ""


def _arguments_of(cls: Any) -> Iterator[OptionText]:
    """The arguments of a constructor, with their meanings under `Args:` in its docstring."""
    hints, parameters = get_type_hints(cls.__init__), inspect.signature(cls.__init__).parameters
    _, _, text = inspect.cleandoc(cls.__init__.__doc__).partition("Args:\n")
    for found in re.finditer(r"^    (\w+): (.*(?:\n {5,}.*)*)", text, re.MULTILINE):
        yield OptionText(found[1], repr(parameters[found[1]].default), " ".join(found[2].split()), hints[found[1]])
