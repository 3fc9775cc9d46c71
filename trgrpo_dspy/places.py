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
        self._held, self._wanted, self._ended = True, False, False
        self._open = self._waiting = 0

    def opens(self) -> None:
        """Something begins that may have to wait."""
        with self._places._changed:
            self._open += 1

    def closes(self, waiting: bool = False) -> None:
        """It has ended, or was given up while it waited."""
        with self._places._changed:
            self._open -= 1
            self._waiting -= waiting
            freed = (waiting and self._want(False)) | self._let_go()
        if freed:
            self._places._on_free()

    def leave(self) -> None:
        """It waits from now on; where all that is open waits, the place is another's for as long."""
        with self._places._changed:
            self._waiting += 1
            freed = self._let_go()
        if freed:
            self._places._on_free()

    def back(self, seconds: float, left: bool = True) -> bool:
        """It goes on: whether the task has a place, within so many seconds.

        Args:
            seconds: How long to wait for one.
            left: Whether it said that it waits; another part of the task may have given the place up.
        """
        places = self._places
        with places._changed:
            if not self._held and not self._ended:
                self._want(True)
                places._changed.wait_for(lambda: self._held or self._ended or self._free(), seconds)
                if not self._held and not self._ended and self._free():
                    self._held = True
                    places._taken += 1
                    places._changed.notify_all()  # other parts of this task wait for the same
            if self._held or self._ended:
                self._want(False)
                self._waiting -= left
                return True
            return False

    def end(self) -> None:
        """The task has ended, or nobody waits for it any more."""
        places = self._places
        with places._changed:
            if self._held and not self._ended:
                places._taken -= 1
            self._ended = True
            self._want(False)
            places._changed.notify_all()

    def _let_go(self) -> bool:
        """Give the place up if all that is open waits; whether it was given up."""
        if self._ended or not self._held or not 0 < self._waiting >= self._open:
            return False
        self._held = False
        self._places._taken -= 1
        self._places._changed.notify_all()
        return True

    def _want(self, wanted: bool) -> bool:
        """Say whether the task wants its place back; whether that is news."""
        changed = self._wanted != wanted
        self._places._wanted += wanted - self._wanted
        self._wanted = wanted
        return changed

    def _free(self) -> bool:
        return self._places._taken < self._places._width()
