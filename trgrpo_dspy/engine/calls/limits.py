"""How many requests of one backend are in flight, and for how long an outage is waited out.

`num_threads` is the most that may be in flight, not the number. The limit starts where even a backend that serves one
request at a time would answer in half of the LM's timeout. It grows while replies come in time, and falls after
timeouts and refusals for too many requests (AIMD), so that a local server ends up with as many requests as it serves.
Thread-safe; moments are of the monotonic clock.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

__all__ = ["Caller", "Limit", "Outage"]

_OUTAGE = 3
"""Failed requests in a row, of a backend that has answered, from which it is taken to be down."""
_TELL_FROM = 1.0
"""Seconds from which the user hears of an outage: replies to earlier requests may still come in between."""
MOST_PATIENCE = float("inf")
"""Seconds for which an outage is waited out at most, whatever a run's options say: tests have no time for it."""
_ALONE = 0.2
"""Share of the patience for an outage that only one call has met: the fault may be that call's own."""


class Caller(Protocol):
    """A call that wants to go out."""

    @property
    def over(self) -> bool:
        """Whether nobody waits for the call any more."""


class Limit:
    """How many requests of one backend may be in flight: AIMD on timeouts, refusals and slow replies."""

    def __init__(self, model: str, most: int, tell: Callable[[str], None]) -> None:
        self._model, self._most, self._tell = model, most, tell
        self.limit = self._ceiling = float(most)
        """Requests that may be in flight: up to the ceiling one more a reply, above it one more in `limit` replies."""
        self._timeout: float | None = None
        self._changed_at = 0.0
        self._out: dict[Caller, int] = {}
        """Requests that are out, each with the number that were when it was sent."""
        self._queue: deque[Caller] = deque()
        self._replies: deque[tuple[float, float]] = deque(maxlen=20)
        self._condition = threading.Condition()

    def enter(self, caller: Caller, seconds: float) -> bool:
        """Wait so long for room, first come first served; returns whether the request may go out."""
        with self._condition:
            if caller in self._out:
                return True
            if caller not in self._queue:
                self._queue.append(caller)
            if not self._condition.wait_for(lambda: self._room(caller), seconds):
                return False
            self._queue.remove(caller)
            self._out[caller] = len(self._out) + 1
            if self._queue and len(self._out) < int(self.limit):
                self._condition.notify_all()
            return True

    def _room(self, caller: Caller) -> bool:
        """Whether the caller is the next to go and may; a request that nobody waits for any more takes no room."""
        while self._queue and self._queue[0].over:
            self._queue.popleft()
        for one in [one for one in self._out if one.over]:
            del self._out[one]
        return len(self._out) < int(self.limit) and bool(self._queue) and self._queue[0] is caller

    def leave(self, caller: Caller) -> int:
        """A request came back, or is not wanted any more; returns how many were out when it was sent."""
        with self._condition:
            among = self._out.pop(caller, 1)
            if caller in self._queue:
                self._queue.remove(caller)
            if self._queue:
                self._condition.notify_all()
            return among

    def reply(self, caller: Caller, seconds: float, timeout: float | None, first: bool) -> None:
        """A reply came after so many seconds.

        Requests that queue at the backend take as long as there are many: so the time that a reply would take at a
        higher limit is foreseen from those that were out when its request was sent.
        """
        with self._condition:
            now = time.monotonic()
            self._replies.append((now, seconds))
            self._timeout = timeout or self._timeout
            if self._timeout is None:
                self._grow()
            elif first:  # so many a backend that serves one at a time would answer in half of the timeout
                self.limit = min(self._most, max(1.0, self._timeout / (2 * max(seconds, 1e-3))))
            elif seconds * (self.limit + 1) / self._out.get(caller, 1) <= self._timeout / 2:
                self._grow()
            elif seconds > 0.75 * self._timeout and now - seconds >= self._changed_at:
                self._shrink(self.limit - 1, now)

    def _grow(self) -> None:
        self.limit = min(self._most, self.limit + (1 if self.limit < self._ceiling else 1 / self.limit))
        if self._queue:
            self._condition.notify_all()

    def failure(self, sent: float, among: int, *, timed_out: bool, down: bool) -> bool:
        """A request, which has left, timed out or was refused as one too many; returns whether too many were in flight.

        `among` is how many were out when it was `sent`; `down` says that the backend answers nothing at all at present.
        """
        with self._condition:
            now = time.monotonic()
            if timed_out:
                self._timeout = self._timeout or now - sent
                since = [seconds for at, seconds in self._replies if at >= sent]
                if len(since) >= 3 and statistics.median(since) < self._timeout / 4:
                    return False  # the others are quick: this one request hung
            if not timed_out:  # the others that are out were let in, or will say themselves that they were not
                self._shrink(min(self.limit, max(len(self._out), self.limit / 2)), now, ceiling=not down)
            elif sent >= self._changed_at:  # else it was sent before the limit fell, and says nothing of the new one
                self._shrink(min(self.limit, len(self._out) + 1) / 2, now, ceiling=not down)
            return among > 1

    def _shrink(self, limit: float, now: float, *, ceiling: bool = True) -> None:
        fell_before = self._ceiling < self._most
        self.limit, self._changed_at = max(1.0, limit), now
        if ceiling:
            self._ceiling = self.limit
            if not fell_before and self.limit < self._most:
                self._tell(
                    f"LM {self._model!r} does not serve {self._most} requests at a time: {self.limit:.0f} are sent for "
                    "now, and more while replies come in time"
                )


class Outage:
    """The requests of a backend that failed in a row, and for how long they are still tried again."""

    def __init__(self, model: str, patience: float, tell: Callable[[str], None]) -> None:
        self._model, self._patience, self._tell = model, min(patience, MOST_PATIENCE), tell
        self._began = 0.0
        self._count = 0
        self._callers: set[Caller] = set()
        self._in_vain = 0.0
        self._said = False
        self._lock = threading.Lock()

    @property
    def down(self) -> bool:
        """Whether the backend is taken to be down."""
        return self._count >= _OUTAGE

    def failure(self, error: BaseException, caller: Caller) -> bool:
        """A request failed; returns whether the backend is down, and the failure so nobody's own."""
        with self._lock:
            if not self._count:
                self._began = time.monotonic()
            self._count += 1
            self._callers.add(caller)
            lasting = self.down and time.monotonic() - self._began >= _TELL_FROM
            if lasting and not self._said and self._patience > 0:
                self._said = True
                self._tell(
                    f"LM {self._model!r} fails ({type(error).__name__}): waiting for it up to {self._patience:g} s "
                    "(outage_patience)"
                )
            return self.down

    def over(self) -> None:
        """A reply came."""
        with self._lock:
            if self._said:
                self._tell(f"LM {self._model!r} answers again, after {time.monotonic() - self._began:.0f} s")
            self._count, self._said = 0, False
            self._callers.clear()

    def patient(self, since: float) -> bool:
        """Whether a call that first failed then is to be tried again, though its own tries are used up."""
        with self._lock:
            alone = _ALONE if self.down and len(self._callers) == 1 else 1.0
            return time.monotonic() - since < alone * (self._patience - self._in_vain)

    def settle(self, waited: float, *, answered: bool) -> None:
        """A call that was waited for has ended: what was waited in vain is not waited again."""
        with self._lock:
            self._in_vain = 0.0 if answered else max(self._in_vain, waited)
