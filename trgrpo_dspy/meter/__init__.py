"""What a run may spend, what it spends, and what it will. Plain records and pure functions: no dspy, no LM."""

from .estimate import Estimate
from .meter import Budget, LMCall, Meter, Spend, Stage, total_spend

__all__ = ["Budget", "Estimate", "LMCall", "Meter", "Spend", "Stage", "total_spend"]
