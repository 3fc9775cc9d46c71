"""What the calls of one run share: whether it goes on, its budget and journal, what is known of the backends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from trgrpo_dspy.engine.journal.journal import Journal
from trgrpo_dspy.errors import FatalError, TrainingFreeGRPOError
from trgrpo_dspy.failures.classify import Failure, classify
from trgrpo_dspy.failures.messages import fatal_message
from trgrpo_dspy.meter import LMCall, Meter, Stage

from .health import Health, Seen
from .units import Unit
from .waiting import Waiting

__all__ = ["RunState"]

BACKOFF = 1.0
"""Unit of the waits before retries, in seconds, where a run is not told another: a tenth of it before the first, for
most failures are alone and one alone should cost little, then five times the last wait each, up to 16; jittered."""


class _Request(Protocol):
    """A call whose request is out."""

    lm: Any
    unit: Unit


class RunState:
    """The state of one run. Thread-safe."""

    def __init__(
        self,
        meter: Meter | None = None,
        *,
        journal: Journal | None = None,
        requests_per_minute: float | None = None,
        seed: int = 0,
        backoff: float | None = None,
        health: Health | None = None,
    ) -> None:
        """Begin.

        Args:
            meter: Where calls are added up, and what they may spend.
            journal: Where replies are kept and replayed from; None keeps none.
            requests_per_minute: Requests at most across all threads, retries included; None is no limit.
            seed: Seed of the run; rollout ids and request seeds derive from it.
            backoff: Unit of the waits before retries, in seconds; None is `BACKOFF`.
            health: What is known of the backends; None is nothing yet.
        """
        self.meter = meter or Meter()
        self.journal = journal
        self.seed = seed
        self.fatal: TrainingFreeGRPOError | None = None
        """Why no further call can succeed; None while one may."""
        self.stop_reason = ""
        """Why the run was stopped; empty while it runs."""
        self.problem = ""
        """What the first attempt met, where the run was stopped because none could be scored."""
        self.on_stop: Callable[[], None] = lambda: None
        """Called once when the run is stopped."""
        self._stopped = threading.Event()
        self.waiting = Waiting(
            self._stopped, lambda: self.proven, BACKOFF if backoff is None else backoff, requests_per_minute
        )
        """How calls wait."""
        self.health = health or Health()
        self.out: set[_Request] = set()
        """The calls whose requests are out."""
        self.lock = threading.RLock()
        """Held by whoever changes what calls share."""
        self._unkept: list[Callable[[], object]] = []
        self._replayed = False

    def stop(self, reason: str = "stopped", fatal: TrainingFreeGRPOError | None = None) -> None:
        """Refuse every further LM call; the first reason stays."""
        with self.lock:
            if self._stopped.is_set():
                return
            self.stop_reason, self.fatal = reason, fatal
            self._stopped.set()
        self.on_stop()

    @property
    def stopped(self) -> bool:
        """Whether the gate is shut."""
        return self._stopped.is_set()

    @property
    def silent(self) -> bool:
        """Whether the backend was asked and never answered: then no outage is anybody's result."""
        return self.health.silent

    @property
    def proven(self) -> bool:
        """Whether the backend is known to answer, or nothing needed it; the journal's replies prove nothing."""
        return self.health.proven or not (self.health.silent or self._replayed)

    def resume(self, journal: Journal) -> int:
        """Replay from a journal, and count what it paid for: a replayed call is not counted again. How many these are.

        Its calls count against the budget, its time does not.
        """
        self.journal = journal
        paid = journal.paid()
        for unit, call in paid:
            stage, step = unit.split("/")[:2]
            self.meter.record(self.meter.priced(call), Stage(stage), int(step))
        return len(paid)

    def keep_results(self) -> None:
        """Have the journal hold what was found so far: to be called before work starts that rests on it."""
        if self.journal is not None:
            self.journal.flush()

    def keep_later(self, write: Callable[[], object]) -> None:
        """Keep a result when the backend gives its first answer; an outage that never ended is nobody's result."""
        with self.lock:
            self._unkept.append(write)

    def keep_now(self) -> None:
        """The backend has answered: what waited for that is kept."""
        with self.lock:
            writes, self._unkept = self._unkept, []
        for write in writes:
            write()

    def abandon(self, unit: Unit) -> None:
        """Refuse a unit's further calls: it has taken too long. Those that are out got no reply in time."""
        unit.abandoned.set()
        with self.lock:
            late = [call for call in self.out if call.unit.abandoned is unit.abandoned]
        for call in late:
            error = TimeoutError("no reply within rollout_timeout")
            self.note_request_failure(call.lm, error)
            self.note_call_failure(call.lm, call.unit, error)

    def check_price(self, call: LMCall) -> None:
        """End the run where `max_cost` can't be kept to."""
        if call.cost is None and not call.failed and self.meter.budget.max_cost is not None:
            self.stop("fatal", FatalError(_unpriced(call.model)))

    def note_replay(self) -> None:
        """The journal answered."""
        self._replayed = True

    @property
    def seen(self) -> Seen:
        """What is known of the backends."""
        return self.health.seen

    def learn(self, seen: Seen, before: Seen) -> None:
        """Take in what the gate of another process saw of the backends, which knew `before`."""
        too_many = self.health.learn(seen, before)
        if True in seen.recent:
            self.keep_now()
        if too_many:
            self.stop("error_rate")

    def has_answered(self, lm: Any) -> bool:
        """Whether an LM's backend has answered in this run."""
        return self.health.has_answered(lm.model)

    def note_answer(self, lm: Any) -> None:
        """The backend answered."""
        self.health.answer(lm.model)

    def note_request_failure(self, lm: Any, error: BaseException) -> None:
        """A request failed; where the backend never answered, a few are enough."""
        if failed := self.health.failure(lm.model):
            self.stop("fatal", FatalError(fatal_message(error, lm.model, failed)))

    def note_call_failure(self, lm: Any, unit: Unit, error: BaseException) -> None:
        """A call failed for good: fatal, an outage, or the program's own business."""
        kind = classify(error)
        if kind is Failure.FATAL:
            self.stop("fatal", FatalError(fatal_message(error, lm.model)))
        elif kind is Failure.INFRASTRUCTURE:
            unit.outage = unit.outage or error
            if self.health.loss():
                self.stop("error_rate")


def _unpriced(model: str) -> str:
    return (
        f"max_cost is set, but the price of LM {model!r} is unknown, so it can't be kept to. Pass its price in dollars "
        f"per million prompt and completion tokens, Budget(max_cost=..., prices={{{model!r}: (0.15, 0.60)}}), or cap "
        "max_tokens or max_lm_calls instead"
    )
