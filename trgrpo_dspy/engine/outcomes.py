"""How the attempts of a run end: which results the journal keeps, and whether any attempt can succeed at all.

An attempt lost to infrastructure is never kept: a resumed run makes it again. Until an attempt has been scored, a tool
or a metric may be broken altogether; other attempts without a score are then not kept either, and a run that has only
such attempts, or only empty replies, ends before it has cost much. Thread-safe.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from trgrpo_dspy.errors import RunStopped
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.program.rollout import Rollout

if TYPE_CHECKING:
    from .calls.state import RunState
    from .calls.units import Unit

__all__ = ["Outcomes"]

_HOPELESS = 20
"""Attempts of which none came to anything, after which the run ends."""
_EXAMPLES = 3
"""Examples they must be at: of one example, attempted many times, only the label may be missing."""


class Outcomes:
    """The attempts of one run, as they end."""

    def __init__(self, run: RunState) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._scored = self._useful = False
        self._unkept: list[tuple[str, Rollout]] = []
        self._useless = 0
        self._examples: set[int] = set()
        self._problem = ""

    def keep(self, unit: Unit, rollout: Rollout) -> Rollout:
        """Record how an attempt ended. If the journal already has an outcome for the attempt, return that.

        Raises:
            RunStopped: The attempt was given up a moment before.
        """
        journal, lost = self._run.journal, rollout.outcome is Outcome.INFRASTRUCTURE
        with self._lock:
            if unit.account.abandoned.is_set() and not lost:
                raise RunStopped("this attempt was abandoned")
            self._watch(unit, rollout)
            if journal is None:
                return rollout
            if not lost and not self._scored:
                self._unkept.append((unit.id, rollout))
                return rollout
            while self._unkept and not lost:
                journal.finish(*self._unkept.pop(0))
            return journal.finish(unit.id, rollout)

    def known(self, unit: Unit) -> Rollout | None:
        """The attempt as the journal has it; its calls were counted when the journal was opened."""
        rollout = self._run.journal.attempt(unit.id) if self._run.journal is not None else None
        if rollout is not None:
            self._run.replayed = unit.account.replayed = True
            self._scored = self._useful = True  # what was kept was kept because attempts can be scored
        return rollout

    def _watch(self, unit: Unit, rollout: Rollout) -> None:
        """End the run if no attempt so far has come to anything."""
        scored = not rollout.outcome.scoreless
        self._scored = self._scored or scored
        empty = rollout.outcome is Outcome.PARSE_ERROR and unit.account.fault is not None
        self._useful = self._useful or (scored and not empty)
        if self._useful:
            return
        self._useless += 1
        self._examples.add(rollout.example)
        self._problem = self._problem or f"{rollout.outcome.value}: {rollout.error}"
        hopeless = self._useless >= _HOPELESS and len(self._examples) >= _EXAMPLES
        if hopeless and not self._run.backends.any_unanswered:
            vain = "no attempt got a usable reply" if self._scored else "no attempt could be scored"
            self._run.ending.stop("unscored", problem=f"{vain} ({self._problem})")
