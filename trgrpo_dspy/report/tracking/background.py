"""A listener that works in a thread of its own, so that a slow tracking server never holds a run up.

Guarantees: events are handled one at a time, in order; the first error ends the tracker with one warning, and nothing
else; `close` waits for what is still to be handled, `PATIENCE` seconds at most.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from trgrpo_dspy.events import Event

__all__ = ["Background"]

logger = logging.getLogger(__name__)

PATIENCE = 120.0
"""Seconds that the end of a run waits for a tracker."""


class Background:
    """Hands events to `handle(event, time_ns)` in another thread."""

    def __init__(self, handle: Callable[[Event, int], object], name: str) -> None:
        """Start no thread before the first event; `name` stands in the warnings."""
        self._handle, self._name = handle, name
        self._queue: queue.SimpleQueue[tuple[Event, int] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failed = False

    def __call__(self, event: Event) -> None:
        """Take an event in; the time it happened is kept with it."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._queue.put((event, time.time_ns()))

    def close(self) -> bool:
        """Wait until all events were handled; return whether they were."""
        if self._thread is None:
            return True
        self._queue.put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            logger.warning("%s has not taken everything in within %g seconds; the rest is lost", self._name, PATIENCE)
        return not self._failed and not self._thread.is_alive()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._failed:  # emptied, so that nothing is kept in memory
                continue
            try:
                self._handle(*item)
            except (Exception, SystemExit) as error:  # a tracker never ends a run
                self._failed = True
                logger.warning("%s is given up: %s: %s", self._name, type(error).__name__, error)
