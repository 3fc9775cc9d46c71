"""How listeners are called, and the engine's own: notices as log lines, and how far a run is, on standard error."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Iterable
from typing import TextIO

from trgrpo_dspy.events import (
    AttemptFinished,
    Event,
    LibraryMeasured,
    Listener,
    Notice,
    RunEnded,
    RunStarted,
    StepEnded,
    StepStarted,
)  # fmt: skip
from trgrpo_dspy.meter.meter import Meter, total_spend

__all__ = ["Emitter", "Progress", "log_notice"]

logger = logging.getLogger(__name__)

_WIDTH = 10
"""Characters of the bar: with the counts a line of 80."""
_DRAW_EVERY = 0.2
"""Seconds between two drawings of the bar."""
_LINE_EVERY = 30.0
"""Seconds between two lines of a run without steps, where standard error is no terminal."""


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


class Progress:
    """Draws a run's progress; hidden with the environment variable `TRGRPO_PROGRESS=0` (or `TQDM_DISABLE=1`)."""

    def __init__(self, meter: Meter, stream: TextIO | None = None) -> None:
        """Tell of what this meter counts."""
        self._meter = meter
        self._stream = stream if stream is not None else sys.stderr
        self._terminal = self._stream.isatty()
        self._hidden = os.environ.get("TRGRPO_PROGRESS") == "0" or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
        self._name, self._total, self._steps = "", 0, 0
        self._done = self._replayed = 0
        self._where = ""
        self._began = self._last = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Take in an event."""
        if isinstance(event, RunStarted):
            self._name, self._total, self._steps = event.run, event.attempts, event.steps
        elif isinstance(event, AttemptFinished):
            self._done += 1
            self._replayed += event.replayed
        elif isinstance(event, StepStarted):
            self._where = f"step {event.step} of {self._steps or '?'}"
        if not self._hidden and self._name:
            self._show(event)

    def _show(self, event: Event) -> None:
        now = time.monotonic()
        if isinstance(event, RunEnded):
            self._write(f"{self._name} {'done' if event.stop_reason == 'completed' else event.stop_reason}: ", now)
            self._name = ""  # this line stays
        elif self._terminal and isinstance(
            event, (LibraryMeasured, Notice, StepEnded)
        ):  # log lines follow: they get the line
            self._stream.write("\r\x1b[K")
        elif self._terminal and now - self._last >= _DRAW_EVERY:
            filled = min(_WIDTH, _WIDTH * self._done // max(1, self._total))
            self._write(f"{self._name} {'█' * filled}{'░' * (_WIDTH - filled)} ", now, end="")
        elif not self._terminal and isinstance(event, StepEnded):
            self._write(f"{self._name}: step {event.step} of {event.steps}, ", now)
        elif not self._terminal and not self._steps and now - self._last >= _LINE_EVERY:
            self._write(f"{self._name}: ", now)

    def _write(self, head: str, now: float, end: str = "\n") -> None:
        self._last = now
        spend, elapsed = total_spend(self._meter.spend()), now - self._began
        parts = [f"{self._done} of {max(self._total, self._done)} attempts", _time(elapsed)]
        fresh, left = self._done - self._replayed, self._total - self._done
        if not end and fresh and left > 0:
            parts.append(f"{_time(elapsed * left / fresh)} left")
        parts.append(f"{spend.calls} calls")
        if spend.cost:
            parts.append(f"${spend.cost:.2f}")
        where = f"{self._where}: " if self._where and not end else ""
        clear = "\r\x1b[K" if self._terminal else ""
        line = f"{head}{where}{', '.join(parts)}"
        if not end:  # a line that wraps can't be drawn over
            line = line[: shutil.get_terminal_size().columns - 1]
        self._stream.write(f"{clear}{line}{end}")
        self._stream.flush()

    def close(self) -> None:
        """Leave the line."""
        if self._terminal and not self._hidden and self._name:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
