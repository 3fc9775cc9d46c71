"""The one gate every LM call of a run goes through.

`Calls` makes *observed* copies of LMs and adapters: an observed LM asks, on every call, which unit of work it is made
for (a `Unit`, carried in DSPy's settings, so it follows `dspy.Parallel`, `dspy.asyncify` and tools) and applies that
unit's temperature, rollout id and seed. The gate counts the call, retries outages with jittered back-off, notices
replies cut by length from their finish reason, and refuses every call once the run is stopped.

Covered are the settings' LM, LMs bound to predictors (`bind`), an adapter's own LM, and LMs a program chooses in
`forward` (through the adapter). Nothing the user handed in is changed: all of this happens on copies.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback
from dspy.utils.exceptions import is_retryable_lm_error

from .errors import RunStopped
from .failures import Failure, classify
from .meter import LMCall, Meter, Stage
from .schedule import derive_seed

__all__ = ["Calls", "Unit"]

_UNIT = "trgrpo_dspy_unit"
_LONGEST_WAIT = 60.0


@dataclass
class Unit:
    """One piece of work with LM calls: an attempt, a summary, a comparison, ..."""

    stage: Stage
    """What the work is for."""
    step: int = 0
    """Step it belongs to; 0 is before the first."""
    key: tuple[int | str, ...] = ()
    """What tells it from all others of the run: seeds and rollout ids are derived from it."""
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

    @property
    def truncated(self) -> bool:
        """Whether any reply was cut by length."""
        return any(call.truncated for call in self.calls)

    def as_judge(self) -> Unit:
        """The same unit for the metric's own calls: same account, no sampling changes."""
        return Unit(self.stage, self.step, self.key, calls=self.calls)


