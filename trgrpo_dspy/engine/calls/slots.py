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
        self.wanted: set[Slot] = set()
        """Those whose tasks want a slot back."""

    def take(self) -> Slot | None:
        """A slot for a new task; None if there is none, or if waiting tasks want theirs back."""
        with self.changed:
            if len(self.held) + len(self.wanted) >= self._width():
                return None
            self.held.append(slot := Slot(self))
            return slot

    def free(self) -> bool:
        """Whether there is a slot to be had."""
        return len(self.held) < self._width()


class Slot:
    """One task's slot. What begins with an underscore is called under the lock."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self._uses: set[Use] = set()
        self._ended, self._wanted_since = False, 0.0

    def use(self) -> Use:
        """Begin something that may have to wait: an LM call, a rest before another try."""
        with self.slots.changed:
            self._uses.add(use := Use(self))
            return use

    @property
    def held(self) -> bool:
        """Whether the task has its slot, or needs none any more."""
        return self._ended or self in self.slots.held

    def end(self) -> None:
        """The task has ended, or nobody waits for its result any more."""
        with self.slots.changed:
            self._ended = True
            self.slots.wanted.discard(self)
            self._give_up()

    def _regain(self, seconds: float) -> bool:
        """Get the slot back within so many seconds; returns whether the task has it."""
        slots = self.slots
        if not self.held:
            patience = self._want()
            slots.changed.wait_for(
                lambda: self.held or slots.free(), min(seconds, patience) if patience > 0 else seconds
            )
        if self.held:
            return True
        # Wanted anew, where another use of the task has had the slot in the meantime and given it up.
        if self._want() <= 0 and not slots.free() and (idle := [slot for slot in slots.held if not slot._uses]):
            idle[0]._give_up()
        if not slots.free():
            return False
        slots.held.append(self)
        slots.wanted.discard(self)
        slots.changed.notify_all()
        return True

    def _finish(self, use: Use) -> bool:
        """End a use; returns whether others may take a slot now."""
        self._uses.discard(use)
        unwanted = not self._uses and self in self.slots.wanted
        if unwanted:
            self.slots.wanted.discard(self)
        return self._rest() or unwanted

    def _rest(self) -> bool:
        """Give the slot up if all uses wait; returns whether it was given up."""
        return bool(self._uses) and all(use.waits for use in self._uses) and self._give_up()

    def _give_up(self) -> bool:
        if self in self.slots.held:
            self.slots.held.remove(self)
            self.slots.changed.notify_all()
            return True
        return False

    def _want(self) -> float:
        """Want the slot back; returns the seconds until the task may take an idle one."""
        if self not in self.slots.wanted:
            self._wanted_since = time.monotonic()
            self.slots.wanted.add(self)
        return _TAKEOVER - (time.monotonic() - self._wanted_since)


class Use:
    """Something in a task that may have to wait. It says when it waits, goes on and ends."""

    def __init__(self, slot: Slot) -> None:
        self._slot, self.waits = slot, False

    def wait(self) -> None:
        """Wait from now on; where all uses of the task wait, the slot is others' for as long."""
        with self._slot.slots.changed:
            self.waits = True
            gone = self._slot._rest()
        if gone:
            self._slot.slots.on_free()

    def go_on(self, seconds: float) -> bool:
        """Go on, if the task has its slot, or has one again within so many seconds; returns whether it has."""
        with self._slot.slots.changed:
            regained = self._slot._regain(seconds)
            self.waits = self.waits and not regained
            return regained

    def end(self) -> None:
        """End, in whatever way; where all other uses wait, the slot is others'."""
        with self._slot.slots.changed:
            gone = self._slot._finish(self)
        if gone:
            self._slot.slots.on_free()
