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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback

from trgrpo_dspy.engine.journal.journal import Journal
from trgrpo_dspy.errors import RunStopped
from trgrpo_dspy.failures.secrets import remember
from trgrpo_dspy.meter import Meter

from .call import UNIT, Call, current_unit
from .health import Health
from .observed import close_pools, is_observed, is_watched, observe_adapter, observe_lm, watch
from .state import RunState
from .units import Unit
from .waiting import POLL

__all__ = ["Calls"]


class Calls(RunState):
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
            backoff: Unit of the waits before retries, in seconds; None is `state.BACKOFF`.
            width: Requests that may be in flight at a time: LMs get as many connections.
            health: What is known of the backends; None is nothing yet.
        """
        super().__init__(
            meter, journal=journal, requests_per_minute=requests_per_minute, seed=seed, backoff=backoff, health=health
        )
        self._width = width
        self._lms: dict[int, tuple[Any, Any]] = {}
        self._adapters: dict[int, tuple[Any, Any]] = {}
        self._plain_adapter = dspy.ChatAdapter()

    def __deepcopy__(self, memo: object) -> Calls:
        """A program that copies its observed LMs (`dspy.BestOfN` does) stays behind the same gate."""
        return self

    # -- copies ----------------------------------------------------------------------------------------------------

    def observe(self, lm: Any) -> Any:
        """The observed copy of an LM, one for each LM; what is no LM, or is observed already, comes back as it is."""
        if not isinstance(lm, dspy.BaseLM) or is_observed(lm):
            return lm
        with self.lock:
            if id(lm) not in self._lms:
                remember(getattr(lm, "kwargs", {}))
                self._lms[id(lm)] = (lm, observe_lm(lm, self, self._width))
            return self._lms[id(lm)][1]

    def _observe_adapter(self, adapter: Any) -> Any:
        with self.lock:
            if id(adapter) not in self._adapters:
                self._adapters[id(adapter)] = (adapter, observe_adapter(adapter, self))
            return self._adapters[id(adapter)][1]

    def close(self) -> None:
        """Close the connections that are the run's own; no call may follow."""
        with self.lock:
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
            **{UNIT: unit},
            **settings,
        ):
            yield unit

    # -- calls -----------------------------------------------------------------------------------------------------

    def call(self, lm: Any, send: Callable[..., Any], prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        """Make or replay one call."""
        if is_watched():  # made by an LM in the middle of its own call: part of that one
            return send(prompt, messages=messages, **kwargs)
        call = Call(self, lm, prompt, messages, kwargs)
        if call.replayed:
            return call.reply
        try:
            while True:
                while not call.admitted():
                    if not self.health.wait(POLL):
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
            await self.waiting.for_siblings(current_unit())
            raise

    async def _acall(
        self, lm: Any, send: Callable[..., Any], prompt: Any, messages: Any, kwargs: dict[str, Any]
    ) -> Any:
        call = Call(self, lm, prompt, messages, kwargs)
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
