"""What a program's tools do in a run: watched call by call, and counted over all attempts.

An agent turns a tool's error into an observation and goes on. So the errors are seen here, in a callback: an outage
leaves the attempt unscored, a fatal error ends the run, and the user is warned of a tool that fails again and again. A
tool of which every call failed ends the run: all that follows would be paid for in vain.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trgrpo_dspy.errors import FatalError
from trgrpo_dspy.failures.classify import is_tool_outage
from trgrpo_dspy.failures.messages import describe

from .calls.reported import OutsideAdapters

if TYPE_CHECKING:
    from trgrpo_dspy.program.transcript.recorder import Recorder

    from .calls.state import RunState
    from .calls.units import Unit

__all__ = ["ToolFailures", "ToolWatch"]

_WARN_FROM = 10
"""Calls of a tool from which its failures are worth a word."""
_WARN_SHARE = 0.5
"""Share of failed calls from which the user is warned."""
_END_FROM = 30
"""Calls of a tool, all of them failed, after which the run ends."""


class ToolFailures:
    """How often each tool of a run failed. Thread-safe."""

    def __init__(self, run: RunState) -> None:
        self._run = run
        self._calls: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    def note(self, name: str, error: BaseException | None) -> None:
        """Count a call; warn of a tool that mostly fails, and end the run over one that always does."""
        with self._lock:
            self._calls[name] += 1
            self._failed[name] += error is not None
            calls, failed = self._calls[name], self._failed[name]
            warn = calls >= _WARN_FROM and failed >= _WARN_SHARE * calls and name not in self._warned
            end = failed == calls == _END_FROM  # one thread alone says how many failed
            if error is None or not (warn or end):
                return
            self._warned.add(name)
        text = f"tool {name!r} failed in {failed} of {calls} calls; the last error was {describe(error)}"
        if warn:
            self._run.notices.put(f"{text}. Agents go on with the error as an observation")
        if end:
            self._run.ending.stop("unscored", problem=text)


class ToolWatch(OutsideAdapters):
    """Sees the tool calls of one attempt and their errors, also those that an agent turns into an observation."""

    def __init__(self, run: RunState, unit: Unit, recorder: Recorder, failures: ToolFailures) -> None:
        self._run, self._unit, self._recorder, self._failures = run, unit, recorder, failures
        self._open: dict[str, tuple[str, Mapping[str, Any]]] = {}

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Note the call of a module."""
        self._recorder.enter(call_id)

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Note its end."""
        self._recorder.leave(call_id)

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Note the call of a tool."""
        self._recorder.enter(call_id)
        arguments = inputs.get("kwargs", inputs)
        self._open[call_id] = (str(instance.name), dict(arguments) if isinstance(arguments, Mapping) else {})

    def on_tool_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Note its end, and what it raised."""
        name, arguments = self._open.pop(call_id, ("tool", {}))
        if exception is not None and is_tool_outage(exception):
            self._unit.account.outage = self._unit.account.outage or exception
            self._unit.account.try_again = True
        else:
            self._failures.note(name, exception)
        if isinstance(exception, FatalError):  # a tool's key was refused: an agent would make an observation of it
            self._run.ending.stop("fatal", exception)
        self._recorder.tool_call(name, arguments, result=outputs, error=exception)
        self._recorder.leave(call_id)
