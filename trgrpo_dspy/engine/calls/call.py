"""One LM call on its way through the gate: replayed, or admitted, sent, retried, journaled and counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import dspy
from dspy.lm15 import Request

from trgrpo_dspy.engine.journal.requests import request_hash
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
from trgrpo_dspy.meter.meter import LMCall

from .backends import FIRST_DEADLINE
from .replies import decode_reply, encode_reply
from .reported import Report, watch
from .state import POLL, RunState
from .units import current_unit

if TYPE_CHECKING:
    from .slots import Use

__all__ = ["Call", "Outgoing"]

_CROWDED = (429, 503, 529)
"""HTTP statuses that say that there are too many requests."""


@dataclass
class Outgoing:
    """What is sent, and where the journal keeps its reply."""

    prompt: Any
    messages: Any
    kwargs: dict[str, Any]
    hash: str = ""
    """Hash of the request; empty where no journal could tell whose reply it was."""
    occurrence: int = 0
    """Which of the unit's equal requests it is."""


@dataclass
class _Tries:
    """How often a call was tried. Moments are of the monotonic clock."""

    count: int = 0
    """Tries that failed."""
    own: int = 0
    """Failed tries that count against the LM's own `num_retries`; those due to an outage or to overload do not."""
    since: float = 0.0
    """When the first try was sent."""
    sent: float = 0.0
    """When the last try was sent."""
    again: float = 0.0
    """When the wait before the next is over."""


