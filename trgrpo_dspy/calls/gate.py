"""The one gate every LM call of a run goes through.

An observed LM (`observed.py`) asks, on every call, which unit of work it is made for (a `Unit`, carried in DSPy's
settings, so it follows `dspy.Parallel`, `dspy.asyncify` and tools) and applies that unit's temperature, rollout id and
seed. The gate then

- replays the reply if the journal holds it: what was paid for is not paid again;
- reserves a place in the budget, keeps to the rate limit, and refuses every call once the run is stopped;
- retries outages with jittered back-off, honouring `retry_after`; a call that waits for that holds no place;
- commits the reply to the journal before the program sees it, and counts it.

Covered are the settings' LM, LMs bound to predictors (`bind`), an adapter's own LM, and LMs a program chooses in
`forward` (through the adapter). Nothing the user handed in is changed: all of this happens on copies.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import dspy
from dspy.lm15 import Request
from dspy.utils.callback import BaseCallback

from trgrpo_dspy.confidential import remember
from trgrpo_dspy.errors import FatalError, RunStopped, TrainingFreeGRPOError
from trgrpo_dspy.failures import Failure, classify, fatal_message, is_backend_failure
from trgrpo_dspy.journal.fingerprint import request_hash
from trgrpo_dspy.journal.journal import Journal, Recorded
from trgrpo_dspy.meter import LMCall, Meter, Stage
from trgrpo_dspy.schedule import derive_seed

from .health import Health, Seen
from .observed import Report, close_pools, is_observed, is_watched, observe_adapter, observe_lm, watch
from .places import Errand
from .replies import decode_reply, encode_reply
from .units import Unit
from .waiting import POLL, Waiting

__all__ = ["Calls"]

_UNIT = "trgrpo_dspy_unit"
BACKOFF = 1.0
"""Unit of the waits before retries, in seconds, where a run is not told another: a tenth of it before the first, for
most failures are alone and one alone should cost little, then five times the last wait each, up to 16; jittered."""


class Calls:
    """The gate of one run."""

    def __init__(
        self,
        meter: Meter | None = None,
        *,
        journal: Journal | None = None,
        requests_per_minute: float | None = None,
        seed: int = 0,
        backoff: float | None = None,
        width: int = 1,
        health: Health | None = None,
    ) -> None:
        """Open the gate.

        Args:
            meter: Where calls are added up, and what they may spend.
            journal: Where replies are kept and replayed from; None keeps none.
            requests_per_minute: Requests at most across all threads, retries included; None is no limit.
            seed: Seed of the run; rollout ids and request seeds derive from it.
            backoff: Unit of the waits before retries, in seconds; None is `BACKOFF`.
            width: Requests that may be in flight at a time: LMs get as many connections.
            health: What is known of the backends; None is nothing yet.
        """
        self.meter = meter or Meter()
        self.journal = journal
        self.seed = seed
        self._width = width
        self.fatal: TrainingFreeGRPOError | None = None
        """Why no further call can succeed; None while one may."""
        self.stop_reason = ""
        """Why the run was stopped; empty while it runs."""
        self.on_stop: Callable[[], None] = lambda: None
        """Called once when the run is stopped."""
        self._stopped = threading.Event()
        self.waiting = Waiting(
            self._stopped, lambda: self.proven, BACKOFF if backoff is None else backoff, requests_per_minute
        )
        """How its calls wait."""
        self._lock = threading.RLock()
        self._lms: dict[int, tuple[Any, Any]] = {}
        self._adapters: dict[int, tuple[Any, Any]] = {}
        self._plain_adapter = dspy.ChatAdapter()
        self._unkept: list[Callable[[], object]] = []
        self._replayed = False
        self._health = health or Health()
        self._out: set[_Call] = set()

    def __deepcopy__(self, memo: object) -> Calls:
        """A program that copies its observed LMs (`dspy.BestOfN` does) stays behind the same gate."""
        return self

    # -- stopping --------------------------------------------------------------------------------------------------

    def stop(self, reason: str = "stopped", fatal: TrainingFreeGRPOError | None = None) -> None:
        """Refuse every further LM call; the first reason stays."""
        with self._lock:
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
        return self._health.silent

    @property
    def proven(self) -> bool:
        """Whether the backend is known to answer, or nothing needed it; the journal's replies prove nothing."""
        return self._health.proven or not (self._health.silent or self._replayed)

    def resume(self, journal: Journal) -> None:
        """Replay from a journal, and count what it paid for: a replayed call is not counted again."""
        self.journal = journal
        for unit, call in journal.paid():
            stage, step = unit.split("/")[:2]
            self.meter.record(self.meter.priced(call), Stage(stage), int(step))

    def keep_results(self) -> None:
        """Have the journal hold what was found so far: to be called before work starts that rests on it."""
        if self.journal is not None:
            self.journal.flush()

    def keep_later(self, write: Callable[[], object]) -> None:
        """Keep a result when the backend gives its first answer; an outage that never ended is nobody's result."""
        with self._lock:
            self._unkept.append(write)

    def _keep_now(self) -> None:
        with self._lock:
            writes, self._unkept = self._unkept, []
        for write in writes:
            write()

    def abandon(self, unit: Unit) -> None:
        """Refuse a unit's further calls: it has taken too long. Those that are out got no reply in time."""
        unit.abandoned.set()
        with self._lock:
            late = [call for call in self._out if call.unit.abandoned is unit.abandoned]
        for call in late:
            error = TimeoutError("no reply within rollout_timeout")
            self.note_request_failure(call.lm, error)
            self.note_call_failure(call.lm, call.unit, error)

    # -- copies ----------------------------------------------------------------------------------------------------

    def observe(self, lm: Any) -> Any:
        """The observed copy of an LM, one for each LM; what is no LM, or is observed already, comes back as it is."""
        if not isinstance(lm, dspy.BaseLM) or is_observed(lm):
            return lm
        with self._lock:
            if id(lm) not in self._lms:
                remember(getattr(lm, "kwargs", {}))
                self._lms[id(lm)] = (lm, observe_lm(lm, self, self._width))
            return self._lms[id(lm)][1]

    def _observe_adapter(self, adapter: Any) -> Any:
        with self._lock:
            if id(adapter) not in self._adapters:
                self._adapters[id(adapter)] = (adapter, observe_adapter(adapter, self))
            return self._adapters[id(adapter)][1]

    def close(self) -> None:
        """Close the connections that are the run's own; no call may follow."""
        with self._lock:
            observed = [copy for _, copy in self._lms.values()]
        for lm in observed:
            close_pools(lm)

    def bind(self, program: dspy.Module) -> None:
        """Give every predictor of this copy that has its own LM the observed one, frozen sub-modules too."""
        for _, predictor in program.named_sub_modules(dspy.Predict):
            if predictor.lm is not None:
                predictor.lm = self.observe(predictor.lm)

    @contextmanager
    def context(self, unit: Unit, *callbacks: BaseCallback, **settings: Any) -> Iterator[Unit]:
        """DSPy settings under which every LM call belongs to the unit."""
        with dspy.context(
            lm=self.observe(settings.pop("lm", None) or dspy.settings.lm),
            adapter=self._observe_adapter(dspy.settings.adapter or self._plain_adapter),
            callbacks=[*(dspy.settings.callbacks or []), *callbacks],
            **{_UNIT: unit},
            **settings,
        ):
            yield unit

    # -- calls -----------------------------------------------------------------------------------------------------

    def call(self, lm: Any, send: Callable[..., Any], prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        """Make or replay one call."""
        if is_watched():  # made by an LM in the middle of its own call: part of that one
            return send(prompt, messages=messages, **kwargs)
        call = _Call(self, lm, prompt, messages, kwargs)
        if call.replayed:
            return call.reply
        try:
            while True:
                while not call.admitted():
                    if not self._health.wait(POLL):
                        call.leave()
                self.waiting.back(call.unit, call.errand)
                while wait := call.turn():
                    self.waiting.sleep(wait)
                try:
                    with call.out(), watch() as report:
                        reply = send(call.prompt, messages=messages, **call.kwargs)
                except BaseException as error:
                    wait = call.failed(error)
                else:
                    return call.answered(reply, report)
                self.waiting.leave(call.errand)
                self.waiting.sleep(wait)
        finally:
            call.end()

    async def acall(self, lm: Any, send: Callable[..., Any], prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        """Make or replay one asynchronous call."""
        if is_watched():  # made by an LM in the middle of its own call: part of that one
            return await send(prompt, messages=messages, **kwargs)
        try:
            return await self._acall(lm, send, prompt, messages, kwargs)
        except (Exception, RunStopped):
            await self.waiting.for_siblings(_current_unit())
            raise

    async def _acall(
        self, lm: Any, send: Callable[..., Any], prompt: Any, messages: Any, kwargs: dict[str, Any]
    ) -> Any:
        call = _Call(self, lm, prompt, messages, kwargs)
        if call.replayed:
            return call.reply
        call.unit.account.awaited += 1
        try:
            while True:
                while not call.admitted(asynchronous=True):
                    call.leave()
                    await asyncio.sleep(POLL)
                await self.waiting.aback(call.unit, call.errand)
                while wait := call.turn():
                    await asyncio.sleep(wait)
                try:
                    with call.out(), watch() as report:
                        reply = await send(call.prompt, messages=messages, **call.kwargs)
                except BaseException as error:
                    wait = call.failed(error)
                else:
                    return call.answered(reply, report)
                self.waiting.leave(call.errand)
                await self.waiting.asleep(wait)
        finally:
            call.unit.account.awaited -= 1
            call.end()

    def request(self, lm: Any, unit: Unit, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The call's keyword arguments with what the unit changes; a predictor's own configuration wins."""
        if not unit.resample or not lm.takes_any:
            return kwargs
        own_rollout = kwargs.get("rollout_id", lm.kwargs.get("rollout_id"))
        rollout_id = derive_seed(self.seed, *unit.key, *([] if own_rollout is None else [own_rollout]))
        changed = {**kwargs, "rollout_id": rollout_id}
        keeps_own = "max_completion_tokens" in lm.kwargs or lm.keeps_temperature
        if unit.temperature is not None and "temperature" not in kwargs and not keeps_own:
            changed["temperature"] = unit.temperature
        if "seed" not in kwargs and lm.kwargs.get("seed") is not None:
            changed["seed"] = derive_seed(int(lm.kwargs["seed"]), rollout_id) % 2**31
        return changed

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
        return self._health.seen

    def learn(self, seen: Seen, before: Seen) -> None:
        """Take in what the gate of another process saw of the backends, which knew `before`."""
        too_many = self._health.learn(seen, before)
        if True in seen.recent:
            self._keep_now()
        if too_many:
            self.stop("error_rate")

    def note_answer(self, lm: Any) -> None:
        """The backend answered."""
        self._health.answer(lm.model)

    def note_request_failure(self, lm: Any, error: BaseException) -> None:
        """A request failed; where the backend never answered, a few are enough."""
        if failed := self._health.failure(lm.model):
            self.stop("fatal", FatalError(fatal_message(error, lm.model, failed)))

    def note_call_failure(self, lm: Any, unit: Unit, error: BaseException) -> None:
        """A call failed for good: fatal, an outage, or the program's own business."""
        kind = classify(error)
        if kind is Failure.FATAL:
            self.stop("fatal", FatalError(fatal_message(error, lm.model)))
        elif kind is Failure.INFRASTRUCTURE:
            unit.outage = unit.outage or error
            if self._health.loss():
                self.stop("error_rate")


class _Call:
    """One LM call on its way through the gate."""

    def __init__(self, gate: Calls, lm: Any, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> None:
        self._gate, self.lm, self.unit = gate, lm, _current_unit()
        self.prompt, self.kwargs = prompt, gate.request(lm, self.unit, kwargs)
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
        if gate.journal is not None and self.unit.key:  # of no known unit: there is no telling whose reply it was
            self._hash = request_hash(lm, self.prompt, messages, self.kwargs)
            self._replay(gate.journal)
        if self.unit.place is not None and not self.replayed:
            self.errand = self.unit.place.opens()

    def _replay(self, journal: Journal) -> None:
        self.check()
        asked = self.unit.asked
        try:
            with self._gate._lock:  # equal requests of one unit take one reply each
                recorded = journal.reply(self.unit.id, self._hash, asked[self._hash])
                self._occurrence = asked[self._hash] if recorded is None else recorded.occurrence
                asked[self._hash] = self._occurrence + 1
        except TrainingFreeGRPOError as error:  # a damaged journal must not look like the program's own failure
            self._gate.stop("fatal", error)
            self.check()
        else:
            if recorded is not None:
                self._take(recorded)

    def _take(self, recorded: Recorded) -> None:
        self.reply, self.replayed = decode_reply(recorded.reply), True
        call = recorded.call
        key = (self.unit.id, self._hash, recorded.occurrence)
        if key not in self.unit.account.replies:
            self.unit.account.replies.add(key)
            self.unit.calls.append(call)
        self._gate.note_replay()
        if dspy.settings.usage_tracker is not None and not call.cached:  # the program's own, as for a fresh reply
            usage = {"prompt_tokens": call.prompt_tokens, "completion_tokens": call.completion_tokens}
            total = call.prompt_tokens + call.completion_tokens
            dspy.settings.usage_tracker.add_usage(call.model, {**usage, "total_tokens": total})

    def check(self) -> None:
        """Refuse the call if the run is stopped or the unit abandoned."""
        if self._gate.stopped or self.unit.abandoned.is_set():
            self.end()
            raise RunStopped(self._gate.stop_reason or "this attempt was abandoned")

    @property
    def over(self) -> bool:
        """Whether nobody waits for this call any more."""
        return self.unit.abandoned.is_set()

    def admitted(self, *, asynchronous: bool = False) -> bool:
        """Whether backend and budget let it go; else it waits for what other calls come to.

        Beside asynchronous calls of the same attempt a synchronous one waits for nothing: it may block their very loop.
        """
        waits = asynchronous or not self.unit.account.awaited
        may_go = self._gate._health.may_go(self.lm.model, self) or not waits
        self.check()  # after the above: whoever made way by stopping the run stopped it first
        if may_go and not self._reserved:
            self._reserved, reached = self._gate.meter.reserve()
            if reached or not (self._reserved or waits):
                self._gate.stop(reached or "max_lm_calls")
                self.check()
        if not self._reserved or not may_go:
            now = time.monotonic()
            self._gate.waiting.hold(self.unit, now, now + POLL)
        return may_go and self._reserved

    def leave(self) -> None:
        """It waits for other calls: it holds no place that they may need."""
        if self.errand is not None:
            self.errand.leave()

    def turn(self) -> float:
        """Seconds to wait under the rate limit before asking again; 0 when the request may go out."""
        self.check()
        if self._turn is None:
            self._turn = self._gate.waiting.pace()
            self._gate.waiting.hold(self.unit, time.monotonic(), self._turn)
        return min(max(0.0, self._turn - time.monotonic()), 10 * POLL)

    @contextmanager
    def out(self) -> Iterator[None]:
        """While the request is out."""
        out, since = self.unit.account.out, time.monotonic()
        with self._gate._lock:
            self._gate._out.add(self)
            out.append(since)
        try:
            yield
        finally:
            with self._gate._lock:
                self._gate._out.discard(self)
                out.remove(since)

    def failed(self, error: BaseException) -> float:
        """Seconds to wait before the next try; raises the error if there is none."""
        if not self.over and is_backend_failure(error):
            self._gate.note_request_failure(self.lm, error)
        wait = self._gate.waiting.before_retry(self.lm, error, self._tries)
        if wait is None:
            if not self.over:  # first, so that a fatal error stops the run before the next call may go out
                self._gate.note_call_failure(self.lm, self.unit, error)
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
        call = self._gate.meter.priced(call)
        self._gate.check_price(call)
        if report.fresh:
            self._gate.note_answer(self.lm)
        self._account(call, reply)
        return reply

    def _account(self, call: LMCall, reply: Any = None) -> None:
        if self._gate.journal is not None:
            kept = encode_reply(reply) if self._hash else None
            try:
                if not call.failed:
                    self._gate._keep_now()
                self._gate.journal.record(self.unit.id, self._hash, self._occurrence, kept, call)
            except TrainingFreeGRPOError as error:  # a full disk must not look like the program's own failure
                self._gate.stop("fatal", error)
        self.unit.account.replies.add((self.unit.id, self._hash, self._occurrence))
        self.unit.calls.append(call)
        self._gate.meter.record(call, self.unit.stage, self.unit.step, reserved=self._reserved)
        self._reserved = False
        self.end()

    def end(self) -> None:
        """Give back what is held for this call."""
        if self._reserved:
            self._gate.meter.give_back()
            self._reserved = False
        if self.errand is not None:
            self.errand.end()
            self.errand = None
        self._gate._health.done(self.lm.model, self)


def _typed(request: Request, given: dict[str, Any], changed: dict[str, Any]) -> tuple[Request, dict[str, Any]]:
    """A typed request carries its sampling itself: put in what the unit changes; what it says itself wins."""
    ours = {name: changed[name] for name in ("temperature", "seed") if name in changed and name not in given}
    config = {name: value for name, value in ours.items() if getattr(request.config, name) is None}
    rest = {name: value for name, value in changed.items() if name not in ours and name != "request"}
    return replace(request, config=replace(request.config, **config)), rest


def _current_unit() -> Unit:
    unit = dspy.settings.get(_UNIT)
    # A thread that a program starts by itself carries no settings: its calls still count.
    return unit if isinstance(unit, Unit) else Unit(Stage.ROLLOUT)


def _unpriced(model: str) -> str:
    return (
        f"max_cost is set, but the price of LM {model!r} is unknown, so it can't be kept to. Pass its price in dollars "
        f"per million prompt and completion tokens, Budget(max_cost=..., prices={{{model!r}: (0.15, 0.60)}}), or cap "
        "max_tokens or max_lm_calls instead"
    )
