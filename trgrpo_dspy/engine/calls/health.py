"""What a run knows of its backends: which have answered, and whether it is worth going on.

Until a model's backend has answered once, one call at a time goes out to it: a wrong key costs one request however many
threads there are, and a dead address a handful. Once they have answered, the share of lost calls is watched.
Thread-safe.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass
from typing import Protocol

__all__ = ["TOO_MANY_LOST", "Caller", "Health", "Seen"]

_HOPELESS = 8
"""Failed requests after which a backend that never answered is given up."""
_WINDOW = 40
"""Calls over which the share of lost ones is watched."""
_ERROR_RATE = 0.5
"""Share of lost calls in the window from which the run ends with the best so far."""
TOO_MANY_LOST = "more than half of the recent LM calls failed"
"""Why it ended then."""


class Caller(Protocol):
    """A call that may be the first."""

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any more: another may go out in its place."""


@dataclass(frozen=True)
class Seen:
    """What is known of the backends, as plain data."""

    answered: frozenset[str] = frozenset()
    """Models whose backend has answered."""
    failed: tuple[tuple[str, int], ...] = ()
    """Failed requests by model, of those that had not answered by then."""
    recent: tuple[bool, ...] = ()
    """Whether each of the last calls was answered."""


class Health:
    """The backends of one run, by model."""

    def __init__(self, seen: Seen | None = None) -> None:
        """Know what another process has seen of the backends, but of no recent call."""
        self._lock = threading.Condition()
        self._answered: set[str] = set(seen.answered if seen else ())
        self._failed: Counter[str] = Counter(dict(seen.failed) if seen else {})
        self._first: dict[str, Caller] = {}
        self._recent: deque[bool] = deque(maxlen=_WINDOW)

    @property
    def proven(self) -> bool:
        """Whether any backend has answered."""
        return bool(self._answered)

    @property
    def seen(self) -> Seen:
        """What is known by now."""
        with self._lock:
            return Seen(frozenset(self._answered), tuple(sorted(self._failed.items())), tuple(self._recent))

    def learn(self, seen: Seen, before: Seen) -> bool:
        """Take in what another process saw, which knew `before`; whether too many calls are lost lately."""
        known = dict(before.failed)
        with self._lock:
            self._answered |= seen.answered
            for model, count in seen.failed:
                self._failed[model] += count - known.get(model, 0)
            self._recent.extend(seen.recent)
            return self._too_many() and False in seen.recent

    @property
    def silent(self) -> bool:
        """Whether a backend was asked and never answered: then no outage is anybody's result."""
        with self._lock:
            return not self._answered.issuperset(self._failed)

    def has_answered(self, model: str) -> bool:
        """Whether a model's backend has answered."""
        return model in self._answered

    def may_go(self, model: str, caller: Caller) -> bool:
        """Whether a call may go out now; a backend that never answered gets one at a time."""
        with self._lock:
            if model in self._answered:
                return True
            first = self._first.get(model)
            if first is None or first.over:
                first = self._first[model] = caller
            return first is caller

    def done(self, model: str, caller: Caller) -> None:
        """A call has ended, in whatever way: the next one may go."""
        with self._lock:
            if self._first.get(model) is caller:
                del self._first[model]
                self._lock.notify()

    def wait(self, seconds: float) -> bool:
        """Wait so long for another call's end; whether there was one. Replies of DSPy's cache take less than a look."""
        with self._lock:
            return self._lock.wait(seconds)

    def answer(self, model: str) -> None:
        """A backend answered."""
        with self._lock:
            if model not in self._answered:
                self._answered.add(model)
                self._lock.notify_all()
            self._recent.append(True)

    def failure(self, model: str) -> int:
        """A request failed; how many did, where that makes this backend hopeless, else 0."""
        with self._lock:
            if model in self._answered:
                return 0
            self._failed[model] += 1
            return self._failed[model] if self._failed[model] >= _HOPELESS else 0

    def loss(self) -> bool:
        """A call was lost to an outage; whether there are too many of them lately."""
        with self._lock:
            self._recent.append(False)
            return self._too_many()

    def _too_many(self) -> bool:
        return len(self._recent) == _WINDOW and self._recent.count(False) > _ERROR_RATE * _WINDOW
