"""A sandbox for Python that a model wrote: such code never runs in our process.

`MontyInterpreter` is DSPy's `CodeInterpreter` over `pydantic-monty`, a Python interpreter written in Rust. What it
guarantees:

- **Nothing outside.** No files, network, environment, subprocesses or threads: the interpreter has no such operation,
  and runs in a worker process that was started with an empty environment.
- **Limits** (`Limits`) on time, memory, recursion, output and kept state. Code that meets the limit on time or memory
  is stopped, and its variables are as they were before that call.
- **State** is kept from call to call of one interpreter, and seen by no other. Between calls it is a string of bytes
  here and holds no worker, so a handful of workers serve any number of attempts.
- **Errors** come back as one line, never as a traceback.
- **Determinism.** The clock stands still, sleeping takes no time, `random` starts from a fixed seed.

What the tool of the paper had that Monty has not: `sympy`, `numpy` and `fractions`. Nor has it `heapq`, `operator`,
`statistics`, `cmath`, `yield`, `del` and class inheritance; generator expressions are lists, and an integer of more
than 4,300 digits can't be printed. `math`, `itertools`, `functools`, `collections`, `decimal`, `bisect`, `random`, `re`
and big integers are there.
"""

from __future__ import annotations

import ast
import atexit
import os
import re
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from dspy.primitives import CodeInterpreterError, FinalOutput
from dspy.primitives.code_interpreter import CodeExecutionError

if TYPE_CHECKING:
    import pydantic_monty

__all__ = ["AVAILABLE", "Limits", "MontyInterpreter", "cut", "require_monty"]

_MB = 2**20
_CUT = "\n... (output cut) ...\n"
_AS_BEFORE = "variables are as they were before this call"
_FILE = "<sandbox>"
_CLOCK = datetime(2025, 1, 1, tzinfo=timezone.utc)
_COMPILE_SECONDS = 5.0
"""What parsing and compiling may take; the time limit counts execution alone."""
AVAILABLE = (
    "Available: math, itertools, functools (lru_cache, reduce), collections, decimal, bisect, random, re. "
    "Not available: sympy, numpy, fractions, heapq, yield, del, class inheritance, files, network."
)
"""What a model must know of the sandbox."""


