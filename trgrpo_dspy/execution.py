"""Where work runs.

Work is written as *flows*: generators that yield batches of tasks and get back their results, in order. Flows run side
by side on a bounded pool; none waits for another, so a group goes on to its summaries while other groups still roll
out. What a flow computes depends only on its own results, in its own order: one thread or sixty-four give the same.

The driver is the calling thread alone: it advances flows, draws progress bars and returns results in input order. The
first task of a run goes out by itself, and until the backend has answered once no two do: a wrong key costs one call.
Worker threads are daemons and never keep the process from exiting; each task runs in a copy of the caller's context,
so DSPy's settings travel. When the run is stopped (a budget, Ctrl-C, a fatal error) nothing new is started, calls in
flight get a moment to return, and `RunStopped` or `FatalError` is raised.
"""

from __future__ import annotations

import contextvars
import heapq
import itertools
import math
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from tqdm.auto import tqdm

from .calls import Calls
from .errors import FatalError, RunStopped, TrainingFreeGRPOError
from .meter import Stage

__all__ = ["Execution", "Executor", "Flow", "Task", "ThreadExecutor"]

T = TypeVar("T")
_GRACE = 10.0
"""Seconds to wait for calls in flight when a run ends early."""


@dataclass(frozen=True)
class Task:
    """One piece of work for the pool."""

    stage: Stage
    """Stage it belongs to: names its progress bar."""
    run: Callable[[], Any]
    """The work; what it raises ends the run."""
    remaining: int = 0
    """Stages that follow it in its flow: the longest remaining chain goes first."""
    timeout: float | None = None
    """Seconds after which it is abandoned; None is never."""
    held: Callable[[], float] = lambda: 0.0
    """Seconds of its time so far that do not count."""
    on_timeout: Callable[[], Any] | None = None
    """Makes the result of an abandoned task, and tells the work to stop."""


Flow = Generator[Sequence[Task], list[Any], T]
"""Yields batches of tasks, is sent their results in the same order, returns its own result."""


class Executor(Protocol):
    """Where tasks run: anything with `submit`, such as a `concurrent.futures` executor."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Run `fn(*args)` somewhere."""


