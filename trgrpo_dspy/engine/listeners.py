"""How listeners are called, and one of the engine's own: notices as log lines."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from trgrpo_dspy.events import Event, Listener, Notice

__all__ = ["Emitter", "log_notice"]

logger = logging.getLogger(__name__)


def log_notice(event: Event) -> None:
    """Log the sentences that the user should read while the run goes on."""
    if isinstance(event, Notice):
        logger.log(logging.WARNING if event.level == "warning" else logging.INFO, "%s", event.text)


class Emitter:
    """Calls listeners with events; not thread-safe: events come from the thread that drives the run."""

    def __init__(self, listeners: Iterable[Listener] = ()) -> None:
        """Take the listeners in the order they are to be called."""
        self._listeners = list(listeners)
        self._all = list(self._listeners)

    def __call__(self, event: Event) -> None:
        """Call every listener."""
        for listener in list(self._listeners):
            try:
                listener(event)
            except (Exception, SystemExit) as error:  # a display or a tracker never ends a run
                self._listeners.remove(listener)
                name = getattr(listener, "__qualname__", type(listener).__qualname__)
                logger.warning("the listener %s raised %s: %s; it is called no more", name, type(error).__name__, error)

    def close(self) -> None:
        """Close the listeners that have a `close`, those that were dropped too."""
        for listener in self._all:
            if callable(close := getattr(listener, "close", None)):
                try:
                    close()
                except (Exception, SystemExit) as error:
                    logger.warning("a listener could not be closed: %s: %s", type(error).__name__, error)
