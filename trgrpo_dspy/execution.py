"""Where work runs.

Work is written as *flows*: generators that yield batches of tasks and get back their results, in order. Flows run side
by side on a bounded pool; none waits for another, so a group goes on to its summaries while other groups still roll
out. What a flow computes depends only on its own results, in its own order: one thread or sixty-four give the same.

The driver is the calling thread alone: it advances flows, draws progress bars and returns results in input order. The
first task of a run goes out by itself, so a wrong key costs one call. Worker threads are daemons and never keep the
process from exiting; each task runs in a copy of the caller's context, so DSPy's settings travel.
"""

from __future__ import annotations

import contextvars
import heapq
import itertools
import queue
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tqdm.auto import tqdm

from .calls import Calls
from .errors import FatalError, RunStopped
from .failures import fatal_message
from .meter import Stage

__all__ = ["Execution", "Flow", "Task", "ThreadExecutor"]

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


Flow = Generator[Sequence[Task], list[Any], T]
"""Yields batches of tasks, is sent their results in the same order, returns its own result."""


class ThreadExecutor:
    """A bounded pool of daemon threads with `submit(fn, *args) -> Future`."""

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

    def close(self) -> None:
        """Let the threads end when their work is done."""
        for _ in self._threads:
            self._queue.put(None)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            future, fn, args = item
            try:
                future.set_result(fn(*args))
            except BaseException as error:
                future.set_exception(error)
            del item, future, fn, args
            self._idle.release()


@dataclass
class _Running(Generic[T]):
    """A flow under way."""

    flow: Flow[T]
    results: list[Any] | None = None
    """Results of its last batch; None before the first."""
    missing: int = 0
    """Results still out; -1 when it has ended."""
    value: T | None = None


class Execution:
    """Runs flows for one run. Use it as a context manager: leaving it ends its threads."""

    def __init__(self, calls: Calls, num_threads: int) -> None:
        """Prepare to run at most `num_threads` tasks at a time through the gate `calls`."""
        self.calls = calls
        self._num_threads = num_threads
        self._pool = ThreadExecutor(num_threads)
        self._proven = False

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
        """
        running = [_Running(flow) for flow in flows]
        with _Bars() as bars:
            try:
                self._drive(running, bars)
            except BaseException:  # Ctrl-C too: whatever is in flight pays for nothing more
                self.calls.stop()
                for state in running:
                    state.flow.close()
                raise
        return [state.value for state in running]  # type: ignore[misc]

    def _drive(self, running: list[_Running[T]], bars: _Bars) -> None:
        ready: list[tuple[int, int, int, int, Task]] = []
        finished: queue.SimpleQueue[tuple[int, int, Task, Future[Any]]] = queue.SimpleQueue()
        ticket = itertools.count()
        in_flight = 0

        def advance(index: int) -> None:
            """Send a flow its results until it asks for more work or ends."""
            state = running[index]
            while state.missing == 0:
                try:
                    tasks = next(state.flow) if state.results is None else state.flow.send(state.results)
                except StopIteration as stop:
                    state.value, state.missing = stop.value, -1
                    return
                state.results, state.missing = [None] * len(tasks), len(tasks)
                for slot, task in enumerate(tasks):
                    heapq.heappush(ready, (-task.remaining, next(ticket), index, slot, task))
                    bars.expect(task.stage)

        for index in range(len(running)):
            advance(index)
        while ready or in_flight:
            while ready and in_flight < (self._num_threads if self._proven else 1):
                *_, index, slot, task = heapq.heappop(ready)
                future = self._pool.submit(contextvars.copy_context().run, task.run)
                future.add_done_callback(lambda f, i=index, s=slot, t=task: finished.put((i, s, t, f)))  # type: ignore[misc]
                in_flight += 1
            index, slot, task, future = finished.get()
            in_flight -= 1
            bars.advance(task.stage)
            try:
                result = future.result()
            except BaseException as error:
                self._end_early(in_flight, finished)
                if self.calls.fatal is not None and isinstance(error, (FatalError, RunStopped)):
                    raise FatalError(fatal_message(*self.calls.fatal)) from None
                raise
            self._proven = True
            state = running[index]
            assert state.results is not None
            state.results[slot] = result
            state.missing -= 1
            advance(index)

    def _end_early(self, in_flight: int, finished: queue.SimpleQueue[Any]) -> None:
        """Start nothing new and give calls in flight a moment to return."""
        self.calls.stop()
        try:
            for _ in range(in_flight):
                finished.get(timeout=_GRACE)
        except queue.Empty:
            pass


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
