"""One LM call on its way through the gate: replayed, or admitted, sent, retried, journaled and counted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import dspy
from dspy.lm15 import Request

from trgrpo_dspy.engine.journal.fingerprint import request_hash
from trgrpo_dspy.engine.journal.journal import Journal, KeptReply
from trgrpo_dspy.engine.seeds import derive_seed
from trgrpo_dspy.errors import RunStopped, TrainingFreeGRPOError
from trgrpo_dspy.failures.classify import is_backend_failure
from trgrpo_dspy.failures.secrets import remember
from trgrpo_dspy.meter import LMCall, Stage

from .observed import Report
from .places import Errand
from .replies import decode_reply, encode_reply
from .state import RunState
from .units import Unit
from .waiting import POLL

__all__ = ["UNIT", "Call", "current_unit", "sampled"]

UNIT = "trgrpo_dspy_unit"
"""The DSPy setting that says which unit of work a call is made for."""


class Call:
    """One LM call on its way through the gate."""

    def __init__(self, run: RunState, lm: Any, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> None:
        self._run, self.lm, self.unit = run, lm, current_unit()
        self.prompt, self.kwargs = prompt, sampled(run.seed, lm, self.unit, kwargs)
        if own := {name: value for name, value in kwargs.items() if isinstance(value, (str, Mapping))}:
            remember(own)  # a predictor may bring a key of its own
        if isinstance(asked := kwargs.get("request", prompt), Request):
            self.prompt, self.kwargs = _typed(asked, kwargs, self.kwargs)
        self.reply: Any = None
        self.replayed = False
        self._tries, self._reserved = 0, False
        self._turn: float | None = None
        self.errand: Errand | None = None
        """What it has of its unit's place."""
        self._hash, self._occurrence = "", 0
        if run.journal is not None and self.unit.key:  # of no known unit: there is no telling whose reply it was
            self._hash = request_hash(lm, self.prompt, messages, self.kwargs)
            self._replay(run.journal)
        if self.unit.place is not None and not self.replayed:
            self.errand = self.unit.place.opens()

    def _replay(self, journal: Journal) -> None:
        self.check()
        asked = self.unit.asked
        try:
            with self._run.lock:  # equal requests of one unit take one reply each
                recorded = journal.reply(self.unit.id, self._hash, asked[self._hash])
                self._occurrence = asked[self._hash] if recorded is None else recorded.occurrence
                asked[self._hash] = self._occurrence + 1
        except TrainingFreeGRPOError as error:  # a damaged journal must not look like the program's own failure
            self._run.stop("fatal", error)
            self.check()
        else:
            if recorded is not None:
                self._take(recorded)

    def _take(self, recorded: KeptReply) -> None:
        self.reply, self.replayed = decode_reply(recorded.reply), True
        call = recorded.call
        key = (self.unit.id, self._hash, recorded.occurrence)
        if key not in self.unit.account.replies:
            self.unit.account.replies.add(key)
            self.unit.calls.append(call)
        self._run.note_replay()
        if dspy.settings.usage_tracker is not None and not call.cached:  # the program's own, as for a fresh reply
            usage = {"prompt_tokens": call.prompt_tokens, "completion_tokens": call.completion_tokens}
            total = call.prompt_tokens + call.completion_tokens
            dspy.settings.usage_tracker.add_usage(call.model, {**usage, "total_tokens": total})

    def check(self) -> None:
        """Refuse the call if the run is stopped or the unit abandoned."""
        if self._run.stopped or self.unit.abandoned.is_set():
            self.end()
            raise RunStopped(self._run.stop_reason or "this attempt was abandoned")

    @property
    def over(self) -> bool:
        """Whether nobody waits for this call any more."""
        return self.unit.abandoned.is_set()

    def admitted(self, *, asynchronous: bool = False) -> bool:
        """Whether backend and budget let it go; else it waits for what other calls come to.

        Beside asynchronous calls of the same attempt a synchronous one waits for nothing: it may block their very loop.
        """
        waits = asynchronous or not self.unit.account.awaited
        may_go = self._run.health.may_go(self.lm.model, self) or not waits
        self.check()  # after the above: whoever made way by stopping the run stopped it first
        if may_go and not self._reserved:
            self._reserved, reached = self._run.meter.reserve()
            if reached or not (self._reserved or waits):
                self._run.stop(reached or "max_lm_calls")
                self.check()
        if not self._reserved or not may_go:
            now = time.monotonic()
            self._run.waiting.hold(self.unit, now, now + POLL)
        return may_go and self._reserved

    def leave(self) -> None:
        """It waits for other calls: it holds no place that they may need."""
        if self.errand is not None:
            self.errand.leave()

    def turn(self) -> float:
        """Seconds to wait under the rate limit before asking again; 0 when the request may go out."""
        self.check()
        if self._turn is None:
            self._turn = self._run.waiting.pace()
            self._run.waiting.hold(self.unit, time.monotonic(), self._turn)
        return min(max(0.0, self._turn - time.monotonic()), 10 * POLL)

    @contextmanager
    def out(self) -> Iterator[None]:
        """While the request is out."""
        out, since = self.unit.account.out, time.monotonic()
        with self._run.lock:
            self._run.out.add(self)
            out.append(since)
        try:
            yield
        finally:
            with self._run.lock:
                self._run.out.discard(self)
                out.remove(since)

    def failed(self, error: BaseException) -> float:
        """Seconds to wait before the next try; raises the error if there is none."""
        if not self.over and is_backend_failure(error):
            self._run.note_request_failure(self.lm, error)
        wait = self._run.waiting.before_retry(self.lm, error, self._tries)
        if wait is None:
            if not self.over:  # first, so that a fatal error stops the run before the next call may go out
                self._run.note_call_failure(self.lm, self.unit, error)
            self._account(LMCall(self.lm.model, retries=self._tries, failed=True))
            raise error
        self._tries, self._turn = self._tries + 1, None
        return wait

    def answered(self, reply: Any, report: Report) -> Any:
        """Commit the reply, count it, and hand it over."""
        call = LMCall(
            self.lm.model,
            prompt_tokens=report.prompt_tokens,
            completion_tokens=report.completion_tokens,
            provider_cached_tokens=report.provider_cached_tokens,
            cost=report.cost,
            cached=not report.fresh,
            retries=self._tries,
            truncated=report.truncated,
        )
        call = self._run.meter.priced(call)
        self._run.check_price(call)
        if report.fresh:
            self._run.note_answer(self.lm)
        self._account(call, reply)
        return reply

    def _account(self, call: LMCall, reply: Any = None) -> None:
        if self._run.journal is not None:
            kept = encode_reply(reply) if self._hash else None
            try:
                if not call.failed:
                    self._run.keep_now()
                self._run.journal.record(self.unit.id, self._hash, self._occurrence, kept, call)
            except TrainingFreeGRPOError as error:  # a full disk must not look like the program's own failure
                self._run.stop("fatal", error)
        self.unit.account.replies.add((self.unit.id, self._hash, self._occurrence))
        self.unit.calls.append(call)
        self._run.meter.record(call, self.unit.stage, self.unit.step, reserved=self._reserved)
        self._reserved = False
        self.end()

    def end(self) -> None:
        """Give back what is held for this call."""
        if self._reserved:
            self._run.meter.give_back()
            self._reserved = False
        if self.errand is not None:
            self.errand.end()
            self.errand = None
        self._run.health.done(self.lm.model, self)


