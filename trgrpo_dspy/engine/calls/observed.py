"""Copies of LMs and adapters whose calls go through a gate.

The class of a copy is the original's class with a mixin in front, so `isinstance` holds and DSPy treats the copy as the
original. The mixin hands each call to the gate, together with the plain call; the gate decides whether to make it.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import dspy

from trgrpo_dspy.failures.secrets import remember

from .reported import NO_HISTORY, OutsideAdapters, Report

__all__ = ["close_pools", "is_observed", "observe_adapter", "observe_lm", "unobserved"]

_MESSAGES = 30
"""System messages an adapter remembers: a program has a few signatures, unless it makes one for each call."""
_CONNECTIONS = 100
"""Connections that DSPy's native client opens at most: the calls of one LM that can be in flight."""


def is_observed(lm: Any) -> bool:
    """Whether an LM's calls go through a gate already."""
    return isinstance(lm, _Observed)


class _Pools(dict[Any, Any]):
    """DSPy's native clients of one LM, each with as many connections as a run may have requests in flight.

    DSPy makes a client when it is first needed, keeps it here, and has no setting for how many connections it opens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def __setitem__(self, key: Any, client: Any) -> None:
        client.config = replace(client.config, max_connections=self.width)
        client.router = type(client.router)(client.config)  # no connection is open yet
        super().__setitem__(key, client)


def close_pools(lm: Any) -> None:
    """Close the connections that an observed LM does not share with its original."""
    if isinstance(getattr(lm, "_engine_store", None), _Pools):
        lm.close()


def observe_lm(lm: Any, gate: Any, width: int = 1) -> Any:
    """A copy of an LM whose calls go through the gate; DSPy's own retries are off, `retries` says how many there were.

    The copy uses the original's connections, unless `width` requests in flight need more than DSPy opens: then the copy
    has its own. Custom engines and LiteLLM have no such bound.
    """
    remember(getattr(lm, "kwargs", {}))
    observed = lm.copy()
    if width > _CONNECTIONS and isinstance(lm, dspy.LM) and isinstance(lm.engine, str):
        observed._engine_store = _Pools(width)
    observed.__class__ = _observed_class(type(lm))  # type: ignore[arg-type]
    observed._handler = gate
    observed.retries, observed.num_retries = getattr(lm, "num_retries", 0), 0
    forward = getattr(lm, "forward", None)  # of LMs of the old kind, which end with DSPy 3.5
    observed.takes_any = isinstance(lm, dspy.LM) or forward is None or _takes_any(forward)
    return observed


def unobserved(lm: Any) -> Any:
    """A copy of an observed LM that is plain again, with DSPy's own retries back; any other LM as it is."""
    if not is_observed(lm):
        return lm
    plain = lm.copy()
    plain.__class__ = type(lm).__bases__[1]
    plain.num_retries = lm.retries
    for name in ("_handler", "retries", "takes_any", "keeps_temperature"):
        vars(plain).pop(name, None)
    return plain


def observe_adapter(adapter: Any, gate: Any) -> Any:
    """A copy of an adapter that observes whatever LM a predictor hands it, and the LM it may hold itself."""
    if isinstance(adapter, _ObservedAdapter) or not isinstance(adapter, dspy.Adapter):
        return adapter
    observed = copy.copy(adapter)
    observed.__class__ = _observed_adapter_class(type(adapter))  # type: ignore[arg-type]
    observed._handler, observed._system_messages = gate, {}
    for name, value in list(vars(adapter).items()):
        if isinstance(value, dspy.BaseLM):
            setattr(observed, name, gate.observe(value))
    return observed


def _takes_any(forward: Callable[..., Any]) -> bool:
    """Whether an LM of the old kind takes keyword arguments it does not know."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(forward).parameters.values())


class _Observed:
    """Mixed into an LM copy's class."""

    _handler: Any
    """The gate."""
    retries: int
    takes_any: bool
    """Whether its requests may carry a rollout id, a temperature or a seed of ours."""
    keeps_temperature = False
    """Whether a temperature was set on this copy on purpose, as BestOfN and Refine do: it stays."""

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        return self._handler.call(self, super().__call__, prompt, messages, kwargs)  # type: ignore[misc]

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        return await self._handler.acall(self, super().acall, prompt, messages, kwargs)  # type: ignore[misc]

    def copy(self, **kwargs: Any) -> Any:
        copied = super().copy(**kwargs)  # type: ignore[misc]
        copied.keeps_temperature = self.keeps_temperature or "temperature" in kwargs
        return copied

    def _warn_zero_temp_rollout(self, temperature: float | None, rollout_id: int | None) -> None:
        """Say nothing: the rollout id is ours, not the user's."""

    def update_history(self, entry: dict[str, Any]) -> None:
        report = dspy.settings.usage_tracker
        if isinstance(report, Report):
            report.entry = entry
        if not dspy.settings.get(NO_HISTORY, False):
            super().update_history(entry)  # type: ignore[misc]


class _ObservedAdapter:
    """Mixed into an adapter copy's class: the LM a predictor brings, wherever it comes from, is observed.

    `Adapter.__init_subclass__` would wrap `format` and `parse` in callbacks a second time: it is not called.
    """

    _handler: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        pass

    def __call__(self, lm: Any, *args: Any, **kwargs: Any) -> Any:
        with _inside_adapter():
            return super().__call__(self._handler.observe(lm), *args, **kwargs)  # type: ignore[misc]

    async def acall(self, lm: Any, *args: Any, **kwargs: Any) -> Any:
        with _inside_adapter():
            return await super().acall(self._handler.observe(lm), *args, **kwargs)  # type: ignore[misc]


class _Remembering(_ObservedAdapter):
    """Mixed into the copy of an adapter of DSPy's own: the system message of a signature is made once.

    To make it is a third of what DSPy itself takes for a call, more with a library in the instructions, and thousands
    of calls share it. A signature that was changed in place is noticed.
    """

    _system_messages: dict[int, tuple[Any, Any, str]]

    def format_system_message(self, signature: Any) -> str:
        now = [signature.instructions]
        now += [(f.annotation, f.description, copy.copy(f.json_schema_extra)) for f in signature.model_fields.values()]
        known = self._system_messages.get(id(signature))
        if known is not None and known[0] is signature and known[1] == now:
            return known[2]
        message: str = super().format_system_message(signature)  # type: ignore[misc]
        if len(self._system_messages) >= _MESSAGES:
            self._system_messages.clear()
        self._system_messages[id(signature)] = signature, now, message
        return message


def _inside_adapter() -> AbstractContextManager[None]:
    """Settings without the callbacks that need not hear of it."""
    heard = [callback for callback in dspy.settings.callbacks or [] if not isinstance(callback, OutsideAdapters)]
    return dspy.context(callbacks=heard)


def _derived(cls: type, mixin: type) -> type:
    return type(cls)(cls.__name__, (mixin, cls), {"__module__": cls.__module__, "__qualname__": cls.__qualname__})


@functools.cache
def _observed_class(cls: type) -> type:
    return _derived(cls, _Observed)


@functools.cache
def _observed_adapter_class(cls: type) -> type:
    return _derived(cls, _Remembering if cls.__module__.startswith("dspy.") else _ObservedAdapter)
