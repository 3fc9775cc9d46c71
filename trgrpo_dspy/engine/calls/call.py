"""One LM call on its way through the gate: replayed, or admitted, sent, retried, journaled and counted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dspy

from trgrpo_dspy.errors import RunStopped, TrainingFreeGRPOError
from trgrpo_dspy.failures.classify import (
    Failure,
    classify,
    is_backend_failure,
    note_answered,
    refused_parameter,
    worth_retrying,
)
from trgrpo_dspy.failures.errors import LM, is_a
from trgrpo_dspy.failures.secrets import remember
from trgrpo_dspy.meter import LMCall

from .replies import decode_reply, encode_reply
from .reported import Report
from .sampling import Outgoing, prepared, sampled
from .slots import Use
from .state import RunState
from .units import current_unit
from .waiting import POLL

__all__ = ["Call"]

_DEADLINE = 900.0
"""Seconds after which a request is given up, where the user set no timeout: those of the clients (600 s between two
bytes) never end a reply that trickles."""
_FIRST_DEADLINE = 240.0
"""The same before a backend has answered once: one that hangs from the start is known in less than five minutes."""
_SHORTEST_DEADLINE = 10.0
"""The least that a request gets where the user set a timeout, of which else twice as much is granted."""


@dataclass
class _Tries:
    """How often a call was tried."""

    count: int = 0
    """Tries that failed."""
    own: int = 0
    """Of these, the ones that no outage and no crowd of requests explains."""
    since: float = 0.0
    """When the first try was sent, by the monotonic clock."""
    sent: float = 0.0
    """When the last try was sent."""
    turn: float | None = None
    """When the next may be sent under the rate limit; None is not known yet."""


_CROWDED = (429, 503, 529)
"""HTTP statuses that say that there are too many requests."""


def _timed_out(error: BaseException) -> bool:
    """Whether a request failed for want of a reply in time; DSPy's native client calls that a transport error."""
    return is_a(error, LM + "LMTimeoutError", "builtins.TimeoutError") or "timed out" in str(error)