class ThreadExecutor:
    """A bounded pool of daemon threads."""

    def __init__(self, num_threads: int) -> None:
        """Threads are started as work comes in, up to `num_threads`."""
        self._limit = num_threads
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = (
            queue.SimpleQueue()
        )
        self._threads: list[threading.Thread] = []
        self._idle = threading.Semaphore(0)

    def submit(self, fn: Callable[..., T], /, *args: Any) -> Future[T]:
        """Run `fn(*args)` on the pool."""
        future: Future[T] = Future()
        self._queue.put((future, fn, args))
        if not self._idle.acquire(blocking=False) and len(self._threads) < self._limit:
            thread = threading.Thread(target=self._work, name=f"trgrpo-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def replace_one(self) -> None:
        """Allow one more thread: another is stuck in work that was abandoned."""
        self._limit += 1

    def close(self) -> None:
        """Let the threads end when their work is done."""
        for _ in self._threads:
            self._queue.put(None)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            future, fn, args = item
            result: Any = None
            failure: BaseException | None = None
            try:
                result = fn(*args)
            except BaseException as error:
                failure = error
            self._idle.release()  # before the result is known: whoever submits next counts on this thread
            future.set_exception(failure) if failure is not None else future.set_result(result)
            del item, future, fn, args, result, failure


@dataclass
class _Running(Generic[T]):
    """A flow under way."""

    flow: Flow[T]
    results: list[Any] | None = None
    """Results of its last batch; None before the first."""
    missing: int = 0
    """Results still out; -1 when it has ended."""
    value: T | None = None


@dataclass(frozen=True)
class _InFlight:
    """A task on the pool."""

    task: Task
    flow: int
    slot: int
    started: float

    @property
    def deadline(self) -> float | None:
        """When it is abandoned, by the monotonic clock; None is never."""
        return None if self.task.timeout is None else self.started + self.task.timeout + self.task.held()


class Execution:
    """Runs flows for one run. Use it as a context manager: leaving it ends its threads."""

    def __init__(self, calls: Calls, num_threads: int) -> None:
        """Prepare to run at most `num_threads` tasks at a time through the gate `calls`."""
        self.calls = calls
        self._num_threads = num_threads
        self._pool = ThreadExecutor(num_threads)
        self._finished: queue.SimpleQueue[tuple[int, Future[Any]] | None] = queue.SimpleQueue()
        self._tickets = itertools.count()
        self._begun = False
        calls.on_stop = lambda: self._finished.put(None)  # wakes the driver, also from a signal handler

    def __enter__(self) -> Execution:
        """Start nothing yet."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Let the threads end."""
        self._pool.close()

    def run(self, flows: Sequence[Flow[T]]) -> list[T]:
        """Drive the flows to their ends; results in input order.

        Raises:
            FatalError: No further call can succeed; the message names the model and what to do.
            RunStopped: The run was stopped; `calls.stop_reason` says why.
        """
        running = [_Running(flow) for flow in flows]
        try:
            with _Bars() as bars:
                _Driver(self, running).drive(bars)
        except BaseException as error:  # Ctrl-C too: whatever is in flight pays for nothing more
            self.calls.stop("interrupted")
            for state in running:
                state.flow.close()
            failure = self.calls.fatal if isinstance(error, RunStopped) else error
            if failure is None or not isinstance(failure, TrainingFreeGRPOError):
                raise
        else:
            return [state.value for state in running]  # type: ignore[misc]
        if isinstance(failure, FatalError):  # what it came from may quote keys and addresses
            failure.__cause__ = failure.__context__ = None
        raise failure

    @property
    def width(self) -> int:
        """Tasks at a time: one until a task has ended and the backend is known to answer."""
        return self._num_threads if self._begun and self.calls.proven else 1

    def start(self, task: Task) -> int:
        """Put a task on the pool; its ticket comes back through `wait`."""
        ticket = next(self._tickets)
        future = self._pool.submit(contextvars.copy_context().run, task.run)
        future.add_done_callback(lambda done: self._finished.put((ticket, done)))
        return ticket

    def wait(self, seconds: float | None) -> tuple[int, Future[Any]] | None:
        """The next finished task; None when time is up or the run was stopped."""
        try:
            item = self._finished.get(timeout=seconds)
        except queue.Empty:
            return None
        self._begun = self._begun or item is not None
        return item

    def abandon(self) -> None:
        """A task is stuck: let another take its place."""
        self._pool.replace_one()


class _Driver(Generic[T]):
    """Advances flows as their tasks finish; lives in the calling thread."""

    def __init__(self, execution: Execution, running: list[_Running[T]]) -> None:
        self._execution, self._calls, self._running = execution, execution.calls, running
        self._ready: list[tuple[int, int, int, int, Task]] = []
        self._order = itertools.count()
        self._in_flight: dict[int, _InFlight] = {}

    def drive(self, bars: _Bars) -> None:
        for index in range(len(self._running)):
            self._advance(index, bars)
        while self._ready or self._in_flight:
            self._end_if_stopped()
            self._fill()
            item = self._execution.wait(self._seconds_to_wait())
            done = self._in_flight.pop(item[0], None) if item is not None else None
            self._end_if_stopped()
            if item is not None and done is not None:  # else it was abandoned
                self._settle(done, self._result(item[1]), bars)
            self._abandon_late(bars)

    def _advance(self, index: int, bars: _Bars) -> None:
        """Send a flow its results until it asks for more work or ends."""
        state = self._running[index]
        while state.missing == 0:
            try:
                tasks = next(state.flow) if state.results is None else state.flow.send(state.results)
            except StopIteration as stop:
                state.value, state.missing = stop.value, -1
                return
            self._calls.keep_results()
            state.results, state.missing = [None] * len(tasks), len(tasks)
            for slot, task in enumerate(tasks):
                heapq.heappush(self._ready, (-task.remaining, next(self._order), index, slot, task))
                bars.expect(task.stage)

    def _fill(self) -> None:
        while self._ready and len(self._in_flight) < self._execution.width:
            _, _, index, slot, task = heapq.heappop(self._ready)
            ticket = self._execution.start(task)
            self._in_flight[ticket] = _InFlight(task, index, slot, time.monotonic())

    def _seconds_to_wait(self) -> float | None:
        """Until the next deadline or the end of the run's time; None if there is neither."""
        left = self._calls.meter.seconds_left
        if left is not None and left <= 0:
            self._calls.stop("max_seconds")
        deadlines = [deadline for flight in self._in_flight.values() if (deadline := flight.deadline) is not None]
        waits = [d - time.monotonic() for d in deadlines] + ([left] if left is not None else [])
        return max(0.0, min(waits)) if waits else None

    def _result(self, future: Future[Any]) -> Any:
        try:
            return future.result()
        except BaseException:
            self._drain()
            raise

    def _settle(self, done: _InFlight, result: Any, bars: _Bars) -> None:
        bars.advance(done.task.stage)
        state = self._running[done.flow]
        assert state.results is not None
        state.results[done.slot] = result
        state.missing -= 1
        self._advance(done.flow, bars)

    def _abandon_late(self, bars: _Bars) -> None:
        now = time.monotonic()
        late = [t for t, flight in self._in_flight.items() if (flight.deadline or math.inf) <= now]
        for ticket in late:
            flight = self._in_flight.pop(ticket)
            assert flight.task.on_timeout is not None
            self._execution.abandon()
            self._settle(flight, flight.task.on_timeout(), bars)

    def _end_if_stopped(self) -> None:
        if self._calls.stopped:
            self._drain()
            raise RunStopped(self._calls.stop_reason)

    def _drain(self) -> None:
        """Start nothing new and give calls in flight a moment to return."""
        self._calls.stop()
        end = time.monotonic() + _GRACE
        while self._in_flight and (left := end - time.monotonic()) > 0:
            item = self._execution.wait(left)
            if item is not None:
                self._in_flight.pop(item[0], None)


class _Bars:
    """A progress bar per stage, in a terminal; nothing elsewhere."""

    def __init__(self) -> None:
        self._bars: dict[Stage, tqdm[Any]] = {}

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *exc: object) -> None:
        for bar in self._bars.values():
            bar.close()

    def expect(self, stage: Stage) -> None:
        if stage not in self._bars:
            # disable=None: only where standard error is a terminal
            self._bars[stage] = tqdm(total=0, desc=stage.value, disable=None, leave=False, dynamic_ncols=True)
        bar = self._bars[stage]
        bar.total = (bar.total or 0) + 1
        bar.refresh() if not bar.disable else None

    def advance(self, stage: Stage) -> None:
        self._bars[stage].update()
