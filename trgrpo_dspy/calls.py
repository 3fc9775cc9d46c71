"""The one gate every LM call of a run goes through.

An observed LM (`observed.py`) asks, on every call, which unit of work it is made for (a `Unit`, carried in DSPy's
settings, so it follows `dspy.Parallel`, `dspy.asyncify` and tools) and applies that unit's temperature, rollout id and
seed. The gate then

- replays the reply if the journal holds it: what was paid for is not paid again;
- reserves a place in the budget, keeps to the rate limit, and refuses every call once the run is stopped;
- retries outages with jittered back-off, honouring `retry_after`;
- commits the reply to the journal before the program sees it, and counts it.

Covered are the settings' LM, LMs bound to predictors (`bind`), an adapter's own LM, and LMs a program chooses in
`forward` (through the adapter). Nothing the user handed in is changed: all of this happens on copies.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback
from dspy.utils.exceptions import is_retryable_lm_error

from .errors import FatalError, RunStopped, TrainingFreeGRPOError
from .failures import Failure, classify, fatal_message
from .fingerprint import request_hash
from .journal import Journal
from .meter import LMCall, Meter, Stage
from .observed import Report, is_observed, observe_adapter, observe_lm, watch
from .replies import decode_reply, encode_reply
from .schedule import derive_seed

__all__ = ["Calls", "Unit"]

_UNIT = "trgrpo_dspy_unit"
_LONGEST_WAIT = 60.0
_HOPELESS = 8
"""Failed requests after which a run whose backend never answered is given up."""
_WINDOW = 40
"""Calls over which the error rate is watched."""
_ERROR_RATE = 0.5
"""Share of failed calls in the window at which the run ends with the best so far."""


@dataclass
class Unit:
    """One piece of work with LM calls: an attempt, a summary, a comparison, ..."""

    stage: Stage
    """What the work is for."""
    step: int = 0
    """Step it belongs to; 0 is before the first."""
    key: tuple[int | str, ...] = ()
    """What tells it from others of its stage: seeds and rollout ids are derived from it."""
    resample: bool = False
    """Whether replies must differ from those to the same request elsewhere (own rollout id and seed)."""
    temperature: float | None = None
    """Sampling temperature in place of the LM's own; None keeps that."""
    calls: list[LMCall] = field(default_factory=list)
    """What it spent so far."""
    outage: BaseException | None = None
    """The first infrastructure failure met, even if the program swallowed it."""
    tool_outage: bool = False
    """Whether a tool met it: then the attempt itself is worth another try."""
    abandoned: threading.Event = field(default_factory=threading.Event)
    """Set when the work has taken too long: its further calls are refused and its result is dropped."""
    role: str = ""
    """'judge' for the metric's own calls."""
    asked: Counter[str] = field(default_factory=Counter)
    """How often each request was made in this unit."""

    @property
    def id(self) -> str:
        """The unit's name in the journal, unique in a run."""
        return "/".join([self.stage.value, str(self.step), *map(str, self.key), *([self.role] if self.role else [])])

    @property
    def truncated(self) -> bool:
        """Whether any reply was cut by length."""
        return any(call.truncated for call in self.calls)

    def as_judge(self) -> Unit:
        """The unit of the metric's own calls: same account, no sampling changes."""
        return Unit(self.stage, self.step, self.key, calls=self.calls, abandoned=self.abandoned, role="judge")


