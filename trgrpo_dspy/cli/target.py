"""What a command works on: a Python file or module with `program`, `metric`, `trainset`, `valset` and `testset`.

Each may be the object itself or, but for the metric, a function without arguments that gives it. Of a target nothing
but its module is run: no `__main__` block.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import dspy

from .errors import InputError

__all__ = ["Target", "load_target", "resolve"]


@dataclass(frozen=True)
class Target:
    """A loaded target."""

    name: str
    """As it was given."""
    module: ModuleType
    """The module."""

    @property
    def stem(self) -> str:
        """A short name, for directories."""
        return Path(self.name).stem if self.name.endswith(".py") else self.name.rpartition(".")[2]

    @property
    def program(self) -> dspy.Module:
        """The program; an error names what could be meant."""
        value = self._value("program")
        if isinstance(value, type) and issubclass(value, dspy.Module):
            value = self._call("program", value)
        if not isinstance(value, dspy.Module):
            raise InputError(f"{self.name}: program must be a dspy.Module or a function that makes one, got {value!r}")
        return value

    @property
    def metric(self) -> Any:
        """The metric; None is the label-free mode."""
        if not hasattr(self.module, "metric"):
            raise InputError(
                f"{self.name} has no metric; define `def metric(example, prediction, trace=None)`, or `metric = None` "
                "to learn without labels"
            )
        return self.module.metric

    def examples(self, name: str) -> list[dspy.Example]:
        """A set of examples; empty if the target has none of this name."""
        value = self._value(name) if getattr(self.module, name, None) is not None else None
        try:
            return [] if value is None else list(value)
        except TypeError:
            raise InputError(f"{self.name}: {name} must be a list of dspy.Example, got {value!r:.60}") from None

    def _value(self, name: str) -> Any:
        if not hasattr(self.module, name):
            raise InputError(f"{self.name} has no {name}; {self._hint(name)}")
        value = getattr(self.module, name)
        plain = not callable(value) or isinstance(value, (dspy.Module, type))
        return value if plain else self._call(name, value)

    def _call(self, name: str, make: Any) -> Any:
        try:
            return make()
        except Exception as error:  # the target's own code
            raise InputError(f"{self.name}: {name}() failed: {_where(error, self.module)}") from error

    def _hint(self, name: str) -> str:
        if name == "program" and (near := [k for k, v in vars(self.module).items() if isinstance(v, dspy.Module)]):
            return f"it has the programs {', '.join(near)}: write `program = {near[0]}`"
        return f"define `{name}`, or see a whole target with: trgrpo init example.py"


def load_target(name: str) -> Target:
    """Import a target."""
    return Target(name, _module(name))


def _module(name: str) -> ModuleType:
    """Import a Python file or a module by name; a file in a package is imported as part of it."""
    path = Path(name).expanduser()
    if not name.endswith(".py"):
        if path.exists():
            raise InputError(f"{name} is no .py file; TARGET is a .py file or an importable module")
        return _import(name, Path.cwd(), None)
    if not path.is_file():
        raise InputError(f"{name} is not there; `trgrpo init {name}` writes a target to start from")
    path = path.resolve()
    folder, parts = path.parent, [path.stem]
    while (folder / "__init__.py").exists():
        folder, parts = folder.parent, [folder.name, *parts]
    return _import(".".join(parts), folder, path)


def _import(name: str, folder: Path, path: Path | None) -> ModuleType:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name) if path is None or "." in name else _executed(name, path)
    except (Exception, SystemExit) as error:  # the target's own code
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and path is None and f"{name}.".startswith(f"{missing}."):
            raise InputError(f"there is no module {name!r}; TARGET is a .py file or an importable module") from error
        raise InputError(f"{path or name} can't be loaded: {_where(error, path)}") from error


def _executed(name: str, path: Path) -> ModuleType:
    """The module of a file, under another name where an imported module has its own."""
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    spec = importlib.util.spec_from_file_location(name if known is None else f"target_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def resolve(reference: str) -> Any:
    """The object of a reference such as `my_task.py:expose`; classes, and with `()` functions, are called."""
    name, _, attribute = reference.rpartition(":")
    called = attribute.endswith("()")
    try:
        value = _module(name)
        for part in attribute.removesuffix("()").split("."):
            value = getattr(value, part)
    except AttributeError:
        raise InputError(f"{name} has no {attribute.removesuffix('()')!r}") from None
    return value() if called or isinstance(value, type) else value  # type: ignore[operator]


def _where(error: BaseException, target: ModuleType | Path | None) -> str:
    """What was raised, and at which line of the target."""
    file = target if isinstance(target, Path) else getattr(target, "__file__", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    if isinstance(error, SyntaxError):
        lines, text = [error.lineno], f"SyntaxError: {error.msg}"
    else:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return (f"line {lines[-1]}: {text}" if lines else text) + " (--debug shows the traceback)"