class Call:
    """One LM call on its way through the gate, until it is `done`."""

    def __init__(self, run: RunState, lm: Any, given: Outgoing, *, asynchronous: bool = False) -> None:
        self._run, self.lm, self._given, self.unit = run, lm, given, current_unit()
        if own := {name: value for name, value in given.kwargs.items() if isinstance(value, (str, Mapping))}:
            remember(own)  # a predictor may bring a key of its own
        self.backend = run.backends.of(lm.model)
        self._asynchronous = asynchronous
        self._tries, self._reserved = _Tries(), False
        self._use: Use | None = None
        self.reply, self.done = None, False
        self.request = self._prepared()
        """What is sent."""
        if self.unit.account.slot is not None and not self.done:
            self._use = self.unit.account.slot.use()

    def _prepared(self) -> Outgoing:
        """The request as the unit changes it; takes the reply from the journal if that holds one."""
        given, account, journal = self._given, self.unit.account, self._run.journal
        request = Outgoing(given.prompt, given.messages, self._run.sampled(self.lm, self.unit, given.kwargs))
        if isinstance(asked := given.kwargs.get("request", given.prompt), Request):
            request.prompt, request.kwargs = _typed(asked, given.kwargs, request.kwargs)
        if journal is None or not self.unit.key:  # without a unit the journal has no key for the call
            return request
        request.hash = request_hash(self.lm, request.prompt, request.messages, request.kwargs)
        self._check()
        try:
            with self._run.lock:  # equal requests of one unit take one reply each
                before = account.asked[request.hash]
                recorded = journal.reply(self.unit.id, request.hash, before)
                request.occurrence = before if recorded is None else recorded.occurrence
                account.asked[request.hash] = request.occurrence + 1
        except TrainingFreeGRPOError as error:  # a damaged journal must not look like the program's own failure
            self._run.ending.stop("fatal", error)
            self._check()
            return request
        if recorded is not None:
            self.reply, self.done = decode_reply(recorded.reply), True
            self._run.replayed = True
            key = (self.unit.id, request.hash, recorded.occurrence)
            if key not in account.replies:
                account.replies.add(key)
                account.calls.append(recorded.call)
            if dspy.settings.usage_tracker is not None and not recorded.call.cached:  # as for a fresh reply
                _add_usage(recorded.call)
        return request

    def _check(self) -> None:
        """Refuse the call if the run is stopped or the unit abandoned."""
        if self._run.ending.event.is_set() or self.over:
            self.close()
            raise RunStopped(self._run.ending.reason or "this attempt was abandoned")

    @property
    def over(self) -> bool:
        """Whether nobody waits for this call any more."""
        return self.unit.account.abandoned.is_set()

    @property
    def hangs(self) -> bool:
        """Whether the backend had all the time it gets for a first answer."""
        return time.monotonic() - self._tries.sent >= FIRST_DEADLINE

    # -- before the request goes out -------------------------------------------------------------------------------

    def steps(self) -> Iterator[Callable[[float], bool]]:
        """The waits before the request goes out, in order: call each with a time limit until it returns True."""
        waiting = self._run.waiting
        yield lambda seconds: self.over or waiting.until(self._tries.again, seconds)
        yield self._admitted
        yield lambda seconds: waiting.back(self.unit, self._use, seconds)
        self._check()
        turn = waiting.pace()
        self.unit.account.clock.hold(time.monotonic(), turn)
        yield lambda seconds: self.over or waiting.until(turn, seconds)
        if self.unit.account.clock.may_wait(self._asynchronous):
            yield self._entered
        self._check()

    def _admitted(self, seconds: float) -> bool:
        """Whether backend and budget let the call go on; else other calls have to end first."""
        may_go = self.backend.may_go(self) or not self.unit.account.clock.may_wait(self._asynchronous)
        self._check()  # after `may_go`, which is also true once a first call has ended by stopping the run
        if may_go and not self._reserved:
            self._reserved, reached = self._run.meter.reserve()
            if reached or not (self._reserved or self.unit.account.clock.may_wait(self._asynchronous)):
                self._run.ending.stop(reached or "max_lm_calls")
                self._check()
        if may_go and self._reserved:
            return True
        now = time.monotonic()
        self.unit.account.clock.hold(now, now + POLL)
        if not self.backend.wait(min(seconds, POLL)) and self._use is not None:
            self._use.wait()
        return False

    def _entered(self, seconds: float) -> bool:
        """Whether the backend has room for the request."""
        began = time.monotonic()
        entered = self.backend.limit.enter(self, seconds)
        self.unit.account.clock.hold(began, time.monotonic())
        self._check()
        return entered

    # -- the request and what comes of it --------------------------------------------------------------------------

    @contextmanager
    def sent(self) -> Iterator[Report]:
        """While the request is out; its reply goes into the report. An error is raised if there is no other try."""
        out, now = self.unit.account.clock.out, time.monotonic()
        self._tries.sent, self._tries.since = now, self._tries.since or now
        deadline = now + self.backend.most_seconds(_timeout(self.lm))
        with self._run.lock:
            self._run.out.add(self)
            out.append(deadline)
        try:
            try:
                with watch() as report:
                    yield report
            finally:
                with self._run.lock:
                    self._run.out.discard(self)
            report.check()
        except BaseException as error:
            self._failed(error)
        else:
            self._answered(report)
        finally:
            with self._run.lock:  # not before the reply is kept: the end of the attempt may wait for that
                out.remove(deadline)

    def _failed(self, error: BaseException) -> None:
        """Prepare the next try; raises the error if there is none."""
        tries, backend, own = self._tries, self.backend, True
        among = backend.limit.leave(self)
        if backend.answered:
            note_answered(error)
        if not self.over and self._keeps_own(error):
            return
        outage = classify(error) is Failure.INFRASTRUCTURE
        if not self.over and is_backend_failure(error) and (outage or not backend.answered):
            crowded = is_a(error, LM + "LMRateLimitError") or getattr(error, "status", None) in _CROWDED
            # DSPy's native client calls a timeout a transport error
            timed_out = is_a(error, LM + "LMTimeoutError", "builtins.TimeoutError") or "timed out" in str(error)
            own = backend.failure(error, self, timed_out=timed_out, crowded=crowded, sent=tries.sent, among=among)
            self._run.end_if_hopeless(self.lm, error)
        own = own or not backend.outage.patient(tries.since)
        tries.count, tries.own = tries.count + 1, tries.own + own
        more = self.lm.retries > 0 and (not own or tries.own <= self.lm.retries)
        if more and not self.over and worth_retrying(error) and not self._run.ending.event.is_set():
            down = backend.outage.down
            before = (tries.count if down or own else tries.own + 1) - 1
            tries.again = time.monotonic() + self._run.waiting.before_retry(error, before, down=down)
            if not own:  # the wait does not count against `rollout_timeout`
                self.unit.account.clock.hold(tries.sent, tries.again)
            self._run.waiting.leave(self._use)
            return
        if tries.own < tries.count:
            backend.outage.settle(time.monotonic() - tries.since, answered=False)
        if not self.over:  # first, so that a fatal error stops the run before the next call may go out
            self._run.note_failure(self.lm, self.unit, error)
        self._account(LMCall(self.lm.model, retries=tries.count - 1, failed=True))
        raise error

    def _keeps_own(self, error: BaseException) -> bool:
        """If the model refused a parameter that the run set, leave it out and prepare the request again; True if so."""
        name = refused_parameter(error)
        ours = self._run.sampled(self.lm, self.unit, self._given.kwargs)
        if not name or ours.get(name) == self._given.kwargs.get(name):
            return False  # the user's own value
        self._run.keep_own(self.lm, name)
        self.request = self._prepared()
        return True

    def _answered(self, report: Report) -> None:
        """Commit the reply and count it."""
        call = self._run.meter.priced(report.as_call(self.lm.model, self._tries.count))
        self._run.check_price(call)
        if report.fresh:
            self.backend.answer(self, time.monotonic() - self._tries.sent, _timeout(self.lm))
            self._run.backends.note(answered=True)
            if self._tries.own < self._tries.count:
                self.backend.outage.settle(0.0, answered=True)
        self.unit.account.fault = report.fault
        self._account(call, report.reply)
        self.reply, self.done = report.reply, True

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
        self.close()

    def close(self) -> None:
        """Give back what is held for this call."""
        if self._reserved:
            self._run.meter.give_back()
            self._reserved = False
        if self._use is not None:
            self._use.end()
            self._use = None
        self.backend.done(self)


def _typed(request: Request, given: dict[str, Any], changed: dict[str, Any]) -> tuple[Request, dict[str, Any]]:
    """Put the unit's temperature and seed into a typed request where it has none of its own."""
    ours = {name: changed[name] for name in ("temperature", "seed") if name in changed and name not in given}
    config = {name: value for name, value in ours.items() if getattr(request.config, name) is None}
    rest = {name: value for name, value in changed.items() if name not in ours and name != "request"}
    return replace(request, config=replace(request.config, **config)), rest


def _add_usage(call: LMCall) -> None:
    total = call.prompt_tokens + call.completion_tokens
    usage = {"prompt_tokens": call.prompt_tokens, "completion_tokens": call.completion_tokens, "total_tokens": total}
    dspy.settings.usage_tracker.add_usage(call.model, usage)


def _timeout(lm: Any) -> float | None:
    """The LM's own timeout in seconds, if the user set one."""
    timeout = lm.kwargs.get("timeout")
    return float(timeout) if isinstance(timeout, (int, float)) and timeout > 0 else None
