"""The one gate every LM call of a run goes through.

An observed LM (`observed.py`) asks, on every call, which unit of work it is made for (a `Unit`, carried in DSPy's
settings, so it follows `dspy.Parallel`, `dspy.asyncify` and tools) and applies that unit's temperature, rollout id and
seed. The gate then

- replays the reply if the journal holds it: what was paid for is not paid again;
- reserves a call in the budget, keeps to the rate limit and to what the backend serves, and refuses every call once the
  run is stopped;
- retries outages with jittered back-off, honouring `retry_after`; a call that waits for that holds no slot;
- commits the reply to the journal before the program sees it, and counts it.

Covered are the settings' LM, LMs bound to predictors (`bind`), an adapter's own LM, and LMs a program chooses in
`forward` (through the adapter). Nothing the user handed in is changed: all of this happens on copies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback

from trgrpo_dspy.errors import RunStopped, TrainingFreeGRPOError
from trgrpo_dspy.failures.secrets import remember
from trgrpo_dspy.meter import Meter

from .call import Call
from .observed import close_pools, is_observed, observe_adapter, observe_lm
from .reported import is_watched, watch
from .state import RunState
from .units import UNIT, Unit, current_unit
from .waiting import POLL

__all__ = ["Gate"]


class Gate:
    """The gate of one run."""

    def __init__(self, meter: Meter | None = None, **settings: Any) -> None:
        """Open the gate; settings as for `RunState`."""
        self.state = RunState(meter, **settings)
        """What the run's calls share."""
        self._lms: dict[int, tuple[Any, Any]] = {}
        self._adapters: dict[int, tuple[Any, Any]] = {}
        self._plain_adapter = dspy.ChatAdapter()

    def __deepcopy__(self, memo: object) -> Gate:
        """A program that copies its observed LMs (`dspy.BestOfN` does) stays behind the same gate."""
        return self

    @property
    def stopped(self) -> bool:
        """Whether the gate is shut."""
        return self.state.ending.event.is_set()

    def stop(self, reason: str = "stopped", fatal: TrainingFreeGRPOError | None = None, problem: str = "") -> None:
        """Shut the gate: refuse every further LM call. The first reason stays."""
        self.state.ending.stop(reason, fatal, problem)

    def abandon(self, unit: Unit) -> None:
        """Refuse a unit's further calls, for it has taken too long."""
        self.state.abandon(unit)

    def has_answered(self, lm: Any) -> bool:
        """Whether an LM's backend has answered in this run."""
        return self.state.backends.of(lm.model).answered

    # -- copies ----------------------------------------------------------------------------------------------------

    def observe(self, lm: Any) -> Any:
        """The observed copy of an LM, one for each LM; anything else, or an observed LM, comes back as it is."""
        if not isinstance(lm, dspy.BaseLM) or is_observed(lm):
            return lm
        with self.state.lock:
            if id(lm) not in self._lms:
                remember(getattr(lm, "kwargs", {}))
                self._lms[id(lm)] = (lm, observe_lm(lm, self, self.state.width))
            return self._lms[id(lm)][1]

    def _observe_adapter(self, adapter: Any) -> Any:
        with self.state.lock:
            if id(adapter) not in self._adapters:
                self._adapters[id(adapter)] = (adapter, observe_adapter(adapter, self))
            return self._adapters[id(adapter)][1]

    def close(self) -> None:
        """Close the connections that are the run's own; no call may follow."""
        with self.state.lock:
            observed = [copy for _, copy in self._lms.values()]
        for lm in observed:
            close_pools(lm)

    def bind(self, program: dspy.Module) -> None:
        """Give every predictor of this copy that has its own LM the observed one, in frozen sub-modules too."""
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
            **{UNIT: unit},
            **settings,
        ):
            yield unit

    # -- calls -----------------------------------------------------------------------------------------------------

    def call(self, lm: Any, send: Callable[..., Any], prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        """Make or replay one call."""
        if is_watched():  # made by an LM in the middle of its own call: part of that one
            return send(prompt, messages=messages, **kwargs)
        call, waiting = Call(self.state, lm, prompt, messages, kwargs), self.state.waiting
        try:
            while not call.replayed:
                while not call.admitted():
                    if not call.backend.wait(POLL) and call.use is not None:
                        call.use.wait()
                waiting.back(call.unit, call.use)
                while wait := call.turn():
                    waiting.sleep(wait)
                while not call.enter(10 * POLL):
                    pass
                try:
                    with call.out(), watch() as report:
                        reply = send(call.request.prompt, messages=messages, **call.request.kwargs)
                    report.check()
                except BaseException as error:
                    wait = call.failed(error)
                else:
                    return call.answered(reply, report)
                waiting.leave(call.use if wait else None)
                waiting.sleep(wait)
            return call.reply
        finally:
            call.end()

    async def acall(self, lm: Any, send: Callable[..., Any], prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        """Make or replay one asynchronous call."""
        if is_watched():  # made by an LM in the middle of its own call: part of that one
            return await send(prompt, messages=messages, **kwargs)
        try:
            return await self._acall(lm, send, prompt, messages, kwargs)
        except (Exception, RunStopped):
            await self.state.waiting.for_siblings(current_unit())
            raise

    async def _acall(
        self, lm: Any, send: Callable[..., Any], prompt: Any, messages: Any, kwargs: dict[str, Any]
    ) -> Any:
        call, waiting = Call(self.state, lm, prompt, messages, kwargs), self.state.waiting
        call.unit.account.clock.awaited += 1
        try:
            while not call.replayed:
                while not call.admitted(asynchronous=True):
                    if call.use is not None:
                        call.use.wait()
                    await asyncio.sleep(POLL)
                await waiting.aback(call.unit, call.use)
                while wait := call.turn():
                    await asyncio.sleep(wait)
                while not call.enter(0, asynchronous=True):
                    await asyncio.sleep(POLL)
                try:
                    with call.out(), watch() as report:
                        reply = await send(call.request.prompt, messages=messages, **call.request.kwargs)
                    report.check()
                except BaseException as error:
                    wait = call.failed(error)
                else:
                    return call.answered(reply, report)
                waiting.leave(call.use if wait else None)
                await waiting.asleep(wait)
            return call.reply
        finally:
            call.unit.account.clock.awaited -= 1
            call.end()
