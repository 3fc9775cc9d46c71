"""How the attempts of a run end: which results are kept, and whether any attempt can be scored at all.

Until an attempt has been scored, a tool, a metric or a backend may be broken altogether: attempts without a score are
nobody's result then. They are not kept, so a run that goes on makes them again, and a run that meets only such ones
ends before it has cost much. Thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.program.rollout import Rollout

from .state import RunState
from .units import Unit

__all__ = ["Outcomes"]

_HOPELESS = 20
"""Attempts that ended without a score, and none with one, after which the run ends."""
_PLACES = 3
"""Examples they must be at: of one, made many times, only the label may be missing."""


class Outcomes:
    """The attempts of one run, as they end."""

    def __init__(self, run: RunState) -> None:
        """Know of none yet."""
        self._run = run
        self._lock = threading.Lock()
        self._scored = False
        self._unkept: list[Callable[[], object]] = []
        self._places: set[int] = set()
        self._problem = ""

    def keep(self, unit: Unit, rollout: Rollout) -> Rollout:
        """Take in how an attempt ended; the result that counts, which another try of the same may have left first."""
        journal, scored = self._run.journal, not rollout.outcome.scoreless

        def keep() -> Rollout:
            return journal.finish(unit.id, rollout) if journal is not None else rollout

        with self._lock:
            self._scored = self._scored or scored
            held = [] if self._scored else [*self._unkept, keep]
            due, self._unkept = ([], held) if held else (self._unkept, [])
            self._places.add(rollout.example)
            self._problem = self._problem or f"{rollout.outcome.value}: {rollout.error}"
            hopeless = len(held) >= _HOPELESS and len(self._places) >= _PLACES
        for write in due:
            write()
        if hopeless and not self._run.silent:
            self._run.problem = self._run.problem or self._problem
            self._run.stop("unscored")
        if held:
            return rollout
        if rollout.outcome is Outcome.INFRASTRUCTURE and self._run.silent:
            self._run.keep_later(keep)
            return rollout
        return keep()

    def known(self, unit: Unit) -> Rollout | None:
        """The attempt as the journal has it; its calls were counted when the journal was opened."""
        rollout = self._run.journal.attempt(unit.id) if self._run.journal is not None else None
        if rollout is not None:
            self._run.note_replay()
            unit.replayed = True
            self._scored = True  # what was kept was kept because attempts can be scored
        return rollout
