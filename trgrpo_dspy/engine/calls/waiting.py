"""How calls wait: for retries, for the rate limit and for slots. No wait outlasts the run, and none keeps a slot."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable

from .slots import Use
from .units import Unit

__all__ = ["POLL", "Waiting"]

POLL = 0.02
"""Seconds between two looks of a call that waits for other calls."""
_LOOK = 1.0
"""Seconds between two looks at the end of the run, of a call that waits for a slot."""
_LONGEST_HINT = 60.0
"""The longest wait before a retry that a backend may ask for, in seconds."""
_LONGEST_IN_OUTAGE = 4.0
"""The longest wait before a retry while a backend is down, in units of the back-off: its return is soon noticed."""


class Waiting:
    """The waits of one run. Thread-safe."""

    def __init__(
        self,
        stopped: threading.Event,
        may_share: Callable[[], bool],
        backoff: float,
        requests_per_minute: float | None,
    ) -> None:
        """Set the waits up.

        Args:
            stopped: Set when the run is over.
            may_share: Whether another task may have the slot of one that waits: not before a backend has answered.
            backoff: Unit of the waits before retries, in seconds.
            requests_per_minute: Requests at most across all threads, retries included; None is no limit.
        """
        self._stopped, self._may_share, self.backoff = stopped, may_share, backoff
        self._lock = threading.Lock()
        self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next_request = 0.0

    def sleep(self, seconds: float) -> None:
        """Wait, but not past the end of the run."""
        if seconds > 0:
            self._stopped.wait(seconds)

    async def asleep(self, seconds: float) -> None:
        """The same on an event loop."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._stopped.is_set():
            await asyncio.sleep(min(left, 10 * POLL))

    async def for_siblings(self, unit: Unit) -> None:
        """Once the run is over, wait for the unit's requests that are out.

        The error that is about to be raised ends an `asyncio.gather`, and with it the loop: requests that are out would
        be cancelled, their replies paid for and lost.
        """
        account = unit.account
        while self._stopped.is_set() and account.clock.out and not account.abandoned.is_set():
            await asyncio.sleep(POLL)

    def rest(self, unit: Unit, tries: int) -> None:
        """Wait before a unit's work is tried again; meanwhile its slot is others'."""
        use = unit.account.slot.use() if unit.account.slot is not None else None
        try:
            self.leave(use)
            self.sleep(self.backoff_after(tries - 1))
            self.back(unit, use)
        finally:
            if use is not None:
                use.end()

    def leave(self, use: Use | None) -> None:
        """Give the slot to others before a retry, unless no other task may start yet."""
        if use is not None and self._may_share():
            use.wait()

    def back(self, unit: Unit, use: Use | None) -> None:
        """Wait for the slot, if the task has none now."""
        began = time.monotonic()
        while use is not None and not use.go_on(_LOOK) and not self._stopped.is_set():
            pass
        self.hold(unit, began, time.monotonic())

    async def aback(self, unit: Unit, use: Use | None) -> None:
        """The same on an event loop."""
        began = time.monotonic()
        while use is not None and not use.go_on(0) and not self._stopped.is_set():
            await asyncio.sleep(POLL)
        self.hold(unit, began, time.monotonic())

    def hold(self, unit: Unit, begin: float, end: float) -> None:
        """Count a time in which the run held a call of the unit back; a time that several calls share counts once."""
        clock = unit.account.clock
        with self._lock:
            clock.held += max(0.0, end - max(begin, clock.held_until))
            clock.held_until = max(clock.held_until, end)

    def backoff_after(self, tries: int) -> float:
        """Seconds to wait after so many earlier tries, before jitter."""
        return float(self.backoff * min(0.1 * 5**tries, 16))

    def pace(self) -> float:
        """When the next request may go out under the rate limit, by the monotonic clock."""
        with self._lock:
            turn = max(time.monotonic(), self._next_request)
            self._next_request = turn + self._interval
        return turn

    def before_retry(self, error: BaseException, tries: int, *, down: bool) -> float:
        """Seconds to wait before the next try.

        Args:
            error: Why the last one failed; it may say how long to wait.
            tries: Tries before that one.
            down: Whether the backend is down.
        """
        hint = getattr(error, "retry_after", None)
        if isinstance(hint, (int, float)) and hint >= 0:
            most = min(self.backoff / 10, max(float(hint), 0.1) / 4)  # a short wait is not made much longer
            return min(float(hint), _LONGEST_HINT) + random.uniform(0, most)
        most = self.backoff * _LONGEST_IN_OUTAGE if down else float("inf")
        return min(most, self.backoff_after(min(tries, 8))) * random.uniform(0.5, 1.5)
