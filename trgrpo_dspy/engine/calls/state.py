"""What the calls of one run share: how the run ends and how calls wait, budget, journal, knowledge of the backends."""

from __future__ import annotations

import asyncio
import queue
import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trgrpo_dspy.engine.seeds import derive_seed
from trgrpo_dspy.errors import FatalError, TrainingFreeGRPOError
from trgrpo_dspy.failures.classify import Failure, classify
from trgrpo_dspy.failures.messages import describe, fatal_message
from trgrpo_dspy.meter.meter import LMCall, Meter, Stage

from .backends import TOO_MANY_LOST, Backends, Known

if TYPE_CHECKING:
    from trgrpo_dspy.engine.journal.journal import Journal

    from .slots import Use
    from .units import Unit

__all__ = ["POLL", "Ending", "RunState", "Waiting"]

BACKOFF = 1.0
"""Unit of the waits before retries, in seconds, where a run is given no other: a tenth of it before the first, for
most failures are alone and one alone should cost little, then five times the last wait each, up to 16; jittered."""
POLL = 0.02
"""Seconds between two looks of a call that waits for other calls."""
_LONGEST_HINT = 60.0
"""The longest wait before a retry that a backend may ask for, in seconds."""
_LONGEST_IN_OUTAGE = 4.0
"""The longest wait before a retry while a backend is down, in units of the back-off: its return is soon noticed."""


class Waiting:
    """How calls wait: for retries and for the rate limit. No wait outlasts the run, and none keeps a slot."""

    def __init__(
        self, stopped: threading.Event, may_share: Callable[[], bool], backoff: float, requests_per_minute: float | None
    ) -> None:
        """Wait no longer than until `stopped`; `may_share` says whether another task may have a waiting one's slot."""
        self._stopped, self._may_share, self._backoff = stopped, may_share, backoff
        self._lock = threading.Lock()
        self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next_request = 0.0

    def sleep(self, seconds: float) -> None:
        """Wait, but not past the end of the run."""
        if seconds > 0:
            self._stopped.wait(seconds)

    def until(self, moment: float, seconds: float) -> bool:
        """Wait so long for a moment, by the monotonic clock; returns whether the moment or the end of the run came."""
        left = moment - time.monotonic()
        return left <= 0 or self._stopped.wait(min(left, seconds))

    async def for_siblings(self, unit: Unit) -> None:
        """Once the run is over, wait for the unit's requests that are out.

        The error that is about to be raised ends an `asyncio.gather`, and with it the loop: requests that are out would
        be cancelled, their replies paid for and lost.
        """
        while self._are_out(unit):
            await asyncio.sleep(POLL)

    def for_requests(self, unit: Unit) -> None:
        """The same where the unit's work has ended: `dspy.Parallel` leaves its threads when one of them raises."""
        while self._are_out(unit):
            time.sleep(POLL)

    def _are_out(self, unit: Unit) -> bool:
        account = unit.account
        last = max(list(account.clock.out), default=0.0)
        return self._stopped.is_set() and last > time.monotonic() and not account.abandoned.is_set()

    def rest(self, unit: Unit, tries: int) -> None:
        """Wait before a unit's work is tried again; meanwhile its slot is others'."""
        use = unit.account.slot.use() if unit.account.slot is not None else None
        try:
            self.leave(use)
            self.sleep(self._backoff_after(tries - 1))
            while not self.back(unit, use, 1.0):
                pass
        finally:
            if use is not None:
                use.end()

    def leave(self, use: Use | None) -> None:
        """Give the slot to others before a retry, unless no other task may start yet."""
        if use is not None and self._may_share():
            use.wait()

    def back(self, unit: Unit, use: Use | None, seconds: float) -> bool:
        """Wait so long for the slot, if the task has none now; returns whether the task may go on."""
        began = time.monotonic()
        there = use is None or use.go_on(seconds) or self._stopped.is_set()
        unit.account.clock.hold(began, time.monotonic())
        return there

    def _backoff_after(self, tries: int) -> float:
        """Seconds to wait after so many earlier tries, before jitter."""
        return float(self._backoff * min(0.1 * 5**tries, 16))

    def pace(self) -> float:
        """When the next request may go out under the rate limit, by the monotonic clock."""
        with self._lock:
            turn = max(time.monotonic(), self._next_request)
            self._next_request = turn + self._interval
        return turn

    def before_retry(self, error: BaseException, tries: int, *, down: bool) -> float:
        """Seconds to wait before another try: after an error, which may say how long, and so many tries before it."""
        hint = getattr(error, "retry_after", None)
        if isinstance(hint, (int, float)) and hint >= 0:
            most = min(self._backoff / 10, max(float(hint), 0.1) / 4)  # a short wait is not made much longer
            return min(float(hint), _LONGEST_HINT) + random.uniform(0, most)
        most = self._backoff * _LONGEST_IN_OUTAGE if down else float("inf")
        return min(most, self._backoff_after(min(tries, 8))) * random.uniform(0.5, 1.5)