def sampled(seed: int, lm: Any, unit: Unit, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The call's keyword arguments with what the unit changes; a predictor's own configuration wins."""
    if not unit.resample or not lm.takes_any:
        return kwargs
    own_rollout = kwargs.get("rollout_id", lm.kwargs.get("rollout_id"))
    rollout_id = derive_seed(seed, *unit.key, *([] if own_rollout is None else [own_rollout]))
    changed = {**kwargs, "rollout_id": rollout_id}
    keeps_own = "max_completion_tokens" in lm.kwargs or lm.keeps_temperature
    if unit.temperature is not None and "temperature" not in kwargs and not keeps_own:
        changed["temperature"] = unit.temperature
    if "seed" not in kwargs and lm.kwargs.get("seed") is not None:
        changed["seed"] = derive_seed(int(lm.kwargs["seed"]), rollout_id) % 2**31
    return changed


def _typed(request: Request, given: dict[str, Any], changed: dict[str, Any]) -> tuple[Request, dict[str, Any]]:
    """A typed request carries its sampling itself: put in what the unit changes; what it says itself wins."""
    ours = {name: changed[name] for name in ("temperature", "seed") if name in changed and name not in given}
    config = {name: value for name, value in ours.items() if getattr(request.config, name) is None}
    rest = {name: value for name, value in changed.items() if name not in ours and name != "request"}
    return replace(request, config=replace(request.config, **config)), rest


def current_unit() -> Unit:
    """The unit of work that is under way here."""
    unit = dspy.settings.get(UNIT)
    # A thread that a program starts by itself carries no settings: its calls still count.
    return unit if isinstance(unit, Unit) else Unit(Stage.ROLLOUT)
