"""What an attempt did, as records of text, ordered by what caused it.

A program may do several things at a time (`dspy.Parallel`, `asyncio.gather`), and which ends first is chance. So each
call of a module or tool is a branch below the call that made it, and branches are read in the order in which the caller
started them. What is started together begins in any order: these branches are read in the order of their texts.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["Branch", "Call", "Log", "Prediction", "ToolUse", "Turn", "Value"]


@dataclass(frozen=True)
class Call:
    """A tool call as text."""

    name: str
    args: str


@dataclass(frozen=True)
class Turn:
    """One part of a log."""

    text: str
    parts: tuple[str, ...]
    """Its values."""
    calls: tuple[Call, ...]
    """The tool calls it names."""
    results: tuple[str, ...]
    """The results it holds, in the order of the calls."""


@dataclass(frozen=True)
class Log:
    """A value in which a program keeps what has happened so far."""

    kind: str
    """'history' or 'trajectory'."""
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Value:
    """A value as text; of a log its turns."""

    text: str
    log: Log | None = None
    is_tools: bool = False
    """Whether it is what a predictor may call."""


@dataclass(frozen=True)
class Prediction:
    """A predictor's call."""

    stage: str
    title: str
    inputs: Mapping[str, Value]
    outputs: Mapping[str, Value]
    announced: tuple[Call, ...]
    """The tool calls its outputs name."""
    entry: object
    """The trace entry, for its identity."""
    strands: tuple[object, ...]
    """The strand it ran in and those that started it, innermost first."""

    def key(self) -> str:
        """Its content as text."""
        shown = [f"{name}={value.text or value.log}" for name, value in (*self.inputs.items(), *self.outputs.items())]
        return "\n".join([self.title, *shown])


@dataclass(frozen=True)
class ToolUse:
    """A finished tool call."""

    call: Call
    observation: str
    after: object
    """The last trace entry of the try inside the program that made it; None outside such a try."""
    strands: tuple[object, ...]

    def key(self) -> str:
        """Its content as text."""
        return "\n".join([self.call.name, self.call.args, self.observation])


class Branch:
    """A call of a module or tool that is under way, or an asyncio task in it, and what it has caused so far."""

    def __init__(self, parent: Branch | None = None) -> None:
        """Start below what caused this."""
        self._thread, self._task = threading.get_ident(), _current_task()
        outer = () if parent is None else (parent, *parent._above)
        self._above: tuple[Branch, ...] = outer
        same = parent is not None and (parent._thread, parent._task) == (self._thread, self._task)
        self._strands: tuple[object, ...] = (() if same else (self,)) + (parent._strands if parent else ())
        self._started, self._ended = 0, False
        self._items: list[tuple[int, bool, Branch | Prediction | ToolUse]] = []
        self._begun: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        if parent is not None:
            parent.add(self)

    def here(self) -> Branch:
        """Where to add what happens now: to this branch, or to that of the asyncio task it happens in."""
        task, latest = _current_task(), _latest_task.get()
        branch = latest if latest is not None and self in latest._above else self
        if task is not None and task is not branch._task:
            branch = Branch(branch)
            _latest_task.set(branch)  # tasks that this one starts begin with a copy
        return branch

    def add(self, item: Branch | Prediction | ToolUse) -> None:
        """Take in what this has caused."""
        elsewhere = threading.get_ident() != self._thread
        is_task = isinstance(item, Branch) and item._task is not self._task
        started = self._begun.get(item._task) if isinstance(item, Branch) and is_task else None
        if started is None:
            if not elsewhere and (self._ended or not is_task):  # tasks are started together until something has ended
                self._started, self._ended = self._started + 1, False
            started = self._started
        self._items.append((started, elsewhere or is_task, item))
        if not isinstance(item, Branch):
            living = _living_tasks()
            for branch in (self, *self._above):
                branch._ended = True
                for task in living:  # begun before this ended, though they may show what they do only later
                    branch._begun.setdefault(task, branch._started)

    @property
    def strands(self) -> tuple[object, ...]:
        """The thread and task that this is, and those it was started from, innermost first.

        What an agent does next is done in the same strand.
        """
        thread = threading.get_ident()
        return self._strands if thread == self._thread else (thread, *self._strands)

    def events(self) -> Iterator[Prediction | ToolUse]:
        """All that happened in it, in order of cause."""
        for *_, item in sorted(self._items, key=lambda item: (item[0], item[1], _key(item[2]) if item[1] else "")):
            if isinstance(item, Branch):
                yield from item.events()
            else:
                yield item


_latest_task: ContextVar[Branch | None] = ContextVar("trgrpo_dspy_task", default=None)


def _key(item: Branch | Prediction | ToolUse) -> str:
    return "\n".join(event.key() for event in item.events()) if isinstance(item, Branch) else item.key()


def _living_tasks() -> Collection[object]:
    try:
        return asyncio.all_tasks()
    except RuntimeError:
        return ()


def _current_task() -> object:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
