"""What a run spends, by step, stage and model. Unknown is unknown, not zero; cached replies cost nothing."""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from .budget import Budget

__all__ = ["LMCall", "Meter", "Spend", "Stage", "total_spend"]


class Stage(str, enum.Enum):
    """What an LM call was made for."""

    ROLLOUT = "rollout"
    """Attempts of the program at training examples, with the metric's own calls."""
    SUMMARY = "summary"
    COMPARISON = "comparison"
    PROPOSALS = "proposals"
    CONSOLIDATION = "consolidation"
    CHECK = "check"
    """Holding new and changed entries against labelled examples."""
    REPAIR = "repair"
    """Rewriting entries that were contradicted or too long."""
    VALIDATION = "validation"
    """Attempts at validation examples, with the metric's own calls."""
    EVALUATION = "evaluation"
    """Attempts made by `evaluate` and `compare`."""

    @property
    def attempts(self) -> bool:
        """Whether its units of work are attempts of the program."""
        return self in (Stage.ROLLOUT, Stage.VALIDATION, Stage.EVALUATION)


@dataclass(frozen=True)
class LMCall:
    """One LM call as DSPy makes it, retries included."""

    model: str
    """The LM's model string."""
    prompt_tokens: int = 0
    """Billed prompt tokens; 0 for a cached reply."""
    completion_tokens: int = 0
    """Billed completion tokens; 0 for a cached reply."""
    provider_cached_tokens: int = 0
    """Prompt tokens the provider served from its own cache."""
    cost: float | None = None
    """US dollars; None is unknown."""
    cached: bool = False
    """Whether DSPy's cache answered."""
    retries: int = 0
    """Tries before the one that ended the call."""
    truncated: bool = False
    """Whether the reply was cut by length, by its finish reason."""
    failed: bool = False
    """Whether the call ended in an error."""


@dataclass(frozen=True)
class Spend:
    """What one stage spent with one model."""

    stage: str
    """A `Stage` value."""
    model: str
    """The LM's model string."""
    calls: int = 0
    """LM calls as DSPy makes them, cached ones included."""
    cached: int = 0
    """Calls answered by DSPy's cache."""
    retries: int = 0
    """Retries inside calls, counted apart."""
    failed: int = 0
    """Calls that ended in an error."""
    truncated: int = 0
    """Replies cut by length."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    provider_cached_tokens: int = 0
    cost: float | None = 0.0
    """US dollars; None as soon as one call's price is unknown."""

    def plus(self, other: Spend) -> Spend:
        """Both together, under this one's stage and model."""
        return replace(
            self,
            calls=self.calls + other.calls,
            cached=self.cached + other.cached,
            retries=self.retries + other.retries,
            failed=self.failed + other.failed,
            truncated=self.truncated + other.truncated,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            provider_cached_tokens=self.provider_cached_tokens + other.provider_cached_tokens,
            cost=None if self.cost is None or other.cost is None else self.cost + other.cost,
        )


@dataclass
class _Ledger:
    """What was paid for, as the caps count it."""

    calls: int = 0
    tokens: int = 0
    cost: float = 0.0

    def add(self, call: LMCall) -> None:
        if not call.cached:
            self.calls += 1
            self.tokens += call.prompt_tokens + call.completion_tokens
            self.cost += call.cost or 0.0


class Meter:
    """Adds up LM calls from all threads and keeps them within a budget."""

    def __init__(self, budget: Budget | None = None) -> None:
        """Start at nothing; the clock of `max_seconds` starts now."""
        self.budget = budget or Budget()
        self._lock = threading.Lock()
        self._spend: dict[tuple[int, str, str], Spend] = {}
        self._ledger = _Ledger()
        self._in_flight = 0
        self._started = time.monotonic()

    @property
    def seconds_left(self) -> float | None:
        """Seconds until `max_seconds`; None without that cap."""
        if self.budget.max_seconds is None:
            return None
        return self.budget.max_seconds - (time.monotonic() - self._started)

    def priced(self, call: LMCall) -> LMCall:
        """The call at the budget's price where the backend named none."""
        if call.cost is not None or call.cached or call.failed:
            return call
        return replace(call, cost=self.budget.price(call.model, call.prompt_tokens, call.completion_tokens))

    def reserve(self) -> tuple[bool, str]:
        """Reserve one call.

        Returns:
            Whether it was reserved, and the cap that is reached. Neither: calls in flight may yet give theirs back.
        """
        cap = self.budget.max_lm_calls
        with self._lock:
            reached = self._reached()
            free = not reached and (cap is None or self._ledger.calls + self._in_flight < cap)
            self._in_flight += free
            return free, reached

    def give_back(self) -> None:
        """Give back a reserved call that was not made."""
        with self._lock:
            self._in_flight -= 1

    def _reached(self) -> str:
        budget, ledger = self.budget, self._ledger
        if budget.max_lm_calls is not None and ledger.calls >= budget.max_lm_calls:
            return "max_lm_calls"
        if budget.max_tokens is not None and ledger.tokens >= budget.max_tokens:
            return "max_tokens"
        if budget.max_cost is not None and ledger.cost >= budget.max_cost:
            return "max_cost"
        if self.seconds_left is not None and self.seconds_left <= 0:
            return "max_seconds"
        return ""

    def record(self, call: LMCall, stage: Stage, step: int, *, reserved: bool = False) -> None:
        """Add one call to a step (0: before the first step) and a stage.

        Args:
            call: The call.
            stage: What it was for.
            step: The step it belongs to.
            reserved: Whether the call was reserved.
        """
        cost = 0.0 if call.cached or call.failed else call.cost
        spend = Spend(
            stage.value,
            call.model,
            1,
            int(call.cached),
            call.retries,
            int(call.failed),
            int(call.truncated),
            call.prompt_tokens,
            call.completion_tokens,
            call.provider_cached_tokens,
            cost,
        )
        with self._lock:
            key = (step, stage.value, call.model)
            self._spend[key] = self._spend[key].plus(spend) if key in self._spend else spend
            self._ledger.add(call)
            if reserved:
                self._in_flight -= 1

    def spend(self, step: int | None = None) -> tuple[Spend, ...]:
        """Spend by stage and model, of one step or of the whole run, in order of stages."""
        with self._lock:
            rows = [row for (at, _, _), row in self._spend.items() if step is None or at == step]
        merged: dict[tuple[str, str], Spend] = {}
        for row in rows:
            key = (row.stage, row.model)
            merged[key] = merged[key].plus(row) if key in merged else row
        order = [stage.value for stage in Stage]
        return tuple(sorted(merged.values(), key=lambda row: (order.index(row.stage), row.model)))


def total_spend(rows: Iterable[Spend]) -> Spend:
    """Everything together, under stage 'total' and no model."""
    total = Spend("total", "")
    for row in rows:
        total = total.plus(row)
    return total
