"""The house: each row imports only from rows below it, and the lowest rows know nothing of DSPy."""

from __future__ import annotations

import ast
import functools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import trgrpo_dspy

PACKAGE = Path(trgrpo_dspy.__file__).parent


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


HOUSE = """
__init__
__main__
cli
optimizer
learning
report
evaluation
engine
events
program
library meter failures
errors
"""
"""Files and folders at the top, each importing only from rows below its own."""

RECORDS = ["errors", "events", "program.rollout",
    "engine.seeds", "learning.group", "learning.schedule", "evaluation.measurement",
    "evaluation.result", "evaluation.statistics"]  # fmt: skip
"""What loads without DSPy and without an LM client: plain records and pure functions."""
RECORDS += [name_of(p) for room in ("library", "meter", "failures") for p in sorted((PACKAGE / room).rglob("*.py"))]

EXPORTED = [
    "Budget",
    "DetailedResults",
    "Estimate",
    "Evaluation",
    "Experience",
    "ExperienceLibrary",
    "FatalError",
    "InfrastructureError",
    "JournalError",
    "RayExecutor",
    "Reflector",
    "RunStopped",
    "SchemaVersionError",
    "TrainingFreeGRPO",
    "TrainingFreeGRPOError",
    "attach",
    "compare",
    "diff",
    "evaluate",
    "read_library",
]

ROW_OF = {name: row for row, line in enumerate(HOUSE.strip().splitlines()) for name in line.split()}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


LATE = ("cli", "evaluation/measurement.py", "report/tracking/trackers.py")
"""What may import inside functions: the command, whose help is to be fast, and what needs an extra."""


class AtRunTime(ast.NodeTransformer):
    """Drops imports for type checkers, and those that may be made late."""

    def __init__(self, path: Path) -> None:
        self.late = any(path.is_relative_to(PACKAGE / late) for late in LATE)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        return None if self.late else node

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


