"""Ctrl-C, or the cancellation of an async task, that does not lose what was paid for."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from types import FrameType
from typing import TypeVar

__all__ = ["graceful_interrupt", "in_thread"]

T = TypeVar("T")


@dataclass
class _Cancellation:
    """What ends the sessions that run in a thread for an async task."""

    cancelled: bool = False
    stops: list[Callable[[], None]] = field(default_factory=list)

    def cancel(self) -> None:
        self.cancelled = True
        for stop in list(self.stops):
            stop()

    @contextmanager
    def stopping(self, stop: Callable[[], None]) -> Iterator[None]:
        self.stops.append(stop)
        if self.cancelled:  # before the session was ready
            stop()
        try:
            yield
        finally:
            self.stops.remove(stop)


_CANCELLATION: ContextVar[_Cancellation | None] = ContextVar("trgrpo_cancellation", default=None)


async def in_thread(work: Callable[[], T]) -> T:
    """Do work in a thread, in the caller's context.

    Cancelling the task stops the session within, as the first Ctrl-C would, and waits for its end: no call goes out
    for a task that is gone.
    """
    cancellation, context = _Cancellation(), copy_context()
    context.run(_CANCELLATION.set, cancellation)
    future = asyncio.get_running_loop().run_in_executor(None, context.run, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        cancellation.cancel()
        await asyncio.gather(future, return_exceptions=True)
        raise


@contextmanager
def graceful_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Have the first Ctrl-C call `stop`, and the second raise `KeyboardInterrupt` at once.

    Touches no signal handler off the main thread, nor one that somebody else has set; then `KeyboardInterrupt` comes
    as it always does. Within `in_thread` the cancellation of the task calls `stop`.
    """
    if (cancellation := _CANCELLATION.get()) is not None:
        with cancellation.stopping(stop):
            yield
        return
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def first(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # In a thread of its own: the main thread may hold the very lock that `stop` takes.
        threading.Thread(target=stop, name="trgrpo-interrupt", daemon=True).start()

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
