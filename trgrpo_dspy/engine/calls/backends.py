"""What a run knows of its backends, one for each model: whether they answer, and how many requests they bear.

- Until a backend has answered once, one call at a time goes out to it: a wrong key costs one request however many
  threads there are. A backend that fails its first requests is given up.
- No more requests are in flight than a backend serves (`limits.py`).
- Once a backend has answered, an outage is waited out, for `patience` seconds at most. Meanwhile one request at a time
  looks whether the backend is back.

Thread-safe.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from .limits import Caller, Limit, Outage

__all__ = ["FIRST_DEADLINE", "TOO_MANY_LOST", "Backend", "Backends", "Known"]

TOO_MANY_LOST = "more than half of the recent LM calls failed"
"""Why a run ended as 'error_rate'."""
_HOPELESS = 8
"""Failed requests after which a backend that never answered is given up."""
_WINDOW = 40
"""Calls over which the share of lost ones is watched; the run ends when more than half are."""
_REFUSED = 8
"""Calls refused in a row, of a backend that has answered or says that the request was flagged, that are believed."""

_DEADLINE = 900.0
"""Seconds after which a request is given up, where the user set no timeout: those of the clients (600 s between two
bytes) never end a reply that trickles."""
FIRST_DEADLINE = 240.0
"""The same before a backend has answered once: one that hangs from the start is known in less than five minutes."""
_SHORTEST_DEADLINE = 10.0
"""The least that a request gets where the user set a timeout, of which else twice as much is granted."""


@dataclass(frozen=True)
class Known:
    """What is known of the backends, as plain data for another process."""

    answered: frozenset[str] = frozenset()
    """Models whose backend has answered."""
    failed: tuple[tuple[str, int], ...] = ()
    """Failed requests by model, of those that had not answered by then."""
    recent: tuple[bool, ...] = ()
    """Whether each of the last calls was answered."""


class Backend:
    """One model's backend."""

    def __init__(self, model: str, most: int, patience: float, tell: Callable[[str], None]) -> None:
        """Know nothing yet; `most` requests may be in flight, and `tell` gets sentences for the user."""
        self.answered = False
        self.failed = 0
        """Failed requests before the first answer."""
        self.limit, self.outage = Limit(model, most, tell), Outage(model, patience, tell)
        self._refused = 0
        """Calls refused in a row, as for a wrong key."""
        self._first: Caller | None = None
        self._changed = threading.Condition()

    def may_go(self, caller: Caller) -> bool:
        """Whether a call may go on; a backend that never answered gets one call at a time, retries included."""
        with self._changed:
            if self.answered:
                return True
            if self._first is None or self._first.over:
                self._first = caller
            return self._first is caller

    def done(self, caller: Caller) -> None:
        """A call has ended, in whatever way: the next first call may go."""
        self.limit.leave(caller)
        with self._changed:
            if self._first is caller:
                self._first = None
                self._changed.notify()

    def wait(self, seconds: float) -> bool:
        """Wait so long for another call's end; returns whether one ended. Cached replies take less than a look."""
        with self._changed:  # the first call may have ended since the caller asked whether it may go
            return (self._first is None and not self.answered) or self._changed.wait(seconds)

    def answer(self, caller: Caller, seconds: float, timeout: float | None) -> None:
        """A reply to a call came, after so many seconds, of an LM with this timeout."""
        with self._changed:
            first, self.answered, self.failed, self._refused = not self.answered, True, 0, 0
            if first:
                self._changed.notify_all()
        self.outage.over()
        self.limit.reply(caller, seconds, timeout, first)

    def failure(
        self, error: BaseException, caller: Caller, *, timed_out: bool, crowded: bool, sent: float, among: int
    ) -> bool:
        """A request failed; returns whether the failure is the call's own, so that it uses up one of its tries.

        `crowded` says that the backend spoke of too many requests, `among` how many were out when this one was `sent`.
        """
        with self._changed:
            if not self.answered:
                self.failed += 1
                return True
        down = self.outage.failure(error, caller)
        if timed_out or crowded:
            crowded = self.limit.failure(sent, among, timed_out=timed_out, down=down)
        return not (down or crowded)

    def most_seconds(self, timeout: float | None) -> float:
        """Seconds after which a request that is out is given up, of an LM with this timeout."""
        if timeout is not None:
            return max(_SHORTEST_DEADLINE, 2 * timeout)
        return _DEADLINE if self.answered else FIRST_DEADLINE

    @property
    def hopeless(self) -> bool:
        """Whether the backend never answered and has had its chances."""
        return not self.answered and self.failed >= _HOPELESS

    def refusal(self) -> bool:
        """A call was refused as for a wrong key or model; returns whether that is to be believed."""
        with self._changed:
            self._refused += 1
            return self._refused >= _REFUSED


class Backends:
    """All backends of a run, by model."""

    def __init__(
        self, most: int = 1, patience: float = 0.0, tell: Callable[[str], None] = lambda text: None,
        known: Known | None = None,
    ) -> None:  # fmt: skip
        """Know what another process knows of the backends, but of no recent call."""
        self._make: Callable[[str], Backend] = lambda model: Backend(model, most, patience, tell)
        self._all: dict[str, Backend] = {}
        self._recent: deque[bool] = deque(maxlen=_WINDOW)
        self._lock = threading.Lock()
        self.learn(Known(known.answered, known.failed) if known else Known(), Known())

    def of(self, model: str) -> Backend:
        """A model's backend."""
        with self._lock:
            if model not in self._all:
                self._all[model] = self._make(model)
            return self._all[model]

    @property
    def any_answered(self) -> bool:
        """Whether any backend has answered."""
        return any(backend.answered for backend in list(self._all.values()))

    @property
    def any_unanswered(self) -> bool:
        """Whether some backend has failed requests and has never replied."""
        return any(backend.failed and not backend.answered for backend in list(self._all.values()))

    @property
    def known(self) -> Known:
        """What is known by now."""
        with self._lock:
            every = sorted(self._all.items())
            return Known(
                frozenset(model for model, backend in every if backend.answered),
                tuple((model, backend.failed) for model, backend in every if backend.failed),
                tuple(self._recent),
            )

    def learn(self, known: Known, before: Known) -> bool:
        """Take in what another process knows, which knew `before`; returns whether too many calls are lost lately."""
        earlier = dict(before.failed)
        for model in known.answered:
            self.of(model).answered = True
        for model, count in known.failed:
            self.of(model).failed += count - earlier.get(model, 0)
        with self._lock:
            self._recent.extend(known.recent)
            return self._too_many() and False in known.recent

    def note(self, *, answered: bool) -> bool:
        """A call ended with a reply or was lost to an outage; returns whether too many are lost lately."""
        with self._lock:
            self._recent.append(answered)
            return not answered and self._too_many()

    def _too_many(self) -> bool:
        return len(self._recent) == _WINDOW and self._recent.count(False) > _WINDOW / 2
