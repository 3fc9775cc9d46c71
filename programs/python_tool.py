"""The tool `run_python`: Python for an agent, in a sandbox.

`python_tool` makes it. Inside `with fresh_sandboxes():` each tool keeps one sandbox; outside of it every call gets a
fresh one. A program opens that block once per attempt, so an attempt keeps its variables and no other sees them.

The default sandbox is `sandbox.MontyInterpreter`, whose docstring says what it guarantees and what it lacks. With
`interpreter="dspy"` code runs in DSPy's own interpreter (Deno and Pyodide), which has CPython's standard library,
`sympy` and `numpy` among what it can load, and fetches its parts from the network at its first start.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from dspy.primitives import CodeInterpreter, CodeInterpreterError, FinalOutput, resolve_interpreter_factory
from dspy.primitives.code_interpreter import CodeExecutionError

from programs.sandbox import AVAILABLE, Limits, MontyInterpreter, cut, require_monty
from trgrpo_dspy import InfrastructureError

__all__ = ["fresh_sandboxes", "python_tool"]

_NOTHING = "(no output: print a value, or end with an expression)"
_MAX_CHARS = 10_000
"""Longest observation, whatever the interpreter."""


def python_tool(
    interpreter: str | Callable[[], CodeInterpreter] = "monty", *, limits: Limits | None = None
) -> Callable[[str], str]:
    """Make the function `run_python(code)`, for `dspy.Tool` or an agent's list of tools.

    Args:
        interpreter: "monty"; "dspy" for what DSPy is configured with (`dspy.settings.interpreter_factory`, else its
            `PythonInterpreter`); or a function without arguments that creates a `CodeInterpreter`.
        limits: Limits of Monty's sandbox; other interpreters have their own.

    Raises:
        ImportError: "monty" was asked for and `pydantic-monty` is not installed.
        ValueError: The name is neither "monty" nor "dspy", or limits are given for another interpreter.
    """
    if interpreter not in ("monty", "dspy") and not callable(interpreter):
        raise ValueError(f"interpreter={interpreter!r} must be 'monty', 'dspy' or a function that creates one")
    if limits is not None and interpreter != "monty":
        raise ValueError("limits= is for interpreter='monty'; give another interpreter its limits where it is created")
    if interpreter == "monty":
        require_monty()  # missing? better said now than in an attempt
    key = object()

    def run_python(code: str) -> str:
        return _run_in_sandbox(key, interpreter, limits, code)

    run_python.__doc__ = (
        "Run Python code and get what it prints, then the value of its last expression. "
        "Variables and functions stay defined for later calls. " + (AVAILABLE if interpreter == "monty" else "")
    ).strip()
    return run_python


_SANDBOXES: ContextVar[dict[object, CodeInterpreter] | None] = ContextVar("python_tool_sandboxes", default=None)
"""The sandboxes of the attempt under way, by tool."""


@contextmanager
def fresh_sandboxes() -> Iterator[None]:
    """Inside, each Python tool has one sandbox, new at the start and gone at the end: an attempt's state.

    It follows the context, so also into `dspy.Parallel` and asynchronous calls, and never into another attempt.
    """
    mine: dict[object, CodeInterpreter] = {}
    token = _SANDBOXES.set(mine)
    try:
        yield
    finally:
        _SANDBOXES.reset(token)
        for interpreter in mine.values():
            interpreter.shutdown()


def _run_in_sandbox(key: object, kind: str | Callable[[], CodeInterpreter], limits: Limits | None, code: str) -> str:
    mine = _SANDBOXES.get()
    if mine is not None:
        with _CREATE:
            if key not in mine:
                mine[key] = _create(kind, limits)
        return _observe(mine[key], code)
    interpreter = _create(kind, limits)
    try:
        return _observe(interpreter, code)
    finally:
        interpreter.shutdown()


_CREATE = threading.Lock()


def _create(kind: str | Callable[[], CodeInterpreter], limits: Limits | None) -> CodeInterpreter:
    if kind == "monty":
        return MontyInterpreter(limits=limits)
    return kind() if callable(kind) else resolve_interpreter_factory()()


def _observe(interpreter: CodeInterpreter, code: str) -> str:
    """Run code and tell what came of it as bounded text; a sandbox that can't run is an outage, not an observation."""
    try:
        result = interpreter.execute(_without_fence(code))
    except SyntaxError as error:
        text = f"SyntaxError: {error.msg or error}"
    except CodeExecutionError as error:
        text = str(error)
        text = text.strip().rsplit("\n", 1)[-1] if "Traceback (most recent call last)" in text else text
    except CodeInterpreterError as error:
        raise InfrastructureError(f"the Python sandbox failed: {str(error).strip()[:300]}") from error
    else:
        result = result.output if isinstance(result, FinalOutput) else result
        text = "" if result is None else str(result)
    return cut(text.rstrip("\n"), _MAX_CHARS) or _NOTHING


def _without_fence(code: str) -> str:
    """The code without the Markdown fence that models put around it."""
    fenced = re.fullmatch(r"\s*```(?:python|py)?[ \t]*\n(.*?)\n?```\s*", code, re.DOTALL)
    return fenced[1] if fenced else code
