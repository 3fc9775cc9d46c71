"""How calls wait: for retries and for the rate limit. No wait outlasts the run, and none keeps a slot."""

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
_LONGEST_HINT = 60.0
"""The longest wait before a retry that a backend may ask for, in seconds."""
_LONGEST_IN_OUTAGE = 4.0
"""The longest wait before a retry while a backend is down, in units of the back-off: its return is soon noticed."""


class Waiting:
    """The waits of one run. Thread-safe."""

    def __init__(
        self, stopped: threading.Event, may_share: Callable[[], bool], backoff: float, requests_per_minute: float | None
    ) -> None:
        """Set the waits up.

        Args:
            stopped: Set when the run is over.
            may_share: Whether another task may have the slot of one that waits: not before a backend has answered.
            backoff: Unit of the waits before retries, in seconds.
            requests_per_minute: Requests at most across all threads, retries included; None is no limit.
        """
        self._stopped, self._may_share, self._backoff = stopped, may_share, backoff
        self._lock = threading.Lock()
        self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next_request = 0.0

    def sleep(self, seconds: float) -> None:
        """Wait, but not past the end of the run."""
        if seconds > 0:
            self._stopped.wait(seconds)

    def until(self, moment: float, seconds: float) -> bool:
        """Wait so long for a moment, by the monotonic clock; returns whether the moment or the end of the run came."""
        left = moment - time.monotonic()
        return left <= 0 or self._stopped.wait(min(left, seconds))

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
            self.sleep(self._backoff_after(tries - 1))
            while not self.back(unit, use, 1.0):
                pass
        finally:
            if use is not None:
                use.end()

    def leave(self, use: Use | None) -> None:
        """Give the slot to others before a retry, unless no other task may start yet."""
        if use is not None and self._may_share():
            use.wait()

    def back(self, unit: Unit, use: Use | None, seconds: float) -> bool:
        """Wait so long for the slot, if the task has none now; returns whether the task may go on."""
        began = time.monotonic()
        there = use is None or use.go_on(seconds) or self._stopped.is_set()
        unit.account.clock.hold(began, time.monotonic())
        return there

    def _backoff_after(self, tries: int) -> float:
        """Seconds to wait after so many earlier tries, before jitter."""
        return float(self._backoff * min(0.1 * 5**tries, 16))

    def pace(self) -> float:
        """When the next request may go out under the rate limit, by the monotonic clock."""
        with self._lock:
            turn = max(time.monotonic(), self._next_request)
            self._next_request = turn + self._interval
        return turn

    def before_retry(self, error: BaseException, tries: int, *, down: bool) -> float:
        """Seconds to wait before another try: after an error, which may say how long, and so many tries before it."""
        hint = getattr(error, "retry_after", None)
        if isinstance(hint, (int, float)) and hint >= 0:
            most = min(self._backoff / 10, max(float(hint), 0.1) / 4)  # a short wait is not made much longer
            return min(float(hint), _LONGEST_HINT) + random.uniform(0, most)
        most = self._backoff * _LONGEST_IN_OUTAGE if down else float("inf")
        return min(most, self._backoff_after(min(tries, 8))) * random.uniform(0.5, 1.5)
