"""The places of a run: how many tasks may be at work at a time.

One number bounds everything in flight. A task that only waits (for a retry, for a backend's rate limit to pass) gives
its place up for as long, and then is the first to get one again: what comes back goes before what has not begun.
Thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Place", "Places"]


class Places:
    """All places of a run."""

    def __init__(self, width: Callable[[], int], on_free: Callable[[], None] = lambda: None) -> None:
        """Have `width()` places at any moment; `on_free` is called when a task that waits gives its place up."""
        self._width, self._on_free = width, on_free
        self._changed = threading.Condition()
        self._taken = 0
        self._wanted = 0

    def take(self) -> Place | None:
        """A place for new work; None if there is none, or if work that waited wants it back."""
        with self._changed:
            if self._taken + self._wanted >= self._width():
                return None
            self._taken += 1
            return Place(self)

    @property
    def taken(self) -> int:
        """Places in use."""
        return self._taken


class Place:
    """One task's place. Its LM calls, and whatever else in it waits, say when they begin, wait and end."""

    def __init__(self, places: Places) -> None:
        """Hold a place that was taken."""
        self._places = places
        self._held, self._ended = True, False
        self._open = self._waiting = 0

    def opens(self) -> None:
        """Something begins that may have to wait."""
        with self._places._changed:
            self._open += 1

    def closes(self) -> None:
        """It has ended."""
        with self._places._changed:
            self._open -= 1

    def leave(self) -> None:
        """It waits from now on; where all that is open waits, the place is another's for as long."""
        places = self._places
        with places._changed:
            self._waiting += 1
            gone = self._held and self._waiting >= self._open and not self._ended
            if gone:
                self._held = False
                places._taken -= 1
                places._changed.notify_all()
        if gone:
            places._on_free()

    def back(self, seconds: float) -> bool:
        """It has waited long enough: whether there is a place again, within so many seconds."""
        places = self._places
        with places._changed:
            if not self._held and not self._ended:
                places._wanted += 1
                try:
                    places._changed.wait_for(lambda: self._held or self._ended or self._free(), seconds)
                finally:
                    places._wanted -= 1
                if not self._held and not self._ended and self._free():
                    self._held = True
                    places._taken += 1
            if self._held or self._ended:
                self._waiting -= 1
                return True
            return False

    def _free(self) -> bool:
        return self._places._taken < self._places._width()

    def end(self) -> None:
        """The task has ended, or nobody waits for it any more."""
        places = self._places
        with places._changed:
            if self._held and not self._ended:
                places._taken -= 1
            self._ended = True
            places._changed.notify_all()