@dataclass(frozen=True)
class Limits:
    """What one sandbox may use."""

    seconds: float = 10.0
    """Execution time of one call."""
    memory_mb: int = 256
    """Memory in MB, all variables included."""
    output_chars: int = 4000
    """Characters of printed output, and of the last value, that are shown."""
    state_mb: int = 16
    """Variables kept from one call to the next, in MB as stored."""
    recursion: int = 1000
    """Depth of nested calls."""
    code_chars: int = 20_000
    """Characters of code in one call."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"Limits({name}={value!r}) must be above 0")


class _StateTooLarge(Exception):
    """The variables are too large to be kept."""


class MontyInterpreter:
    """DSPy's `CodeInterpreter` over `pydantic-monty`; thread-safe.

    `execute` returns what the code printed and, on the next line, the `repr` of its last expression (None if there was
    neither), or `dspy`'s `FinalOutput` if the code called `SUBMIT`. As a factory: `dspy.configure(
    interpreter_factory=MontyInterpreter)`. The `dspy` module that `dspy.Flex` and `dspy.RLM` put into a sandbox needs
    more Python than Monty has.
    """

    execution_instructions = "Code runs in a sandbox with a subset of Python. Variables persist. " + AVAILABLE

    def __init__(
        self,
        tools: dict[str, Callable[..., Any]] | None = None,
        output_fields: list[dict[str, Any]] | None = None,
        *,
        limits: Limits | None = None,
        seed: int = 0,
    ) -> None:
        """Prepare a sandbox; nothing is started.

        Args:
            tools: Functions of ours that the code may call, by name. They run here, outside the sandbox.
            output_fields: Names (`{"name": ...}`) of what `SUBMIT` takes; None for one value.
            limits: What the code may use.
            seed: What `random` starts from.

        Raises:
            ImportError: `pydantic-monty` is not installed.
        """
        require_monty()
        self.tools = dict(tools or {})
        self.output_fields = output_fields
        self.limits = limits or Limits()
        self.seed = seed
        self._state: bytes | None = None
        self._ended = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Nothing to do: workers are shared, and started when they are needed."""

    def shutdown(self) -> None:
        """Forget the state; the interpreter can't be used again."""
        with self._lock:
            self._state, self._ended = None, True

    def __enter__(self) -> MontyInterpreter:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def execute(self, code: str, variables: dict[str, Any] | None = None) -> Any:
        """Run code in the sandbox.

        Args:
            code: Python source.
            variables: Values set before the code runs.

        Raises:
            CodeExecutionError: The code failed or met a limit; the message is what it printed and one line on why.
            CodeInterpreterError: The sandbox can't run, or was shut down.
            SyntaxError: The code can't be parsed.
        """
        if len(code) > self.limits.code_chars:
            raise CodeExecutionError(f"ValueError: the code has more than {self.limits.code_chars} characters")
        with self._lock:
            if self._ended:
                raise CodeInterpreterError("This sandbox was shut down; create a new one.")
            return self._run(code.encode("utf-8", "replace").decode(), variables or {})

    def _run(self, code: str, variables: dict[str, Any]) -> Any:
        """Run code on a worker and turn what comes of it into text, a final output or an error."""
        monty, printed = require_monty(), _Printed(self.limits.output_chars)
        try:
            value = self._on_worker(code, variables, printed)
        except monty.MontySyntaxError as error:
            raise SyntaxError(str(error)) from None
        except monty.MontyConversionError as error:
            raise CodeInterpreterError(f"A value can't enter the sandbox: {error}") from None
        except monty.MontyError as error:
            stopped, line = self._explain(error)
            raise CodeExecutionError(_joined(printed.head if stopped else printed.text(), line)) from None
        except _StateTooLarge:
            line = f"MemoryError: the variables take more than {self.limits.state_mb} MB to keep; {_AS_BEFORE}"
            raise CodeExecutionError(_joined(printed.text(), line)) from None
        except OSError as error:
            raise CodeInterpreterError(f"The sandbox can't run: {error}") from error
        if isinstance(value, FinalOutput):
            return value
        shown = "" if value in (None, "None") else cut(str(value), self.limits.output_chars)
        return _joined(printed.text(), shown) or None

    def _on_worker(self, code: str, variables: dict[str, Any], printed: _Printed) -> Any:
        """Check out a worker, give it the state, run, take the state back; a limit leaves the state as it was."""
        monty = require_monty()
        with _pool(self.limits.seconds).checkout(limits=self._limits(), os_policy=self._policy()) as session:
            if self._state is not None:
                session.load_session(self._state)
            try:
                value = self._feed(session, _with_repr_of_last(code, self.limits.output_chars), variables, printed)
            except monty.MontyRuntimeError as error:
                if not isinstance(error.exception(), (TimeoutError, MemoryError)):
                    self._keep(session)
                raise
            if not isinstance(value, FinalOutput):
                self._keep(session)
            return value

    def _keep(self, session: Any) -> None:
        state = session.dump()
        if len(state) > self.limits.state_mb * _MB:
            raise _StateTooLarge
        self._state = state

    def _feed(self, session: Any, code: str, variables: dict[str, Any], printed: _Printed) -> Any:
        """Run one snippet to its end or to its call of `SUBMIT`."""
        monty = require_monty()
        known = {**self.tools, "SUBMIT": lambda *args, **kwargs: None}
        step = session.feed_start(code, inputs=variables, external_lookup=known, print_callback=printed)
        while not isinstance(step, monty.MontyComplete):
            if isinstance(step, monty.FunctionSnapshot) and step.function_name == "SUBMIT":
                return FinalOutput(self._submitted(step.args, step.kwargs))
            step = step.resume_auto()
        return step.output

    def _submitted(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        names = [field["name"] for field in self.output_fields] if self.output_fields else ["output"]
        values = {**dict(zip(names, args, strict=False)), **kwargs}
        if len(args) > len(names) or set(values) != set(names):
            raise CodeExecutionError(f"TypeError: SUBMIT takes {', '.join(names)}")
        return {name: values[name] for name in names}

    def _explain(self, error: Any) -> tuple[bool, str]:
        """Whether a limit ended the code, and one line that says what happened (figures of a limit vary: not told)."""
        cause = error.exception()
        if isinstance(cause, TimeoutError) or getattr(error, "timed_out", False):
            return True, f"TimeoutError: the code ran for more than {self.limits.seconds:g} seconds; {_AS_BEFORE}"
        if isinstance(cause, MemoryError):
            return True, f"MemoryError: the code needed more than {self.limits.memory_mb} MB; {_AS_BEFORE}"
        if not isinstance(error, require_monty().MontyRuntimeError):
            return True, f"RuntimeError: the code crashed its sandbox; {_AS_BEFORE}"
        frames = error.traceback()
        line = " ".join(error.display("type-msg").split())
        return False, cut(line, 500) + (f" (line {frames[-1].line})" if frames else "")

    def _limits(self) -> pydantic_monty.ResourceLimits:
        return {
            "max_feed_duration_secs": self.limits.seconds,
            "max_memory": self.limits.memory_mb * _MB,
            "max_recursion_depth": self.limits.recursion,
        }

    def _policy(self) -> pydantic_monty.OSPolicy:
        return {"datetime": _CLOCK, "sleep": "zero", "random_start": {"seed": self.seed}}


def _with_repr_of_last(code: str, max_chars: int) -> str:
    """The code with its last expression replaced by the start of its `repr`.

    The text is made inside the sandbox, so that a value of many MB never reaches this process. What can't be parsed
    here is left to the sandbox, which says why.
    """
    try:
        body = ast.parse(code, _FILE).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return code
    if not body or not isinstance(body[-1], ast.Expr):
        return code
    last = body[-1].value
    source = ast.get_source_segment(code, last)
    lines = code.encode().splitlines(keepends=True)
    before = b"".join(lines[: body[-1].lineno - 1]) + lines[body[-1].lineno - 1][: body[-1].col_offset]
    return f"{before.decode()}repr(({source}\n))[:{max_chars + 1}]"


class _Printed:
    """What a call printed: its start and its end, whatever it printed in between."""

    def __init__(self, max_chars: int) -> None:
        self.head, self.tail, self.total, self._max = "", "", 0, max_chars

    def __call__(self, stream: str, text: str) -> None:
        room = max(0, self._max - len(self.head))
        self.head += text[:room]
        self.tail = (self.tail + text[room:])[-(self._max // 4) :]
        self.total += len(text)

    def text(self) -> str:
        if self.total <= self._max:
            return self.head
        kept = self._max - len(self.tail)
        return self.head[:kept] + _CUT + self.tail


def cut(text: str, max_chars: int) -> str:
    """The text, or its start and a mark where it is too long."""
    return text if len(text) <= max_chars else text[:max_chars] + _CUT.rstrip("\n")


def _joined(printed: str, last: str) -> str:
    """Printed output and one more line."""
    return f"{printed.rstrip()}\n{last}" if printed.strip() and last else last or printed


def require_monty() -> Any:
    """The package `pydantic_monty`, or an error that says how to install it."""
    try:
        import pydantic_monty
    except ImportError:
        raise ImportError("The Python tool's sandbox is not installed: pip install 'trgrpo-dspy[math]'") from None
    return pydantic_monty


_POOLS: dict[tuple[int, float], Any] = {}
_POOLS_LOCK = threading.Lock()


def _pool(seconds: float) -> Any:
    """The workers of this process, which all sandboxes with the same time limit share."""
    key = (os.getpid(), seconds)
    with _POOLS_LOCK:
        if key not in _POOLS:
            # Parsing warns of a "\d" in model-written code; that is nobody's concern here.
            warnings.filterwarnings("ignore", category=SyntaxWarning, module=re.escape(_FILE))
            workers = min(8, os.cpu_count() or 1)
            pool = require_monty().Monty(max_processes=workers, request_timeout=seconds + _COMPILE_SECONDS)
            _POOLS[key] = pool.__enter__()
        return _POOLS[key]


@atexit.register
def _close_pools() -> None:
    """End the workers this process started; those of a parent process are the parent's."""
    for key in [key for key in _POOLS if key[0] == os.getpid()]:
        _POOLS.pop(key).__exit__(None, None, None)