class Call:
    """One LM call on its way through the gate."""

    def __init__(self, run: RunState, lm: Any, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> None:
        self._run, self.lm, self.unit = run, lm, current_unit()
        if own := {name: value for name, value in kwargs.items() if isinstance(value, (str, Mapping))}:
            remember(own)  # a predictor may bring a key of its own
        self._given = Outgoing(prompt, messages, kwargs)
        self.backend = run.backends.of(lm.model)
        """What is known of the LM's backend."""
        self.reply: Any = None
        self.replayed = False
        """Whether the journal held the reply."""
        self._tries, self._reserved = _Tries(), False
        self.use: Use | None = None
        """The call's use of its unit's slot."""
        self.request = self._replay(prepared(run, lm, self.unit, self._given))
        """What is sent."""
        if self.unit.account.slot is not None and not self.replayed:
            self.use = self.unit.account.slot.use()

    def _replay(self, request: Outgoing) -> Outgoing:
        """Take the reply from the journal if that holds one; returns the request as it is to be sent."""
        journal = self._run.journal
        if journal is None or not request.hash:
            return request
        self.check()
        asked, account = self.unit.account.asked, self.unit.account
        try:
            with self._run.lock:  # equal requests of one unit take one reply each
                recorded = journal.reply(self.unit.id, request.hash, asked[request.hash])
                request.occurrence = asked[request.hash] if recorded is None else recorded.occurrence
                asked[request.hash] = request.occurrence + 1
        except TrainingFreeGRPOError as error:  # a damaged journal must not look like the program's own failure
            self._run.ending.stop("fatal", error)
            self.check()
            return request
        if recorded is None:
            return request
        self.reply, self.replayed, call = decode_reply(recorded.reply), True, recorded.call
        key = (self.unit.id, request.hash, recorded.occurrence)
        if key not in account.replies:
            account.replies.add(key)
            account.calls.append(call)
        self._run.replayed = True
        if dspy.settings.usage_tracker is not None and not call.cached:  # the program's own, as for a fresh reply
            usage = {"prompt_tokens": call.prompt_tokens, "completion_tokens": call.completion_tokens}
            total = call.prompt_tokens + call.completion_tokens
            dspy.settings.usage_tracker.add_usage(call.model, {**usage, "total_tokens": total})
        return request

    def check(self) -> None:
        """Refuse the call if the run is stopped or the unit abandoned."""
        if self._run.ending.event.is_set() or self.over:
            self.end()
            raise RunStopped(self._run.ending.reason or "this attempt was abandoned")

    @property
    def over(self) -> bool:
        """Whether nobody waits for this call any more."""
        return self.unit.account.abandoned.is_set()

    def admitted(self, *, asynchronous: bool = False) -> bool:
        """Whether backend and budget let the call go on; else other calls have to end first.

        Beside asynchronous calls of the same attempt a synchronous one waits for nothing: it may block their very loop.
        """
        waits = asynchronous or not self.unit.account.clock.awaited
        may_go = self.backend.may_go(self) or not waits
        self.check()  # after the above: whoever made way by stopping the run stopped it first
        if may_go and not self._reserved:
            self._reserved, reached = self._run.meter.reserve()
            if reached or not (self._reserved or waits):
                self._run.ending.stop(reached or "max_lm_calls")
                self.check()
        if not self._reserved or not may_go:
            now = time.monotonic()
            self._run.waiting.hold(self.unit, now, now + POLL)
        return may_go and self._reserved

    def turn(self) -> float:
        """Seconds to wait under the rate limit before asking again; 0 when the request may go out."""
        self.check()
        if self._tries.turn is None:
            self._tries.turn = self._run.waiting.pace()
            self._run.waiting.hold(self.unit, time.monotonic(), self._tries.turn)
        return min(max(0.0, self._tries.turn - time.monotonic()), 10 * POLL)

    def enter(self, seconds: float, *, asynchronous: bool = False) -> bool:
        """Wait so long until the backend has room for the request; returns whether it has."""
        began = time.monotonic()
        if not asynchronous and self.unit.account.clock.awaited:  # see `admitted`
            return True
        entered = self.backend.limit.enter(self, seconds)
        self._run.waiting.hold(self.unit, began, time.monotonic())
        self.check()
        return entered

    @contextmanager
    def out(self) -> Iterator[None]:
        """While the request is out."""
        out, now = self.unit.account.clock.out, time.monotonic()
        self._tries.sent, self._tries.since = now, self._tries.since or now
        deadline = now + _most_seconds(self.lm, self.backend.answered)
        with self._run.lock:
            self._run.out.add(self)
            out.append(deadline)
        try:
            yield
        finally:
            with self._run.lock:
                self._run.out.discard(self)
                out.remove(deadline)

    @property
    def hangs(self) -> bool:
        """Whether the backend had all the time it gets for a first answer."""
        return time.monotonic() - self._tries.sent >= _FIRST_DEADLINE

    def failed(self, error: BaseException) -> float:
        """Seconds to wait before the next try; raises the error if there is none."""
        tries, backend, own = self._tries, self.backend, True
        among = backend.limit.leave(self)
        if backend.answered:
            note_answered(error)
        if not self.over and self._keeps_own(error):
            return 0.0
        outage = classify(error) is Failure.INFRASTRUCTURE
        if not self.over and is_backend_failure(error) and (outage or not backend.answered):
            crowded = is_a(error, LM + "LMRateLimitError") or getattr(error, "status", None) in _CROWDED
            timed_out = _timed_out(error)
            own = backend.failure(error, self, timed_out=timed_out, crowded=crowded, sent=tries.sent, among=among)
            self._run.end_if_hopeless(self.lm, error)
        own = own or not backend.outage.patient(tries.since)
        tries.count, tries.own, tries.turn = tries.count + 1, tries.own + own, None
        more = self.lm.retries > 0 and (not own or tries.own <= self.lm.retries)
        if more and not self.over and worth_retrying(error) and not self._run.ending.event.is_set():
            down = backend.outage.down
            wait = self._run.waiting.before_retry(error, (tries.count if down or own else tries.own + 1) - 1, down=down)
            if not own:  # no time of the attempt's
                self._run.waiting.hold(self.unit, tries.sent, time.monotonic() + wait)
            return wait
        if tries.own < tries.count:
            backend.outage.settle(time.monotonic() - tries.since, answered=False)
        if not self.over:  # first, so that a fatal error stops the run before the next call may go out
            self._run.note_failure(self.lm, self.unit, error)
        self._account(LMCall(self.lm.model, retries=tries.count - 1, failed=True))
        raise error

    def _keeps_own(self, error: BaseException) -> bool:
        """Have the model keep its own value of a parameter that it refuses; returns whether that was the reason."""
        name = refused_parameter(error)
        ours = sampled(self._run, self.lm, self.unit, self._given.kwargs)
        if not name or ours.get(name) == self._given.kwargs.get(name):
            return False  # the user's own value
        self._run.keep_own(self.lm, name)
        self.request = self._replay(prepared(self._run, self.lm, self.unit, self._given))
        return True

    def answered(self, reply: Any, report: Report) -> Any:
        """Commit the reply, count it, and hand it over."""
        call = LMCall(
            self.lm.model,
            prompt_tokens=report.prompt_tokens,
            completion_tokens=report.completion_tokens,
            provider_cached_tokens=report.provider_cached_tokens,
            cost=report.cost,
            cached=not report.fresh,
            retries=self._tries.count,
            truncated=report.truncated,
        )
        call = self._run.meter.priced(call)
        self._run.check_price(call)
        if report.fresh:
            self.backend.answer(self, time.monotonic() - self._tries.sent, _timeout(self.lm))
            self._run.backends.note(answered=True)
            if self._tries.own < self._tries.count:
                self.backend.outage.settle(0.0, answered=True)
        self.unit.account.fault = report.fault
        self._account(call, reply)
        return reply

    def _account(self, call: LMCall, reply: Any = None) -> None:
        request, account = self.request, self.unit.account
        if self._run.journal is not None:
            kept = encode_reply(reply) if request.hash else None
            try:
                self._run.journal.record(self.unit.id, request.hash, request.occurrence, kept, call)
            except TrainingFreeGRPOError as error:  # a full disk must not look like the program's own failure
                self._run.ending.stop("fatal", error)
        account.replies.add((self.unit.id, request.hash, request.occurrence))
        account.calls.append(call)
        self._run.meter.record(call, self.unit.stage, self.unit.step, reserved=self._reserved)
        self._reserved = False
        self.end()

    def end(self) -> None:
        """Give back what is held for this call."""
        if self._reserved:
            self._run.meter.give_back()
            self._reserved = False
        if self.use is not None:
            self.use.end()
            self.use = None
        self.backend.done(self)


def _timeout(lm: Any) -> float | None:
    """The LM's own timeout in seconds, if the user set one."""
    timeout = lm.kwargs.get("timeout")
    return float(timeout) if isinstance(timeout, (int, float)) and timeout > 0 else None


def _most_seconds(lm: Any, answered: bool) -> float:
    """Seconds after which a request that is out is given up."""
    if (timeout := _timeout(lm)) is not None:
        return max(_SHORTEST_DEADLINE, 2 * timeout)
    return _DEADLINE if answered else _FIRST_DEADLINE
