"""The one gate every LM call of a run goes through.

An observed LM (`observed.py`) asks, on every call, which unit of work it is made for (a `Unit`, carried in DSPy's
settings, so it follows `dspy.Parallel`, `dspy.asyncify` and tools) and applies that unit's temperature, rollout id and
seed. The gate then

- replays the reply if the journal holds it: what was paid for is not paid again;
- reserves a call in the budget, keeps to the rate limit and to what the backend serves, and refuses every call once the
  run is stopped;
- retries outages with jittered back-off, honouring `retry_after`; while a call waits for its next try, another
  attempt uses its slot;
- commits the reply to the journal before the program sees it, and counts it.

Covered are the settings' LM, LMs bound to predictors (`bind`), an adapter's own LM, and LMs a program chooses in
`forward` (through the adapter). Nothing the user handed in is changed: all of this happens on copies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback

from trgrpo_dspy.errors import RunStopped, TrainingFreeGRPOError
from trgrpo_dspy.meter.meter import Meter

from .call import Call, Outgoing
from .observed import close_pools, is_observed, observe_adapter, observe_lm
from .reported import is_watched
from .state import POLL, RunState
from .units import UNIT, Unit, current_unit

__all__ = ["Gate"]


class Gate:
    """The gate of one run."""

    def __init__(self, meter: Meter | None = None, **settings: Any) -> None:
        """Open the gate; settings as for `RunState`."""
        self.state = RunState(meter, **settings)
        """What the run's calls share."""
        self._copies: dict[int, tuple[Any, Any]] = {}
        """The observed copy of each LM and adapter, beside the original."""
        self._plain_adapter = dspy.ChatAdapter()

    def __deepcopy__(self, memo: object) -> Gate:
        """A program that copies its observed LMs (`dspy.BestOfN` does) stays behind the same gate."""
        return self

    @property
    def stopped(self) -> bool:
        """Whether the run is stopped."""
        return self.state.ending.event.is_set()

    def stop(self, reason: str = "stopped", fatal: TrainingFreeGRPOError | None = None) -> None:
        """Shut the gate: refuse every further LM call. The first reason stays."""
        self.state.ending.stop(reason, fatal)

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
        return self._copy(lm, lambda: observe_lm(lm, self, self.state.width))

    def _copy(self, original: Any, make: Callable[[], Any]) -> Any:
        with self.state.lock:
            if id(original) not in self._copies:
                self._copies[id(original)] = original, make()
            return self._copies[id(original)][1]

    def close(self) -> None:
        """Close the connections that are the run's own; no call may follow."""
        with self.state.lock:
            copies = [copy for _, copy in self._copies.values()]
        for copy in copies:
            close_pools(copy)

    def bind(self, program: dspy.Module) -> None:
        """Give every predictor of this copy that has its own LM the observed one, in frozen sub-modules too."""
        for _, predictor in program.named_sub_modules(dspy.Predict):
            if predictor.lm is not None:
                predictor.lm = self.observe(predictor.lm)

    @contextmanager
    def context(self, unit: Unit, *callbacks: BaseCallback, **settings: Any) -> Iterator[Unit]:
        """DSPy settings under which every LM call belongs to the unit."""
        adapter = dspy.settings.adapter or self._plain_adapter
        with dspy.context(
            lm=self.observe(settings.pop("lm", None) or dspy.settings.lm),
            adapter=self._copy(adapter, lambda: observe_adapter(adapter, self)),
            callbacks=[*(dspy.settings.callbacks or []), *callbacks],
            **{UNIT: unit},
            **settings,
        ):
            yield unit

    # -- calls -----------------------------------------------------------------------------------------------------

    def call(self, lm: Any, send: Callable[..., Any], prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        """Make or replay one call."""
        if is_watched():  # an LM calls another one inside its own call, which is counted already
            return send(prompt, messages=messages, **kwargs)
        with closing(Call(self.state, lm, Outgoing(prompt, messages, kwargs))) as call:
            while not call.done:
                for ready in call.steps():
                    while not ready(10 * POLL):
                        pass
                with call.sent() as report:
                    report.reply = send(call.request.prompt, messages=messages, **call.request.kwargs)
            return call.reply

    async def acall(self, lm: Any, send: Callable[..., Any], prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        """Make or replay one asynchronous call."""
        if is_watched():
            return await send(prompt, messages=messages, **kwargs)
        unit = current_unit()
        unit.account.clock.awaited += 1
        try:
            with closing(Call(self.state, lm, Outgoing(prompt, messages, kwargs), asynchronous=True)) as call:
                while not call.done:
                    for ready in call.steps():
                        while not ready(0):
                            await asyncio.sleep(POLL)
                    with call.sent() as report:
                        report.reply = await send(call.request.prompt, messages=messages, **call.request.kwargs)
                return call.reply
        except (Exception, RunStopped):
            await self.state.waiting.for_siblings(unit)
            raise
        finally:
            unit.account.clock.awaited -= 1