@functools.cache
def imports(path: Path, types: bool = True) -> set[str]:
    """Absolute names of all modules a file imports, inside functions too; or of those that are no mere types."""
    inside = ("trgrpo_dspy", *path.relative_to(PACKAGE).parent.parts)
    found: set[str] = set()
    for node in ast.walk(tree_of(path) if types else AtRunTime(path).visit(ast.parse(path.read_text()))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(inside[: len(inside) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            # `from . import name` imports a module, `from .module import name` what is in it.
            found |= {module} if node.module else {f"{module}.{alias.name}" for alias in node.names}
    return found


def own_imports(path: Path, types: bool = True) -> set[tuple[str, ...]]:
    """Modules of the package that a file imports, as path parts below it."""
    return {tuple(name.split(".")[1:]) for name in imports(path, types) if name.startswith("trgrpo_dspy.")}


ENTRANCES = ("__init__.py", "__main__.py")
"""Files that hold imports alone."""
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "offline")


def test_every_file_and_folder_has_its_row() -> None:
    """A new one wants a place in the table above (and in ARCHITECTURE.md)."""
    assert sorted(ROW_OF) == sorted({path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES})


def test_at_most_fourteen_rooms_at_the_top() -> None:
    """Files and folders, beside the two entrances that Python asks for."""
    assert len({*ROW_OF, "offline"} - {"__init__", "__main__"}) <= 14


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_only_run_downward(path: Path) -> None:
    """From row to row of the house; within a folder any way that makes no circle."""
    own = name_of(path).split(".")[0]
    beside = {own, "offline"} if own == "cli" else {own}
    upward = [to for to in own_imports(path) if to[0] not in beside and ROW_OF.get(to[0], -1) <= ROW_OF[own]]
    assert not upward, f"{name_of(path)} imports {upward}, which stand no lower"


def graph(types: bool = True) -> dict[str, set[str]]:
    """Which module imports which; a package stands for its `__init__`."""
    paths = {name_of(path).removesuffix(".__init__"): path for path in PACKAGE.rglob("*.py")}
    return {
        name: {".".join(to) for to in own_imports(path, types)} & set(paths) - {name} for name, path in paths.items()
    }


def test_no_circle_of_imports() -> None:
    waiting = graph()
    while free := {name for name, needs in waiting.items() if not needs & set(waiting)}:
        waiting = {name: needs for name, needs in waiting.items() if name not in free}
    assert not waiting


def test_no_chain_of_imports_is_longer_than_nine_modules() -> None:
    """What is needed for types alone stands under `TYPE_CHECKING` and does not count."""
    needs = graph(types=False)

    @functools.cache
    def longest(name: str) -> tuple[str, ...]:
        return (name, *max(map(longest, sorted(needs[name])), key=len, default=()))

    assert [chain for chain in map(longest, needs) if len(chain) > 9] == []


def test_the_offline_model_imports_nothing_above_it() -> None:
    for path in (PACKAGE / "offline").rglob("*.py"):
        outside = {name for name in imports(path) if name.startswith("trgrpo_dspy")} - {"trgrpo_dspy.offline"}
        assert all(name.startswith("trgrpo_dspy.offline.") for name in outside), f"{path.name} imports {outside}"


def test_nothing_but_the_command_needs_the_offline_model() -> None:
    users = [name_of(path) for path in FILES if any(to[0] == "offline" for to in own_imports(path))]
    assert [name for name in users if not name.startswith("cli.")] == []


LOADER = """
import sys, types
package = types.ModuleType("trgrpo_dspy")  # in place of __init__, which imports everything
package.__path__ = [sys.argv[1]]
sys.modules["trgrpo_dspy"] = package
for module in sys.argv[2:]:
    __import__("trgrpo_dspy." + module)
    if found := {name.split(".")[0] for name in sys.modules} & {"dspy", "litellm", "openai", "datasets", "httpx"}:
        sys.exit(f"{module} imports {', '.join(sorted(found))}")
"""


def test_records_load_without_dspy_or_an_lm_client() -> None:
    """`engine.runner` comes last: the loader would see DSPy."""
    command = [sys.executable, "-c", LOADER, str(PACKAGE), *RECORDS, "engine.runner"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr.startswith("engine.runner imports ") and "dspy" in done.stderr


def test_importing_the_package_does_nothing(tmp_path: Path) -> None:
    """No output, no file, no setting touched, no thread started."""
    code = (
        "import dspy, threading, sys\n"
        "before = repr(sorted(dspy.settings.config.items(), key=str)), threading.active_count()\n"
        "import trgrpo_dspy\n"
        "assert 'ray' not in sys.modules\n"
        "assert (repr(sorted(dspy.settings.config.items(), key=str)), threading.active_count()) == before\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:trgrpo_dspy", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_the_exported_names() -> None:
    assert sorted(trgrpo_dspy.__all__) == EXPORTED
    assert all(hasattr(trgrpo_dspy, name) for name in EXPORTED)
    typed = [
        node for node in ast.walk(tree_of(PACKAGE / "__init__.py")) if isinstance(node, ast.ImportFrom) and node.level
    ]
    homes = {alias.name: node.module for node in typed for alias in node.names}
    assert homes == trgrpo_dspy._MODULE_OF  # what type checkers are told


@pytest.mark.parametrize("path", [path for path in FILES if path.name not in ENTRANCES], ids=name_of)
def test_every_module_says_what_it_exports_and_guarantees(path: Path) -> None:
    tree = tree_of(path)
    assert ast.get_docstring(tree)
    exported = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    defined = {getattr(node, "name", None) for node in tree.body} | {
        ast.unparse(target) for node in tree.body if isinstance(node, ast.Assign) for target in node.targets
    }
    defined |= {ast.unparse(node.target) for node in tree.body if isinstance(node, ast.AnnAssign)}
    assert len(exported) == 1
    assert set(exported[0]) <= defined


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_private_of_dspy_is_imported(path: Path) -> None:
    """Nor its clients' insides, which DSPy 3.5 moves."""
    assert not [n for n in imports(path) if n.startswith("dspy.") and ("._" in n or n.startswith("dspy.clients"))]


def test_no_class_is_large() -> None:
    """At most 14 methods and 12 attributes."""
    large = {}
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                methods = sum(isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)) for item in node.body)
                attributes = {
                    target.attr
                    for target in ast.walk(node)
                    if isinstance(target, ast.Attribute)
                    and isinstance(target.ctx, ast.Store)
                    and ast.unparse(target.value) == "self"
                }
                if methods > 14 or len(attributes) > 12:
                    large[f"{path.name}:{node.name}"] = methods, len(attributes)
    assert not large


def test_no_file_and_no_function_is_long() -> None:
    """At most 320 lines a file, and 50 a function besides its docstring."""
    long = {path.name: n for path in FILES if (n := len(path.read_text().splitlines())) > 320}
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                docstring = node.body[0] if ast.get_docstring(node) else None
                lines = node.end_lineno - node.lineno + 1  # type: ignore[operator]
                lines -= docstring.end_lineno - docstring.lineno + 1 if docstring else 0  # type: ignore[operator]
                if lines > 50:
                    long[f"{path.name}:{node.name}"] = lines
    assert not long


def test_no_two_test_files_have_the_same_name() -> None:
    """Else pytest collects only one of them: the folders are no packages."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, n in names.items() if n > 1] == []
