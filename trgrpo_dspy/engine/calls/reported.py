"""What DSPy reports of one LM call: tokens, cost, finish reason, faults of the reply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback

from trgrpo_dspy.errors import InfrastructureError
from trgrpo_dspy.failures.classify import says_context_window
from trgrpo_dspy.failures.replies import ReplyFault, reply_fault, words_in
from trgrpo_dspy.meter.meter import LMCall

__all__ = ["NO_HISTORY", "OutsideAdapters", "Report", "is_watched", "was_cut", "watch"]

NO_HISTORY = "trgrpo_dspy_no_history"
"""The DSPy setting that says whether the user has switched the history off."""
_HISTORY = 100
_CUT = ("length", "max_tokens", "max_output_tokens", "MAX_TOKENS")
"""Every backend's finish reason of a reply that was cut by length."""


class OutsideAdapters(BaseCallback):
    """A callback that is not called for what happens inside an adapter: formatting, the LM call, parsing.

    Calling a callback, whether it listens or not, takes DSPy longer than any of these.
    """


class Report:
    """What DSPy reports of one LM call; stands in for `dspy.settings.usage_tracker` while the call is under way."""

    def __init__(self, outer: Any) -> None:
        """Report to the user's own tracker as well."""
        self._outer = outer
        self._usage: dict[str, Any] | None = None
        self.entry: dict[str, Any] = {}
        """DSPy's history entry."""
        self.reply: Any = None

    def add_usage(self, model: str, usage: dict[str, Any]) -> None:
        """Take what DSPy tells its usage tracker: it does for fresh replies only."""
        self._usage = dict(usage or {})
        if self._outer is not None:
            self._outer.add_usage(model, usage)

    @property
    def fresh(self) -> bool:
        """Whether the reply is the backend's and not from DSPy's cache; an LM that reports nothing has no cache."""
        return self._usage is not None or not self.entry

    def as_call(self, model: str, retries: int) -> LMCall:
        """The call as it is counted. A cost is the backend's or DSPy's word; a cached reply is free."""
        usage = self._usage or {}
        details = usage.get("prompt_tokens_details")
        return LMCall(
            model,
            prompt_tokens=_count(usage, "prompt_tokens", "input_tokens"),
            completion_tokens=_count(usage, "completion_tokens", "output_tokens"),
            provider_cached_tokens=_count(details, "cached_tokens") if isinstance(details, Mapping) else 0,
            cost=self.entry.get("cost") if self.fresh else 0.0,
            cached=not self.fresh,
            retries=retries,
            truncated=was_cut(self.entry.get("response")),
        )

    @property
    def fault(self) -> ReplyFault | None:
        """What the reply lacks; None if it has text, or if DSPy reported no response."""
        response = self.entry.get("response")
        faults = [reply_fault(one) for one in (response if isinstance(response, (list, tuple)) else [response])]
        return None if response is None or None in faults or not faults else faults[0]

    def check(self) -> None:
        """Raise `InfrastructureError` if the reply holds no choice at all: that is no verdict on the program.

        Some backends send errors under the status of a success. Their words become the message; a prompt that is too
        long for the model raises what DSPy raises for that.
        """
        if self.fault is ReplyFault.NO_CHOICE:
            words = words_in(self.entry["response"])
            if says_context_window(words):
                raise dspy.ContextWindowExceededError(message=words)
            raise InfrastructureError(": ".join(filter(None, [ReplyFault.NO_CHOICE.value, words])))


@contextmanager
def watch() -> Iterator[Report]:
    """Have DSPy report usage and the history entry of the next call, whatever the user's settings are."""
    report = Report(dspy.settings.usage_tracker)
    no_history = bool(dspy.settings.disable_history)
    # Programs may read their history; the run's copies keep no more of it than an attempt can need.
    size = min(_HISTORY, dspy.settings.max_history_size)
    with dspy.context(usage_tracker=report, disable_history=False, max_history_size=size, **{NO_HISTORY: no_history}):
        yield report


def is_watched() -> bool:
    """Whether this is inside an LM call that is watched."""
    return isinstance(dspy.settings.usage_tracker, Report)


def _count(usage: Mapping[str, Any], *names: str) -> int:
    return next((int(v) for v in (usage.get(name) for name in names) if isinstance(v, (int, float))), 0)


def was_cut(response: Any) -> bool:
    """Whether a reply was cut by length, from the finish reason that the backend gave."""
    if isinstance(response, (list, tuple)):
        return any(map(was_cut, response))
    reason = _get(response, "finish_reason") or _get(_get(response, "incomplete_details"), "reason")
    return str(reason) in _CUT or any(map(was_cut, _get(response, "choices") or []))


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