class Calls:
    """The gate of one run."""

    def __init__(self, meter: Meter | None = None, *, seed: int = 0, backoff: float = 1.0) -> None:
        """Open the gate.

        Args:
            meter: Where calls are added up.
            seed: Seed of the run; rollout ids and request seeds derive from it.
            backoff: First wait before a retry, in seconds; it doubles and is jittered.
        """
        self.meter = meter or Meter()
        self.seed = seed
        self.backoff = backoff
        self.fatal: tuple[BaseException, str] | None = None
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._lms: dict[int, tuple[dspy.BaseLM, dspy.BaseLM]] = {}

    def __deepcopy__(self, memo: object) -> Calls:
        """A program that copies its observed LMs (`dspy.BestOfN` does) stays behind the same gate."""
        return self

    def stop(self) -> None:
        """Refuse every further LM call."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        """Whether the gate is shut."""
        return self._stopped.is_set()

    def observe(self, lm: Any) -> Any:
        """The observed copy of an LM, one for each LM; what is no LM, or is observed already, comes back as it is."""
        if not isinstance(lm, dspy.BaseLM) or isinstance(lm, _Observed):
            return lm
        with self._lock:
            if id(lm) not in self._lms:
                observed = lm.copy()
                observed.__class__ = _observed_class(type(lm))  # type: ignore[arg-type]
                observed._gate = self
                observed._retries, observed.num_retries = getattr(lm, "num_retries", 0), 0
                self._lms[id(lm)] = (lm, observed)
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
            adapter=self._observe_adapter(dspy.settings.adapter or dspy.ChatAdapter()),
            callbacks=[*(dspy.settings.callbacks or []), *callbacks],
            **{_UNIT: unit},
            **settings,
        ):
            yield unit

    def _observe_adapter(self, adapter: Any) -> Any:
        """A copy of the adapter that observes whatever LM a predictor hands it, and the LM it may hold itself."""
        if isinstance(adapter, _ObservedAdapter) or not isinstance(adapter, dspy.Adapter):
            return adapter
        observed = copy.copy(adapter)
        observed.__class__ = _observed_adapter_class(type(adapter))  # type: ignore[arg-type]
        observed._gate = self
        for name, value in list(vars(adapter).items()):
            if isinstance(value, dspy.BaseLM):
                setattr(observed, name, self.observe(value))
        return observed

    def request(self, lm: dspy.BaseLM, unit: Unit, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The call's keyword arguments with what the unit changes; a predictor's own configuration wins."""
        if not unit.resample:
            return kwargs
        own_rollout = kwargs.get("rollout_id", lm.kwargs.get("rollout_id"))
        rollout_id = derive_seed(self.seed, *unit.key, *([] if own_rollout is None else [own_rollout]))
        changed = {**kwargs, "rollout_id": rollout_id}
        keeps_own = "max_completion_tokens" in lm.kwargs or lm._keeps_temperature
        if unit.temperature is not None and "temperature" not in kwargs and not keeps_own:
            changed["temperature"] = unit.temperature
        if "seed" not in kwargs and lm.kwargs.get("seed") is not None:
            changed["seed"] = derive_seed(int(lm.kwargs["seed"]), rollout_id) % 2**31
        return changed

    def admit(self) -> None:
        """Let one call through, or raise `RunStopped`."""
        if self.stopped:
            raise RunStopped("the run has been stopped")

    def failed(self, lm: dspy.BaseLM, unit: Unit, error: BaseException, retries: int) -> None:
        """Account for a call that ended in an error; a fatal one shuts the gate."""
        self._record(unit, LMCall(lm.model, retries=retries, failed=True))
        kind = classify(error)
        if kind is Failure.FATAL:
            with self._lock:
                self.fatal = self.fatal or (error, lm.model)
            self.stop()
        elif kind is Failure.INFRASTRUCTURE and unit.outage is None:
            unit.outage = error

    def wait_before_retry(self, lm: dspy.BaseLM, error: BaseException, tries: int) -> float | None:
        """Seconds to wait before the next try, or None if the error is final."""
        if self.stopped or tries >= lm._retries or not isinstance(error, Exception) or not is_retryable_lm_error(error):
            return None
        hint = getattr(error, "retry_after", None)
        if isinstance(hint, (int, float)) and 0 <= hint <= _LONGEST_WAIT:
            return float(hint) + random.uniform(0, self.backoff / 4)
        return min(self.backoff * 2**tries, _LONGEST_WAIT) * random.uniform(0.5, 1.5)

    def sleep(self, seconds: float) -> None:
        """Wait for a retry, but not past the end of the run."""
        self._stopped.wait(seconds)

    def succeeded(self, lm: dspy.BaseLM, unit: Unit, seen: _Seen, retries: int) -> None:
        """Account for a call that returned."""
        usage = seen.usage
        details = usage.get("prompt_tokens_details") or {}
        self._record(
            unit,
            LMCall(
                lm.model,
                prompt_tokens=_count(usage, "prompt_tokens", "input_tokens"),
                completion_tokens=_count(usage, "completion_tokens", "output_tokens"),
                provider_cached_tokens=_count(details, "cached_tokens") if isinstance(details, Mapping) else 0,
                cost=seen.entry.get("cost") if seen.fresh else 0.0,
                cached=not seen.fresh,
                retries=retries,
                truncated=_finish_reason(seen.entry.get("response")) == "length",
            ),
        )

    def _record(self, unit: Unit, call: LMCall) -> None:
        unit.calls.append(call)
        self.meter.record(call, unit.stage, unit.step)


class _Seen:
    """What one LM call reported; stands in for `dspy.settings.usage_tracker` while it is under way.

    DSPy tells a usage tracker of fresh replies only: that is how a cached reply is known.
    """

    def __init__(self, outer: Any) -> None:
        self.outer, self.fresh = outer, False
        self.usage: dict[str, Any] = {}
        self.entry: dict[str, Any] = {}

    def add_usage(self, model: str, usage: dict[str, Any]) -> None:
        self.fresh, self.usage = True, dict(usage or {})
        if self.outer is not None:
            self.outer.add_usage(model, usage)


