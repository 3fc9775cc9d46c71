"""Where work runs.

Work is written as *flows*: generators that yield batches of tasks and get back their results, in order. Flows run side
by side; none waits for another, so a group goes on to its summaries while other groups still roll out, and validation
of one library fills the slots that the next step's rollouts leave free. What a flow computes depends only on its own
results, in its own order: one thread and sixty-four give the same.

The driver is the calling thread alone: it advances flows, emits events and returns results in input order. One number
bounds what is at work (`calls/slots.py`); the longest remaining chain goes first. The first task of a run goes out by
itself, and until a backend has answered once no two do: a wrong key costs one call. When the run is stopped (a budget,
Ctrl-C, a fatal error) nothing new is started, calls in flight get a moment to return, and `RunStopped` or `FatalError`
is raised.
"""

from __future__ import annotations

import heapq
import itertools
import queue
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from trgrpo_dspy.errors import FatalError, RunStopped, TrainingFreeGRPOError
from trgrpo_dspy.events import Event, Notice

from .pool import Pool, Started, Task

if TYPE_CHECKING:
    from .calls.gate import Gate

__all__ = ["Batch", "Execution", "Flow", "single"]

T = TypeVar("T")
_GRACE = 10.0
"""Seconds to wait for calls in flight when a run ends early."""


Flow = Generator[Sequence[Task], list[Any], T]
"""Yields batches of tasks, is sent their results in the same order, returns its own result."""


def single(task: Task) -> Flow[Any]:
    """A flow of one task; its result is the task's."""
    (result,) = yield [task]
    return result


@dataclass(eq=False)
class _Running(Generic[T]):
    """A flow under way."""

    flow: Flow[T]
    batch: Batch[T]
    results: list[Any] | None = None
    """Results of its last batch of tasks; None before the first."""
    missing: int = 0
    """Results still out; -1 when the flow has ended."""
    value: T | None = None


@dataclass(eq=False)
class Batch(Generic[T]):
    """Flows that were begun together."""

    flows: list[_Running[T]] = field(default_factory=list)
    unfinished: int = 0


class Execution:
    """Drives the flows of one run. Use it as a context manager: leaving it ends its threads."""

    def __init__(self, gate: Gate, num_threads: int, *, emit: Callable[[Event], object] = lambda event: None) -> None:
        """Prepare to run at most `num_threads` tasks at a time through the gate, and to emit the events they make."""
        self._state, self._emit = gate.state, emit
        self._pool = Pool(gate.state, num_threads)
        self._order = itertools.count()
        self._ready: list[tuple[int, int, _Running[Any], int, Task]] = []
        self._new: list[_Running[Any]] = []
        self._running: set[_Running[Any]] = set()
        gate.state.ending.on_stop = self._pool.wake  # also from a signal handler

    def __enter__(self) -> Execution:
        return self

    def __exit__(self, *exc: object) -> None:
        self._emit_notices()
        self._pool.close()

    def run(self, flows: Sequence[Flow[T]]) -> list[T]:
        """Drive flows to their ends; results in input order. Raises as `finish`."""
        return self.finish(self.begin(flows))

    def begin(self, flows: Sequence[Flow[T]]) -> Batch[T]:
        """Take flows in; they go on whenever `finish` drives, for this batch or another."""
        batch: Batch[T] = Batch()
        batch.flows = [_Running(flow, batch) for flow in flows]
        batch.unfinished = len(batch.flows)
        self._new.extend(batch.flows)
        return batch

    def finish(self, batch: Batch[T]) -> list[T]:
        """Drive all flows until those of this batch have ended; their results in input order.

        Raises:
            FatalError: No further call can succeed; the message names the model and what to do.
            RunStopped: The run was stopped; its ending says why.
        """
        try:
            while self._new:
                running = self._new.pop(0)
                self._running.add(running)
                self._advance(running)
            while batch.unfinished:
                self._turn()
            return [running.value for running in batch.flows]  # type: ignore[misc]
        except BaseException as error:  # Ctrl-C too: no call may be paid for any more
            self._stop(error)
            self._close_flows(_GRACE if isinstance(error, (Exception, RunStopped)) else 0.0)
            failure = self._state.ending.fatal if isinstance(error, RunStopped) else error
            if not isinstance(failure, TrainingFreeGRPOError):
                raise
        finally:
            self._emit_notices()
        if isinstance(failure, FatalError):  # what it came from may quote keys and addresses
            failure.__cause__ = failure.__context__ = None
        raise failure

    # -- one turn --------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Start the tasks that there are slots for, wait for something to happen, and pass results on."""
        self._end_if_stopped()
        while self._ready and (slot := self._pool.slot()) is not None:
            _, _, running, position, task = heapq.heappop(self._ready)
            self._pool.start(task, (running, position), slot)
        left = self._state.meter.seconds_left
        if left is not None and left <= 0:
            self._state.ending.stop("max_seconds")
        done = self._pool.next(left)
        self._emit_notices()
        self._end_if_stopped()
        if done is not None:
            started, future = done
            try:
                result = future.result()
            except BaseException as error:
                self._stop(error)
                self._pool.drain(_GRACE)  # also for a KeyboardInterrupt: it was the task's, not the driver's
                raise
            self._settle(started, result)
        for late in self._pool.late():
            assert late.task.on_timeout is not None
            self._settle(late, late.task.on_timeout())

    def _advance(self, running: _Running[Any]) -> None:
        """Send a flow its results until it asks for more work or ends."""
        while running.missing == 0:
            try:
                tasks = next(running.flow) if running.results is None else running.flow.send(running.results)
            except StopIteration as stop:
                running.value, running.missing, running.results = stop.value, -1, None
                running.batch.unfinished -= 1
                self._running.discard(running)
                return
            if self._state.journal is not None:  # commit the results before anything starts that rests on them
                self._state.journal.flush()
            running.results, running.missing = [None] * len(tasks), len(tasks)
            for position, task in enumerate(tasks):
                heapq.heappush(self._ready, (-task.remaining, next(self._order), running, position, task))

    def _settle(self, started: Started, result: Any) -> None:
        running, position = started.owner
        if started.task.event is not None:
            self._emit(started.task.event(result))
        assert running.results is not None
        running.results[position] = result
        running.missing -= 1
        self._advance(running)

    def _emit_notices(self) -> None:
        """Emit the sentences for the user that calls have left."""
        while True:
            try:
                text = self._state.notices.get_nowait()
            except queue.Empty:
                return
            self._emit(Notice(text=text))

    # -- the end ---------------------------------------------------------------------------------------------------

    def _end_if_stopped(self) -> None:
        if self._state.ending.event.is_set():
            raise RunStopped(self._state.ending.reason)

    def _close_flows(self, grace: float) -> None:
        """Start nothing new, give calls in flight a moment to return, and end all flows."""
        self._pool.drain(grace)
        self._ready.clear()
        for running in [*self._new, *self._running]:
            running.flow.close()
        self._new.clear()
        self._running.clear()

    def _stop(self, error: BaseException) -> None:
        """Stop the run; a program or metric that found something fatal has not done so itself."""
        if isinstance(error, FatalError):
            self._state.ending.stop("fatal", error)
        self._state.ending.stop("interrupted")
