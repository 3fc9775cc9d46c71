"""What a run may spend. Plain records and pure functions: no dspy, no LM."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Budget"]


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
        for name in ("max_lm_calls", "max_tokens", "max_cost", "max_seconds"):
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
        caps = (self.max_lm_calls, self.max_tokens, self.max_cost, self.max_seconds)
        return any(cap is not None for cap in caps)

    def price(self, model: str, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Cost of a call in US dollars by `prices`, or None if the model is not in it."""
        if model not in self.prices:
            return None
        prompt, completion = self.prices[model]
        return (prompt_tokens * prompt + completion_tokens * completion) / 1e6
