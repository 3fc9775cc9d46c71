"""The slots of a run: how many tasks may be at work at a time.

A task holds a slot while it works. A task that only waits (for a retry, for another call of its backend) gives its slot
to others for as long, and then comes before tasks that have not begun. If no slot becomes free for a while, the task
takes the slot of one that has no LM call under way: that one may itself wait for the first, at a lock of the program's
own, and needs a slot again only for its next call. Thread-safe.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Slot", "Slots", "Use"]

_TAKEOVER = 0.5
"""Seconds a task waits for a free slot before it takes an idle one. After each of its retries a program with a lock of
its own waits as long: at 2 s a run of such programs took four times as long as at 0.5 s."""


class Slots:
    """All slots of a run."""

    def __init__(self, width: Callable[[], int], on_free: Callable[[], None] = lambda: None) -> None:
        """Have `width()` slots at any moment; call `on_free` when a waiting task gives its slot up."""
        self._width, self.on_free = width, on_free
        self.changed = threading.Condition()
        """Held for every look at and change of slots."""
        self.held: list[Slot] = []
        """Slots in use."""
        self.wanted = 0
        """Tasks that want their slot back."""

    def take(self) -> Slot | None:
        """A slot for a new task; None if there is none, or if waiting tasks want theirs back."""
        with self.changed:
            if len(self.held) + self.wanted >= self._width():
                return None
            slot = Slot(self)
            self.held.append(slot)
            return slot

    def free(self) -> bool:
        """Whether there is a slot to be had."""
        return len(self.held) < self._width()


class Slot:
    """One task's slot."""

    def __init__(self, slots: Slots) -> None:
        """Hold a slot that was taken."""
        self._slots = slots
        self._ended = False
        self._uses = self._waiting = 0
        self._wanted_since: float | None = None

    def use(self) -> Use:
        """Begin something that may have to wait: an LM call, a rest before another try."""
        with self._slots.changed:
            self._uses += 1
        return Use(self)

    @property
    def held(self) -> bool:
        """Whether the task has its slot, or needs none any more."""
        return self._ended or self in self._slots.held

    def end(self) -> None:
        """The task has ended, or nobody waits for its result any more."""
        with self._slots.changed:
            self._ended = True
            self._want(False)
            self._give_up()

    # -- for `Use`; all of these under the lock --------------------------------------------------------------------

    def wait(self, use: Use) -> bool:
        """Mark a use as waiting; returns whether the slot was given up, as it is when all uses wait."""
        self._waiting += not use.waits
        return self._rest()

    def regain(self, use: Use, seconds: float) -> bool:
        """Get the slot back for a use within so many seconds; returns whether the task has it."""
        slots = self._slots
        if not self.held:
            patience = self._want(True)
            seconds = min(seconds, patience) if patience > 0 else seconds
            slots.changed.wait_for(lambda: self.held or slots.free(), seconds)
        if not self.held:
            # Wanted anew, where another use of the task has had the slot in the meantime and given it up.
            if self._want(True) <= 0 and not slots.free():
                idle = next((slot for slot in slots.held if not slot._uses), None)
                if idle is not None:
                    idle._give_up()
            if not slots.free():
                return False
            slots.held.append(self)
            self._want(False)
            slots.changed.notify_all()
        self._waiting -= use.waits
        return True

    def finish(self, use: Use) -> bool:
        """End a use; returns whether others may take a slot now."""
        self._uses -= 1
        self._waiting -= use.waits
        wanted = self._wanted_since is not None
        if not self._uses:
            self._want(False)
        return self._rest() or (wanted and not self._uses)

    def _give_up(self) -> bool:
        if self in self._slots.held:
            self._slots.held.remove(self)
            self._slots.changed.notify_all()
            return True
        return False

    def _rest(self) -> bool:
        """Give the slot up if all uses wait."""
        return 0 < self._uses <= self._waiting and self._give_up()

    def _want(self, wanted: bool) -> float:
        """Say whether the task wants its slot back; returns the seconds until it may take an idle one."""
        if wanted and self._wanted_since is None:
            self._wanted_since = time.monotonic()
            self._slots.wanted += 1
        elif not wanted and self._wanted_since is not None:
            self._wanted_since = None
            self._slots.wanted -= 1
        return _TAKEOVER - (time.monotonic() - self._wanted_since) if self._wanted_since is not None else 0.0


class Use:
    """Something in a task that may have to wait. It says when it waits, goes on and ends."""

    def __init__(self, slot: Slot) -> None:
        """Belong to a slot that counts this use already."""
        self._slot, self.waits = slot, False

    def wait(self) -> None:
        """Wait from now on; where all uses of the task wait, the slot is others' for as long."""
        with self._slot._slots.changed:
            gone = self._slot.wait(self)
            self.waits = True
        if gone:
            self._slot._slots.on_free()

    def go_on(self, seconds: float) -> bool:
        """Go on, if the task has its slot, or has one again within so many seconds; returns whether it has."""
        with self._slot._slots.changed:
            if not self._slot.regain(self, seconds):
                return False
            self.waits = False
            return True

    def end(self) -> None:
        """End, in whatever way; where all other uses wait, the slot is others'."""
        with self._slot._slots.changed:
            gone = self._slot.finish(self)
            self.waits = False
        if gone:
            self._slot._slots.on_free()