class _Observed:
    """Mixed into a copy's class: sends calls through the gate, reads what they report."""

    _gate: Calls
    _retries: int
    _keeps_temperature = False

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        gate, unit = self._gate, _current_unit()
        kwargs, tries = gate.request(self, unit, kwargs), 0
        while True:
            gate.admit()
            try:
                with _watch() as seen:
                    reply = super().__call__(prompt, messages=messages, **kwargs)  # type: ignore[misc]
            except BaseException as error:
                wait = gate.wait_before_retry(self, error, tries)
                if wait is None:
                    gate.failed(self, unit, error, tries)
                    raise
                tries += 1
                gate.sleep(wait)
            else:
                gate.succeeded(self, unit, seen, tries)
                return reply

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        gate, unit = self._gate, _current_unit()
        kwargs, tries = gate.request(self, unit, kwargs), 0
        while True:
            gate.admit()
            try:
                with _watch() as seen:
                    reply = await super().acall(prompt, messages=messages, **kwargs)  # type: ignore[misc]
            except BaseException as error:
                wait = gate.wait_before_retry(self, error, tries)
                if wait is None:
                    gate.failed(self, unit, error, tries)
                    raise
                tries += 1
                await asyncio.sleep(wait)
            else:
                gate.succeeded(self, unit, seen, tries)
                return reply

    def copy(self, **kwargs: Any) -> Any:
        copied = super().copy(**kwargs)  # type: ignore[misc]
        # BestOfN and Refine set a temperature on a copy on purpose: only the LM's original one gives way.
        copied._keeps_temperature = self._keeps_temperature or "temperature" in kwargs
        return copied

    def _warn_zero_temp_rollout(self, temperature: float | None, rollout_id: int | None) -> None:
        """Say nothing: the rollout id is ours, not the user's."""

    def update_history(self, entry: dict[str, Any]) -> None:
        seen = dspy.settings.usage_tracker
        if isinstance(seen, _Seen):
            seen.entry = entry
        if not dspy.settings.get("trgrpo_dspy_no_history", False):
            # The modules of a run live as long as the run: only the global history, which DSPy bounds, grows.
            with dspy.context(caller_modules=[], max_history_size=1):
                super().update_history(entry)  # type: ignore[misc]


@contextmanager
def _watch() -> Iterator[_Seen]:
    """Have DSPy report usage and the history entry of the next call, whatever the user's settings are."""
    seen = _Seen(dspy.settings.usage_tracker)
    with dspy.context(
        usage_tracker=seen, disable_history=False, trgrpo_dspy_no_history=bool(dspy.settings.disable_history)
    ):
        yield seen


class _ObservedAdapter:
    """Mixed into an adapter's copy: the LM a predictor brings, wherever it comes from, is observed."""

    _gate: Calls

    def __call__(self, lm: Any, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(self._gate.observe(lm), *args, **kwargs)  # type: ignore[misc]

    async def acall(self, lm: Any, *args: Any, **kwargs: Any) -> Any:
        return await super().acall(self._gate.observe(lm), *args, **kwargs)  # type: ignore[misc]


@functools.cache
def _observed_class(cls: type) -> type:
    return type(cls.__name__, (_Observed, cls), {"__module__": cls.__module__, "__qualname__": cls.__qualname__})


@functools.cache
def _observed_adapter_class(cls: type) -> type:
    # Not through Adapter.__init_subclass__: it would wrap `format` and `parse` in callbacks a second time.
    make: Callable[..., type] = type.__new__
    created = make(type(cls), cls.__name__, (_ObservedAdapter, _Quiet, cls), {"__module__": cls.__module__})
    return created


class _Quiet:
    """Keeps `Adapter.__init_subclass__` from running for observed adapters."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Do nothing: the methods are wrapped where they were defined."""


def _current_unit() -> Unit:
    unit = dspy.settings.get(_UNIT)
    # A thread that a program starts by itself carries no settings: its calls still count.
    return unit if isinstance(unit, Unit) else Unit(Stage.ROLLOUT)


def _count(usage: Mapping[str, Any], *names: str) -> int:
    return next((int(v) for v in (usage.get(name) for name in names) if isinstance(v, (int, float))), 0)


def _finish_reason(response: Any) -> str:
    """Why a reply ended, from what the backend said; 'length' for every way of saying that it was cut."""
    if isinstance(response, (list, tuple)):
        reasons = [_finish_reason(item) for item in response]
        return "length" if "length" in reasons else (reasons[0] if reasons else "")
    reason = _get(response, "finish_reason") or _get(_get(response, "incomplete_details"), "reason")
    if not reason:
        choices = _get(response, "choices") or []
        reasons = [str(_get(choice, "finish_reason") or "") for choice in choices]
        reason = "length" if "length" in reasons else next(iter(reasons), "")
    return "length" if str(reason) in ("length", "max_tokens", "max_output_tokens", "MAX_TOKENS") else str(reason)


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
