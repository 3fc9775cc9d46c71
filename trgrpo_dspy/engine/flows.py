"""Where work runs.

Work is written as *flows*: generators that yield batches of tasks and get back their results, in order. Flows run side
by side; none waits for another, so a group goes on to its summaries while other groups still roll out, and validation
of one library fills the places that the next step's rollouts leave free. What a flow computes depends only on its own
results, in its own order: one thread or sixty-four give the same.

The driver is the calling thread alone: it advances flows, draws progress bars and returns results in input order. One
number bounds what is at work (`places.py`); the longest remaining chain goes first. The first task of a run goes out by
itself, and until the backend has answered once no two do: a wrong key costs one call. Each task runs in a copy of the
caller's context, so DSPy's settings travel. When the run is stopped (a budget, Ctrl-C, a fatal error) nothing new is
started, calls in flight get a moment to return, and `RunStopped` or `FatalError` is raised.
"""

from __future__ import annotations

import contextvars
import heapq
import itertools
import math
import queue
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from trgrpo_dspy.engine.calls.gate import Calls
from trgrpo_dspy.engine.calls.places import Place, Places
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.engine.executors.threads import ThreadExecutor
from trgrpo_dspy.errors import FatalError, RunStopped, TrainingFreeGRPOError
from trgrpo_dspy.events import Event
from trgrpo_dspy.meter import Stage

from .progress import Bars

__all__ = ["Batch", "Execution", "Flow", "Task", "single"]

T = TypeVar("T")
_GRACE = 10.0
"""Seconds to wait for calls in flight when a run ends early."""
_CALL_DEADLINE = 1800.0
"""Seconds after which a single request that is out is given up: the clients' own timeouts (600 s between two bytes)
never end a reply that trickles."""
_LOOK = 30.0
"""Seconds between two looks at deadlines at most: requests go out meanwhile, and each has one."""
_MOST_WAITING = 3
"""Tasks in all, as a multiple of the places, that may have begun and wait for a retry."""


@dataclass(frozen=True)
class Task:
    """One piece of work for the pool."""

    stage: Stage
    """Stage it belongs to: names its progress bar."""
    run: Callable[[], Any]
    """The work; what it raises ends the run."""
    remaining: int = 0
    """Stages that follow it in its flow: the longest remaining chain goes first."""
    unit: Unit | None = None
    """What its LM calls belong to."""
    timeout: float | None = None
    """Seconds of its own time after which it is abandoned; None is never."""
    on_timeout: Callable[[], Any] | None = None
    """Makes the result of an abandoned task, and tells the work to stop; without it no deadline holds."""
    event: Callable[[Any], Event] | None = None
    """Makes the event that listeners are told when the result is known; None tells nobody."""


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
    """Results still out; -1 when it has ended."""
    value: T | None = None


@dataclass(eq=False)
class Batch(Generic[T]):
    """Flows that were begun together."""

    flows: list[_Running[T]] = field(default_factory=list)
    unfinished: int = 0


@dataclass(frozen=True, eq=False)
class _InFlight:
    """A task at work."""

    task: Task
    flow: _Running[Any]
    slot: int
    place: Place
    started: float

    @property
    def deadline(self) -> float:
        """When it is abandoned, by the monotonic clock."""
        task = self.task
        if task.on_timeout is None:
            return math.inf
        held = task.unit.held if task.unit is not None else 0.0
        own = math.inf if task.timeout is None else self.started + task.timeout + held
        out = min(list(task.unit.out), default=math.inf) if task.unit is not None else math.inf
        return min(own, out + _CALL_DEADLINE)


