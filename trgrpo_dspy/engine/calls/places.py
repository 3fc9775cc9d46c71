"""The places of a run: how many tasks may be at work at a time.

One number bounds everything in flight. A task that only waits (for a retry, for a backend's rate limit to pass) gives
its place up for as long, and then is the first to get one again: what comes back goes before what has not begun. Where
none becomes free for a while, it takes over that of a task without a call under way: such a task may itself wait for
the first, at a lock of the program's own, and needs a place again only for its next call. Thread-safe.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Errand", "Place", "Places"]

_PATIENCE = 0.5
"""Seconds a task waits for a free place before it takes over one that no call is using. After each of its retries a
program with a lock of its own waits as long: at 2 s a run of such took four times as long as at 0.5 s."""


class Places:
    """All places of a run."""

    def __init__(self, width: Callable[[], int], on_free: Callable[[], None] = lambda: None) -> None:
        """Have `width()` places at any moment; `on_free` is called when a task that waits gives its place up."""
        self._width, self._on_free = width, on_free
        self._changed = threading.Condition()
        self._held: list[Place] = []
        self._wanted = 0

    def take(self) -> Place | None:
        """A place for new work; None if there is none, or if work that waited wants it back."""
        with self._changed:
            if self.taken + self._wanted >= self._width():
                return None
            place = Place(self)
            self._held.append(place)
            return place

    @property
    def taken(self) -> int:
        """Places in use."""
        return len(self._held)

    def _free(self) -> bool:
        return self.taken < self._width()


class Place:
    """One task's place."""

    def __init__(self, places: Places) -> None:
        """Hold a place that was taken."""
        self._places = places
        self._ended = False
        self._open = self._away = 0
        self._wanted_since: float | None = None

    def opens(self) -> Errand:
        """Something begins that may have to wait: an LM call, a rest before another try."""
        with self._places._changed:
            self._open += 1
        return Errand(self)

    @property
    def held(self) -> bool:
        """Whether the task has it now, or needs none any more."""
        return self._ended or self in self._places._held

    def end(self) -> None:
        """The task has ended, or nobody waits for it any more."""
        with self._places._changed:
            self._ended = True
            self._want(False)
            self._give_up()

    # -- all of these under the lock -------------------------------------------------------------------------------

    def _give_up(self) -> bool:
        held = self._places._held
        if self in held:
            held.remove(self)
            self._places._changed.notify_all()
            return True
        return False

    def _rest(self) -> bool:
        """Give it up if all that is open waits."""
        return 0 < self._open <= self._away and self._give_up()

    def _want(self, wanted: bool) -> float:
        """Begin to want it back, or no more; seconds of patience that are left."""
        if wanted and self._wanted_since is None:
            self._wanted_since = time.monotonic()
            self._places._wanted += 1
        elif not wanted and self._wanted_since is not None:
            self._wanted_since = None
            self._places._wanted -= 1
        return _PATIENCE - (time.monotonic() - self._wanted_since) if self._wanted_since is not None else 0.0

    def _regain(self, seconds: float) -> bool:
        """Wait so long for a place to be free; whether the task has one."""
        places = self._places
        if not self.held:
            patience = self._want(True)
            seconds = min(seconds, patience) if patience > 0 else seconds
            places._changed.wait_for(lambda: self.held or places._free(), seconds)
        if not self.held:
            # Wanted anew, where another call of the task has had the place in the meantime and left it.
            if self._want(True) <= 0 and not places._free():
                idle = next((place for place in places._held if not place._open), None)
                if idle is not None:
                    idle._give_up()
            if not places._free():
                return False
            places._held.append(self)
            self._want(False)
            places._changed.notify_all()
        return True


class Errand:
    """Something in a task that may have to wait. It says when it waits, goes on and ends."""

    def __init__(self, place: Place) -> None:
        """Belong to a place that counts it already."""
        self._place, self._is_away = place, False

    def leave(self) -> None:
        """It waits from now on; where all that is open in the task waits, the place is another's for as long."""
        with self._place._places._changed:
            self._place._away += not self._is_away
            self._is_away = True
            gone = self._place._rest()
        if gone:
            self._place._places._on_free()

    def back(self, seconds: float) -> bool:
        """It goes on: whether the task has its place, or has one again within so many seconds."""
        with self._place._places._changed:
            if not self._place._regain(seconds):
                return False
            self._place._away -= self._is_away
            self._is_away = False
            return True

    def end(self) -> None:
        """It has ended, in whatever way; where what is left open waits, the place is another's."""
        with self._place._places._changed:
            self._place._open -= 1
            self._place._away -= self._is_away
            self._is_away = False
            wanted = self._place._wanted_since is not None
            if not self._place._open:
                self._place._want(False)
            gone = self._place._rest() or (wanted and not self._place._open)
        if gone:
            self._place._places._on_free()