class Ending:
    """Whether and why a run is over. The first reason stays."""

    def __init__(self) -> None:
        self.event = threading.Event()
        """Set when no further call may go out."""
        self.reason = ""
        """Why the run was stopped; empty while it goes on."""
        self.fatal: TrainingFreeGRPOError | None = None
        """Why no further call can succeed; None while one may."""
        self.problem = ""
        """What the user has to mend, where that is why the run was stopped; else empty."""
        self.on_stop: Callable[[], None] = lambda: None
        """Called once when the run is stopped, in the thread that stops it."""
        self._lock = threading.RLock()

    def stop(self, reason: str, fatal: TrainingFreeGRPOError | None = None, problem: str = "") -> None:
        """Refuse every further LM call."""
        with self._lock:
            if self.event.is_set():
                return
            self.reason, self.fatal, self.problem = reason, fatal, problem
            self.event.set()
        self.on_stop()


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
        width: int = 100,
        outage_patience: float = 0.0,
        known: Known | None = None,
    ) -> None:
        """Begin.

        Rollout ids and request seeds derive from the `seed`; `requests_per_minute` counts those of all threads, retries
        included; at most `width` are in flight. `backoff` is the unit of the waits before retries, `outage_patience`
        the time for which an outage of a backend that has answered is waited out, both in seconds. `known` is what
        another process knows of the backends.
        """
        self.meter, self.journal, self.seed, self.width = meter or Meter(), journal, seed, width
        self.ending = Ending()
        self.notices: queue.SimpleQueue[str] = queue.SimpleQueue()
        """Sentences for the user, until the driver emits them."""
        self.backends = Backends(width, outage_patience, self.notices.put, known)
        self.waiting = Waiting(
            self.ending.event, lambda: self.may_widen, BACKOFF if backoff is None else backoff, requests_per_minute
        )
        self.out: set[Any] = set()
        """The `Call`s whose requests are out."""
        self.refused_parameters: set[tuple[str, str]] = set()
        """Model and parameter, for the parameters of ours that a model refused: it keeps its own."""
        self.lock = threading.RLock()
        """Held to change what calls share."""
        self.replayed = False
        """Whether the journal answered a call."""

    @property
    def may_widen(self) -> bool:
        """Whether several tasks may be at work: a backend has answered, or nothing has needed one so far."""
        return self.backends.any_answered or not (self.backends.any_unanswered or self.replayed)

    def resume(self, journal: Journal) -> int:
        """Replay from a journal, and count what it paid for against the budget; returns the number of its calls."""
        self.journal = journal
        self.refused_parameters |= {(model, name) for model, name in journal.get("refused_parameters") or ()}
        paid = journal.paid()
        for unit, call in paid:
            stage, step = unit.split("/")[:2]
            self.meter.record(self.meter.priced(call), Stage(stage), int(step))
        return len(paid)

    def abandon(self, unit: Unit) -> None:
        """Refuse a unit's further calls, for it has taken too long. The requests that are out got no reply in time."""
        unit.account.abandoned.set()
        with self.lock:
            late = [call for call in self.out if call.unit.account.abandoned is unit.account.abandoned]
        for call in late:
            error = TimeoutError("no reply at all" if call.hangs else "no reply within rollout_timeout")
            if not call.backend.answered:
                call.backend.failed += 1
                self.end_if_hopeless(call.lm, error, hangs=call.hangs)
            self.note_loss(call.unit, error)

    def end_if_hopeless(self, lm: Any, error: BaseException, *, hangs: bool = False) -> None:
        """End the run if this LM's backend never answered and has had its chances, or all the time for one."""
        backend = self.backends.of(lm.model)
        if hangs or backend.hopeless:
            self.ending.stop("fatal", FatalError(fatal_message(error, lm.model, backend.failed)))

    def sampled(self, lm: Any, unit: Unit, kwargs: dict[str, Any]) -> dict[str, Any]:
        """A call's keyword arguments with what the unit changes; a predictor's own configuration wins."""
        if not unit.resample or not lm.takes_any:
            return kwargs
        own_id = kwargs.get("rollout_id", lm.kwargs.get("rollout_id"))
        rollout_id = derive_seed(self.seed, *unit.key, *([] if own_id is None else [own_id]))
        changed = {**kwargs, "rollout_id": rollout_id}
        keeps_own = "max_completion_tokens" in lm.kwargs or lm.keeps_temperature
        refused = {name for model, name in self.refused_parameters if model == lm.model} | kwargs.keys()
        if unit.temperature is not None and not keeps_own and "temperature" not in refused:
            changed["temperature"] = unit.temperature
        if lm.kwargs.get("seed") is not None and "seed" not in refused:
            changed["seed"] = derive_seed(int(lm.kwargs["seed"]), rollout_id) % 2**31
        return changed

    def keep_own(self, lm: Any, parameter: str) -> None:
        """Have a model keep its own value of a parameter that it refuses to be given."""
        with self.lock:
            if (lm.model, parameter) in self.refused_parameters:
                return
            self.refused_parameters.add((lm.model, parameter))
            if self.journal is not None:
                self.journal.set("refused_parameters", sorted(self.refused_parameters))
        self.notices.put(f"LM {lm.model!r} refuses to be given a {parameter}: its own is kept")

    def check_price(self, call: LMCall) -> None:
        """End the run where `max_cost` can't be kept to."""
        if call.cost is None and not call.failed and self.meter.budget.max_cost is not None:
            text = (
                f"max_cost is set, but the price of LM {call.model!r} is unknown, so it can't be kept to. Pass its "
                f"price in dollars per million prompt and completion tokens, Budget(max_cost=..., "
                f"prices={{{call.model!r}: (0.15, 0.60)}}), or cap max_tokens or max_lm_calls instead"
            )
            self.ending.stop("fatal", FatalError(text))

    def learn(self, known: Known, before: Known) -> None:
        """Take in what the gate of another process knows of the backends, which knew `before`."""
        if self.backends.learn(known, before):
            self.ending.stop("error_rate", problem=TOO_MANY_LOST)

    def note_failure(self, lm: Any, unit: Unit, error: BaseException) -> None:
        """Take in that a call failed for good: fatal, an outage, or the program's own business."""
        kind = classify(error)
        refused = getattr(error, "status", None) == 403 and kind is Failure.PROGRAM
        if kind is Failure.FATAL or (refused and self.backends.of(lm.model).refusal()):
            self.ending.stop("fatal", FatalError(fatal_message(error, lm.model)))
        elif kind is Failure.INFRASTRUCTURE:
            self.note_loss(unit, error)

    def note_loss(self, unit: Unit, error: BaseException) -> None:
        """Take in that a call was lost to an outage; where most are, the run ends."""
        unit.account.outage = unit.account.outage or error
        if self.backends.note(answered=False):
            self.ending.stop("error_rate", problem=f"the first error was {describe(error)}")
