"""Tasks at work: started on threads as slots become free, and given up when their time is over."""

from __future__ import annotations

import contextvars
import math
import queue
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .calls.slots import Slot, Slots
from .executors.threads import ThreadExecutor

if TYPE_CHECKING:
    from trgrpo_dspy.events import Event

    from .calls.state import RunState
    from .calls.units import Unit

__all__ = ["Pool", "Started", "Task"]

_LOOK = 30.0
"""Seconds between two looks at deadlines at most: requests go out meanwhile, and each has one."""
_MOST_WAITING = 3
"""Tasks that may have begun and wait for a retry, as a multiple of the slots."""


@dataclass(frozen=True)
class Task:
    """One piece of work for the pool."""

    run: Callable[[], Any]
    """The work; what it raises ends the run."""
    remaining: int = 0
    """Stages that follow in the task's flow: the longest remaining chain goes first."""
    unit: Unit | None = None
    """What the task's LM calls belong to."""
    timeout: float | None = None
    """Seconds of its own time after which the task is abandoned; None is never."""
    on_timeout: Callable[[], Any] | None = None
    """Makes the result of an abandoned task, and tells the work to stop; without it no deadline holds."""
    event: Callable[[Any], Event] | None = None
    """Makes the event that listeners get when the result is known; None makes none."""


@dataclass(frozen=True, eq=False)
class Started:
    """A task at work."""

    task: Task
    owner: Any
    """What the starter wants to know the task by."""
    slot: Slot
    at: float
    """When the task was started, by the monotonic clock."""

    @property
    def deadline(self) -> float:
        """When the task is abandoned, by the monotonic clock."""
        task = self.task
        if task.on_timeout is None:
            return math.inf
        clock = task.unit.account.clock if task.unit is not None else None
        own = math.inf if task.timeout is None else self.at + task.timeout + (clock.held if clock else 0.0)
        return min(own, min(list(clock.out), default=math.inf) if clock else math.inf)


class Pool:
    """The tasks of one run that are at work. Only `wake` may be called from other threads."""

    def __init__(self, state: RunState, num_threads: int) -> None:
        """Run at most `num_threads` tasks at a time."""
        self._state, self._num_threads = state, num_threads
        # With one thread, run strictly one task at a time: the program may not be thread-safe.
        self._most = (1 + _MOST_WAITING) * num_threads if num_threads > 1 else 1
        self._threads = ThreadExecutor()
        self._slots = Slots(lambda: self.width, self.wake)
        self._finished: queue.SimpleQueue[tuple[Started, Future[Any]] | None] = queue.SimpleQueue()
        self._started: set[Started] = set()
        self._begun = False
        self._look = math.inf
        """When deadlines have to be looked at next, by the monotonic clock: deadlines only ever move further off."""

    @property
    def width(self) -> int:
        """Tasks at work at a time: one until a task has ended and a backend is known to answer."""
        return self._num_threads if self._begun and self._state.may_widen else 1

    def slot(self) -> Slot | None:
        """A slot for one more task; None if there is no room."""
        return self._slots.take() if len(self._started) < self._most else None

    def start(self, task: Task, owner: Any, slot: Slot) -> None:
        """Start a task in a copy of this thread's context, so that DSPy's settings travel."""
        if task.unit is not None:
            task.unit.account.slot = slot
        self._started.add(started := Started(task, owner, slot, time.monotonic()))
        future = self._threads.submit(contextvars.copy_context().run, task.run)
        future.add_done_callback(lambda done: self._finished.put((started, done)))
        self._look = min(self._look, started.deadline, started.at + _LOOK)

    def next(self, seconds: float | None) -> tuple[Started, Future[Any]] | None:
        """Wait so long for a task to end, and no longer than to the next deadline.

        Returns:
            The task and its future; None when time is up, a slot became free or the run was stopped.
        """
        left = max(0.0, self._look - time.monotonic())
        item = self._wait(min(left, _LOOK if seconds is None else max(0.0, seconds)))
        if item is None or item[0] not in self._started:  # it was abandoned
            return None
        self._started.remove(item[0])
        item[0].slot.end()
        return item

    def wake(self) -> None:
        """Have `next` return."""
        self._finished.put(None)

    def late(self) -> list[Started]:
        """Take out the tasks whose time is over."""
        now = time.monotonic()
        if now < self._look:
            return []
        late = sorted((started for started in self._started if started.deadline <= now), key=lambda one: one.at)
        for started in late:
            started.slot.end()
        self._started.difference_update(late)
        self._look = min((started.deadline for started in self._started), default=math.inf)
        self._look = min(self._look, now + _LOOK)
        return late

    def drain(self, grace: float) -> None:
        """Wait so long for the tasks at work; their results are dropped."""
        end = time.monotonic() + grace
        while self._started and (left := end - time.monotonic()) > 0:
            item = self._wait(left)
            if item is not None:
                self._started.discard(item[0])

    def close(self) -> None:
        """Let the threads end."""
        self._threads.close()

    def _wait(self, seconds: float) -> tuple[Started, Future[Any]] | None:
        try:
            item = self._finished.get(timeout=seconds)
        except queue.Empty:
            return None
        self._begun = self._begun or item is not None
        return item
