"""Ctrl-C, or the cancellation of an async task, that does not lose what was paid for."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from types import FrameType
from typing import TypeVar

__all__ = ["graceful_interrupt", "in_thread"]

T = TypeVar("T")


_CANCELLED: ContextVar[Future[None] | None] = ContextVar("trgrpo_cancelled", default=None)
"""Done when the async task for which a thread works is cancelled."""


async def in_thread(work: Callable[[], T]) -> T:
    """Do work in a thread, in the caller's context.

    Cancelling the task stops the session within, as the first Ctrl-C would, and waits for its end: no call goes out
    for a task that is gone.
    """
    cancelled: Future[None] = Future()
    context = copy_context()
    context.run(_CANCELLED.set, cancelled)
    future = asyncio.get_running_loop().run_in_executor(None, context.run, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        cancelled.set_result(None)
        await asyncio.gather(future, return_exceptions=True)
        raise


@contextmanager
def graceful_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Have the first Ctrl-C call `stop`, and the second raise `KeyboardInterrupt` at once.

    Touches no signal handler off the main thread, nor one that somebody else has set; then `KeyboardInterrupt` comes
    as it always does. Within `in_thread` the cancellation of the task calls `stop`.
    """
    if (cancelled := _CANCELLED.get()) is not None:
        cancelled.add_done_callback(lambda _: stop())  # at once, if the task was cancelled before this was reached
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
