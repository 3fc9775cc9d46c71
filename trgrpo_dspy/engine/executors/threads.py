"""What an executor is, and the one that is used where nobody named another: a pool of daemon threads."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar, runtime_checkable

__all__ = ["Executor", "ThreadExecutor"]

T = TypeVar("T")


@runtime_checkable
class Executor(Protocol):
    """Where work runs: anything with `submit`, such as a `concurrent.futures` executor."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Run `fn(*args)` somewhere."""


class ThreadExecutor:
    """Daemon threads, which never keep the process from exiting. Who submits says how many tasks run at a time."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = (
            queue.SimpleQueue()
        )
        self._threads = 0
        self._idle = threading.Semaphore(0)

    def submit(self, fn: Callable[..., T], /, *args: Any) -> Future[T]:
        """Run `fn(*args)` on a thread of its own or an idle one."""
        future: Future[T] = Future()
        self._queue.put((future, fn, args))
        if not self._idle.acquire(blocking=False):
            threading.Thread(target=self._work, name=f"trgrpo-{self._threads}", daemon=True).start()
            self._threads += 1
        return future

    def close(self) -> None:
        """Let the threads end when their work is done."""
        for _ in range(self._threads):
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
            del item, future, fn, args, result, failure  # an idle thread keeps nothing alive