class Calls:
    """The gate of one run."""

    def __init__(
        self,
        meter: Meter | None = None,
        *,
        journal: Journal | None = None,
        requests_per_minute: float | None = None,
        seed: int = 0,
        backoff: float = 1.0,
    ) -> None:
        """Open the gate.

        Args:
            meter: Where calls are added up, and what they may spend.
            journal: Where replies are kept and replayed from; None keeps none.
            requests_per_minute: Requests at most across all threads, retries included; None is no limit.
            seed: Seed of the run; rollout ids and request seeds derive from it.
            backoff: First wait before a retry, in seconds; it doubles and is jittered.
        """
        self.meter = meter or Meter()
        self.journal = journal
        self.seed = seed
        self.backoff = backoff
        self.fatal: TrainingFreeGRPOError | None = None
        """Why no further call can succeed; None while one may."""
        self.stop_reason = ""
        """Why the run was stopped; empty while it runs."""
        self.on_stop: Callable[[], None] = lambda: None
        """Called once when the run is stopped."""
        self._stopped = threading.Event()
        self._lock = threading.RLock()
        self._lms: dict[int, tuple[Any, Any]] = {}
        self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next_request = 0.0
        self._answered = False
        self._failed_requests = 0
        self._recent: deque[bool] = deque(maxlen=_WINDOW)

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
    def proven(self) -> bool:
        """Whether the backend is known to answer, or has not been asked yet."""
        return self._answered or self._failed_requests == 0

    def sleep(self, seconds: float) -> None:
        """Wait, but not past the end of the run."""
        self._stopped.wait(seconds)

    # -- copies ----------------------------------------------------------------------------------------------------

    def observe(self, lm: Any) -> Any:
        """The observed copy of an LM, one for each LM; what is no LM, or is observed already, comes back as it is."""
        if not isinstance(lm, dspy.BaseLM) or is_observed(lm):
            return lm
        with self._lock:
            if id(lm) not in self._lms:
                self._lms[id(lm)] = (lm, observe_lm(lm, self))
            return self._lms[id(lm)][1]

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
            adapter=observe_adapter(dspy.settings.adapter or dspy.ChatAdapter(), self),
            callbacks=[*(dspy.settings.callbacks or []), *callbacks],
            **{_UNIT: unit},
            **settings,
        ):
            yield unit

    # -- calls -----------------------------------------------------------------------------------------------------

    def call(self, lm: Any, send: Callable[..., Any], prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        """Make or replay one call."""
        call = _Call(self, lm, prompt, messages, kwargs)
        if call.replayed:
            return call.reply
        while True:
            self.sleep(call.admit())
            call.check()
            try:
                with watch() as report:
                    reply = send(prompt, messages=messages, **call.kwargs)
            except BaseException as error:
                self.sleep(call.failed(error))
            else:
                return call.answered(reply, report)

    async def acall(self, lm: Any, send: Callable[..., Any], prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        """Make or replay one asynchronous call."""
        call = _Call(self, lm, prompt, messages, kwargs)
        if call.replayed:
            return call.reply
        while True:
            await asyncio.sleep(call.admit())
            call.check()
            try:
                with watch() as report:
                    reply = await send(prompt, messages=messages, **call.kwargs)
            except BaseException as error:
                await asyncio.sleep(call.failed(error))
            else:
                return call.answered(reply, report)

    def request(self, lm: Any, unit: Unit, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The call's keyword arguments with what the unit changes; a predictor's own configuration wins."""
        if not unit.resample:
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

    def pace(self) -> float:
        """Seconds to wait for the next request's turn under the rate limit."""
        if not self._interval:
            return 0.0
        with self._lock:
            turn = max(time.monotonic(), self._next_request)
            self._next_request = turn + self._interval
        return max(0.0, turn - time.monotonic())

    def wait_before_retry(self, lm: Any, error: BaseException, tries: int) -> float | None:
        """Seconds to wait before the next try, or None if the error is final."""
        if self.stopped or tries >= lm.retries or not isinstance(error, Exception) or not is_retryable_lm_error(error):
            return None
        hint = getattr(error, "retry_after", None)
        if isinstance(hint, (int, float)) and 0 <= hint <= _LONGEST_WAIT:
            return float(hint) + random.uniform(0, self.backoff / 4)
        return float(min(self.backoff * 2**tries, _LONGEST_WAIT) * random.uniform(0.5, 1.5))

    def note_answer(self) -> None:
        """The backend answered."""
        with self._lock:
            self._answered = True
            self._recent.append(True)

    def note_request_failure(self, lm: Any, error: BaseException) -> None:
        """A request failed; where the backend never answered, a few are enough."""
        with self._lock:
            self._failed_requests += 1
            hopeless = not self._answered and self._failed_requests >= _HOPELESS
        if hopeless:
            self.stop("fatal", FatalError(fatal_message(error, lm.model, self._failed_requests)))

    def note_call_failure(self, lm: Any, unit: Unit, error: BaseException) -> None:
        """A call failed for good: fatal, an outage, or the program's own business."""
        kind = classify(error)
        if kind is Failure.FATAL:
            self.stop("fatal", FatalError(fatal_message(error, lm.model)))
        elif kind is Failure.INFRASTRUCTURE:
            unit.outage = unit.outage or error
            with self._lock:
                self._recent.append(False)
                failing = len(self._recent) == _WINDOW and self._recent.count(False) > _ERROR_RATE * _WINDOW
            if failing:
                self.stop("error_rate")


class _Call:
    """One LM call on its way through the gate."""

    def __init__(self, gate: Calls, lm: Any, prompt: Any, messages: Any, kwargs: dict[str, Any]) -> None:
        self._gate, self._lm, self._unit = gate, lm, _current_unit()
        self.kwargs = gate.request(lm, self._unit, kwargs)
        self.reply: Any = None
        self.replayed = False
        self._tries, self._reserved = 0, False
        if gate.journal is not None:
            self._hash = request_hash(lm, prompt, messages, self.kwargs)
            with gate._lock:
                self._occurrence = self._unit.asked[self._hash]
                self._unit.asked[self._hash] += 1
            self._replay(gate.journal)

    def _replay(self, journal: Journal) -> None:
        self.check()
        recorded = journal.reply(self._unit.id, self._hash, self._occurrence)
        if recorded is not None:
            self.reply, self.replayed = decode_reply(recorded.reply), True
            self._account(recorded.call, paid=False)
            self._gate.note_answer()

    def check(self) -> None:
        """Refuse the call if the run is stopped or the unit abandoned."""
        if self._gate.stopped or self._unit.abandoned.is_set():
            self._give_back()
            raise RunStopped(self._gate.stop_reason or "this attempt was abandoned")

    def admit(self) -> float:
        """Reserve a place in the budget; seconds to wait for the request's turn."""
        self.check()
        if not self._reserved:
            exhausted = self._gate.meter.reserve(lambda: self._gate.stopped)
            if exhausted:
                self._gate.stop(exhausted)
                self.check()
            self._reserved = True
        return self._gate.pace()

    def failed(self, error: BaseException) -> float:
        """Seconds to wait before the next try; raises the error if there is none."""
        if isinstance(error, Exception) and classify(error) is Failure.INFRASTRUCTURE:
            self._gate.note_request_failure(self._lm, error)
        wait = self._gate.wait_before_retry(self._lm, error, self._tries)
        if wait is None:
            self._account(LMCall(self._lm.model, retries=self._tries, failed=True))
            self._gate.note_call_failure(self._lm, self._unit, error)
            raise error
        self._tries += 1
        return wait

    def answered(self, reply: Any, report: Report) -> Any:
        """Commit the reply, count it, and hand it over."""
        cost = report.cost
        if cost is None:
            cost = self._gate.meter.budget.price(self._lm.model, report.prompt_tokens, report.completion_tokens)
        call = LMCall(
            self._lm.model,
            prompt_tokens=report.prompt_tokens,
            completion_tokens=report.completion_tokens,
            provider_cached_tokens=report.provider_cached_tokens,
            cost=cost,
            cached=not report.fresh,
            retries=self._tries,
            truncated=report.truncated,
        )
        self._gate.note_answer()
        self._account(call, reply)
        if cost is None and self._gate.meter.budget.max_cost is not None:
            self._gate.stop("fatal", FatalError(_unpriced(self._lm.model)))
        return reply

    def _account(self, call: LMCall, reply: Any = None, *, paid: bool = True) -> None:
        if paid and self._gate.journal is not None:
            try:
                self._gate.journal.record(self._unit.id, self._hash, self._occurrence, encode_reply(reply), call)
            except TrainingFreeGRPOError as error:  # a full disk must not look like the program's own failure
                self._gate.stop("fatal", error)
        self._unit.calls.append(call)
        self._gate.meter.record(call, self._unit.stage, self._unit.step, paid=paid, reserved=self._reserved)
        self._reserved = False

    def _give_back(self) -> None:
        if self._reserved:
            self._gate.meter.give_back()
            self._reserved = False


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
