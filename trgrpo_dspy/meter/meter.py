"""What a run may spend, and what it spends by step, stage and model.

Unknown is unknown, not zero; cached replies cost nothing.
"""

from __future__ import annotations

import enum
import functools
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

__all__ = ["Budget", "LMCall", "Meter", "Spend", "Stage", "added_up", "total_spend"]

K = TypeVar("K")
_CAPS = ("max_lm_calls", "max_tokens", "max_cost", "max_seconds")


@dataclass(frozen=True)
class Budget:
    """Caps of a run; None is no cap. Reaching one ends the run with the best program so far."""

    max_lm_calls: int | None = None
    """LM calls as DSPy makes them; retries inside one are not counted, cached replies cost nothing. Never overshot."""
    max_tokens: int | None = None
    """Prompt and completion tokens billed. Overshot by at most the calls in flight when it is reached."""
    max_cost: float | None = None
    """US dollars. Overshot by at most the calls in flight when it is reached."""
    max_seconds: float | None = None
    """Wall time since `compile` began, resumed time not included. Calls in flight may finish."""
    prices: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """US dollars per million prompt and completion tokens, by model string, where the backend reports no price."""

    def __post_init__(self) -> None:
        """Check the caps.

        Raises:
            TypeError: A cap is no number.
            ValueError: A cap or price is negative or not finite.
        """
        for name in _CAPS:
            value = getattr(self, name)
            if value is None:
                continue
            whole = name in ("max_lm_calls", "max_tokens")
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise TypeError(f"Budget({name}={value!r}) must be a {'whole ' if whole else ''}number or None")
            if not math.isfinite(value) or value <= 0:
                raise ValueError(f"Budget({name}={value}) must be above 0; leave it out for no cap")
        for model, price in self.prices.items():
            if not isinstance(price, tuple) or len(price) != 2 or not all(math.isfinite(p) and p >= 0 for p in price):
                raise ValueError(
                    f"Budget(prices={{{model!r}: {price!r}}}) must give two amounts, US dollars per million prompt and "
                    "completion tokens, e.g. (0.15, 0.60)"
                )

    @property
    def capped(self) -> bool:
        """Whether anything is capped."""
        return any(getattr(self, cap) is not None for cap in _CAPS)

    def price(self, model: str, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Cost of a call in US dollars by `prices`, or None if the model is not in it."""
        if model not in self.prices:
            return None
        prompt, completion = self.prices[model]
        return (prompt_tokens * prompt + completion_tokens * completion) / 1e6


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
        counts = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self) if f.type == "int"}
        cost = None if self.cost is None or other.cost is None else self.cost + other.cost
        return replace(self, **counts, cost=cost)


class Meter:
    """Adds up LM calls from all threads and keeps them within a budget."""

    def __init__(self, budget: Budget | None = None) -> None:
        """Start at nothing; the clock of `max_seconds` starts now."""
        self.budget = budget or Budget()
        self._lock = threading.Lock()
        self._spend: dict[tuple[int, str, str], Spend] = {}
        self._paid = {"max_lm_calls": 0, "max_tokens": 0, "max_cost": 0.0}
        """What counts towards each cap; cached replies are free."""
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
            free = not reached and (cap is None or self._paid["max_lm_calls"] + self._in_flight < cap)
            self._in_flight += free
            return free, reached

    def give_back(self) -> None:
        """Give back a reserved call that was not made."""
        with self._lock:
            self._in_flight -= 1

    def _reached(self) -> str:
        for cap, paid in self._paid.items():
            if (most := getattr(self.budget, cap)) is not None and paid >= most:
                return cap
        return "max_seconds" if self.seconds_left is not None and self.seconds_left <= 0 else ""

    def record(self, call: LMCall, stage: Stage, step: int, *, reserved: bool = False) -> None:
        """Add one call, for which `reserve` may have been asked before, to a step (0: before the first) and a stage."""
        cost = 0.0 if call.cached or call.failed else call.cost
        spend = Spend(
            stage.value, call.model, 1, int(call.cached), call.retries, int(call.failed), int(call.truncated),
            call.prompt_tokens, call.completion_tokens, call.provider_cached_tokens, cost,
        )  # fmt: skip
        with self._lock:
            key = (step, stage.value, call.model)
            self._spend[key] = self._spend[key].plus(spend) if key in self._spend else spend
            self._in_flight -= reserved
            if not call.cached:
                self._paid["max_lm_calls"] += 1
                self._paid["max_tokens"] += call.prompt_tokens + call.completion_tokens
                self._paid["max_cost"] += call.cost or 0.0

    def spend(self, step: int | None = None) -> tuple[Spend, ...]:
        """Spend by stage and model, of one step or of the whole run, in order of stages."""
        with self._lock:
            rows = [row for (at, _, _), row in self._spend.items() if step is None or at == step]
        merged = added_up(rows, lambda row: (row.stage, row.model))
        order = [stage.value for stage in Stage]
        return tuple(sorted(merged.values(), key=lambda row: (order.index(row.stage), row.model)))


def added_up(rows: Iterable[Spend], key: Callable[[Spend], K]) -> dict[K, Spend]:
    """Rows of an equal key added up, by key."""
    found: dict[K, Spend] = {}
    for row in rows:
        name = key(row)
        found[name] = found[name].plus(row) if name in found else row
    return found


def total_spend(rows: Iterable[Spend]) -> Spend:
    """Everything together, under stage 'total' and no model."""
    return functools.reduce(Spend.plus, rows, Spend("total", ""))
