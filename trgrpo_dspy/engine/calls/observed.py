"""Copies of LMs and adapters whose calls go through a gate, and what a call reports.

The class of a copy is the original's class with a mixin in front, so `isinstance` holds and DSPy treats the copy as the
original. The mixin hands each call to the gate, together with the plain call; the gate decides whether to make it.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Protocol

import dspy
from dspy.utils.callback import BaseCallback

from trgrpo_dspy.errors import InfrastructureError
from trgrpo_dspy.failures.classify import says_context_window
from trgrpo_dspy.failures.replies import ReplyFault, reply_fault, words_in

__all__ = [
    "CallHandler", "OutsideAdapters", "Report", "close_pools", "is_observed", "is_watched", "observe_adapter",
    "observe_lm", "unobserved", "watch",
]  # fmt: skip

_CONNECTIONS = 100
"""Connections that DSPy's native client opens at most: the calls of one LM that can be in flight."""


class CallHandler(Protocol):
    """The gate, as seen from here: decides about LM calls."""

    def call(self, lm: Any, send: Callable[..., Any], prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        """Make, replay or refuse one call; `send(prompt, messages=, **kwargs)` is the plain one."""

    async def acall(self, lm: Any, send: Callable[..., Any], prompt: Any, messages: Any, kwargs: dict[str, Any]) -> Any:
        """The same for an asynchronous call."""

    def observe(self, lm: Any) -> Any:
        """The observed copy of an LM."""


class OutsideAdapters(BaseCallback):
    """A callback that is not called for what happens inside an adapter: formatting, the LM call, parsing.

    Calling a callback, whether it listens or not, takes DSPy longer than any of these.
    """


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


def observe_lm(lm: Any, handler: CallHandler, width: int = 1) -> Any:
    """A copy of an LM whose calls go through the gate; DSPy's own retries are off, `retries` says how many there were.

    The copy uses the original's connections, unless `width` requests in flight need more than DSPy opens: then the copy
    has its own. Custom engines and LiteLLM have no such bound.
    """
    observed = lm.copy()
    if width > _CONNECTIONS and isinstance(lm, dspy.LM) and isinstance(lm.engine, str):
        observed._engine_store = _Pools(width)
    observed.__class__ = _observed_class(type(lm))  # type: ignore[arg-type]
    observed._handler = handler
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


def observe_adapter(adapter: Any, handler: CallHandler) -> Any:
    """A copy of an adapter that observes whatever LM a predictor hands it, and the LM it may hold itself."""
    if isinstance(adapter, _ObservedAdapter) or not isinstance(adapter, dspy.Adapter):
        return adapter
    observed = copy.copy(adapter)
    observed.__class__ = _observed_adapter_class(type(adapter))  # type: ignore[arg-type]
    observed._handler, observed._system_messages = handler, {}
    for name, value in list(vars(adapter).items()):
        if isinstance(value, dspy.BaseLM):
            setattr(observed, name, handler.observe(value))
    return observed


def _takes_any(forward: Callable[..., Any]) -> bool:
    """Whether an LM of the old kind takes keyword arguments it does not know."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(forward).parameters.values())


class Report:
    """What DSPy reports of one LM call; stands in for `dspy.settings.usage_tracker` while the call is under way.

    DSPy reports usage for fresh replies only: so a cached reply is known.
    """

    def __init__(self, outer: Any) -> None:
        """Report to the user's own tracker as well."""
        self._outer = outer
        self._counted = False
        self._usage: dict[str, Any] = {}
        self.entry: dict[str, Any] = {}
        """DSPy's history entry."""

    def add_usage(self, model: str, usage: dict[str, Any]) -> None:
        """Take what DSPy tells its usage tracker."""
        self._counted, self._usage = True, dict(usage or {})
        if self._outer is not None:
            self._outer.add_usage(model, usage)

    @property
    def fresh(self) -> bool:
        """Whether the reply is the backend's and not from DSPy's cache; an LM that reports nothing has no cache."""
        return self._counted or not self.entry

    @property
    def prompt_tokens(self) -> int:
        """Billed prompt tokens."""
        return _count(self._usage, "prompt_tokens", "input_tokens")

    @property
    def completion_tokens(self) -> int:
        """Billed completion tokens."""
        return _count(self._usage, "completion_tokens", "output_tokens")

    @property
    def provider_cached_tokens(self) -> int:
        """Prompt tokens the provider served from its own cache."""
        details = self._usage.get("prompt_tokens_details") or {}
        return _count(details, "cached_tokens") if isinstance(details, Mapping) else 0

    @property
    def cost(self) -> float | None:
        """US dollars as the backend or DSPy priced it; None is unknown; a cached reply is free."""
        return self.entry.get("cost") if self.fresh else 0.0

    @property
    def truncated(self) -> bool:
        """Whether the reply was cut by length, by its finish reason."""
        return finish_reason(self.entry.get("response")) == "length"

    @property
    def fault(self) -> ReplyFault | None:
        """What the reply lacks; None if it has text, or if DSPy reported no response."""
        response = self.entry.get("response")
        faults = [reply_fault(one) for one in (response if isinstance(response, (list, tuple)) else [response])]
        return None if response is None or None in faults or not faults else faults[0]

    def check(self) -> None:
        """Raise `InfrastructureError` if the reply holds no choice at all: that is no verdict on the program.

        Some backends send errors under the status of a success: what they say is told, and a prompt that does not fit
        is what it is.
        """
        if self.fault is ReplyFault.NO_CHOICE:
            words = words_in(self.entry["response"])
            if says_context_window(words):
                raise dspy.ContextWindowExceededError(message=words)
            raise InfrastructureError(": ".join(filter(None, [ReplyFault.NO_CHOICE.value, words])))


_NO_HISTORY = "trgrpo_dspy_no_history"
_HISTORY = 100
_MESSAGES = 30
"""System messages an adapter remembers: a program has a few signatures, unless it makes one for each call."""


@contextmanager
def watch() -> Iterator[Report]:
    """Have DSPy report usage and the history entry of the next call, whatever the user's settings are."""
    report = Report(dspy.settings.usage_tracker)
    no_history = bool(dspy.settings.disable_history)
    # Programs may read their history; the run's copies keep no more of it than an attempt can need.
    size = min(_HISTORY, dspy.settings.max_history_size)
    with dspy.context(usage_tracker=report, disable_history=False, max_history_size=size, **{_NO_HISTORY: no_history}):
        yield report


def is_watched() -> bool:
    """Whether this is inside an LM call that is watched."""
    return isinstance(dspy.settings.usage_tracker, Report)


class _Observed:
    """Mixed into an LM copy's class."""

    _handler: CallHandler
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
        if not dspy.settings.get(_NO_HISTORY, False):
            super().update_history(entry)  # type: ignore[misc]


class _ObservedAdapter:
    """Mixed into an adapter copy's class: the LM a predictor brings, wherever it comes from, is observed."""

    _handler: CallHandler

    def __call__(self, lm: Any, *args: Any, **kwargs: Any) -> Any:
        with _inside_adapter():
            return super().__call__(self._handler.observe(lm), *args, **kwargs)  # type: ignore[misc]

    async def acall(self, lm: Any, *args: Any, **kwargs: Any) -> Any:
        with _inside_adapter():
            return await super().acall(self._handler.observe(lm), *args, **kwargs)  # type: ignore[misc]


class _Remembering:
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


class _Quiet:
    """Keeps `Adapter.__init_subclass__` from wrapping `format` and `parse` in callbacks a second time."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Do nothing: the methods are wrapped where they were defined."""


@functools.cache
def _observed_class(cls: type) -> type:
    return type(cls.__name__, (_Observed, cls), {"__module__": cls.__module__, "__qualname__": cls.__qualname__})


@functools.cache
def _observed_adapter_class(cls: type) -> type:
    make: Callable[..., type] = type.__new__
    mixins = (_ObservedAdapter, _Remembering) if cls.__module__.startswith("dspy.") else (_ObservedAdapter,)
    return make(type(cls), cls.__name__, (*mixins, _Quiet, cls), {"__module__": cls.__module__})


def _count(usage: Mapping[str, Any], *names: str) -> int:
    return next((int(v) for v in (usage.get(name) for name in names) if isinstance(v, (int, float))), 0)


def finish_reason(response: Any) -> str:
    """Why a reply ended, from what the backend said; 'length' for every way of saying that it was cut."""
    if isinstance(response, (list, tuple)):
        reasons = [finish_reason(item) for item in response]
        return "length" if "length" in reasons else (reasons[0] if reasons else "")
    reason = _get(response, "finish_reason") or _get(_get(response, "incomplete_details"), "reason")
    if not reason:
        choices = _get(response, "choices") or []
        reasons = [str(_get(choice, "finish_reason") or "") for choice in choices]
        reason = "length" if "length" in reasons else next(iter(reasons), "")
    return "length" if str(reason) in ("length", "max_tokens", "max_output_tokens", "MAX_TOKENS") else str(reason)


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
