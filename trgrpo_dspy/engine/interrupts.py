"""Ctrl-C that does not lose what was paid for."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["graceful_interrupt"]


@contextmanager
def graceful_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Have the first Ctrl-C call `stop`, and the second raise `KeyboardInterrupt` at once.

    Touches no signal handler off the main thread, nor one that somebody else has set; then `KeyboardInterrupt` comes
    as it always does.
    """
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