class Execution:
    """Runs flows for one run. Use it as a context manager: leaving it ends its threads."""

    def __init__(
        self,
        calls: Calls,
        num_threads: int,
        *,
        emit: Callable[[Event], object] = lambda event: None,
        bars: bool = True,
    ) -> None:
        """Prepare to run at most `num_threads` tasks at a time through the gate `calls`.

        Args:
            calls: The gate.
            num_threads: Tasks at work at a time, at most.
            emit: Told of the events that tasks make.
            bars: Whether progress is shown.
        """
        self.calls = calls
        self._emit = emit
        self._num_threads = num_threads
        # With one thread nothing is begun while another task waits: one may be asked for by what bears no two.
        self._most = (1 + _MOST_WAITING) * num_threads if num_threads > 1 else 1
        self._pool = ThreadExecutor()
        self._places = Places(lambda: self.width, self._wake)
        self._finished: queue.SimpleQueue[tuple[int, Future[Any]] | None] = queue.SimpleQueue()
        self._tickets, self._order = itertools.count(), itertools.count()
        self._ready: list[tuple[int, int, _Running[Any], int, Task]] = []
        self._in_flight: dict[int, _InFlight] = {}
        self._new: list[_Running[Any]] = []
        self._running: set[_Running[Any]] = set()
        self._bars = Bars(bars)
        self._begun = False
        self._look = math.inf
        """When deadlines have to be looked at next, by the monotonic clock: they only ever move further off."""
        calls.on_stop = self._wake  # also from a signal handler

    def __enter__(self) -> Execution:
        """Start nothing yet."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Let the threads end."""
        self._bars.close()
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
            RunStopped: The run was stopped; `calls.stop_reason` says why.
        """
        failure = self._drive(batch)
        if isinstance(failure, FatalError):  # what it came from may quote keys and addresses
            failure.__cause__ = failure.__context__ = None
        if failure is not None:
            raise failure
        return [state.value for state in batch.flows]  # type: ignore[misc]

    @property
    def width(self) -> int:
        """Tasks at work at a time: one until a task has ended and the backend is known to answer."""
        return self._num_threads if self._begun and self.calls.proven else 1

    # -- one turn --------------------------------------------------------------------------------------------------

    def _drive(self, batch: Batch[Any]) -> TrainingFreeGRPOError | None:
        """Turn until the batch has ended, or say what ended the run."""
        try:
            while self._new:
                state = self._new.pop(0)
                self._running.add(state)
                self._advance(state)
            while batch.unfinished:
                self._turn()
        except BaseException as error:  # Ctrl-C too: whatever is in flight pays for nothing more
            self._stop(error)
            self._close_flows(_GRACE if isinstance(error, (Exception, RunStopped)) else 0.0)
            failure = self.calls.fatal if isinstance(error, RunStopped) else error
            if not isinstance(failure, TrainingFreeGRPOError):
                raise
            return failure
        finally:
            if not self._running:
                self._bars.close()
        return None

    def _turn(self) -> None:
        """Start what there are places for, wait for something to happen, and pass it on."""
        self._end_if_stopped()
        self._fill()
        item = self._wait(self._seconds_to_wait())
        done = self._in_flight.pop(item[0], None) if item is not None else None
        if done is not None:
            done.place.end()
        self._end_if_stopped()
        if item is not None and done is not None:  # else it was abandoned
            self._settle(done, self._result(item[1]))
        self._abandon_late()

    def _result(self, future: Future[Any]) -> Any:
        try:
            return future.result()
        except BaseException as error:
            self._stop(error)
            self._drain(_GRACE)  # also for a KeyboardInterrupt: it was the task's, not the driver's
            raise

    def _advance(self, state: _Running[Any]) -> None:
        """Send a flow its results until it asks for more work or ends."""
        while state.missing == 0:
            try:
                tasks = next(state.flow) if state.results is None else state.flow.send(state.results)
            except StopIteration as stop:
                state.value, state.missing, state.results = stop.value, -1, None
                state.batch.unfinished -= 1
                self._running.discard(state)
                return
            self.calls.keep_results()
            state.results, state.missing = [None] * len(tasks), len(tasks)
            for slot, task in enumerate(tasks):
                heapq.heappush(self._ready, (-task.remaining, next(self._order), state, slot, task))
                self._bars.expect(task.stage)

    def _fill(self) -> None:
        while self._ready and len(self._in_flight) < self._most:
            place = self._places.take()
            if place is None:
                return
            _, _, state, slot, task = heapq.heappop(self._ready)
            flight = _InFlight(task, state, slot, place, time.monotonic())
            self._in_flight[self._start(task, place)] = flight
            self._look = min(self._look, flight.deadline, flight.started + _LOOK)

    def _start(self, task: Task, place: Place) -> int:
        ticket = next(self._tickets)
        if task.unit is not None:
            task.unit.place = place
        future = self._pool.submit(contextvars.copy_context().run, task.run)
        future.add_done_callback(lambda done: self._finished.put((ticket, done)))
        return ticket

    def _seconds_to_wait(self) -> float:
        """Until the next deadline or the end of the run's time."""
        left = self.calls.meter.seconds_left
        if left is not None and left <= 0:
            self.calls.stop("max_seconds")
        return max(0.0, min(self._look - time.monotonic(), _LOOK if left is None else left))

    def _wait(self, seconds: float) -> tuple[int, Future[Any]] | None:
        """The next finished task; None when time is up, a place became free or the run was stopped."""
        try:
            item = self._finished.get(timeout=seconds)
        except queue.Empty:
            return None
        self._begun = self._begun or item is not None
        return item

    def _wake(self) -> None:
        self._finished.put(None)

    def _settle(self, done: _InFlight, result: Any) -> None:
        self._bars.advance(done.task.stage)
        if done.task.event is not None:
            self._emit(done.task.event(result))
        state = done.flow
        assert state.results is not None
        state.results[done.slot] = result
        state.missing -= 1
        self._advance(state)

    def _abandon_late(self) -> None:
        now = time.monotonic()
        if now < self._look:
            return
        for ticket in [t for t, flight in self._in_flight.items() if flight.deadline <= now]:
            flight = self._in_flight.pop(ticket)
            assert flight.task.on_timeout is not None
            flight.place.end()
            self._settle(flight, flight.task.on_timeout())
        self._look = min((flight.deadline for flight in self._in_flight.values()), default=math.inf)
        self._look = min(self._look, now + _LOOK)

    # -- the end ---------------------------------------------------------------------------------------------------

    def _end_if_stopped(self) -> None:
        if self.calls.stopped:
            raise RunStopped(self.calls.stop_reason)

    def _close_flows(self, grace: float) -> None:
        """Start nothing new, give calls in flight a moment to return, and end all flows."""
        self._drain(grace)
        self._ready.clear()
        for state in [*self._new, *self._running]:
            state.flow.close()
        self._new.clear()
        self._running.clear()

    def _stop(self, error: BaseException) -> None:
        """Shut the gate; what a program or metric found fatal itself has not shut it yet."""
        if isinstance(error, FatalError):
            self.calls.stop("fatal", error)
        self.calls.stop("interrupted")

    def _drain(self, grace: float) -> None:
        end = time.monotonic() + grace
        while self._in_flight and (left := end - time.monotonic()) > 0:
            item = self._wait(left)
            if item is not None:
                self._in_flight.pop(item[0], None)
