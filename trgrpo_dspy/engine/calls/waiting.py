"""How calls wait: for retries, for the rate limit and for places. No wait outlasts the run, and none keeps a place."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from trgrpo_dspy.failures.classify import worth_retrying

from .places import Errand
from .units import Unit

__all__ = ["POLL", "Waiting"]

POLL = 0.02
"""Seconds between two looks of a call that waits for what others come to."""
_PATIENCE = 1.0
"""Seconds between two looks at the end of the run, of a unit that waits for a place."""
_LONGEST_HINT = 60.0
"""The longest wait before a retry that a backend is granted, in seconds."""


class Waiting:
    """The waits of one run. Thread-safe."""

    def __init__(
        self,
        stopped: threading.Event,
        proven: Callable[[], bool],
        backoff: float,
        requests_per_minute: float | None,
    ) -> None:
        """Set the waits up.

        Args:
            stopped: Set when the run is over.
            proven: Whether the backend is known to answer: until then no other task takes a place that is left.
            backoff: Unit of the waits before retries, in seconds.
            requests_per_minute: Requests at most across all threads, retries included; None is no limit.
        """
        self._stopped, self._proven, self.backoff = stopped, proven, backoff
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

        The error that is about to be raised ends an `asyncio.gather`, and with it the loop: what is out would be
        cancelled, its reply paid for and lost.
        """
        while self._stopped.is_set() and unit.account.out and not unit.abandoned.is_set():
            await asyncio.sleep(POLL)

    def rest(self, unit: Unit, tries: int) -> None:
        """Wait before a unit's work is tried again; as long, its place is another's."""
        errand = unit.place.opens() if unit.place is not None else None
        try:
            self.leave(errand)
            self.sleep(self.backoff_after(tries - 1))
            self.back(unit, errand)
        finally:
            if errand is not None:
                errand.end()

    def leave(self, errand: Errand | None) -> None:
        """Give the place to others before a retry, unless nobody else may start yet."""
        if errand is not None and self._proven():
            errand.leave()

    def back(self, unit: Unit, errand: Errand | None) -> None:
        """Wait for a place, if the task has none now."""
        began = time.monotonic()
        while errand is not None and not errand.back(_PATIENCE) and not self._stopped.is_set():
            pass
        self.hold(unit, began, time.monotonic())

    async def aback(self, unit: Unit, errand: Errand | None) -> None:
        """The same on an event loop."""
        began = time.monotonic()
        while errand is not None and not errand.back(0) and not self._stopped.is_set():
            await asyncio.sleep(POLL)
        self.hold(unit, began, time.monotonic())

    def hold(self, unit: Unit, begin: float, end: float) -> None:
        """Count a time in which a call of the unit was held back; what calls share of it counts once."""
        account = unit.account
        with self._lock:
            account.held += max(0.0, end - max(begin, account.held_until))
            account.held_until = max(account.held_until, end)

    def backoff_after(self, tries: int) -> float:
        """Seconds to wait after so many earlier tries, before jitter."""
        return float(self.backoff * min(0.1 * 5**tries, 16))

    def pace(self) -> float:
        """When the next request may go out under the rate limit, by the monotonic clock."""
        with self._lock:
            turn = max(time.monotonic(), self._next_request)
            self._next_request = turn + self._interval
        return turn

    def before_retry(self, lm: Any, error: BaseException, tries: int) -> float | None:
        """Seconds to wait before the next try, or None if the error is final."""
        if self._stopped.is_set() or tries >= lm.retries or not worth_retrying(error):
            return None
        hint = getattr(error, "retry_after", None)
        if isinstance(hint, (int, float)) and hint >= 0:
            most = min(self.backoff / 10, max(float(hint), 0.1) / 4)  # a short wait is not made much longer
            return min(float(hint), _LONGEST_HINT) + random.uniform(0, most)
        return self.backoff_after(tries) * random.uniform(0.5, 1.5)
