"""What a run spends, what it may spend, and what it will. Plain records."""

from .budget import Budget
from .estimate import Estimate
from .meter import LMCall, Meter, Spend, Stage, total_spend

__all__ = ["Budget", "Estimate", "LMCall", "Meter", "Spend", "Stage", "total_spend"]
